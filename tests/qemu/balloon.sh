#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=450 san=address
#
# memctl balloon and real Linux guests in QEMU, one that memd knows only by its balloon and one that it merges, too: they
# follow their targets both ways, what they give up is the host's, no byte of the rest changes, and whatever is missing
# meanwhile - driver, guest, monitor, VMM - is said in one line.
# shellcheck source=tests/qemu/lib.sh
. "$(dirname "$0")/lib.sh"

mib=256

step() { echo "[$SECONDS s] $*"; }

# launch NAME OPTION...: with a second monitor, which is memd's
launch() {
    local name=$1
    shift
    qemu_launch "$name" $mib -qmp "unix:$name.balloon,server=on,wait=off" "$@"
}

document() { curl -sS --unix-socket "$run/control.sock" "http://memd/v1/balloons/$1"; }
# balloon NAME KEY: a text or a number of its document
balloon() { document "$1" | sed -nE "s/^  \"$2\": \"?([^\",]*)\"?,?\$/\1/p"; }
actual_mib() { echo $(($(balloon "$1" actual_bytes | sed 's/null/0/') >> 20)); }
state_is() { [ "$(balloon "$1" state)" = "$2" ]; }
stat_is_known() { ctl balloon stats "$1" >"$tmp/stats" 2>&1; }
stat_is_unknown() { ! stat_is_known "$1"; }
near() { [ $(($(actual_mib "$1") - $2)) -ge -1 ] && [ $(($(actual_mib "$1") - $2)) -le 1 ]; }
# refused PATTERN WORD...: memctl ends with 1 and one line that matches
refused() {
    local pattern=$1 status=0
    shift
    ctl "$@" >"$tmp/out" 2>"$tmp/err" || status=$?
    [ $status = 1 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -qE "$pattern" "$tmp/err" ||
        fail "memctl $*: exit code $status, $(cat "$tmp/out" "$tmp/err")"
}
moved() {
    ctl balloon set "$1" "$2" --wait --timeout $((60 * patience)) >"$tmp/out" 2>&1 ||
        fail "$1 does not get to $2: $(cat "$tmp/out"); $(ctl balloon list)"
}
mem_total_mib() { in_guest "$1" meminfo | awk '$1 == "MemTotal" { print int($2 / 1024) }'; }
rss_mib() { awk '$1 == "VmRSS:" { print int($2 / 1024) }' "/proc/${guest_pid[$1]}/status"; }

vehicle_set_up
command -v curl >/dev/null || skip "needs curl"
{
    printf '[domain common]\nuids = %s\n' "$(id -u)"
    printf '[vm %s]\nballoon = qmp:%s\nballoon-min = 80M\n' plain "$files/plain.balloon" oom "$files/oom.balloon"
    printf '[vm %s]\nballoon = qmp:%s\n' shared "$files/shared" absent "$files/absent"
} >"$tmp/memd.conf"

# ---- before the guest has booted; without a VMM; with a monitor that somebody has
launch plain -S -set device.balloon.free-page-reporting=off # what its QEMU gives back is the balloon's doing
# an engine of a tree with sanitizers cannot be loaded into a QEMU without
[ -n "${MEMD_SAN:-}" ] || qemu_prefix=("$bin/memd-run" --name '{}' --domain common --run-dir "$run" --)
launch oom -global virtio-balloon-pci.deflate-on-oom=on -qmp "unix:$files/shared,server=on,wait=off"
await 20 test -S "$files/shared" || fail "QEMU does not start: $(cat "$files/oom.qemu")"
# talks to the monitor in another language, and goes on waiting for its answer
"$talk" guest "$files/shared" 60 hello 2>/dev/null &
holder=$!
await 10 grep -q " 03 [0-9]* $files/shared\$" /proc/net/unix || fail "nobody has the monitor"
memd_start
await 20 state_is plain no-driver || fail "before the boot: $(ctl balloon list)"
await 20 state_is absent gone || fail "without a VMM: $(ctl balloon list)"
await 20 state_is shared taken || fail "with a monitor that is taken: $(ctl balloon list)"
refused "no balloon driver bound" balloon set plain 128M
refused "no statistics of plain: the guest has no balloon driver bound" balloon stats plain
refused "nobody listens at $files/absent: the VMM is not running" balloon set absent 128M
refused "another client \(libvirt, Proxmox\) has the monitor" balloon set shared 128M
kill $holder
wait $holder 2>/dev/null
qmp plain cont
qemu_booted plain oom
moved shared 240M # what a user wants does not wait for the next look
moved shared all
await 20 state_is plain ready || fail "booted: $(ctl balloon list)"
await 20 state_is oom ready || fail "booted: $(ctl balloon list)"
await 20 stat_is_known plain || fail "no statistics: $(cat "$tmp/stats")"
grep -qE '^available +[0-9.]+ MiB' "$tmp/stats" || fail "statistics: $(cat "$tmp/stats")"
step "booted"

# ---- down and up; the guest sees it, and the host
in_guest plain fill x 110 zero >/dev/null
in_guest plain free x
total=$(mem_total_mib plain) rss=$(rss_mib plain)
refused "below the floor of 80 MiB" balloon set plain 79M
refused "more than the 256 MiB of RAM" balloon set plain 257M
moved plain 128M
near plain 128 || fail "at 128 MiB: $(ctl balloon list)"
[ "$(mem_total_mib plain)" -le $((total - 120)) ] || fail "MemTotal: $(mem_total_mib plain) of $total MiB"
[ "$(rss_mib plain)" -le $((rss - 64)) ] || fail "QEMU still has $(rss_mib plain) of $rss MiB"
step "inflated: MemTotal $total to $(mem_total_mib plain) MiB, RSS $rss to $(rss_mib plain) MiB"
moved plain all
[ "$(mem_total_mib plain)" = "$total" ] || fail "MemTotal: $(mem_total_mib plain) of $total MiB"
ctl balloon limits plain --max 192M >/dev/null
refused "above the limit of 192 MiB" balloon set plain 200M
moved plain all
near plain 192 || fail "at 192 MiB: $(ctl balloon list)"
ctl balloon limits plain --max 0 >/dev/null
moved plain 128M
step "deflated, and inflated again"

# ---- a storm of targets while pages are merged: what the guest keeps is as it was
in_guest oom fill w 6 word memd >/dev/null
in_guest oom fill f 4 files 1 >/dev/null
for target in 140M all 150M 200M 130M all 128M; do
    ctl balloon set oom $target >"$tmp/out" 2>&1 || fail "$target: $(cat "$tmp/out")"
done
in_guest oom check >/dev/null
ctl balloon set oom all >/dev/null || fail "no way back: $(ctl balloon list)"
in_guest oom check >/dev/null
[ -n "${MEMD_SAN:-}" ] || [ $(($(vm oom pages_shared) + $(vm oom pages_sharing))) -gt 500 ] || fail "nothing of oom is merged"
# and while they are packed
for target in 140M all 150M all; do
    [ -n "${MEMD_SAN:-}" ] || ctl pageout oom >"$tmp/out" 2>&1 || fail "pageout: $(cat "$tmp/out")"
    ctl balloon set oom $target >"$tmp/out" 2>&1 || fail "$target: $(cat "$tmp/out")"
done
in_guest oom check >/dev/null
[ -n "${MEMD_SAN:-}" ] || [ "$(vm oom page_outs)" -gt 500 ] || fail "nothing of oom is packed"
step "a storm of targets"

# ---- without its driver the guest has everything; with it, what the device was told
in_guest plain balloon-driver unbind
await 20 state_is plain no-driver || fail "without a driver: $(ctl balloon list)"
near plain $mib || fail "without a driver: $(ctl balloon list)"
refused "no balloon driver bound" balloon set plain 100M
in_guest plain balloon-driver bind
await 30 near plain 128 || fail "with its driver again: $(ctl balloon list)"
state_is plain ready || await 20 state_is plain ready || fail "with its driver again: $(ctl balloon list)"
step "unbound and bound"

# ---- memory the guest needs: with deflate-on-oom it takes it, without it does not get it
for ability in deflate-on-oom reporting; do # what the backend can, and what is on
    [ "$(document oom | grep -c "\"$ability\"")" = 2 ] || fail "$ability is not said to be on"
    [ "$(document plain | grep -c "\"$ability\"")" = 1 ] || fail "$ability is said to be on"
done
moved plain 112M
moved oom 112M
in_guest oom hog 110 >/dev/null
in_guest oom check >/dev/null
[ "$(actual_mib oom)" -gt 115 ] || await 10 eval '[ "$(actual_mib oom)" -gt 115 ]' || fail "deflated? $(ctl balloon list)"
status=0
in_guest_try plain hog 110 >/dev/null || status=$?
[ $status = 1 ] || fail "110 MiB fit into 112: $status"
in_guest plain hello >/dev/null
near plain 112 || fail "without deflate-on-oom: $(ctl balloon list)"
step "deflated on OOM"

# ---- reset: no statistics of the guest that was, then those of the next; the target stays
qmp oom set-action '{"reboot": "reset"}'
qmp oom stop
qmp oom system_reset
await 20 stat_is_unknown oom || fail "statistics survive a reset: $(cat "$tmp/stats")"
qmp oom cont
await 150 near oom 112 || fail "after a reset: $(ctl balloon list)"
await 20 stat_is_known oom || fail "no statistics after a reset: $(cat "$tmp/stats")"
step "reset"

# ---- memd killed: the balloon stays where it is, the next one finds it there
memd_kill
memd_start
await 20 state_is plain ready || fail "after a restart of memd: $(ctl balloon list)"
near plain 112 || fail "after a restart of memd: $(ctl balloon list)"

# ---- the VMM ends while somebody waits for its guest
qmp plain stop
ctl balloon set plain all --wait >"$tmp/out" 2>"$tmp/err" &
waiting=$!
await 10 eval '[ "$(balloon plain target_bytes)" = $((mib << 20)) ]' || fail "no target: $(ctl balloon list)"
qemu_kill plain
wait $waiting
[ $? = 1 ] || fail "waiting for a guest that is gone: $(cat "$tmp/out" "$tmp/err")"
grep -qE "^memctl: stopped waiting at 11[0-9] MiB of 256 MiB: .*(hung up|nobody listens)" "$tmp/err" ||
    fail "waiting for a guest that is gone: $(cat "$tmp/err")"
await 20 state_is plain gone || fail "without a VMM: $(ctl balloon list)"
qemu_kill oom
memd_end
step "the end"
