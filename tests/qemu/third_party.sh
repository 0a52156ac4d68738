#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=no
#
# Judges that know nothing of memd: stress-ng verifying all of its methods on memory it advises as mergeable, and
# memtester in a Linux guest - while memd merges, unmerges, and is killed and restarted.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

# restless PID: memd merges, unmerges, dies and comes back for as long as the process lives
restless() {
    local rounds=0
    while kill -0 "$1" 2>/dev/null; do
        rounds=$((rounds + 1))
        sleep 1
        [ -z "$bare" ] || continue
        case $((rounds % 4)) in
        1) ctl unmerge all --timeout 20 >/dev/null 2>&1 ;; # what is written meanwhile may be in its way
        2) ctl merge on >/dev/null || fail "merge on failed" ;;
        3) memd_kill && memd_start ;;
        0) ;;
        esac
    done
    step "restless for $rounds rounds"
}

memd_set_up
seconds=$(scaled 200 20)
prefix=()
[ -n "$bare" ] || prefix=("$bin/memd-run" --name stress-ng --domain common --run-dir "$run" --)
"${prefix[@]}" stress-ng --vm 2 --vm-bytes 128M --vm-method all --verify --vm-madvise mergeable \
    --timeout "$seconds" --metrics-brief --temp-path "$tmp" >"$tmp/stress.out" 2>&1 &
guest_pid[stress]=$!
[ -n "$bare" ] || await 20 at_least 1 total vms || fail "memd sees nothing of stress-ng: $(cat "$tmp/stress.out")"
[ -n "$bare" ] || await 20 at_least 500 total merges || fail "nothing of stress-ng is merged: $(ctl vm list)"
restless "${guest_pid[stress]}"
wait "${guest_pid[stress]}" || fail "stress-ng: $(cat "$tmp/stress.out")"
unset 'guest_pid[stress]'
! grep -E 'fail:|error:' "$tmp/stress.out" || fail "stress-ng has found wrong bytes"
grep -q 'successful run completed' "$tmp/stress.out" || fail "stress-ng: $(cat "$tmp/stress.out")"
step "stress-ng: $(awk '$4 == "vm" { print $5 }' "$tmp/stress.out") rounds verified"

qemu_launch g1 192
qemu_launch g2 192
qemu_booted g1 g2
guests_load "g1 g2"
merged g1 g2
in_guests "g1 g2" memtester $(($(scaled 40 4))) >"$tmp/memtester.out" &
guest_pid[memtester]=$!
restless "${guest_pid[memtester]}"
wait "${guest_pid[memtester]}" || fail "memtester: $(cat "$tmp/memtester.out")"
unset 'guest_pid[memtester]'
[ "$(grep -c ': ok$' "$tmp/memtester.out")" -ge 14 ] || fail "memtester: $(cat "$tmp/memtester.out")"
guests_verify "g1 g2"
step "memtester and files in two guests"
qemu_end g1 g2
memd_tear_down
