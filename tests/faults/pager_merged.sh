#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=address
#
# Merged pages of guests that nobody reads: paged out of every VM they are in no frame any more, and the store
# is as small as that, in the kernel's numbers, too. Guests that lose their daemon then read all of it back, and
# what comes home is merged again.
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"

mib=$((1 << 20))
guests=(g1 g2 g3)

store_bytes() {
    find "$run/store" -name '*.frames' -exec stat -c %b {} + | awk '{ sum += $1 * 512 } END { printf "%d\n", sum }'
}
at_most() { [ "$("${@:2}")" -le "$1" ]; }
at_least() { [ "$("${@:2}")" -ge "$1" ]; }
all_are_back() { [ "$(daemon awaited_engines)" = 0 ] && [ "$(total vms)" = ${#guests[@]} ]; }

set_up /dev/shm
seq 1000000 12000000 | head -c $((40 * mib)) >"$tmp/text"
memd_start
for g in "${guests[@]}"; do guest "$g" --mem 64 --domain common --image "$tmp/text" --verify 5; done
settle 90
merged=$(total pages_sharing) stored=$(store_bytes)
[ "$merged" -gt 15000 ] || fail "only $merged pages are shared: $(ctl status)"
[ "$stored" -gt $((30 * mib)) ] || fail "$stored bytes in the store"

# as long as one has them, the frames stay
ctl merge off >/dev/null || fail "merge off"
ctl pageout g1 --timeout 120 >/dev/null || fail "pageout of g1: $(ctl status)"
[ "$(vm g1 merged_outs)" -gt 5000 ] || fail "only $(vm g1 merged_outs) merged pages of g1 have left: $(ctl vm show g1 --json)"
[ "$(store_bytes)" -gt $((stored / 2)) ] || fail "frames are gone that two VMs map"
for g in g2 g3; do ctl pageout "$g" --timeout 120 >/dev/null || fail "pageout of $g: $(ctl status)"; done
await 60 at_most $((stored / 4)) store_bytes || fail "$(store_bytes) of $stored bytes stay in the store: $(ctl status)"
[ "$(total pages_sharing)" -le $((merged / 4)) ] || fail "$(total pages_sharing) of $merged pages are still shared"
for g in "${guests[@]}"; do [ "$(vm "$g" lost_pages)" = 0 ] || fail "$g has lost pages"; done

# without a daemon all of it comes home as it was
memd_kill
for g in "${guests[@]}"; do guest_check "$g"; done
memd_start
await 20 all_are_back || fail "not all engines are back: $(ctl status)"
ctl merge on >/dev/null || fail "merge on"
for g in "${guests[@]}"; do ctl pagein "$g" --timeout 120 >/dev/null || fail "pagein of $g: $(ctl status)"; done
await 90 at_least $((merged / 2)) total pages_sharing || fail "only $(total pages_sharing) of $merged pages are merged again: $(ctl status)"
for g in "${guests[@]}"; do guest_end "$g"; done
memd_end
