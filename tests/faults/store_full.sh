#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=180 san=address
#
# The frame store runs full, by its limit and by the tmpfs it lies on: merging stops and says so, guests go on.
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"

says_full() {
    grep -qE "warning: .*(is full|does not take more)" <<<"$(ctl status)"
}

# run_full LIMIT_MIB OPTION...: two guests that could share more than there is room for
run_full() {
    local limit_mib=$1
    shift
    memd_options=("$@")
    memd_start
    guest g1 --mem 48 --domain common --image "$tmp/img1" --toggle 5
    guest g2 --mem 48 --domain common --image "$tmp/img2" --toggle 5
    await 30 says_full || fail "nothing says that the store is full: $(ctl status)"
    await 30 above 0 total pages_sharing || fail "nothing was merged before it was full: $(ctl status)"
    [ "$(domain store_bytes)" -le $((limit_mib << 20)) ] || fail "the store has $(domain store_bytes) bytes"
    # what guests rewrite is given back, and used again
    await 30 above $(((limit_mib << 19) - 1)) domain store_bytes || fail "only $(domain store_bytes) bytes were used"
    guest_check g1
    guest_check g2
    ctl unmerge all >/dev/null || fail "unmerge failed"
    frames_are_gone
    guest_check g1
    guest_check g2
    guest_end g1
    guest_end g2
    memd_end
}

# Two guests fill the store; two with other contents find no room until the first two have left.
takes_up_again() {
    memd_options=(--store-max 4M)
    memd_start
    guest g1 --mem 48 --domain common --image "$tmp/img3"
    guest g2 --mem 48 --domain common --image "$tmp/img3"
    await 30 says_full || fail "nothing says that the store is full: $(ctl status)"
    guest g3 --mem 48 --domain common --image "$tmp/img4"
    guest g4 --mem 48 --domain common --image "$tmp/img4"
    settle 60
    [ "$(vm g3 merges)" -lt 100 ] || fail "there was room for g3 after all: $(ctl status)"
    guest_end g1
    guest_end g2
    await 30 above 500 vm g3 merges || fail "room that became free is not used: $(ctl status)"
    guest_check g3
    guest_check g4
    guest_end g3
    guest_end g4
    memd_end
}

# in a mount namespace of its own: a tmpfs that is too small
if [ "${1:-}" = small-tmpfs ]; then
    set_up "$2"
    run_full 6
    exit 0
fi

set_up /dev/shm
for i in 1 2; do image img$i 48 $i; done
for i in 3 4; do image img$i 48 $i --family $i --repeat 0; done
run_full 4 --store-max 4M
takes_up_again

[ "$(id -u)" = 0 ] || { echo "skip: mounting a small tmpfs needs root" && exit 0; }
mkdir "$tmp/small"
unshare --mount -- sh -c "mount -t tmpfs -o size=6m,mode=1777 memd-test '$tmp/small' && exec '$0' small-tmpfs '$tmp/small'" ||
    fail "with a tmpfs that is full"
