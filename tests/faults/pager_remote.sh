#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=address
#
# Guests that may write nothing to swap files: paged out, their merged pages are in frames nobody maps. The
# daemon is killed, restarted and killed again meanwhile: no frame is freed too early, what the guests read back
# is what they have written, and in the end all frames are free.
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"

mib=$((1 << 20))
guests=(g1 g2)

at_least() { [ "$("${@:2}")" -ge "$1" ]; }
all_are_back() { [ "$(daemon awaited_engines)" = 0 ] && [ "$(total vms)" = ${#guests[@]} ]; }

set_up /dev/shm
printf '[vm g*]\nswap = never\n' >>"$tmp/memd.conf"
seq 1000000 12000000 | head -c $((20 * mib)) >"$tmp/text"
memd_start
for g in "${guests[@]}"; do guest "$g" --mem 32 --domain common --image "$tmp/text" --verify 5; done
await 90 at_least 4000 total pages_sharing || fail "only $(total pages_sharing) pages are shared: $(ctl status)"
ctl merge off >/dev/null || fail "merge off"
merged=$(total pages_sharing) frames=$(total pages_shared)
for g in "${guests[@]}"; do ctl pageout "$g" --timeout 120 >/dev/null || fail "pageout of $g: $(ctl status)"; done
remote=$(total remote_pages)
[ "$(total remote_outs)" -ge 4000 ] || fail "of $merged pages $(total remote_outs) have given up their mapping: $(ctl status)"
[ "$(total merged_outs)" = 0 ] || fail "pages went to swap files all the same"

# without a daemon, and with a new one: they are served, and hold their frames
for _ in 1 2; do
    memd_kill
    for g in "${guests[@]}"; do guest_check "$g"; done
    memd_start
    await 20 all_are_back || fail "not all engines are back: $(ctl status)"
    for g in "${guests[@]}"; do [ "$(vm "$g" lost_pages)" = 0 ] || fail "$g has lost pages"; done
done
[ "$(total pages_shared)" -le "$frames" ] || fail "$frames frames, now $(total pages_shared)"
[ "$(total remote_pages)" -le "$remote" ] || fail "$remote pages were remote, now $(total remote_pages)"
for g in "${guests[@]}"; do ctl pagein "$g" --timeout 120 >/dev/null || fail "pagein of $g: $(ctl status)"; done
await 20 is 0 total remote_pages || fail "$(total remote_pages) pages do not come home"
for g in "${guests[@]}"; do guest_check "$g"; done
for g in "${guests[@]}"; do ctl unmerge "$g" --timeout 120 >/dev/null || fail "unmerge of $g"; done
frames_are_gone
for g in "${guests[@]}"; do guest_check "$g" && guest_end "$g"; done
memd_end
