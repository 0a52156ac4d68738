#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=no
#
# Live migration to a second QEMU on this host, which memd merges as well: a guest under load goes from one to the
# other and to a third, and finds all its bytes there. A migration that is cancelled does no harm.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

# migrate FROM TO: TO waits for it
migrate() {
    qmp "$1" migrate-set-parameters '{"max-bandwidth": 2000000000, "downtime-limit": 2000}'
    qmp "$1" migrate "{\"uri\": \"unix:$files/$2.incoming\"}"
    await 60 qemu_migration_is "$1" completed || fail "the migration does not end: $(qmp_try "$1" query-migrate)"
    await 10 qemu_status "$2" running || fail "$2 does not run"
    qemu_quit "$1"
    step "migrated to $2"
}

memd_set_up
pair_merged

qemu_launch g2 192 -incoming unix:g2.incoming
await 10 qemu_status g2 inmigrate || fail "g2 does not wait"
qmp g1 migrate-set-parameters '{"max-bandwidth": 4000000}'
qmp g1 migrate "{\"uri\": \"unix:$files/g2.incoming\"}"
await 10 qemu_migration_is g1 active || fail "the migration does not begin"
qmp g1 migrate_cancel
in_guest g1 stress-check
guest_verify g1 1
qemu_kill g2
step "cancelled"

qemu_launch g2 192 -incoming unix:g2.incoming
await 10 qemu_status g2 inmigrate || fail "g2 does not wait"
migrate g1 g2
guest_verify g2 1
in_guest g2 stress-check
merged g2
qemu_launch g3 192 -incoming unix:g3.incoming
await 10 qemu_status g3 inmigrate || fail "g3 does not wait"
[ -n "$bare" ] || memd_kill
migrate g2 g3
[ -n "$bare" ] || memd_start
guest_verify g3 1
guest_verify other 2
merged g3
step "stressed: $(in_guest g3 stress-end) rounds"
qemu_end g3 other
memd_tear_down
