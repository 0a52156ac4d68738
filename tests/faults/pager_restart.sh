#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=600 san=address
#
# memd killed with SIGKILL in every state of the pager, 100 times at full scale: while pages are parked, wait,
# are packed, written to the swap file, flushed, brought home, and while they lie in any of these places. Guests
# check themselves all the while. They must be back (within 2 s, most of the time: on a busy machine it can be
# long before an engine gets a CPU), their counters be what they were, paging must go on, no byte may be lost, and
# the swap files of VMs that die must leave no space taken.
#
# The state directory is on a device that can be made slow (badfs.c), or memd would be killed too late to meet a
# write or a read under way.
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"

[ "$(id -u)" = 0 ] || skip "mounting the device needs root"
[ -w /dev/fuse ] || skip "needs /dev/fuse"
if [ "${1:-}" != inside ]; then # a mount namespace of its own: nothing stays mounted
    exec unshare --mount --propagation private -- "$0" inside
fi

guests=(g1 g2)
device_pid=

device_on() {
    mkdir "$tmp/state"
    mkfifo "$tmp/device.in" "$tmp/device.out"
    "$bin/tests/faults/badfs" "$tmp/state" <"$tmp/device.in" >"$tmp/device.out" &
    device_pid=$!
    trap 'kill -KILL $device_pid; clean_up' EXIT
    exec 8>"$tmp/device.in" 9<"$tmp/device.out"
    [ "$(device_says)" = ready ] || fail "badfs does not start"
}

device_says() {
    local line
    read -r -t 10 -u 9 line && echo "$line"
}

# slow READ_MS WRITE_MS
slow() {
    printf 'read-ms %d\nwrite-ms %d\n' "$1" "$2" >&8
    [ "$(device_says)$(device_says)" = okok ] || fail "badfs does not answer"
}

space_used() {
    echo used >&8
    device_says | sed 's/used //'
}

# out NAME: pages of it that are out of RAM
out() { echo $(($(vm "$1" parked_pages) + $(vm "$1" packed_pages) + $(vm "$1" swapped_pages))); }

all_are_back() {
    [ "$(daemon awaited_engines)" = 0 ] && [ "$(total vms)" = ${#guests[@]} ]
}

# job VERB OPTION...: for each guest, in the background; it fails when memd is killed
job() {
    local g verb=$1
    shift
    for g in "${guests[@]}"; do
        ctl "$verb" "$g" "$@" >/dev/null 2>&1 &
        jobs_running+=($!)
    done
}

# pause MS_LEAST MS_MOST
pause() {
    sleep "$(awk -v n=$(($1 + $(random $(($2 - $1 + 1))))) 'BEGIN { printf "%.3f", n / 1000 }')"
}

# Everything home but little, so that there is something to page out.
home() {
    slow 0 0
    for g in "${guests[@]}"; do ctl pagein "$g" >/dev/null || fail "pagein of $g: $(ctl status)"; done
}

reach() {
    case $1 in
    parking) home && job pageout && pause 0 15 ;;
    waiting) home && job pageout --bytes 16M && pause 200 900 ;;
    packing) home && job pageout && pause 15 120 ;;
    writing) home && slow 0 40 && job pageout && pause 150 500 ;;
    flushing) home && slow 0 300 && job pageout --timeout 60 && pause 500 1200 ;;
    paging-in) slow 5 0 && job pagein && pause 20 400 ;;
    idle) home && ctl pageout g1 >/dev/null && ctl pageout g2 --bytes 8M >/dev/null && pause 0 100 ;;
    esac || fail "cannot be brought into the state $1: $(ctl status)"
}

# goes_out NAME: more than $before pages; where the guest is quicker than the engine's worker, which gets a CPU only when
# nobody else wants it, all that is taken away is wanted before it has gone
goes_out() {
    ctl pageout "$1" >/dev/null || fail "pageout of $1: $(ctl status)"
    above "$before" vm "$1" page_outs # it may be home again
}
are_in_files() {
    for g in "${guests[@]}"; do ctl pageout "$g" >/dev/null || fail "pageout of $g: $(ctl status)"; done
    [ "$(space_used)" -gt 1000000 ]
}

# What an engine says before and after must agree with what it can have: no more out than it has pages.
check_counters() {
    local g pages
    for g in "${guests[@]}"; do
        pages=$(($(vm "$g" guest_bytes) / 4096))
        [ "$(out "$g")" -le "$pages" ] || fail "$g has $(out "$g") of $pages pages out: $(ctl vm show "$g" --json)"
        [ "$(vm "$g" lost_pages)" = 0 ] || fail "$g has lost pages: $(ctl vm show "$g" --json)"
        [ "$(vm "$g" swap_errors)" = 0 ] || fail "writing for $g has failed: $(ctl vm show "$g" --json)"
    done
}

set_up /dev/shm
device_on
for i in 1 2; do image img$i 64 $i; done
memd_start
guest g1 --mem 64 --domain common --image "$tmp/img1" --toggle 5 --verify 40
guest g2 --mem 64 --domain common --image "$tmp/img2" --churn 2 --verify 40

states=(parking waiting packing writing flushing paging-in idle)
kills=$(scaled 100 14)
jobs_running=()
back_ms=()
for ((i = 0; i < kills; i++)); do
    state=${states[$((i % ${#states[@]}))]}
    reach "$state"
    memd_kill
    for pid in "${jobs_running[@]}"; do wait "$pid"; done
    jobs_running=()
    memd_start
    begun=$(date +%s%3N)
    await 10 all_are_back || fail "killed while $state: not all engines are back: $(ctl status)"
    back_ms+=($(($(date +%s%3N) - begun)))
    check_counters
done
slow 0 0
for g in "${guests[@]}"; do
    before=$(vm "$g" page_outs)
    await 20 goes_out "$g" || fail "nothing of $g goes out any more: $(ctl vm show "$g" --json)"
    ctl pagein "$g" >/dev/null || fail "pagein of $g: $(ctl status)"
    guest_check "$g"
done
mapfile -t back_ms < <(printf '%d\n' "${back_ms[@]}" | sort -n)
median=${back_ms[$((kills / 2))]}
[ "$median" -le $((1000 * patience)) ] || fail "engines came back after ${back_ms[*]} ms"

# one ends in order, one is killed with pages in the file: what the device holds for them goes
await 20 are_in_files || fail "nothing is in the swap files: $(space_used)"
guest_end g1
guest_kill g2
await 10 is 0 total vms || fail "VMs are left: $(ctl status)"
memd_end
space_is_back() { [ "$(space_used)" -le 65536 ]; }
await 10 space_is_back || fail "$(space_used) bytes are still taken on the device"
echo "$kills kills, back within $median ms (median), ${back_ms[-1]} ms at most"
