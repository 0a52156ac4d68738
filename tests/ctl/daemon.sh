#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=address
#
# memctl, curl and a scraper against a real memd with real guests: what they say agrees with each other and with
# what was done. Then the same daemon as an ordinary user.
# shellcheck source=tests/ctl/lib.sh
. "$(dirname "$0")/lib.sh"

[ -w /dev/userfaultfd ] || skip "needs /dev/userfaultfd"
accel=thread
[ ! -w /dev/kvm ] || [ -n "${MEMD_SAN:-}" ] || accel=kvm
memd_pid=
declare -A guest_pid=()
clean_up() {
    trap - EXIT
    [ -z "$memd_pid" ] || kill -KILL "$memd_pid" 2>/dev/null
    [ ${#guest_pid[@]} = 0 ] || kill -KILL "${guest_pid[@]}" 2>/dev/null
    wait 2>/dev/null
    rm -rf "$dir"
}
trap clean_up EXIT

is_ready() {
    grep -q '^memd: ready, version [0-9.]*, pid [0-9]*, run directory /' "$tmp/memd.out" && return
    kill -0 "$memd_pid" 2>/dev/null || fail "memd has ended: $(cat "$tmp/memd.err")"
    return 1
}
# memd_start WORD...: memd, as it is started by these words
memd_start() {
    : >"$tmp/memd.out"
    "$@" --state-dir "$dir/state" --quiet-ms 20 >"$tmp/memd.out" 2>"$tmp/memd.err" &
    memd_pid=$!
    await 30 is_ready || fail "memd does not get ready"
}
memd_end() {
    kill -TERM $memd_pid
    wait $memd_pid || fail "memd ended with $?: $(cat "$tmp/memd.err")"
    memd_pid=
}
guest_is_ready() {
    grep -qs '"event": "ready"' "$tmp/$1.out" && return
    kill -0 "${guest_pid[$1]}" 2>/dev/null || fail "guest $1 has ended: $(cat "$tmp/$1.err")"
    return 1
}
# guest NAME WORD...: one of 32 MiB, 30% zero, 30% duplicates; started by these words
guest() {
    local name=$1
    shift
    "$@" --accel $accel --mem 32 --name "$name" --zero 30 --shared 30 --seed 7 --thp off --verify 20 \
        --report 200 >"$tmp/$name.out" 2>"$tmp/$name.err" &
    guest_pid[$name]=$!
    await 60 guest_is_ready "$name" || fail "guest $name does not get ready"
}
guest_end() {
    kill -TERM "${guest_pid[$1]}"
    wait "${guest_pid[$1]}" || fail "guest $1 ended with $?: $(cat "$tmp/$1.err")"
    unset "guest_pid[$1]"
}

# look NAME: at that VM, for seen(): numbers of one moment
look() {
    ctl 0 vm show "$1" --json
    cp "$tmp/out" "$tmp/look"
}
# seen KEY
seen() {
    sed -n "s/^ *\"$1\": \(-\{0,1\}[0-9][0-9]*\),\{0,1\}\$/\1/p" "$tmp/look"
}
# of NAME KEY: a number of that VM
of() {
    look "$1"
    seen "$2"
}
# total KEY: of the sums
total() {
    ctl 0 status --json
    sed -n '/^  "totals": {/,/^  }/s/^ *"'"$1"'": \(-\{0,1\}[0-9][0-9]*\),\{0,1\}$/\1/p' "$tmp/out"
}
metric() {
    curl -sS --unix-socket "$dir/control.sock" http://memd/metrics | sed -n "s/^$1 //p"
}
is_state() {
    ctl 0 vm show "$1" --json
    grep -q "^  \"state\": \"$2\"" "$tmp/out"
}
# What is at rest does not stay so: samples of the working set are left out of a pass, and merged by a later one.
metric_says_settled() {
    [ "$(metric 'memd_vm_settled{vm="g1",id="[0-9]*",domain="vm:g1"}')" = 1 ]
}
status_says_settled() {
    ctl 0 status
    grep -q "merging on, settled$" "$tmp/out"
}

memd_start "$bin/memd"
ctl 0 vm list
out "no VM is connected"
ctl 0 settle --timeout 20
guest g1 "$bin/memvm"
guest g2 "$bin/memvm"
ctl 0 settle --timeout 90
out "^settled after"

# ---- what is said agrees with itself
[ "$(total guest_bytes)" = $((2 * (32 << 20))) ] || fail "guest_bytes: $(total guest_bytes)"
for name in g1 g2; do
    await 60 is_state $name settled || fail "$name is not settled"
    look $name
    zero=$(seen zero_pages) shared=$(seen pages_shared) sharing=$(seen pages_sharing)
    if [ "$zero" -lt 1500 ] || [ "$shared" -lt 30 ] || [ "$sharing" -lt 1500 ]; then
        fail "$name: $zero zero pages, $shared frames, $sharing pages on them"
    fi
    [ "$(seen saved_bytes)" = $((4096 * (zero + shared + sharing))) ] || fail "$name: saved_bytes"
    [ "$(seen net_saved_bytes)" -gt 0 ] || fail "$name: nothing saved, net"
    used=$(seen vmas_used)
    if [ "$used" -le 0 ] || [ "$used" -gt "$(seen vmas_limit)" ]; then fail "$name: $used mappings"; fi
done
grep -q "\"pid\": ${guest_pid[g2]}," "$tmp/look" || fail "the pid of g2 is another"
[ "$(metric memd_vms)" = 2 ] || fail "/metrics: memd_vms"
before=$(total merges) says=$(metric memd_merges_total) after=$(total merges)
if [ "$says" -lt "$before" ] || [ "$says" -gt "$after" ]; then
    fail "/metrics says $says merges, status --json $before before and $after after it"
fi
await 60 metric_says_settled || fail "/metrics: g1 is not settled"
await 60 status_says_settled || fail "status: not settled"
ctl 0 doctor
out "^ok +daemon +memd answers in $dir$"

# ---- an estimate changes nothing, and says what merging then does; what was switched off stays so
ctl 0 merge off
kill -KILL $memd_pid
wait $memd_pid 2>/dev/null
memd_start "$bin/memd"
ctl 0 status --json
out '^    "merge": false'
are_back() {
    ctl 0 status --json
    grep -q '^    "vms": 2' "$tmp/out" && grep -q '"awaited_engines": 0' "$tmp/out"
}
await 20 are_back || fail "the guests do not come back"
guest g3 "$bin/memvm"
ctl 0 estimate g3 --json --timeout 60
would=$(sed -n 's/^ *"would_save_bytes": \([0-9]*\),\{0,1\}$/\1/p' "$tmp/out")
is_state g3 off || fail "g3 merges in spite of merge off"
[ "$(of g3 merges)" = 0 ] || fail "the estimate merged pages"
ctl 0 merge on g3
ctl 0 settle --timeout 90
look g3
did=$(($(seen saved_bytes) - 4096 * $(seen pages_shared)))
off_by=$((would > did ? would - did : did - would))
if [ "$would" -lt $((8 << 20)) ] || [ $off_by -gt $((1 << 20)) ]; then
    fail "estimated $would bytes, saved $did"
fi
is_state g1 off || fail "merge on g3 switched g1 on"
ctl 0 merge on

# ---- out of RAM and back; the guest goes on checking its pages all the while
seq 1000000 3000000 >"$tmp/image"
guest text "$bin/memvm" --image "$tmp/image"
ctl 0 pageout text --timeout 60
out "^text: [0-9.]+ [KM]iB taken out of RAM$"
[ "$(of text page_outs)" -gt 1000 ] || fail "pageout packed $(of text page_outs) pages"
# the guest wants all of it back
status_says_swapped() {
    ctl 0 pageout text --timeout 60
    ctl 0 status
    grep -qE "^swapped +[0-9.]+ [KM]iB +in [0-9.]+ [KM]iB of swap files" "$tmp/out"
}
await 60 status_says_swapped || fail "status says nothing of swap files"
ctl 0 pagein text --timeout 60
out "^text: [0-9.]+ [KM]?i?B brought back into RAM$"
ctl 0 pageout text --bytes 1M --timeout 60
ctl 0 pageout text --timeout 60
outs=$(metric 'memd_vm_page_outs_total{vm="text",id="[0-9]*",domain="vm:text"}')
[ "$outs" -gt 1000 ] || fail "/metrics: $outs page-outs"
ctl 1 pageout nobody
err "no VM 'nobody'"
# what may be written in a day is used up: pages stay packed, and it is said
seq 2000000 4000000 >"$tmp/image2"
guest other "$bin/memvm" --image "$tmp/image2"
ctl 0 vm set other swap-writes=4K
ctl 1 pageout other --timeout 60
err "VM other: as much was written to swap files as may be in a day \(swap-writes\)"
[ "$(of other swap_written_bytes)" = 0 ] || fail "$(of other swap_written_bytes) bytes were written where 4K are allowed"
[ "$(of other page_outs)" -gt 1000 ] || fail "only $(of other page_outs) pages were packed"
ctl 0 budget
out "^other .* 4[.0]* KiB$"
[ "$(metric 'memd_vm_swap_writes_bytes{vm="other",id="[0-9]*",domain="vm:other"}')" = 4096 ] || fail "/metrics: swap_writes_limit_bytes"
ctl 0 vm set other swap-writes=none
for command in "balloon list" "balloon auto on"; do
    # shellcheck disable=SC2086
    ctl 0 $command
    out "^no VM has a balloon that memd knows of"
done
ctl 0 pageout other --timeout 60
[ "$(of other swap_written_bytes)" -gt 500000 ] || fail "only $(of other swap_written_bytes) bytes were written"
guest_end other
guest_end text

# ---- unmerged, and left so; each page that is taken apart is counted
look g1
merged=$(($(seen pages_shared) + $(seen pages_sharing))) heals=$(seen heals)
ctl 0 unmerge g1
out "^unmerged: g1$"
look g1
[ "$(seen pages_shared) $(seen pages_sharing)" = "0 0" ] || fail "g1 still shares pages"
[ "$(seen heals)" -ge $((heals + merged)) ] || fail "$merged pages were taken apart, $(($(seen heals) - heals)) counted"
ctl 0 settle --timeout 60
is_state g1 off || fail "g1 merges again of itself"
[ "$(of g1 pages_sharing)" = 0 ] || fail "g1 has merged again of itself"
ctl 0 merge on g1
ctl 0 settle --timeout 90
[ "$(of g1 pages_sharing)" -gt 1500 ] || fail "g1 did not merge again"

# ---- switched on again in the middle of an unmerge: merged once more, however the two meet
for _ in 1 2 3 4 5; do
    curl -sS --unix-socket "$dir/control.sock" --data '{"vm": "all"}' http://memd/v1/unmerge >"$tmp/out"
    ctl 0 merge on
    ctl 0 settle --timeout 60
    [ "$(of g1 pages_sharing)" -gt 1500 ] || fail "g1 did not merge again"
done

# ---- one that leaves is gone, what it did is not
merges=$(total merges)
guest_end g2
gone() {
    timeout 20 "$bin/memctl" vm show g2 >"$tmp/out" 2>"$tmp/err"
    [ $? = 1 ]
}
await 20 gone || fail "g2 is still listed"
err "^memctl: no VM 'g2' is connected$"
[ "$(total merges)" -ge "$merges" ] || fail "the merges of g2 are forgotten"
ctl 0 unmerge all --timeout 60
[ "$(total pages_sharing)" = 0 ] || fail "unmerge all left $(total pages_sharing) pages"
guest_end g1
guest_end g3
memd_end
grep -hE '"verify_failures": [1-9]' "$tmp"/g*.out && fail "a guest lost bytes"
ctl 3 status
[ ! -e "$dir/control.sock" ] || fail "control.sock was left behind"

[ "$(id -u)" = 0 ] || { echo "skip: another user, and a host short of memory, need root" && exit 0; }

# ---- no memory to unmerge into: refused, and nothing done
sed 's/^MemAvailable: .*/MemAvailable:       1024 kB/' /proc/meminfo >"$tmp/meminfo"
# shellcheck disable=SC2016
memd_start unshare --mount -- sh -c 'mount --bind "$1" /proc/meminfo && shift && exec "$@"' sh "$tmp/meminfo" \
    "$bin/memd" --free-soft 0 --free-hard 0 --free-low 0
guest g5 "$bin/memvm"
ctl 0 settle --timeout 90
look g5
sharing=$(seen pages_sharing) heals=$(seen heals)
ctl 1 unmerge g5
err "^memctl: unmerge failed: does not fit: [0-9]+ MiB wanted, 1 MiB available"
ctl 0 settle --timeout 90 # merging goes on; were pages taken apart, it would be counted by now
look g5
grep -q '^  "merge": true' "$tmp/look" || fail "the refused unmerge switched merging of g5 off"
[ "$(seen heals)" = "$heals" ] || fail "the refused unmerge took $(($(seen heals) - heals)) pages apart"
[ "$(seen pages_sharing)" -ge "$sharing" ] || fail "g5 had $sharing pages merged, and has $(seen pages_sharing)"
guest_end g5
memd_end

# ---- an ordinary user with access to the device, and nothing else
own=$dir/own
install -d -o 65534 -g 65534 "$own"
install -d "$dir/dev" "$dir/bin"
install -m 755 "$bin/memd" "$bin/memvm" "$bin/memctl" "$dir/bin"
chmod 755 "$dir"
mounts=
for device in userfaultfd kvm; do
    [ -e /dev/$device ] || continue
    cp -a /dev/$device "$dir/dev" || fail "cannot make a device file"
    chown 65534 "$dir/dev/$device" || fail "cannot hand over a device file"
    mounts="$mounts mount --bind $dir/dev/$device /dev/$device &&"
done
as_nobody=(unshare --mount -- sh -c "$mounts exec setpriv --reuid 65534 --regid 65534 --clear-groups \"\$@\"" sh)
export MEMD_RUN_DIR=$own/run
dir_of_test=$dir dir=$own
memd_start "${as_nobody[@]}" "$dir_of_test/bin/memd"
guest g4 "${as_nobody[@]}" "$dir_of_test/bin/memvm"
ctl 0 settle --timeout 90
[ "$(of g4 pages_sharing)" -gt 1500 ] || fail "nothing merged as an ordinary user"
"${as_nobody[@]}" "$dir_of_test/bin/memctl" status >"$tmp/out" 2>"$tmp/err" || fail "memctl as memd's user"
[ "$(stat -c %u "$MEMD_RUN_DIR/control.sock")" = 65534 ] || fail "memd did not run as an ordinary user"
guest_end g4
memd_end
dir=$dir_of_test
echo "memd, memctl, curl and /metrics agree"
