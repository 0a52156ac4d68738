#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=120 san=address
#
# A process that a VMM's child has forked maps the VMM's merged pages, and no engine speaks for it: no frame may
# be freed under it - not when the VMM writes its own pages, not when the VMM is killed, not when memd starts
# anew, not when the VMM dies while memd is away. When the process has ended, they are.
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"

FREED_S=2 # by then memd would have freed frames nobody refers to

is_judged() { [ -s "$tmp/verdict" ]; }

# child_check WHEN: the memory the process inherited is as it was
child_check() {
    sleep $FREED_S
    rm -f "$tmp/verdict"
    touch "$tmp/check"
    await 20 is_judged || fail "$1: the child does not answer"
    grep -q '^good' "$tmp/verdict" || fail "$1: the child's memory has changed"
}

vmm_says() {
    grep -qs "^$1" "$tmp/vmm.out" && return
    kill -0 "${guest_pid[vmm]}" 2>/dev/null || fail "the VMM has ended: $(cat "$tmp/vmm.err")"
    return 1
}

vmm_start() {
    rm -f "$tmp/end"
    "$bin/tests/faults/forking_vmm" vmm common "$tmp" >"$tmp/vmm.out" 2>"$tmp/vmm.err" &
    guest_pid[vmm]=$!
    await 30 vmm_says ready || fail "the VMM's pages are not merged: $(ctl status)"
    guest_pid[child]=$(sed -n 's/^ready //p' "$tmp/vmm.out")
    child_check "with its VMM"
}

child_is_gone() { ! kill -0 "${guest_pid[child]}" 2>/dev/null; }

# Nobody but the guest uses frames now: its references go, and with them all frames.
child_end() {
    await 5 is 1 total vms || fail "a dead VM is still listed: $(ctl status)"
    ctl unmerge other >/dev/null || fail "unmerge failed"
    await 5 is 0 total pages_shared || fail "$(total pages_shared) frames have references nobody has"
    child_check "alone"
    ! store_is_empty || fail "there is nothing the child could map"
    touch "$tmp/end"
    await 10 child_is_gone || fail "the child does not end"
    unset 'guest_pid[child]'
    frames_are_gone
    guest_check other
    ctl merge on >/dev/null || fail "merge on failed"
}

set_up /dev/shm
image img 32 1
memd_start
guest other --mem 32 --domain common --image "$tmp/img"

vmm_start
kill -USR1 "${guest_pid[vmm]}"
await 10 vmm_says written || fail "the VMM does not write"
child_check "its VMM has written all pages"
guest_kill vmm
child_end

vmm_start
guest_kill vmm
child_check "its VMM has been killed"
memd_kill
memd_start
await 10 is 0 daemon awaited_engines || fail "an engine is waited for: $(ctl status)"
child_check "memd has been killed after its VMM"
child_end

vmm_start
memd_kill
guest_kill vmm
memd_start
await 10 is 0 daemon awaited_engines || fail "an engine is waited for: $(ctl status)"
child_check "its VMM has died while memd was away"
child_end

guest_end other
await 5 is 0 total vms || fail "VMs are left: $(ctl status)"
memd_end
