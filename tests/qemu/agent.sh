#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=no
#
# memd-agent in a real guest, on a virtio-serial port: memd hears it, a reclaim frees page cache, and it costs next to
# nothing. Its host end is killed, restarted, silent, floods and breaks off in the middle of frames: the agent is there
# afterwards, as small as before, and memd hears it again.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

mib=256
idle_ppm=1000
# interpreted it takes ten to twenty times as much, and what a loaded host takes from QEMU counts as well (how much the
# program takes of a real processor is measured by tests/agent/program.sh)
idle_ppm_tcg=20000
rss_kib_max=2048
peer=$bin/tests/agent/peer

agents() { ctl agent list --json; }

# agent KEY: a number or a word of the guest's agent, in memctl agent list --json
agent() { agents | sed -nE "s/^ *\"$1\": \"?([^\",]*)\"?,?$/\1/p" | head -n 1; }

tells() { grep -q "$1" <<<"$(agents)"; }

agent_is() { [ "$(agent state)" = "$1" ]; }

# usage KEY: of the agent, by the guest's kernel
usage() { in_guest g memd-agent-usage | awk -v key="$1" '$1 == key { print $2 }'; }

guest_kib() { in_guest g meminfo | awk -v key="$1" '$1 == key { print $2 }'; }

# is_bounded COMMAND...: while it runs, the agent takes less than a tenth of the guest's processor. Without KVM it is only said:
# interpreted on a loaded host, everything takes long.
is_bounded() {
    local before begun ms
    before=$(usage cpu_ns)
    begun=$(date +%s%N)
    "$@"
    ms=$((($(usage cpu_ns) - before) / 1000000))
    echo "$*: $ms ms of CPU, $(cat "$tmp/peer.out")"
    [ "$qemu_accel" != kvm ] || [ $((ms * 10 * 1000000)) -lt $(($(date +%s%N) - begun)) ] || fail "$* keeps the agent busy: $ms ms"
}

is_small() {
    local kib
    kib=$(usage rss_kib)
    [ "$kib" -gt 0 ] && [ "$kib" -lt $rss_kib_max ] || fail "the agent takes $kib KiB $1"
    echo "$kib KiB $1"
}

# the initramfs with the agent in it: archives may follow each other
with_agent() {
    mkdir -p "$tmp/root/bin"
    cp "$bin/memd-agent" "$tmp/root/bin/"
    (cd "$tmp/root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1n) >"$tmp/added" || fail "no archive"
    cat "$vehicle/initramfs" "$tmp/added" >"$tmp/initramfs"
}

# misbehave MODE SECONDS: a host end that does
misbehave() {
    timeout 60 "$peer" connect "$socket" "$1" "$2" >"$tmp/peer.out" 2>&1 || fail "peer $1: $(cat "$tmp/peer.out")"
}

memd_set_up
with_agent
socket=$run/agents/g.sock
qemu_append[g]="psi=1"
qemu_launch g $mib -initrd "$tmp/initramfs" -device virtio-serial \
    -chardev "socket,id=memd,path=$socket,server=on,wait=off" -device virtserialport,chardev=memd,name=org.memd.agent.0
qemu_booted g
await 15 agent_is silent || fail "memd does not find the socket: $(agents)"
in_guest g memd-agent-start
await 15 agent_is live || fail "memd does not hear the agent: $(agents); $(in_guest g memd-agent-log)"
echo "in the guest: $(in_guest g memd-agent-log)"

echo "-- nobody, for good"
rights=$(in_guest g memd-agent-usage | awk '{ print $1 "=" $2 }' | xargs)
for right in Uid=65534 NoNewPrivs=1 CapEff=0000000000000000 CapPrm=0000000000000000; do
    [[ $rights = *$right* ]] || fail "the agent has privileges: $rights"
done

echo "-- what it says is what the guest's kernel says"
[ "$(agent vm_connected)" = true ] && [ "$(agent can_reclaim)" = true ] || fail "$(agents)"
[ "$(agent mem_total_bytes)" = $(($(guest_kib MemTotal) * 1024)) ] || fail "MemTotal: $(agents), $(in_guest g meminfo)"
[ -n "$(agent stall_some_us)" ] && [ -n "$(agent refault_file_bytes)" ] && [ -n "$(agent oom_kills)" ] || fail "$(agents)"
[ "$(agent clamped)" = 0 ] && [ "$(agent bad_frames)" = 0 ] && [ "$(agent lost_frames)" = 0 ] || fail "$(agents)"

echo "-- a reclaim frees page cache, and the guest loses nothing"
in_guest g read 1 32 >/dev/null
cached=$(guest_kib Cached)
[ "$cached" -gt $((70 * 1024)) ] || fail "only $cached KiB are cached"
await 20 at_least $((cached * 512)) agent cached_bytes || fail "the agent does not say that $cached KiB are cached: $(agents)"
answer=$(ctl agent reclaim g 64M --timeout 60) || fail "memctl agent reclaim fails"
echo "$answer"
[ "$answer" = "g: reclaimed 64.0 MiB of 64.0 MiB" ] || fail "not all was reclaimed"
left=$(guest_kib Cached)
[ "$left" -lt $((cached - 56 * 1024)) ] || fail "of $cached KiB cached $left KiB are left"
in_guest g verify 1 4 >/dev/null # of the same files
await 15 tells load.slice || fail "the largest cgroup is not told: $(agents)"
ctl agent reclaim g 1G 2>"$tmp/err" && fail "more than the guest has was reclaimed"
grep -q 'less memory than that' "$tmp/err" || fail "$(cat "$tmp/err")"

echo "-- it costs next to nothing"
[ "$qemu_accel" = kvm ] || idle_ppm=$idle_ppm_tcg
ppm=$(in_guest g memd-agent-cpu 5 4)
echo "idle: $ppm ppm of a CPU ($qemu_accel)"
[ "$ppm" -lt $idle_ppm ] || fail "it takes $ppm ppm of a CPU when idle"
is_small "when idle"

echo "-- its host end is killed, and others come"
memd_kill
misbehave silent 2
misbehave stall 2
misbehave halves 2
is_bounded misbehave flood 3
is_bounded misbehave hellos 3
misbehave greet 30
grep -q report "$tmp/peer.out" || fail "it does not answer a host end any more"
memd_start
await 30 agent_is live || fail "a new memd does not hear the agent: $(agents)"
is_small "after floods"

echo "-- it ends, and another one begins"
in_guest g memd-agent-end
in_guest g memd-agent-start --interval 100
frames=$(agent frames)
await 60 at_least $((frames + 2)) agent frames || fail "memd does not hear another agent: $(agents)"
agent_is live || fail "$(agents)"
qemu_end g
await 15 agent_is absent || [ -z "$(agent state)" ] || fail "the guest is gone, its agent is not: $(agents)"
rm -f "$socket"
memd_tear_down
