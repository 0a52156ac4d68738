#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# qemu.sh JSON: the demo's first part, real Linux guests in unmodified QEMU under memd-run.
#
# Four guests boot, each reads its own choice of the same files, one runs a stressor that verifies what it writes.
# Memory by the kernel's numbers before memd merges and after; then every guest compares its files with their
# checksums. The guests are those of the QEMU tests. JSON is a file for the figures. MEMD_BUILD_DIR: where memd is;
# MEMD_TEST_TMP: a directory for this alone.
#
# Exit code: 0; 1 something went wrong, or a guest found a wrong byte; 77 this machine cannot have the guests, why
# is said after "skip: ".
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/../../tests/qemu/under_memd.sh"

json=${1:?usage: $0 JSON}
guests=(g1 g2 g3 g4)
mib=256
read_percent=15
stress_mib=24
settle_s=20 # at most
verify_checks=0
verify_failures=0
log=$bin/demo-log
boot_s=120 # others may be at work on the machine

say() { printf '[%2d s] %s\n' "$SECONDS" "$*"; }

# pss_bytes: of the QEMUs and memd, and blocks of the frame store that nobody maps
pss_bytes() {
    local blocks
    blocks=$(find "$run" -type f -printf '%b\n' | awk '{ n += $1 } END { printf "%.0f", n * 512 }')
    for pid in "${guest_pid[@]}" "$memd_pid"; do cat "/proc/$pid/smaps_rollup"; done |
        awk -v blocks="$blocks" '
            $1 == "Pss:" { all += $2 * 1024 }
            $1 == "Pss_Shmem:" { mapped += $2 * 1024 }
            END { printf "%.0f\n", all + (blocks > mapped ? blocks - mapped : 0) }'
}

mib() { echo $((($1 + 524288) >> 20)); }

# watch_settle: until savings have not grown for 2 s. (The stressor keeps memd from ever being done.)
watch_settle() {
    local begun=$SECONDS saved=0 now still=0
    while [ $still -lt 4 ] && [ $((SECONDS - begun)) -lt $settle_s ]; do
        sleep 0.5
        now=$(total net_saved_bytes)
        still=$((still + 1))
        if [ "$now" -gt $((saved + saved / 20 + 1048576)) ]; then
            say "memd counts $(mib "$now") MiB saved, net"
            saved=$now
            still=0
        fi
    done
}

# Counts what the guests found: of one with wrong files, a line for each of these.
verify() {
    local guest number=0 status
    local -a pids=()
    for guest in "${guests[@]}"; do
        number=$((number + 1))
        in_guest_try "$guest" verify $number $read_percent >"$tmp/$guest.verified" &
        pids+=($!)
    done
    for guest in "${guests[@]}"; do
        status=0
        wait "${pids[0]}" || status=$?
        pids=("${pids[@]:1}")
        case $status in
        0) verify_checks=$((verify_checks + $(cat "$tmp/$guest.verified"))) ;;
        1) verify_failures=$((verify_failures + $(grep -c . "$tmp/$guest.verified"))) ;;
        *) fail "guest $guest does not answer" ;;
        esac
    done
}

write_json() {
    cat >"$json" <<END
{
    "guests": ${#guests[@]},
    "guest_bytes": $((${#guests[@]} * mib << 20)),
    "pss_bytes_before": $before,
    "pss_bytes_after": $after,
    "verify_checks": $verify_checks,
    "verify_failures": $verify_failures
  }
END
}

[ -e "$vehicle/disk" ] || say "making a Linux guest of Debian's kernel and files of this machine (once)"
memd_options=(--merge off)
memd_set_up
for guest in "${guests[@]}"; do
    qemu_launch "$guest" $mib
done
say "${#guests[@]} Linux guests of $mib MiB boot in QEMU ($qemu_accel), unmodified, under memd-run"
qemu_booted "${guests[@]}"
say "Linux $(in_guest g1 hello) is up in all of them; each reads its own choice of files"
in_guests "${guests[*]}" read @ $read_percent >/dev/null
in_guest g4 stress $stress_mib
sleep 1 # free pages are reported to QEMU
before=$(pss_bytes)
say "g4 runs stress-ng, which verifies what it writes; PSS of the QEMUs and memd: $(mib "$before") MiB"
memd_ctl merge on
say "memctl merge on"
watch_settle
after=$(pss_bytes)
say "PSS of the QEMUs and memd: $(mib "$after") MiB, $((100 * after / before))% of what it was"
verify
rounds=$(in_guest g4 stress-end)
say "the guests compared $verify_checks files with their checksums, $verify_failures were wrong;" \
    "stress-ng has verified $rounds rounds"
qemu_end "${guests[@]}"
memd_tear_down
write_json
[ "$verify_failures" -eq 0 ]
