#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=60
#
# memd and memd-agent on vsock, by way of the kernel's loopback: memd connects to a CID, and who has another CID than the
# host's is not let in.
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/../faults/lib.sh"

agent_pid=

vsock_clean_up() {
    [ -z "$agent_pid" ] || kill -KILL "$agent_pid" 2>/dev/null
    clean_up
}
trap vsock_clean_up EXIT

state() { ctl agent list --json | sed -nE 's/^ *"state": "(.*)",$/\1/p'; }

state_is() { [ "$(state)" = "$1" ]; }

# agent_start OPTION...
agent_start() {
    "$bin/memd-agent" --transport vsock --user "$(id -u)" "$@" >"$tmp/agent.log" 2>&1 &
    agent_pid=$!
    await 10 grep -q '^memd-agent: at vsock' "$tmp/agent.log" || fail "the agent does not start: $(cat "$tmp/agent.log")"
}

agent_end() {
    kill "$agent_pid"
    wait "$agent_pid" 2>/dev/null
    agent_pid=
}

[ -r /dev/vsock ] || skip "needs /dev/vsock"
[ -e /sys/module/vsock_loopback ] || skip "needs vsock's loopback (modprobe vsock_loopback)"
[ "$(id -u)" = 0 ] || skip "needs root, for a port below 1024"
set_up /dev/shm
printf '[vm here]\nagent = vsock:1\n' >>"$tmp/memd.conf"
memd_start
agent_start
sleep 3
! state_is live || fail "one who is not the host was let in"
agent_end
agent_start --peer 1
await 20 state_is live || fail "memd does not hear it: $(ctl agent list)"
agent_end
await 10 state_is absent || fail "the agent has ended: $(ctl agent list)"
agent_start --peer 1
await 20 state_is live || fail "memd does not hear another one: $(ctl agent list)"
agent_end
memd_end
