#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=120
#
# memd and agents: a real one is found in RUN_DIR/agents and in the configuration, heard, asked to reclaim, lost and heard
# again, whichever of the two is killed. Others hang up, are mute, flood and lie beside it: it is heard all the same, memd
# answers, and stays at rest.
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/../faults/lib.sh"

peer=$bin/tests/agent/peer
declare -A agent_pid=()

agents_clean_up() {
    local pid
    for pid in "${agent_pid[@]}"; do kill -KILL "$pid" 2>/dev/null; done
    clean_up
}
trap agents_clean_up EXIT

# where an agent that gives up its privileges can do its work
agent_start() {
    local name=$1
    shift
    "$bin/memd-agent" --user "$(id -u)" --cgroup-root "$tmp/cgroup" "$@" >"$tmp/agent.$name" 2>&1 &
    agent_pid[$name]=$!
}

# agent_end NAME
agent_end() {
    kill "${agent_pid[$1]}"
    wait "${agent_pid[$1]}" 2>/dev/null
    unset "agent_pid[$1]"
}

# badly NAME MODE SOCKET: an agent that misbehaves until the end of the test
badly() {
    "$peer" listen "$3" "$2" 600 >"$tmp/peer.$1" 2>&1 &
    agent_pid[$1]=$!
}

