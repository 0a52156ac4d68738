#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=120 san=address
#
# VMMs killed with SIGKILL while their pages are being merged: what they held must be given up, what others hold
# of it must stay, also when the VMM dies while memd is away.
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"

set_up /dev/shm
for i in 1 2; do image img$i 48 $i; done
memd_start
guest stays --mem 48 --domain common --image "$tmp/img1" --toggle 5
await 30 above 0 total pages_sharing || fail "nothing is merged: $(ctl status)"

kills=$(scaled 30 5)
for ((i = 0; i < kills; i++)); do
    guest dies --mem 48 --domain common --image "$tmp/img$((i % 2 + 1))" --toggle 20
    await 10 is 2 total vms || fail "the guest did not join: $(ctl status)"
    sleep "0.$(printf '%03d' "$(random 600)")"
    if [ $((i % 5)) -eq 4 ]; then # nobody is there to see it
        memd_kill
        guest_kill dies
        memd_start
    else
        guest_kill dies
    fi
    await 5 is 1 total vms || fail "a dead VM is still listed: $(ctl status)"
    await 5 is 0 daemon awaited_engines || fail "a dead engine is waited for: $(ctl status)"
    [ "$(find "$run"/store/*/engines -type f | wc -l)" = 1 ] || fail "the registry still names a dead engine"
done
guest_check stays

# alone, it holds one reference to each of its frames that it does not share with itself, and nobody else any
ctl unmerge stays >/dev/null || fail "unmerge failed"
frames_are_gone
guest_check stays
guest_kill stays
await 5 is 0 total vms || fail "a dead VM is still listed: $(ctl status)"
[ -z "$(ls -A "$run/store")" ] || fail "the domain's files are left: $(find "$run/store")"
memd_end
echo "$kills kills"
