#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=480 san=no alone
#
# The kinds of guest RAM QEMU knows. What can take part does: one backend, two NUMA nodes, preallocated, with and
# without huge pages. What can't is shown with its reason: shared, memfd, hugetlb, locked.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

mib=128
thp=/sys/kernel/mm/transparent_hugepage/enabled
thp_before=
hugepages=/proc/sys/vm/nr_hugepages
hugepages_before=

settings_back() {
    [ -z "$thp_before" ] || echo "$thp_before" >$thp
    [ -z "$hugepages_before" ] || echo "$hugepages_before" >$hugepages
    vehicle_clean_up
}

# launch NAME BACKEND-OPTIONS [OPTION...]: all RAM is this backend
launch() {
    local name=$1 backend=$2
    shift 2
    qemu_launch "$name" $mib -object "$backend,id=ram0,size=${mib}M" -machine memory-backend=ram0 "$@"
}

# takes_part NAME...: boot, merge, verify, end
takes_part() {
    qemu_booted "$@"
    guests_load "$*" 5
    merged "$@"
    memd_settle
    guests_verify "$*" 5
    step "merged: $*"
    qemu_end "$@"
}

# takes_no_part REASON NAME: boots and loses nothing; memd says why
takes_no_part() {
    qemu_booted "$2"
    guests_load "$2" 5
    not_merged "$2" "$1" $mib
    [ -n "$bare" ] || [ "$(merged_pages "$2")" -lt 500 ] || fail "$2 is merged"
    guests_verify "$2" 5
    step "takes no part ($1): $2"
    qemu_end "$2"
}

memd_set_up
trap settings_back EXIT

launch one memory-backend-ram
launch filled memory-backend-ram,prealloc=on
qemu_launch two_nodes $mib -smp 2 \
    -object memory-backend-ram,id=r0,size=$((mib / 2))M -object memory-backend-ram,id=r1,size=$((mib / 2))M \
    -numa node,nodeid=0,memdev=r0,cpus=0 -numa node,nodeid=1,memdev=r1,cpus=1
takes_part one filled two_nodes

if [ -w $thp ]; then
    thp_before=$(sed -E 's/.*\[(.*)\].*/\1/' $thp)
    echo always >$thp
    launch huge memory-backend-ram,prealloc=on
    qemu_booted huge
    echo never >$thp
    launch small memory-backend-ram
    takes_part huge small
    echo "$thp_before" >$thp
else
    echo "skip: huge pages on and off: needs root"
fi

launch shared memory-backend-ram,share=on
launch memfd memory-backend-memfd
launch private_memfd memory-backend-memfd,share=off
takes_no_part shared shared
takes_no_part shared memfd
takes_no_part shared private_memfd

if [ -w $hugepages ]; then
    hugepages_before=$(cat $hugepages)
    echo $((hugepages_before + mib / 2)) >$hugepages
    [ "$(awk '/HugePages_Free/ { print $2 }' /proc/meminfo)" -ge $((mib / 2)) ] || fail "no $mib MiB of huge pages"
    launch hugetlb memory-backend-memfd,hugetlb=on,share=off
    takes_no_part hugetlb hugetlb
else
    echo "skip: hugetlb: needs root"
fi

qemu_launch locked $mib -overcommit mem-lock=on
takes_no_part locked locked
memd_tear_down
