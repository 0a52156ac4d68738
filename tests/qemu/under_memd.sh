#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: helper
#
# What the tests of QEMU under memd-run share: memd, guests with something to lose, and what is merged of them.
#
# Sourced. MEMD_QEMU_BARE=1 runs these tests without memd, to tell a fault of QEMU or of a test from one of memd:
# what is asked of memd then counts as answered.
# shellcheck shell=bash disable=SC2034
# shellcheck source=tests/qemu/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

bare=${MEMD_QEMU_BARE:-}
open_path= # of open_build

# memd_set_up: the vehicle, memd (with memd_options), and QEMUs to be launched under memd-run in the domain "common"
memd_set_up() {
    vehicle_set_up
    [ -z "$bare" ] || return 0
    [ -x "$bin/memd-run" ] || fail "there is no memd-run in $bin"
    qemu_prefix=("$bin/memd-run" --name '{}' --domain common --run-dir "$run" --)
    memd_start
}

# in_own_mounts WORD...: the test begins again in a mount namespace of its own, which ends with it
in_own_mounts() {
    [ "$(id -u)" = 0 ] || skip "needs root"
    [ -n "${MEMD_TEST_MOUNTS:-}" ] || MEMD_TEST_MOUNTS=$$ exec unshare --mount --propagation private "$0" "$@"
}

# open_build USER: if USER cannot get at the build directory (it may be in root's home), it gets a path where he can
open_build() {
    setpriv --reuid="$1" --clear-groups test -r "$vehicle/disk" && return
    open_path=$(mktemp -d /dev/shm/memd-build.XXXXXX) || fail "cannot make a directory in /dev/shm"
    mount --bind "$bin" "$open_path" || fail "cannot mount $bin a second time"
    bin=$open_path
    vehicle=$bin/qemu-guest
    [ -z "${qemu_prefix[0]:-}" ] || qemu_prefix[0]=$bin/memd-run
}

# never recursively: what is mounted there is the build directory
close_build() { [ -z "$open_path" ] || { umount "$open_path" && rmdir "$open_path"; }; }

# memd_bounce: killed and started again; all VMs come back
memd_bounce() {
    local nvms
    [ -z "$bare" ] || return 0
    nvms=$(total vms)
    memd_kill
    "$@"
    memd_start
    await 10 is "$nvms" total vms || fail "not all of $nvms VMs come back: $(ctl vm list)"
}

# memd_ctl WORD...: memctl; it must succeed
memd_ctl() {
    [ -n "$bare" ] || ctl "$@" >/dev/null || fail "memctl $* failed"
}

memd_settle() {
    [ -n "$bare" ] || settle 60
}

# at_least LEAST COMMAND...: the command prints no smaller number
at_least() {
    local least=$1
    shift
    [ "$("$@")" -ge "$least" ] 2>/dev/null
}

declare -A vm_name=() # what memd calls a guest, if not by its own name
merged_pages() {
    local name=${vm_name[$1]:-$1}
    echo $(($(vm "$name" pages_shared) + $(vm "$name" pages_sharing)))
}

# merged NAME...: soon some of their pages are merged
merged() {
    local name
    [ -z "$bare" ] || return 0
    for name; do
        await 30 at_least 500 merged_pages "$name" || fail "nothing of $name is merged: $(ctl vm show "$name")"
    done
}

# not_merged NAME REASON LEAST_MIB: so much of it takes no part, for this reason
not_merged() {
    [ -n "$bare" ] || await 15 at_least $(($3 << 20)) vm "$1" "$2" ||
        fail "$3 MiB of $1 should be shown as ineligible, $2: $(ctl vm show "$1")"
}

# memd_tear_down: memd is still there and ends well
memd_tear_down() {
    [ -n "$bare" ] || { await 10 is 0 total vms && memd_end; } || fail "VMs are left: $(ctl vm list)"
}

# ---- guests with something to lose

# guests_load "NAME..." [PERCENT]: files in the page cache, some of them the same in all guests, and a tmpfs
guests_load() {
    in_guests "$1" fill "w" 6 word memd
    in_guests "$1" fill "f" 6 files @
    in_guests "$1" read @ "${2:-10}"
} >/dev/null

# guests_verify "NAME..." [PERCENT]: every byte of that
guests_verify() {
    in_guests "$1" check
    in_guests "$1" verify @ "${2:-10}"
} >/dev/null

# guest_verify NAME NUMBER: one that was the NUMBERth when it was loaded, perhaps under another name
guest_verify() {
    in_guest "$1" check
    in_guest "$1" verify "$2" 10
} >/dev/null

# step WHAT: for the log
step() { echo "[$SECONDS s] $*"; }

# guests_live NAME...: merged, all their bytes there, also while memd is away and when it is back
guests_live() {
    qemu_booted "$@"
    guests_load "$*"
    merged "$@"
    memd_bounce guests_verify "$*"
    memd_settle
    merged "$@"
    guests_verify "$*"
    step "merged and verified: $*"
}

# pair_merged: g1, which is under stress, and another are merged and settled
pair_merged() {
    qemu_launch g1 192
    qemu_launch other 192
    qemu_booted g1 other
    guests_load "g1 other"
    in_guest g1 stress 16
    merged g1 other
    memd_settle
    step "merged"
}

# capability NAME CAPABILITY true|false: of migration; false if QEMU refuses, and prints why
capability() { qmp_try "$1" migrate-set-capabilities "{\"capabilities\": [{\"capability\": \"$2\", \"state\": $3}]}"; }

# refused WHY: QEMU may under memd, not alone
refused() {
    step "refused: $*"
    [ -z "$bare" ] || fail "QEMU alone does not do this here"
}

# ---- kinds of guest RAM

mib=128 # of a guest

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