# agent NAME KEY: out of memctl agent list --json
agent() {
    ctl agent list --json | awk -v name="\"$1\"," -v key="\"$2\":" '
        $1 == "\"vm\":" { found = $2 == name }
        found && $1 == key && !said { gsub(/[",]/, "", $2); print $2; said = 1 }'
}

# agent_is NAME STATE
agent_is() { [ "$(agent "$1" state)" = "$2" ]; }

# heard NAME
heard() { await 15 agent_is "$1" live || fail "$1 is not heard: $(ctl agent list)"; }

# at_least LEAST COMMAND...
at_least() {
    local least=$1
    shift
    [ "$("$@")" -ge "$least" ] 2>/dev/null
}

cpu_ms() { echo $(($(cut -d ' ' -f 1 "/proc/$memd_pid/schedstat") / 1000000)); }

set_up /dev/shm
mkdir "$tmp/cgroup"
: >"$tmp/cgroup/memory.reclaim"
printf '[vm there]\nagent = %s/there.sock\n[vm vmm]\nagent = vsock:%s/vmm.sock\n' "$run" "$run" >>"$tmp/memd.conf"

echo "-- found in the directory and in the configuration, before memd and after"
mkdir "$run/agents"
agent_start early --transport "unix:$run/agents/early.sock"
memd_start
heard early
agent_start late --transport "unix:$run/agents/late.sock"
heard late
agent_is there absent || fail "there: $(ctl agent list)"
agent_start there --transport "unix:$run/there.sock"
heard there
: >"$run/agents/neither.txt"
: >"$run/agents/file.sock"
ln -s early.sock "$run/agents/link.sock"
sleep 2 # it is looked at once a second
[ -z "$(agent neither state)$(agent file state)$(agent link state)" ] || fail "a file is taken for an agent: $(ctl agent list)"
[ "$(agent early mem_total_bytes)" = $(($(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo) * 1024)) ] ||
    fail "MemTotal: $(ctl agent list --json)"
[ "$(agent early vm_connected)" = false ] || fail "early has no engine"

echo "-- reclaim"
answer=$(ctl agent reclaim early 40M --timeout 20) || fail "reclaim"
[ "$answer" = "early: reclaimed 40.0 MiB of 40.0 MiB" ] || fail "$answer"
[ "$(cat "$tmp/cgroup/memory.reclaim")" = 16777216167772168388608 ] || fail "written: $(cat "$tmp/cgroup/memory.reclaim")"
agent_end late
agent_start late --transport "unix:$run/agents/late.sock" --no-reclaim
heard late
! ctl agent reclaim late 1M 2>"$tmp/err" && grep -q 'cannot reclaim' "$tmp/err" || fail "late: $(cat "$tmp/err")"
! ctl agent reclaim nobody 1M 2>"$tmp/err" && grep -q 'no agent' "$tmp/err" || fail "nobody: $(cat "$tmp/err")"
! ctl agent reclaim vmm 1M 2>"$tmp/err" && grep -q 'not heard' "$tmp/err" || fail "vmm: $(cat "$tmp/err")"

echo "-- killed and back, the agent and memd"
kill -KILL "${agent_pid[early]}"
await 10 agent_is early absent || fail "early was killed: $(ctl agent list)"
agent_start early --transport "unix:$run/agents/early.sock"
heard early
kill -STOP "${agent_pid[early]}"
! ctl agent reclaim early 1M --timeout 1 2>"$tmp/err" && grep -q 'does not answer' "$tmp/err" || fail "stopped: $(cat "$tmp/err")"
kill -CONT "${agent_pid[early]}"
memd_kill
memd_start
for name in early late there; do heard "$name"; done

echo "-- beside others"
badly hang-up hang-up "$run/agents/hang-up.sock"
badly mute mute "$run/agents/mute.sock"
badly flood flood "$run/agents/flood.sock"
badly lie lie "$run/agents/lie.sock"
badly vmm vsock "$run/vmm.sock"
await 10 agent_is mute silent || fail "mute: $(ctl agent list)"
await 20 at_least 10 agent lie clamped || fail "no lie is noticed: $(ctl agent list --json)"
await 20 at_least 1 agent flood throttled || fail "a flood is read as it comes: $(ctl agent list --json)"
await 20 at_least 10 agent vmm clamped || fail "vmm: $(ctl agent list --json), $(cat "$tmp/peer.vmm")"
[ "$(head -n 1 "$tmp/peer.vmm")" = "CONNECT 977" ] || fail "a VMM was told: $(cat "$tmp/peer.vmm")"
[ "$(agent lie mem_total_bytes)" -le $(($(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo) * 1024)) ] ||
    fail "a lie is believed: $(ctl agent list --json)"
before_ms=$(cpu_ms)
begun=$(date +%s%N)
frames=$(agent early frames)
lied=$(agent lie frames)
sleep 12 # more than a heartbeat
await 15 at_least $((frames + 1)) agent early frames || fail "early is not heard beside the others: $(ctl agent list)"
heard early
taken=$(($(agent lie frames) - lied))
seconds=$((($(date +%s%N) - begun) / 1000000000 + 1))
[ $taken -le $((20 * seconds + 40)) ] || fail "more frames are taken than may be: $taken in $seconds s"
took_ms=$(($(cpu_ms) - before_ms))
echo "memd took $took_ms ms of CPU in $seconds s beside them"
[ -n "${MEMD_SAN:-}" ] || [ $took_ms -lt $((seconds * 50)) ] || fail "they keep memd busy: $took_ms ms in $seconds s"
answer=$(ctl agent reclaim there 1M --timeout 20) || fail "reclaim beside others"
curl -sS --unix-socket "$run/control.sock" http://memd/metrics >"$tmp/metrics" && grep -q '^memd_agent_up{vm="early"} 1$' "$tmp/metrics" ||
    fail "metrics: $(grep agent_up "$tmp/metrics")"

echo "-- whose socket it is"
# early belongs to this user, the VM of that name to nobody's: root may speak for it, a third user may not
nobody=65534
if [ "$(id -u)" = 0 ] && setpriv --reuid=$nobody --regid=$nobody --clear-groups test -x "$bin/memvm"; then
    mkdir -m 777 "$run/others"
    chmod 711 "$run"
    setpriv --reuid=$((nobody - 1)) --regid=$((nobody - 1)) --clear-groups \
        "$peer" listen "$run/others/odd.sock" lie 600 >/dev/null 2>"$tmp/peer.odd" &
    agent_pid[odd]=$!
    await 10 test -S "$run/others/odd.sock" || fail "odd: $(cat "$tmp/peer.odd")"
    mv "$run/others/odd.sock" "$run/agents/"
    await 20 agent_is odd live || fail "there is no VM of that name yet: $(ctl agent list)"
    for name in odd early; do
        setpriv --reuid=$nobody --regid=$nobody --clear-groups "$bin/memvm" --accel thread --name $name --mem 32 \
            >"$tmp/$name.out" 2>"$tmp/$name.err" &
        guest_pid[$name]=$!
    done
    await 30 agent_is odd refused || fail "another user speaks for a VM: $(ctl agent list), $(cat "$tmp/odd.err")"
    grep -q "odd: its socket is user $((nobody - 1))'s, the VM is user $nobody's" <<<"$(ctl agent list)" || fail "$(ctl agent list)"
    await 15 is true agent early vm_connected || fail "early: $(ctl agent list --json)"
    agent_is early live || fail "root may not speak for a VM: $(ctl agent list)"
    for name in odd early; do
        kill -KILL "${guest_pid[$name]}"
        wait "${guest_pid[$name]}" 2>/dev/null
        unset "guest_pid[$name]"
    done
    rm -r "$run/others"
    chmod 700 "$run"
else
    echo "skip: whose socket it is: needs root, and a build directory others can read"
fi

echo "-- gone"
for name in "${!agent_pid[@]}"; do agent_end "$name"; done
rm -rf "${run:?}"/agents/* "$run/there.sock" "$run/vmm.sock"
are_forgotten() { [ "$(ctl agent list --json | grep -c '"vm":')" = 2 ]; }
await 20 are_forgotten || fail "agents are left: $(ctl agent list)"
memd_end
