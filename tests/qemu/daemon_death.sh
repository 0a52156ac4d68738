#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=no
#
# memd is killed under Linux guests that verify their memory all the time, and comes back: while it merges, when it has,
# and while guests bring memory it knows nothing of. No guest notices.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

both() {
    in_guests "g1 g2" stress-check
    in_guests "g1 g2" check
} >/dev/null

memd_set_up
qemu_launch g1 256
qemu_launch g2 256
qemu_booted g1 g2
in_guests "g1 g2" stress 24
guests_load "g1 g2"
step "loaded"
merged g1 g2
for round in 1 2 3; do
    memd_bounce both
    both
    memd_settle
    step "round $round: memd was killed and is back"
done
# killed in the middle of what is new to it
in_guests "g1 g2" read @ 20
memd_bounce in_guests "g1 g2" fill x 16 files @
guests_verify "g1 g2" 20
merged g1 g2
# a guest ends while memd is away
[ -n "$bare" ] || memd_kill
qemu_end g2
[ -n "$bare" ] || memd_start
guest_verify g1 1
step "stressed: $(in_guest g1 stress-end) rounds"
qemu_end g1
memd_tear_down
