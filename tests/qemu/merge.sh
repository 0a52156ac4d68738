#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=no
#
# Four Linux guests that have read different files, in one trust domain: what they have in common is kept once, the
# kernel's own numbers confirm what memd says it saves, and every byte is what it was - merged, unmerged and
# merged again.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

guests="g1 g2 g3 g4"
read_percent=20

# all_pss_kib: of QEMUs and memd
all_pss_kib() { pss_kib "${guest_pid[@]}" $memd_pid; }

# counters_agree: what memd saves, net, is what PSS has fallen by, to 5% and a little that guests and QEMU still write
counters_agree() {
    local fallen=$((before_kib - $(all_pss_kib)))
    local net=$(($(total net_saved_bytes) >> 10))
    local off=$((fallen - net))
    echo "PSS has fallen by $((fallen >> 10)) MiB; memd: $((net >> 10)) MiB net"
    [ ${off#-} -le $((net / 20 + 16384)) ]
}

# at_rest: nothing is reported free any more, for 2 s
at_rest() {
    local was is
    was=$(all_pss_kib)
    sleep 2
    is=$(all_pss_kib)
    [ $((was - is)) -lt 1024 ]
}

memd_options=(--merge off)
memd_set_up
for g in $guests; do
    qemu_launch "$g" 256
done
# shellcheck disable=SC2086
qemu_booted $guests
guests_load "$guests" $read_percent
step "loaded"
await 60 at_rest || fail "memory does not come to rest: PSS is $(all_pss_kib) KiB"
step "free pages are reported"
before_kib=$(all_pss_kib)
memd_ctl merge on
memd_settle
step "settled"

if [ -z "$bare" ]; then
    # shellcheck disable=SC2086
    merged $guests
    await 10 counters_agree || fail "memd's numbers are not the kernel's"
    [ "$(all_pss_kib)" -lt $((before_kib * 3 / 4)) ] || fail "PSS is $(all_pss_kib) KiB, was $before_kib"
fi
in_guest g4 stress 24
guests_verify "$guests" $read_percent
step "verified, merged"
memd_ctl unmerge all --timeout 60
guests_verify "$guests" $read_percent
step "verified, unmerged"
memd_ctl merge on
in_guest g1 free f
in_guest g1 drop
in_guest g1 fill z 32 random
in_guest g1 free z
sleep 3 # what was merged or freed is reported, and used again
in_guest g1 fill y 32 zero
in_guest g1 check
in_guest g1 verify 1 $read_percent
step "verified after freeing and filling: $(in_guest g4 stress-end) rounds of stress"
# shellcheck disable=SC2086
qemu_end $guests
memd_tear_down
