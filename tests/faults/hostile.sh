#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=150
#
# Hostile engines in the domain of honest guests: their sessions end, memd and the guests go on, nothing is merged
# that differs, and what memd holds for them stays bounded. What they do: hostile_engine.c.
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"

hostile=$bin/tests/faults/hostile_engine

rss_kib() {
    awk '/^VmRSS/ { print $2 }' "/proc/$memd_pid/status"
}

open_fds() {
    find "/proc/$memd_pid/fd" | wc -l
}

# attack NAME [COUNT]: memd has to do as it should, and go on
attack() {
    "$hostile" "$1" "$run" common "${@:2}" >"$tmp/hostile.out" 2>&1 || fail "$1: $(cat "$tmp/hostile.out")"
    kill -0 "$memd_pid" 2>/dev/null || fail "memd has died of $1"
    [ "$(grep -c 'VM g[12] .*joined' "$tmp/memd.err")" = 2 ] || fail "$1 has cost an honest guest its session"
}

set_up /dev/shm
memd_start
for i in 1 2; do
    image img$i 32 $i
    guest g$i --mem 32 --domain common --image "$tmp/img$i" --toggle 3
done
await 30 above 1000 total pages_sharing || fail "honest guests do not merge: $(ctl status)"
fds=$(open_fds)
rss=$(rss_kib)

attack stubborn
attack flood "$(scaled 20 2)"
attack random "$(scaled 3000 100)"

# processes are gone, and with them all that was kept for them
gone() { [ "$(open_fds)" -le "$fds" ]; }
await 10 gone || fail "file descriptors were leaked: $fds before, $(open_fds) after"
[ -n "${MEMD_SAN:-}" ] || [ "$(rss_kib)" -le $((rss + 32768)) ] || fail "memd grew from $rss to $(rss_kib) KiB"
guest_check g1
guest_check g2

# A frame with other bytes than its hash stands for, and a guest full of pages with that hash.
mkfifo "$tmp/stay"
"$hostile" collide "$run" common <"$tmp/stay" >"$tmp/collide.out" 2>&1 &
guest_pid[collide]=$!
exec 9>"$tmp/stay"
await 20 grep -q '^ready' "$tmp/collide.out" || fail "no collision: $(cat "$tmp/collide.out")"
"$hostile" image "$tmp/collisions" 16
guest g3 --mem 32 --domain common --image "$tmp/collisions"
await 20 above 500 guest_number g3 rejected || fail "the guest's pages were not compared with the frame: $(ctl status)"
guest_check g3
# one page in four of the guest has that hash: none may have been merged with the frame, and it is not tried for ever
[ "$(guest_number g3 merged_pages)" -lt 500 ] || fail "pages were merged with a frame that differs"
tried=-1
is_at_rest() {
    local before=$tried
    tried=$(guest_number g3 rejected)
    [ "$tried" = "$before" ] || { sleep 1 && false; }
}
await 60 is_at_rest || fail "the same pages are proposed for ever: $tried rejected"
echo >&9
wait "${guest_pid[collide]}" || fail "collide: $(cat "$tmp/collide.out")"
unset 'guest_pid[collide]'

for i in 1 2 3; do guest_check g$i; done
for i in 1 2 3; do guest_end g$i; done
memd_end
