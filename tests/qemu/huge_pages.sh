#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=240 san=no alone
#
# Guest RAM in huge pages: transparent ones take part, with a guest that has none; of hugetlb it is shown why it cannot.
# Changes settings of the whole machine, and puts them back.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

thp=/sys/kernel/mm/transparent_hugepage/enabled
thp_before=
hugepages=/proc/sys/vm/nr_hugepages
hugepages_before=

settings_back() {
    [ -z "$thp_before" ] || echo "$thp_before" >$thp
    [ -z "$hugepages_before" ] || echo "$hugepages_before" >$hugepages
    vehicle_clean_up
}

memd_set_up
trap settings_back EXIT
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

if [ -w $hugepages ]; then
    hugepages_before=$(cat $hugepages)
    echo $((hugepages_before + mib / 2)) >$hugepages
    [ "$(awk '/HugePages_Free/ { print $2 }' /proc/meminfo)" -ge $((mib / 2)) ] || fail "no $mib MiB of huge pages"
    launch hugetlb memory-backend-memfd,hugetlb=on,share=off
    takes_no_part hugetlb hugetlb
else
    echo "skip: hugetlb: needs root"
fi
memd_tear_down
