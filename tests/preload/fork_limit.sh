#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=120 san=no
#
# A program under memd-run forks while its memory is out of RAM and does not fit into its memory cgroup any more:
# fork() says so, and a fork that libc makes for itself gives a child that faults; neither waits for ever, and
# nobody sees a wrong byte. With room again the child sees all.
# shellcheck source=tests/preload/lib.sh
. "$(dirname "$0")/lib.sh"

mib=64
group=
for at in /sys/fs/cgroup/memory:memory.limit_in_bytes:memory.usage_in_bytes /sys/fs/cgroup:memory.max:memory.current; do
    IFS=: read -r root limit usage <<<"$at"
    mkdir "$root/memd-test-$$" 2>/dev/null || continue
    group=$root/memd-test-$$
    [ ! -w "$group/$limit" ] || break
    rmdir "$group"
    group=
done
[ -n "$group" ] || skip "no memory cgroup can be made here"
trap 'clean_up; for _ in {1..50}; do rmdir "$group" && break; sleep 0.1; done' EXIT

said() { [ "$(grep -c . "$tmp/forker.out")" -ge "$1" ]; }

# expect LINE COMMAND ANSWER: the program's next line of output
expect() {
    echo "$2" >&9
    await 30 said "$1" || fail "no answer to $2: $(cat "$tmp/forker.err")"
    [ "$(sed -n "$1p" "$tmp/forker.out")" = "$3" ] || fail "$2: $(tail -n 1 "$tmp/forker.out"), not $3"
}

page_out() { ctl pageout forker >/dev/null || fail "pageout: $(ctl status)"; }

set_up /dev/shm
memd_start
mkfifo "$tmp/in"
# shellcheck disable=SC2016
under forker sh -c 'echo $$ >"$1/cgroup.procs"; exec "$2" "$3"' sh "$group" "$bin/tests/preload/forker" $mib \
    <"$tmp/in" >"$tmp/forker.out" 2>"$tmp/forker.err" &
guest_pid[forker]=$!
exec 9>"$tmp/in"
await 30 said 1 || fail "it does not get ready: $(cat "$tmp/forker.err")"
await 10 is 1 total vms || fail "it is not known: $(ctl vm list)"
expect 2 fork "child sees all"
page_out
expect 3 fork "child sees all"
page_out
echo $(($(cat "$group/$usage") + (mib << 18))) >"$group/$limit" || fail "no limit can be set"
expect 4 fork "fork: Cannot allocate memory"
expect 5 daemon "child: signal 11"
echo $((1 << 40)) >"$group/$limit"
expect 6 fork "child sees all"
exec 9>&-
wait "${guest_pid[forker]}" || fail "it ended with $?: $(cat "$tmp/forker.err")"
unset 'guest_pid[forker]'
await 10 is 0 total vms || fail "VMs are left: $(ctl status)"
memd_end
