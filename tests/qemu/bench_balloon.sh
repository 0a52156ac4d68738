#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=600 alone san=no scale=long
#
# make bench-balloon, quick: real guests on a host that is too small, by each of those who move balloons. It measures what it
# says, no guest's bytes are wrong (that ends it), and what it has changed on the machine is as before, also when it is killed.
# shellcheck source=tests/qemu/lib.sh
. "$(dirname "$0")/lib.sh"

bench=$bin/bench/balloon
json=$tmp/balloon.json

# what is there of a benchmark: swap areas, cgroups, directories
traces() {
    tail -n +2 /proc/swaps
    ls -d /sys/fs/cgroup/memd-bench-* /sys/fs/cgroup/memory/memd-bench-* /dev/shm/memd-bench.* /tmp/memd-bench.* 2>/dev/null
}
traces_are() { [ "$(traces)" = "$before" ]; }
is_under_way() { traces | grep -q '/swap ' && grep -qs . /tmp/memd-bench.*/fleet*/g1.console; }

[ "$(id -u)" = 0 ] || skip "needs root"
[ "$(wc -l </proc/swaps)" = 1 ] || skip "swap is in use"
vehicle_set_up
unset TMPDIR
before=$(traces)
cd "$(dirname "$0")/../.." || fail "no source"

"$bench" --quick --only phased --out "$json" >"$tmp/bench.out" 2>&1 || fail "$(cat "$tmp/bench.out")"
cat "$tmp/bench.out"
for key in phased_slowdown vs_mom vs_static guest_ooms; do
    grep -qE "^  \"$key\": [0-9]" "$json" || fail "no $key in the JSON: $(cat "$json")"
done
for side in unlimited_0 memd_0 mom_0 static_0_0; do
    grep -q "\"$side\": {" "$json" || fail "no $side in the JSON: $(cat "$json")"
done
traces_are || fail "it left behind: $(traces)"

"$bench" --quick --only phased --out "$json" >"$tmp/bench.out" 2>&1 &
guest_pid[bench]=$!
await 60 is_under_way || fail "it does not begin: $(cat "$tmp/bench.out")"
guest_kill bench
await 60 traces_are || fail "killed, it left behind: $(traces)"
for option in "--only nothing" "--rounds 0" "--guests 3" word; do
    # shellcheck disable=SC2086
    "$bench" $option >/dev/null 2>&1
    [ $? = 2 ] || fail "$option is not refused"
done
