#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=60 san=no
#
# What docs/operations.md promises to ordinary users: memd runs as one that was given /dev/userfaultfd, VMMs of another
# user without access to it get it from memd, and only users of a domain's configuration may join it.
set -euo pipefail

fail() {
    echo "FAIL: $*"
    tail -n 20 "$dir"/*.log
    exit 1
}

if [ "$(id -u)" -ne 0 ]; then
    echo "not root: cannot become two ordinary users"
    exit 77
fi
if [ ! -e /dev/userfaultfd ]; then
    echo "no /dev/userfaultfd"
    exit 77
fi
if ! unshare --mount true 2>/dev/null; then
    echo "unshare --mount is not permitted: cannot give one user a /dev/userfaultfd of its own"
    exit 77
fi
if [ "$(stat -c %a /dev/userfaultfd)" != 600 ] || [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" != 0 ]; then
    echo "/dev/userfaultfd or vm.unprivileged_userfaultfd is open to everybody here"
    exit 77
fi

readonly DAEMON_UID=65534 VMM_UID=65533 STRANGER_UID=65532
dir=$(mktemp -d /dev/shm/memd-ordinary-user.XXXXXX) # others must get at it, so it is not in MEMD_TEST_TMP
pids=()

finish() {
    local status=$? pid
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$dir"
    exit $status
}
trap finish EXIT

# as UID COMMAND...
as() {
    exec setpriv --reuid "$1" --regid "$1" --clear-groups "${@:2}"
}

# wait_for COMMAND...: until it succeeds, 20 s at most
wait_for() {
    local deadline=$((SECONDS + 20))
    until "$@"; do
        [ $SECONDS -lt $deadline ] || fail "waited 20 s for: $*"
        sleep 0.1
    done
}

# counter NAME: of the totals
counter() {
    "$dir/memctl" --run-dir "$dir/user/run" status --json | sed -n "/\"totals\"/,\$ s/^ *\"$1\": \([0-9]*\).*/\1/p" | sed -n 1p
}
is_positive() {
    [ "$(counter "$1")" -gt 0 ]
}

chmod 755 "$dir"
mkdir "$dir/user"
chown "$DAEMON_UID" "$dir/user"
cp "$MEMD_BUILD_DIR"/{memd,memctl,memvm} "$dir/"
printf '[memd]\nquiet-ms = 20\n[domain web]\nuids = %s\n' "$VMM_UID" >"$dir/memd.conf"
cp -a /dev/userfaultfd "$dir/uffd"
chown "$DAEMON_UID" "$dir/uffd"

# only memd sees the device as its user's own
unshare --mount --propagation private bash -c 'mount --bind "$1/uffd" /dev/userfaultfd &&
    exec setpriv --reuid "$2" --regid "$2" --clear-groups \
        "$1/memd" --run-dir "$1/user/run" --state-dir "$1/user/state" --config "$1/memd.conf"' \
    bash "$dir" "$DAEMON_UID" >"$dir/memd.log" 2>&1 &
pids+=($!)
wait_for grep -q '^memd: ready' "$dir/memd.log"

for name in one two; do
    (as "$VMM_UID" "$dir/memvm" --accel thread --name "$name" --domain web --mem 32 --zero 40 --shared 40 --thp off \
        --run-dir "$dir/user/run" --time 50) >"$dir/$name.log" 2>&1 &
    pids+=($!)
done
wait_for is_positive merges
wait_for is_positive pages_sharing
[ "$(stat -c %u "$dir/user/run/memd.sock")" = "$DAEMON_UID" ] || fail "the socket is not memd's user's"

# the stores are memd's alone
! setpriv --reuid "$VMM_UID" --regid "$VMM_UID" --clear-groups ls "$dir/user/run/store" >/dev/null 2>&1 ||
    fail "a VMM's user can look into the store directory"

(as "$STRANGER_UID" "$dir/memvm" --accel thread --name stranger --domain web --mem 16 --run-dir "$dir/user/run" \
    --time 50) >"$dir/stranger.log" 2>&1 &
pids+=($!)
wait_for grep -q 'domain web is not open to this uid' "$dir/memd.log"
wait_for grep -q 'the daemon refused: domain web is not open to this uid' "$dir/stranger.log" # and not just EPERM
