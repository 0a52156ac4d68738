#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=no
#
# QEMU reads and replaces a merged guest's memory: stop and cont, savevm and loadvm, dump-guest-memory. The dumps of a
# stopped guest, merged and unmerged, are the same to the byte; what was saved merged is there again when loaded.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

dump() {
    rm -f "$tmp/$1"
    qmp g1 dump-guest-memory "{\"paging\": false, \"protocol\": \"file:$tmp/$1\"}"
    [ -s "$tmp/$1" ] || fail "no dump"
}

memd_set_up
command -v qemu-img >/dev/null || skip "needs qemu-utils"
qemu-img create -q -f qcow2 "$tmp/state.qcow2" 1G || fail "qemu-img failed"
# savevm writes into the first disk that can hold a snapshot
qemu_launch g1 192 -drive "if=none,id=state,file=$tmp/state.qcow2,format=qcow2" -device virtio-blk-pci,drive=state
qemu_launch g2 192
qemu_booted g1 g2
guests_load "g1 g2"
merged g1 g2
memd_settle
step "merged"

qmp g1 stop
qemu_status g1 paused || fail "not paused"
dump merged.elf
merged g1
memd_ctl unmerge g1 --timeout 60
dump unmerged.elf
cmp "$tmp/merged.elf" "$tmp/unmerged.elf" || fail "the dumps differ"
rm "$tmp"/*merged.elf
memd_ctl merge on g1
qmp g1 cont
guests_verify "g1 g2"
step "stopped, dumped, continued"

merged g1
monitor g1 savevm first
step "saved"
in_guest g1 fill later 16 random
in_guest g1 free w
merged g1
monitor g1 loadvm first
qemu_status g1 running || fail "not running"
guests_verify "g1 g2"
! in_guest_try g1 check later >/dev/null || fail "what came after the snapshot is still there"
step "loaded"
merged g1
memd_bounce guests_verify "g1 g2"
monitor g1 loadvm first
monitor g1 delvm first
guests_verify "g1 g2"
qemu_end g1 g2
memd_tear_down
