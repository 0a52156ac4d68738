#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=no
#
# QEMU as management programs start it: in the background, as another user. Each guest is merged, with a
# memd that is killed and back, and loses nothing.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

nobody=65534

launch_clean_up() {
    vehicle_clean_up
    close_build
}

is_running() { [ -s "$files/$1.pid" ]; }

in_own_mounts "$@"
memd_set_up
trap launch_clean_up EXIT
open_build "$nobody"
[ -n "$bare" ] || {
    printf '[domain common]\nuids = 0, %s\n' "$nobody" >"$tmp/memd.conf"
    memd_end
    memd_start
}

qemu_launch parent 160 -daemonize -pidfile parent.pid
await 20 is_running parent || fail "QEMU does not go to the background"
qemu_reap parent
guest_pid[parent]=$(cat "$files/parent.pid")
vm_name[parent]=parent.${guest_pid[parent]} # it has forked
guests_live parent
qemu_end parent

# another user from the start, and one that QEMU changes to when it has opened everything
files=$tmp/nobody
mkdir "$files"
chown "$nobody" "$files"
chmod 755 "$run" 2>/dev/null
unprivileged=(setpriv --reuid="$nobody" --regid="$nobody" --clear-groups)
(cd "$files" && "${unprivileged[@]}" test -r "$vehicle/disk") ||
    fail "user $nobody cannot read $vehicle/disk"
[ "$qemu_accel" = tcg ] || "${unprivileged[@]}" test -w /dev/kvm || qemu_accel=tcg
qemu_launch runas 160 -runas nobody
qemu_user=("${unprivileged[@]}")
qemu_launch user 160
for g in user runas; do
    await 20 qmp_try "$g" query-status >/dev/null || fail "QEMU does not answer: $(cat "$files/$g.qemu")"
    [ "$(stat -c %u "/proc/${guest_pid[$g]}")" != 0 ] || [ "$(awk '/^Uid/ { print $3 }' "/proc/${guest_pid[$g]}/status")" = $nobody ] ||
        fail "$g runs as root"
done
guests_live user runas
qemu_end user runas
memd_tear_down
