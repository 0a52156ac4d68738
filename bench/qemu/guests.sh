#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# guests.sh N MIB [RUN_DIR]: Linux guests g1..gN of MIB each, for as long as somebody holds the other end of stdin.
#
# The hands of the benchmark of real guests: the vehicle of the QEMU tests, ordered about line by line. With RUN_DIR
# the QEMUs run under memd-run, in the domain "bench" of the memd there; without, as they are. Says "PID..." of the
# QEMUs when all have booted, then answers each order with one line, "ok [FIGURE]":
#
#   read PERCENT      each guest reads files of its own choice into its page cache
#   verify PERCENT    each compares them with their checksums
#   job NUMBER MIB    a fixed piece of work in one guest; the seconds it took there
#   end               all power off; it ends, too
#
# What goes wrong is said on stderr, and ends it with exit code 1; a machine that cannot have the guests, with 77
# and "skip: REASON". The QEMUs end with it, whatever ends it. MEMD_BUILD_DIR: where memd-run is; MEMD_TEST_TMP: a
# directory for it alone.
# shellcheck source=tests/qemu/lib.sh
. "$(dirname "$0")/../../tests/qemu/lib.sh"

number=${1:?} mib=${2:?} memd_dir=${3:-}
exec 3>&1 >&2 # only answers go out

set_up() { :; } # memd and its directories are the benchmark's
log=$bin/bench/log/${MEMD_TEST_TMP##*/}
boot_s=240 answer_s=300
vehicle_set_up
qemu_user=(setpriv --pdeathsig KILL)
[ -z "$memd_dir" ] || qemu_prefix=("$bin/memd-run" --name '{}' --domain bench --run-dir "$memd_dir" --)

guests=()
pids=()
for ((i = 1; i <= number; i++)); do
    guests+=("g$i")
    qemu_launch "g$i" "$mib"
    pids+=("${guest_pid[g$i]}")
done
qemu_booted "${guests[@]}"
echo "${pids[*]}" >&3

while read -r order argument more; do
    case $order in
    read) answer=$(in_guests "${guests[*]}" read @ "$argument" >/dev/null) || exit 1 ;;
    verify) answer=$(in_guests "${guests[*]}" verify @ "$argument" >/dev/null) || exit 1 ;;
    job) answer=$(in_guest "g$argument" job "$more") || exit 1 ;;
    end) qemu_end "${guests[@]}" && answer= ;;
    *) fail "no such order: $order" ;;
    esac
    echo "ok $answer" >&3
    [ "$order" != end ] || exit 0
done
exit 1
