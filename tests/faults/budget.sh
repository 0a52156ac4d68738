#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=no
#
# Memory budgets, with guests that check all their pages all the while: what is used is what the kernel says; guests
# of three times the budget run on; reservations, limits, domains and what is never to be swapped are kept; low
# memory lets no new VM in; a user's pageout goes first; idle memory goes first; a dry run decides, and does nothing.
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"

mib=$((1 << 20))

# budget KEY: of the host's
budget() {
    ctl budget --json | sed -n "s/^  \"$1\": \"\{0,1\}\([a-z0-9]*\)\"\{0,1\}.*/\1/p"
}

at_most() {
    local most=$1
    shift
    [ "$("$@")" -le "$most" ]
}

# smaps PID: PSS of the process but for files, and of that what is frames of a store
smaps() {
    awk '
        /^[0-9a-f]+-[0-9a-f]+ / { shm = $6 ~ /^\/memfd:|^\/dev\/zero/; frames = $6 ~ /\.frames$/; file = $6 ~ /^\// && !shm && !frames }
        /^Pss:/                 { pss = $2 }
        /^Anonymous:/           { all += file ? $2 : pss; of_frames += frames ? pss - $2 : 0 }
        END                     { printf "%d %d\n", all * 1024, of_frames * 1024 }' "/proc/$1/smaps"
}

# What VMMs and memd take by the kernel: each page once, frames by their blocks.
kernel_bytes() {
    local sum=0 all frames pid
    for pid in "${guest_pid[@]}" "$memd_pid"; do
        read -r all frames < <(smaps "$pid")
        sum=$((sum + all - frames))
    done
    find "$run/store" -name '*.frames' -exec stat -c %b {} + | awk -v sum="$sum" '{ sum += $1 * 512 } END { printf "%d\n", sum }'
}

# The VMMs stand still meanwhile: what runs has changed before both have been read, and memd looks when there is most.
used_is_what_the_kernel_says() {
    local used=0 kernel=0 off pid
    for pid in "${guest_pid[@]}"; do kill -STOP "$pid"; done
    for _ in $(seq 20); do
        sleep 0.5 # memd has looked since
        used=$(budget used_bytes)
        kernel=$(kernel_bytes)
        off=$((used > kernel ? used - kernel : kernel - used))
        [ $((off * 100)) -gt $((kernel * 2)) ] || break
    done
    for pid in "${guest_pid[@]}"; do kill -CONT "$pid"; done
    echo "memd says $used bytes, the kernel $kernel"
    [ $((off * 100)) -le $((kernel * 2)) ] ||
        fail "memd says $((used / mib)) MiB are used, the kernel $((kernel / mib))"
}

# stays_near BYTES OF SECONDS COMMAND...: what the command prints, on average, and not only because nothing is there
stays_near() {
    local bytes=$1 seconds=$2 sum=0 n=0 end
    shift 2
    end=$((SECONDS + seconds))
    while [ $SECONDS -lt $end ]; do
        sum=$((sum + $("$@")))
        n=$((n + 1))
        sleep 0.1
    done
    echo "on average $((sum / n / mib)) MiB of $((bytes / mib))"
    [ $((sum / n)) -le $((bytes * 115 / 100)) ] || fail "$((sum / n / mib)) MiB on average with a budget of $((bytes / mib))"
    [ $((sum / n)) -ge $((bytes / 2)) ] || fail "only $((sum / n / mib)) MiB on average with a budget of $((bytes / mib))"
}

# common KEY: of the domain "common"
common() {
    ctl budget --json | awk -v key="\"$1\":" '/"name":/ { of = /"common"/ } of && $1 == key { print $2 + 0; exit }'
}

check_all() { guests_check "${!guest_pid[@]}"; }

is_low() {
    [ "$(budget memory_state)" = low ]
}

set_up /dev/shm
printf 'budget = 0\n[domain pair]\nuids = %s\n[vm sealed*]\nswap = never\n' "$(id -u)" >>"$tmp/memd.conf"
seq 1000000 12000000 | head -c $((60 * mib)) >"$tmp/text"
memd_options=(--free-low 0 --free-hard 0 --free-soft 0) # whatever else this machine is short of
memd_options+=(--sample-pages 512 --sample-ms 500)
memd_start
for i in 1 2 3; do guest g$i --mem 64 --domain common --shared 20 --zero 5 --sweep 20 --verify 40; done
settle 60
[ "$(budget memory_state)" = high ] || fail "without a budget memory is not high: $(ctl budget)"
# at rest memd looks twice a second
await 10 above $((120 * mib)) budget used_bytes || fail "three guests of 64 MiB use $(budget used_bytes) bytes"
used_is_what_the_kernel_says

# ---- a dry run decides and tells, and nothing leaves; when it ends, it does
why_says() {
    grep -q "\"reason\": \"$2\"" <<<"$(ctl why "$1" --json)"
}
out_before=$(total page_outs)
ctl budget --dry-run on >/dev/null || fail "a dry run was refused"
ctl budget 55M >/dev/null || fail "the budget was refused"
for i in 1 2 3; do
    await 20 why_says g$i ordered || fail "why does not tell what g$i would be asked for: $(ctl why g$i)"
    grep -q "(not given: dry run)" <<<"$(ctl why g$i)" || fail "the orders are not marked as not given: $(ctl why g$i)"
done
await 20 is_low || fail "three times the budget is not low: $(ctl budget)"
guest late --mem 8 --domain common
await 20 above 3 total vms || fail "a dry run turns VMs away: $(ctl status)"
guest_end late
[ "$(total page_outs)" = "$out_before" ] || fail "a dry run has paged out: $(ctl status)"
grep -q "^dry run: " <<<"$(ctl status)" || fail "status does not say that this is a dry run"
ctl budget --dry-run off >/dev/null || fail "a dry run does not end"

# ---- a third of what the guests have
ctl budget 55M >/dev/null || fail "the budget was refused"
await 60 at_most $((60 * mib)) budget used_bytes || fail "memory does not come down: $(ctl budget)"
stays_near $((55 * mib)) 6 budget used_bytes
check_all
stays_near $((55 * mib)) 3 kernel_bytes
used_is_what_the_kernel_says
[ "$(total swapped_pages)" -gt 1000 ] || fail "nothing was swapped: $(ctl status)"

for i in 1 2 3; do
    grep -q "^  last order answered " <<<"$(ctl why g$i)" || fail "why does not tell what came back: $(ctl why g$i)"
done

# ---- a user's job goes first, and ends as asked
ctl pageout g1 --bytes 4M --timeout 60 >/dev/null || fail "pageout of a VM the daemon takes pages of, too"
ctl pagein g1 --bytes 4M --timeout 60 >/dev/null || fail "pagein of a VM the daemon takes pages of"

# ---- reservations
# merging brings a VM below its reservation as well as it can, its own and that of others: a frame costs each of those
# who share it a part
ctl merge off
ctl vm set g1 reservation=40M >/dev/null || fail "a reservation that fits was refused"
out=$(ctl budget 39M 2>&1) && fail "a budget below the reservations was taken"
grep -q "39 MiB are less than the 40 MiB that are reserved" <<<"$out" || fail "not told why: $out"
[ "$(budget budget_bytes)" = $((55 * mib)) ] || fail "a refused budget counts: $(ctl budget)"
out=$(ctl vm set g2 reservation=20M 2>&1) && fail "reservations above the budget were taken"
grep -q "does not fit: others have reserved 40 of 55 MiB" <<<"$out" || fail "not told why: $out"
out=$(ctl vm set g1 limit=39M 2>&1) && fail "a limit below the reservation was taken"
await 60 above $((40 * mib)) vm g1 resident_bytes || fail "g1 does not get what is reserved for it: $(ctl budget)"
for _ in $(seq 30); do
    [ "$(vm g1 resident_bytes)" -ge $((39 * mib)) ] || fail "g1 was brought below its reservation: $(ctl budget)"
    sleep 0.1
done
ctl merge on
ctl vm set g1 reservation=none >/dev/null || fail "a reservation cannot be given up"

# ---- limits count without a budget
ctl budget off >/dev/null || fail "budget off"
ctl vm set g2 limit=24M >/dev/null || fail "a limit was refused"
await 30 at_most $((28 * mib)) vm g2 resident_bytes || fail "the limit of g2 does not count: $(ctl budget)"
is_high() {
    [ "$(budget memory_state)" = high ]
}
await 5 is_high || fail "a limit made memory short: $(ctl budget)"
check_all
ctl vm set g2 limit=none >/dev/null || fail "a limit cannot be taken off"

# ---- of a domain
guest alone --mem 32 --sweep 50 --verify 100
ctl budget 70M --domain common >/dev/null || fail "a domain's budget was refused"
out=$(ctl budget 70M --domain nowhere 2>&1) && fail "a domain that is none got a budget"
await 30 at_most $((77 * mib)) common used_bytes || fail "the domain does not come down: $(ctl budget)"
[ "$(vm alone page_outs)" = 0 ] || fail "another domain's VM was paged out"
ctl budget off --domain common >/dev/null || fail "budget off of a domain"
guest_end alone

# ---- of two alike, the one that uses its memory keeps it: what is idle is taxed
guest busy --mem 64 --domain pair --verify 400
guest idle --mem 64 --domain pair --verify 1
knows() {
    [ "$(vm busy working_set_bytes)" -ge $((48 * mib)) ] && [ "$(vm idle working_set_bytes)" -le $((12 * mib)) ]
}
await 60 knows || fail "who uses how much does not come out: $(ctl working-set)"
ctl budget 100M --domain pair >/dev/null || fail "a domain's budget was refused"
# alike, each would be left 48 MiB
idle_gave() {
    [ "$(vm busy resident_bytes)" -ge $((58 * mib)) ] && [ "$(vm idle resident_bytes)" -le $((42 * mib)) ]
}
await 40 idle_gave || fail "the idle one does not give: $(ctl budget)"
ctl budget off --domain pair >/dev/null || fail "budget off of a domain"
guest_end busy
guest_end idle

# ---- what is never to be swapped is packed only
guest sealed --mem 64 --image "$tmp/text" --verify 40
ctl vm set sealed limit=44M >/dev/null || fail "a limit was refused"
await 40 at_most $((48 * mib)) vm sealed resident_bytes || fail "the limit of sealed does not count: $(ctl budget)"
ctl pageout sealed --timeout 60 >/dev/null || fail "pageout of sealed"
[ "$(vm sealed page_outs)" -gt 1000 ] || fail "nothing of sealed was packed"
[ "$(vm sealed swap_written_bytes)" = 0 ] || fail "sealed was written to a swap file"
guest_check sealed
guest_end sealed

# ---- memory is low when reservations leave no way down: no new VM until there is room
for i in 1 2 3; do ctl vm set g$i reservation=45M >/dev/null || fail "a reservation was refused"; done
ctl budget 136M >/dev/null || fail "the budget was refused"
low() {
    [ "$(budget memory_state)" = low ] && [ "$(budget alarm)" = true ]
}
await 20 low || fail "memory is not low: $(ctl budget)"
grep -q "^alarm: memory is low" <<<"$(ctl status)" || fail "status raises no alarm: $(ctl status)"
curl -sS --unix-socket "$run/control.sock" http://memd/metrics >"$tmp/metrics"
grep -qx "memd_memory_alarm 1" "$tmp/metrics" || fail "no alarm in /metrics"
grep -q "memory is low (a budget of 136 MiB)" "$tmp/memd.err" || fail "no alarm in the log"
guest late --mem 32 --domain common --verify 100
refused() {
    grep -q "the daemon refused: VM late: memory is low: [0-9]* of 136 MiB of the budget are in use" "$tmp/late.err"
}
await 20 refused || fail "a VM was let in, or not told: $(cat "$tmp/late.err")"
grep -q "VM late: memory is low" "$tmp/memd.err" || fail "the refusal is not in the log"
memd_kill # those who were there come back, low or not, and what was set is kept
memd_options+=(--budget 60M)
memd_start
[ "$(budget budget_bytes)" = $((136 * mib)) ] || fail "the budget that was set is forgotten: $(ctl budget)"
await 20 above 2 total vms || fail "the VMs do not come back: $(ctl status)"
for i in 1 2 3; do
    [ "$(vm g$i reservation_bytes)" = $((45 * mib)) ] || fail "the reservation of g$i is forgotten: $(ctl budget)"
    ctl vm set g$i reservation=none >/dev/null || fail "a reservation cannot be given up"
done
ctl budget 60M >/dev/null || fail "the budget was refused"
await 60 at_most $((66 * mib)) budget used_bytes || fail "memory does not come down: $(ctl budget)"
ctl budget off >/dev/null
await 20 above 3 total vms || fail "late is not let in: $(ctl status)"
check_all
for i in 1 2 3; do guest_end g$i; done
guest_end late
memd_end
echo "budgets are kept"
