#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=150 san=address
#
# Guests that use three times the memory they are left: whenever one has more than a quarter of it in RAM, all
# of it is paged out. They read and check everything, again and again, and rewrite some; no byte may be wrong,
# nothing be lost, and on average they must really have a third of their memory, at most.
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"

mib=64
passes=$(scaled 20 2)
guests=(reads writes)

resident_kib() { awk '/^Rss:/ { print $2 }' "/proc/${guest_pid[$1]}/smaps_rollup"; }

all_verified() {
    local g
    for g in "${guests[@]}"; do guest_verified "$g" "$passes" || return 1; done
}

set_up /dev/shm
image img $mib 3 --repeat 0 --zero 5
memd_start
guest reads --mem $mib --image "$tmp/img" --verify 8
guest writes --mem $mib --image "$tmp/img" --verify 8 --churn 1 --toggle 2
for g in "${guests[@]}"; do ctl pageout "$g" >/dev/null || fail "pageout of $g: $(ctl status)"; done

pageouts=0
# press: until all have compared their memory $passes times; sum of what they had in RAM, in so many looks
press() {
    local end=$((SECONDS + passes * 40 * patience)) kib g
    sum=0
    looks=0
    until all_verified; do
        [ $SECONDS -lt $end ] || fail "the guests do not get on: $(tail -qn 1 "$tmp"/{reads,writes}.out)"
        for g in "${guests[@]}"; do
            kib=$(resident_kib "$g")
            sum=$((sum + kib))
            looks=$((looks + 1))
            [ "$kib" -gt $((mib * 1024 / 4)) ] || continue
            ctl pageout "$g" >/dev/null || fail "pageout of $g: $(ctl status)"
            pageouts=$((pageouts + 1))
        done
        sleep 0.05
    done
}

# the program, its checksums and the engine's own are in it, too
is_a_third() { [ $((sum / looks)) -le $((mib * 1024 / 3)) ]; }

# where this test gets too little of a CPU to take pages away as fast as they are wanted, once more
at_first=$passes
press
until is_a_third; do
    [ "$passes" -lt $((5 * at_first)) ] || fail "guests of $mib MiB had $((sum / looks)) KiB in RAM on average"
    passes=$((passes + at_first))
    press
done
for g in "${guests[@]}"; do
    [ "$(vm "$g" lost_pages)" = 0 ] || fail "$g has lost pages: $(ctl vm show "$g" --json)"
    [ "$(vm "$g" page_ins)" -gt $((passes * mib * 128)) ] || fail "$g has not needed what was out: $(ctl vm show "$g" --json)"
    guest_end "$g" # with 0: nothing it checked was wrong
done
await 10 is 0 total vms || fail "VMs are left: $(ctl status)"
memd_end
echo "$pageouts pageouts, on average $((sum / looks)) KiB in RAM of $mib MiB"
