#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=no
#
# The kinds of guest RAM QEMU knows. What can take part does: one backend, two NUMA nodes, preallocated. What can't is
# shown with its reason: shared, memfd, locked. Huge pages: huge_pages.sh.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

memd_set_up
launch one memory-backend-ram
launch filled memory-backend-ram,prealloc=on
qemu_launch two_nodes $mib -smp 2 \
    -object memory-backend-ram,id=r0,size=$((mib / 2))M -object memory-backend-ram,id=r1,size=$((mib / 2))M \
    -numa node,nodeid=0,memdev=r0,cpus=0 -numa node,nodeid=1,memdev=r1,cpus=1
takes_part one filled two_nodes

launch shared memory-backend-ram,share=on
launch memfd memory-backend-memfd
launch private_memfd memory-backend-memfd,share=off
takes_no_part shared shared
takes_no_part shared memfd
takes_no_part shared private_memfd

qemu_launch locked $mib -overcommit mem-lock=on
takes_no_part locked locked
memd_tear_down
