#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=150 san=no
#
# The vehicle itself, without memd: two Linux guests boot, read different files, work, check every byte, and power
# off; what goes wrong in a guest is seen here.
# shellcheck source=tests/qemu/lib.sh
. "$(dirname "$0")/lib.sh"

# refused COMMAND...: a guest must call this failed
refused() {
    local status=0
    in_guest_try a "$@" >/dev/null || status=$?
    [ $status -eq 1 ] || fail "a guest does not refuse $*: $status"
}

vehicle_set_up
qemu_launch a 256
qemu_launch b 256
qemu_booted a b
echo "booted with $qemu_accel at $SECONDS s"

in_guest a stress 32
in_guests "a b" fill copy 16 files @
in_guest b fill random 16 random
in_guest b fill same 16 word memd
in_guests "a b" read @ 15
in_guests "a b" verify @ 15
in_guests "a b" check
in_guest b memtester 4
echo "a job took $(in_guest b job 16) s in the guest"
in_guest a stress-check
echo "stressed: $(in_guest a stress-end) rounds"

refused nonsense
refused fill large 300 zero
refused check absent
refused stress-end
refused verify 1 0

free_before=$(in_guest b meminfo | awk '$1 == "MemFree" { print $2 }')
in_guest b free random
in_guest b drop
free_after=$(in_guest b meminfo | awk '$1 == "MemFree" { print $2 }')
[ "$free_after" -gt $((free_before + 16 * 1024)) ] || fail "the guest has $free_after KiB free after, $free_before before"

qemu_status a running || fail "QEMU does not answer"
qmp a stop
qemu_status a paused || fail "QEMU does not stop"
qmp a cont
echo "PSS of the two: $(($(qemu_pss_kib) / 1024)) MiB"
qemu_end a b
