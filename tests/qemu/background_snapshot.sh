#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=no
#
# QEMU wants a userfaultfd of its own on guest RAM, for a snapshot in the background (write protection). It either works,
# or QEMU refuses and the guest goes on as it was; afterwards memd merges it again.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

# ended NAME: the migration of NAME is over, this way or that
ended() { [[ $(qmp_try "$1" query-migrate) =~ \"status\":\ \"(completed|failed)\" ]]; }

# background_snapshot FILE: of g1; true if there is one
background_snapshot() {
    local answer
    answer=$(capability g1 background-snapshot true) || { refused "$answer" && return 1; }
    answer=$(qmp_try g1 migrate "{\"uri\": \"exec:cat >$1\"}") || { refused "$answer" && return 1; }
    await 60 ended g1 || fail "the snapshot does not end: $(qmp_try g1 query-migrate)"
    answer=$(qmp_try g1 query-migrate)
    capability g1 background-snapshot false >/dev/null || fail "g1 is not done with its snapshot"
    [[ $answer = *completed* ]] || { refused "$answer" && return 1; }
}

memd_set_up
pair_merged

if background_snapshot "$tmp/background"; then
    step "snapshot in the background: $(($(stat -c %s "$tmp/background") >> 20)) MiB"
    in_guest g1 fill later 8 random
    qemu_launch copy 192 -incoming "exec:cat $tmp/background"
    await 30 qemu_status copy running || fail "the snapshot does not load"
    guest_verify copy 1
    in_guest copy stress-check
    qemu_quit copy
    rm "$tmp/background"
    in_guest g1 free later
fi
qemu_status g1 running || fail "g1 does not run after its snapshot"
in_guest g1 stress-check
guest_verify g1 1
merged g1
step "stressed: $(in_guest g1 stress-end) rounds"
qemu_end g1
guest_verify other 2
qemu_end other
memd_tear_down
