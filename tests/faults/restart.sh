#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=150 san=address
#
# memd killed with SIGKILL at random moments, 100 times at full scale, while guests rewrite pages, merge and check
# themselves. Now and then one VMM is stopped meanwhile, or all is unmerged after the restart and merged again. No
# guest may lose a byte, every engine must be back soon after the daemon, and at the end no frame may be left that nobody maps.
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"

guests=(g1 g2 g3)
stopped=

# all_are_back: nobody is waited for, and everybody is there
all_are_back() {
    [ "$(daemon awaited_engines)" = 0 ] && [ "$(total vms)" = ${#guests[@]} ]
}

# Within 2 s of the daemon, and the time memctl takes to say so; on a busy machine it can be long before an engine
# gets a CPU, so that most of the time must do.
back_ms=()
expect_back() {
    local begun
    begun=$(date +%s%3N)
    await 10 all_are_back || fail "not all engines are back: $(ctl status)"
    back_ms+=($(($(date +%s%3N) - begun)))
}

stop_one() {
    stopped=${guests[$(random ${#guests[@]})]}
    kill -STOP "${guest_pid[$stopped]}"
}

# Pages come home whose frames only this guest maps, and which nobody has touched since.
unmerge_and_merge() {
    ctl unmerge all --timeout 5 >/dev/null 2>&1 # what is written meanwhile may be in its way
    ctl merge on >/dev/null || fail "merge on failed"
}

# A stopped engine is waited for, and keeps what it maps.
continue_it() {
    await 10 is 1 daemon awaited_engines || fail "the stopped engine of $stopped is not waited for: $(ctl status)"
    kill -CONT "${guest_pid[$stopped]}"
    stopped=
    expect_back
}

set_up /dev/shm
for i in 1 2; do image img$i 48 $i; done
memd_start
guest g1 --mem 48 --domain common --image "$tmp/img1" --toggle 10
guest g2 --mem 48 --domain common --image "$tmp/img2" --toggle 10
guest g3 --mem 48 --image "$tmp/img1" --churn 5 --thp on
await 30 above 0 total pages_sharing || fail "nothing is merged: $(ctl status)"

kills=$(scaled 100 8)
for ((i = 0; i < kills; i++)); do
    sleep "0.$(printf '%03d' "$(random 500)")"
    [ $((i % 4)) -ne 1 ] || stop_one
    memd_kill
    memd_start
    [ -z "$stopped" ] || continue_it
    [ $((i % 4)) -ne 2 ] || unmerge_and_merge
    [ $((i % 4)) -ne 3 ] || expect_back
done
expect_back
[ "$(daemon restarts)" = "$kills" ] || fail "$(daemon restarts) restarts counted, $kills made"
for g in "${guests[@]}"; do guest_check "$g"; done
[ "$(total merges)" -gt 0 ] || fail "nothing was merged: $(ctl status)"
[ "$(total pages_sharing)" -gt 0 ] || fail "nothing is merged any more: $(ctl status)"

mapfile -t back_ms < <(printf '%d\n' "${back_ms[@]}" | sort -n)
[ "${back_ms[$((${#back_ms[@]} / 2))]}" -le $((1000 * patience)) ] || fail "engines came back after ${back_ms[*]} ms"

ctl unmerge all >/dev/null || fail "unmerge failed"
frames_are_gone
for g in "${guests[@]}"; do
    guest_check "$g"
    guest_end "$g"
done
await 10 is 0 total vms || fail "VMs are left: $(ctl status)"
memd_end
echo "$kills kills"
