#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=450 san=address
#
# The memory policy and the balloons of real Linux guests in QEMU that memd knows by their balloons, one of them with an
# agent: a budget that is lowered inflates them slowly, a guest that needs memory has all of it again, memd says why, and what
# was set is still so after a restart.
# shellcheck source=tests/qemu/lib.sh
. "$(dirname "$0")/lib.sh"

mib=256

step() { echo "[$SECONDS s] $*"; }

document() { curl -sS --unix-socket "$run/control.sock" "http://memd/v1/balloons/$1"; }
balloon() { document "$1" | sed -nE "s/^  \"$2\": \"?([^\",]*)\"?,?\$/\1/p"; }
actual_mib() { echo $(($(balloon "$1" actual_bytes | sed 's/null/0/') >> 20)); }
state_is() { [ "$(balloon "$1" state)" = "$2" ]; }
rule_is() { [ "$(balloon "$1" auto_rule)" = "$2" ]; }
auto_is() { [ "$(balloon "$1" auto)" = "$2" ]; }
is_below() { [ "$(actual_mib "$1")" -lt "$2" ]; }
is_full() { [ "$(actual_mib "$1")" -ge $((mib - 1)) ]; }
why_says() { ctl why "$1" 2>&1 | grep -qE "$2"; }
rss_mib() { awk '$1 == "VmRSS:" { print int($2 / 1024) }' "/proc/${guest_pid[$1]}/status"; }
is_live() { ctl agent list | grep -qE "^$1 .*live"; }
fits() { in_guest_try "$1" fill "$2" 4 zero >"$tmp/fill"; } # without an agent it is heard every other second
told() { ctl balloon list; ctl why "$1"; ctl budget; }

with_agent() {
    mkdir -p "$tmp/root/bin"
    cp "$bin/memd-agent" "$tmp/root/bin/"
    (cd "$tmp/root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1n) >"$tmp/added" || fail "no archive"
    cat "$vehicle/initramfs" "$tmp/added" >"$tmp/initramfs"
}

vehicle_set_up
command -v curl >/dev/null || skip "needs curl"
printf '[vm %s]\nballoon = qmp:%s\nballoon-min = 96M\n' solo "$files/solo.balloon" told "$files/told.balloon" >"$tmp/memd.conf"
printf 'agent = %s\n' "$files/told.memd" >>"$tmp/memd.conf"
with_agent
# what their QEMUs give back is the balloons' doing
qemu_launch solo $mib -global virtio-balloon-pci.deflate-on-oom=on -qmp "unix:solo.balloon,server=on,wait=off" -set device.balloon.free-page-reporting=off
qemu_append[told]="psi=1"
qemu_launch told $mib -qmp "unix:told.balloon,server=on,wait=off" -set device.balloon.free-page-reporting=off \
    -initrd "$tmp/initramfs" -device virtio-serial -chardev "socket,id=memd,path=told.memd,server=on,wait=off" \
    -device virtserialport,chardev=memd,name=org.memd.agent.0
memd_start
qemu_booted solo told
for name in solo told; do
    await 30 state_is $name ready || fail "booted: $(ctl balloon list)"
    # memory that was used, and that nobody uses any more
    in_guest $name fill x 110 zero >/dev/null
    in_guest $name free x
done
step "booted"

# ---- off: nothing moves
ctl budget 64M >/dev/null || fail "no budget"
auto_is solo false || fail "on by itself"
sleep 2
is_full solo || fail "moved though it is off: $(told solo)"
[ "$(ctl budget --json | grep -c '"alarm": true')" = 0 ] || fail "VMs that take no part are counted: $(ctl budget)"

# ---- on, in a dry run: decided and told
ctl budget --dry-run on >/dev/null
ctl balloon auto on >"$tmp/out" || fail "auto on: $(cat "$tmp/out")"
grep -q '^solo: auto on' "$tmp/out" || fail "auto on says: $(cat "$tmp/out")"
await 20 why_says solo 'balloon \(spare\): would be asked for' || fail "dry run: $(told solo)"
await 20 rule_is told risky || fail "a guest that has neither an agent nor deflate-on-oom: $(told told)"
is_full solo && is_full told || fail "moved in a dry run: $(told solo)"
if ctl balloon set solo 128M >"$tmp/out" 2>&1; then fail "a user moves it, too"; fi
grep -q 'balloon auto off solo' "$tmp/out" || fail "set says: $(cat "$tmp/out")"
step "dry run"

# ---- on: nothing of a guest that cannot say in time that it needs memory
rss=$(rss_mib solo)
ctl budget --dry-run off >/dev/null
await 40 is_below solo 200 || fail "the balloon of solo does not inflate: $(told solo)"
is_full told || fail "taken from a guest that may kill before it is heard: $(told told)"
heard=solo
if [ -z "${MEMD_SAN:-}" ]; then # there is no agent in instrumented trees
    in_guest told memd-agent-start >/dev/null
    await 20 is_live told || fail "the agent is not heard: $(ctl agent list)"
    heard="told solo"
fi

# ---- on: slowly in
for name in $heard; do
    await 40 is_below "$name" 200 || fail "the balloon of $name does not inflate: $(told "$name")"
    await 20 why_says "$name" 'balloon \([a-z]+\): (asked for|the guest has)' || fail "why: $(told "$name")"
done
await 20 eval '[ "$(rss_mib solo)" -le $((rss - 16)) ]' || fail "RSS was $rss MiB and is $(rss_mib solo): $(told solo)"
step "inflated: solo $(actual_mib solo), told $(actual_mib told) MiB; RSS of solo $rss to $(rss_mib solo) MiB"

# ---- a restart: still on
memd_kill
memd_start
await 20 state_is solo ready || fail "after a restart: $(ctl balloon list)"
auto_is solo true && auto_is told true || fail "forgotten over a restart: $(ctl balloon list)"

# ---- what a guest needs it gets, at once
ctl budget 64M >/dev/null || fail "no budget"
[ -n "${MEMD_SAN:-}" ] || await 20 is_live told || fail "the agent is not heard again: $(ctl agent list)"
for name in $heard; do
    await 40 is_below "$name" 200 || fail "not inflated again: $(told "$name")"
    # what a guest without deflate-on-oom has no memory for at once it refuses itself: little by little
    for ((i = 0; i < 20; i++)); do
        await 20 fits "$name" n$i || fail "no more than $((4 * i)) MiB fit into $name: $(cat "$tmp/fill"); $(told "$name")"
        sleep 0.1
    done
    in_guest "$name" check >/dev/null
    for ((i = 0; i < 20; i++)); do in_guest "$name" free n$i; done
    await 20 why_says "$name" 'given back: the guest needs memory' || fail "no word of it: $(told "$name")"
done
step "deflated"

# ---- off again: nothing moves any more; without a budget everything goes back
ctl balloon auto on >/dev/null
await 60 is_below solo 220 || fail "not inflated again: $(told solo)"
ctl budget off >/dev/null
await 60 is_full solo || fail "not let go without a budget: $(told solo)"
ctl balloon auto off solo >"$tmp/out" || fail "auto off: $(cat "$tmp/out")"
auto_is solo false && auto_is told true || fail "off: $(ctl balloon list)"
ctl balloon set solo 200M --wait --timeout $((60 * patience)) >"$tmp/out" 2>&1 || fail "by hand: $(cat "$tmp/out")"
memd_end
