#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=90
#
# memd-agent against host ends that are silent, stall, break off, flood, and are killed: on a socket and on a terminal. It
# answers the next one, takes a bounded share of a processor and of memory, and has given up its privileges.
set -uo pipefail

bin=${MEMD_BUILD_DIR:?the tests are run by tests/run.sh}
tmp=${MEMD_TEST_TMP:?}
peer=$bin/tests/agent/peer
socket=$tmp/agent.sock
idle_s=10
idle_cpu_ppm=1000
agent_pid=
patience=1
[ -z "${MEMD_SAN:-}" ] || patience=5

fail() {
    echo "FAILED: $*" >&2
    [ ! -s "$tmp/agent.log" ] || { echo "-- agent:" && tail -n 20 "$tmp/agent.log"; } >&2
    exit 1
}

clean_up() {
    trap - EXIT
    [ -z "$agent_pid" ] || kill -KILL "$agent_pid" 2>/dev/null
    wait 2>/dev/null
}
trap clean_up EXIT
trap 'exit 143' INT TERM

# await SECONDS COMMAND...
await() {
    local end=$((SECONDS + $1 * patience))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.02
    done
}

# start OPTION...: as root it would be somebody else; where the test lies nobody else may go
start() {
    "$bin/memd-agent" --cgroup-root "$tmp/cgroup" "$@" >"$tmp/agent.log" 2>&1 &
    agent_pid=$!
    await 10 is_up || fail "it does not start"
}
is_up() {
    kill -0 "$agent_pid" 2>/dev/null || fail "it has ended"
    grep -q '^memd-agent: at' "$tmp/agent.log"
}

# A sanitizer that has found something ends it with another code than the signal's.
end() {
    kill -TERM "$agent_pid"
    wait "$agent_pid"
    [ $? -eq 143 ] || fail "it ended badly"
    agent_pid=
}

# host MODE SECONDS: a host end; it must have been let in
host() {
    timeout 80 "$peer" connect "$socket" "$1" "$2" >"$tmp/peer.out" 2>&1 || fail "peer $1: $(cat "$tmp/peer.out")"
}

cpu_ns() { cut -d ' ' -f 1 "/proc/$agent_pid/schedstat"; }

# status KEY: of /proc/PID/status
status() { awk -v key="$1:" '$1 == key { print $2 }' "/proc/$agent_pid/status"; }

answers() {
    host greet $((20 * patience))
    grep -q report "$tmp/peer.out" || fail "it does not answer: $(cat "$tmp/peer.out")"
}

# is_bounded PPM COMMAND...: while the command runs the agent takes less than so many millionths of a processor
is_bounded() {
    local ppm=$1 before after begun ended
    shift
    before=$(cpu_ns)
    begun=$(date +%s%N)
    "$@"
    after=$(cpu_ns)
    ended=$(date +%s%N)
    echo "$*: $(((after - before) / ((ended - begun) / 1000000))) ppm of a processor"
    [ -n "${MEMD_SAN:-}" ] || [ $(((after - before) / ((ended - begun) / 1000000))) -lt "$ppm" ] ||
        fail "$*: more than $ppm ppm of a processor"
}

mkdir "$tmp/cgroup" "$tmp/cgroup/a.slice" "$tmp/cgroup/b.slice"
echo 1000000 >"$tmp/cgroup/a.slice/memory.current"
echo 2000000 >"$tmp/cgroup/b.slice/memory.current"
: >"$tmp/cgroup/memory.reclaim"

echo "-- what it would tell"
"$bin/memd-agent" --once --cgroup-root "$tmp/cgroup" >"$tmp/once" || fail "--once"
for key in mem_total_bytes mem_available_bytes swap_in_bytes oom_kills uptime_ms; do
    grep -qE "^$key [0-9]+$" "$tmp/once" || fail "--once says nothing of $key: $(cat "$tmp/once")"
done
[ "$(grep '^cgroup' "$tmp/once" | xargs)" = "cgroup b.slice 2000000 cgroup a.slice 1000000" ] || fail "cgroups: $(cat "$tmp/once")"
grep -qx 'can_reclaim 1' "$tmp/once" || fail "$(cat "$tmp/once")"

echo "-- what it refuses"
for words in --nonsense "--interval 99" "--interval x" "--transport nothing" "--slice ../x" "--user" "word" "--peer -1"; do
    code=0
    # shellcheck disable=SC2086
    "$bin/memd-agent" $words >"$tmp/out" 2>"$tmp/err" || code=$?
    [ $code -eq 2 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && [ ! -s "$tmp/out" ] || fail "$words: exit code $code, $(cat "$tmp/err")"
done
mkdir "$tmp/empty"
code=0
"$bin/memd-agent" --transport serial --sys-root "$tmp/empty" --dev-root "$tmp/empty" 2>"$tmp/err" || code=$?
[ $code -eq 3 ] && grep -q 'no way to the host' "$tmp/err" || fail "without a port: exit code $code, $(cat "$tmp/err")"

echo "-- on a socket"
start --transport "unix:$socket"
if [ "$(id -u)" = 0 ]; then
    [ "$(status Uid)" = 65534 ] && [ "$(status Gid)" = 65534 ] && [ "$(status CapPrm)" = 0000000000000000 ] &&
        [ -z "$(status Groups)" ] || fail "it has privileges: $(cat "/proc/$agent_pid/status")"
fi
[ "$(status NoNewPrivs)" = 1 ] || fail "it can gain privileges"
answers
is_bounded $idle_cpu_ppm host stall $idle_s
host silent 1
host halves 5
is_bounded 50000 host flood 3
is_bounded 50000 host hellos 3
cat "$tmp/peer.out"
# in_background MODE: a host end that has connected, and stays; $other
in_background() {
    : >"$tmp/other.out"
    "$peer" connect "$socket" "$1" 60 >"$tmp/other.out" &
    other=$!
    await 10 grep -q connected "$tmp/other.out" || fail "peer $1 does not connect"
}
in_background flood
sleep 0.5
kill -KILL $other
wait $other 2>/dev/null
answers
# the latest counts, whoever was there before and does not go away
in_background stall
answers
kill $other
[ -n "${MEMD_SAN:-}" ] || [ "$(status VmHWM)" -lt 2048 ] || fail "it takes $(status VmHWM) KiB"
[ -n "${MEMD_SAN:-}" ] || echo "at most $(status VmHWM) KiB"
[ "$(status Threads)" = 1 ] || fail "$(status Threads) threads"
end

# on_terminal MODE SECONDS: exit code of the host end
on_terminal() {
    local code=0
    coproc PEER { exec timeout 80 "$peer" pty "$1" "$2" 2>&1; }
    # shellcheck disable=SC2153 # coproc sets it
    local pid=$PEER_PID out=${PEER[0]} name
    exec {out}<&"$out"
    read -r -t 20 -u "$out" name || fail "no terminal"
    start --transport "$name" --user 0
    cat <&"$out" >"$tmp/peer.out"
    wait "$pid" || code=$?
    exec {out}<&-
    kill -0 "$agent_pid" || fail "it has ended with its host end"
    return $code
}

echo "-- on a terminal"
on_terminal greet $((20 * patience)) || fail "it does not answer: $(cat "$tmp/peer.out")"
grep -q here "$tmp/peer.out" || fail "it does not greet: $(cat "$tmp/peer.out")"
is_bounded $idle_cpu_ppm sleep 3 # the other end is gone
end
on_terminal halves 3
end
on_terminal flood 3
end
