#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=120 san=no
#
# Two programs that do everything at once to their mergeable memory, while memd merges, unmerges, takes pages out
# of RAM, is killed and started again: no byte is lost, nothing hangs, nothing is left behind.
# shellcheck source=tests/preload/lib.sh
. "$(dirname "$0")/lib.sh"

seconds=$(scaled 200 20)
seed=$(date +%N)
echo "seed $seed"

is_over() { ! kill -0 "$1" 2>/dev/null; }

set_up /dev/shm
memd_start
for i in 1 2; do
    under "storm$i" "$bin/tests/preload/storm" "$seconds" "$((10#$seed % 100000 + i))" \
        >"$tmp/storm$i.out" 2>"$tmp/storm$i.err" &
    guest_pid[storm$i]=$!
done
await 20 above 1000 total merges || fail "nothing is merged: $(cat "$tmp"/storm?.err)"
end=$((SECONDS + seconds - 5))
rounds=0
pageouts=0
while [ $SECONDS -lt $end ]; do
    sleep 0.$((RANDOM % 9 + 1))
    ctl unmerge all >/dev/null 2>&1
    ctl merge on >/dev/null 2>&1
    for i in 1 2 3 4; do # a pageout may be under way when memd dies
        ctl pageout "storm$((i % 2 + 1))" >/dev/null 2>&1 && pageouts=$((pageouts + 1))
        sleep 0.$((RANDOM % 3 + 1))
    done
    ctl pageout storm1 >/dev/null 2>&1 &
    sleep 0.$((RANDOM % 3))
    memd_kill
    memd_start
    rounds=$((rounds + 1))
done
for i in 1 2; do
    await 60 is_over "${guest_pid[storm$i]}" || fail "storm$i does not end"
    wait "${guest_pid[storm$i]}" || fail "storm$i exited with $?: $(grep -v 'session with the daemon' "$tmp/storm$i.err")"
    unset "guest_pid[storm$i]"
    cat "$tmp/storm$i.out"
done
[ "$pageouts" -ge "$rounds" ] || fail "only $pageouts pageouts in $rounds rounds"
echo "$rounds rounds, $pageouts pageouts"
await 10 is 0 total vms || fail "VMs are left: $(ctl status)"
frames_are_gone
memd_end
