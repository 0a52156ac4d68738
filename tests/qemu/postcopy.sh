#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=no
#
# QEMU wants a userfaultfd of its own on guest RAM, as the target of a postcopy migration (missing pages). It either
# works, or QEMU refuses and the guest goes on as it was; afterwards memd merges it again.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

memd_set_up
pair_merged

qemu_launch g2 192 -incoming unix:g2.incoming
await 10 qemu_status g2 inmigrate || fail "g2 does not wait"
if answer=$(capability g2 postcopy-ram true); then
    capability g1 postcopy-ram true >/dev/null || fail "the source refuses postcopy"
    qmp g1 migrate-set-parameters '{"max-bandwidth": 8000000}'
    qmp g1 migrate "{\"uri\": \"unix:$files/g2.incoming\"}"
    await 10 qemu_migration_is g1 active || fail "the migration does not begin"
    qmp g1 migrate-start-postcopy
    qmp g1 migrate-set-parameters '{"max-postcopy-bandwidth": 0}'
    await 60 qemu_migration_is g1 completed || fail "postcopy does not end: $(qmp_try g1 query-migrate)"
    await 10 qemu_status g2 running || fail "g2 does not run"
    qemu_quit g1
    step "postcopy is over"
    guest_verify g2 1
    in_guest g2 stress-check
    merged g2
    step "stressed: $(in_guest g2 stress-end) rounds"
    qemu_end g2
else
    refused "$answer"
    qemu_kill g2
    guest_verify g1 1
    qemu_end g1
fi
guest_verify other 2
qemu_end other
memd_tear_down
