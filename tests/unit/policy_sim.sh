#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=120
#
# memd's memory policy on the modelled host of bench/policy-sim: who gives, who keeps, and that nothing is broken
# that must hold (its exit code), for some populations, seeds and traces. The same run gives the same numbers.
set -uo pipefail

sim=${MEMD_BUILD_DIR:?the tests are run by tests/run.sh}/bench/policy-sim
tmp=${MEMD_TEST_TMP:?}

fail() {
    echo "FAILED: $*" >&2
    [ ! -f "$tmp/out" ] || cat "$tmp/out" >&2
    exit 1
}

# sim CODE OPTION...: the report in $tmp/out
sim() {
    local code=$1 status
    shift
    "$sim" --json "$@" >"$tmp/out" 2>"$tmp/err"
    status=$?
    [ $status = "$code" ] || fail "policy-sim $* ended with $status, not $code: $(cat "$tmp/err")"
}

# value KEY; group KIND SHARES KEY
value() {
    sed -n "s/^  \"$1\": \"\{0,1\}\([^\",]*\).*/\1/p" "$tmp/out"
}
group() {
    awk -v kind="\"$1\"," -v shares="$2," -v key="\"$3\":" '
        $1 == "\"kind\":"   { of_kind = $2 == kind }
        $1 == "\"shares\":" { of_shares = $2 == shares }
        $1 == key && of_kind && of_shares { print $2 + 0; found = 1 }
        END { exit !found }' "$tmp/out" || fail "no $3 of $1 VMs with $2 times their shares"
}

# state NAME: its share of the time, in percent
state() {
    sed -n "s/^ *\"$1\": \([0-9.]*\).*/\1/p" "$tmp/out"
}

# is A OP B: of numbers
is() {
    awk "BEGIN { exit !(($1) $2 ($3)) }"
}

# ---- twice as much touched memory as there is, of which a third is in use
host=(--vms 200 --host 200G --seconds 900)
for seed in 1 2 3; do
    sim 0 "${host[@]}" --seed $seed
    [ "$(value violations)" = 0 ] || fail "violations"
    is "$(value reclaimed_gib)" ">" 20 || fail "next to nothing was reclaimed"
    # who uses it keeps it; who has twice the shares keeps more; who gives does not pay dearly
    is "$(group idle 1 resident_percent)" "<" "$(group steady 1 resident_percent) * 0.9" || fail "idle VMs do not give first"
    is "$(group idle 2 resident_percent)" ">" "$(group idle 1 resident_percent) * 1.15" || fail "shares do not count"
    for kind in steady idle phased batch; do
        is "$(group $kind 1 resident_percent)" ">" "$(group $kind 1 working_set_percent)" || fail "$kind VMs have less than they use"
        is "$(group $kind 2 lost_percent)" "<=" "$(group $kind 1 lost_percent) + 0.1" || fail "$kind VMs pay for their shares"
        is "$(group $kind 1 lost_percent)" "<" 5 || fail "$kind VMs wait for their memory"
    done
    is "$(value taken_in_use_percent)" "<" 5 || fail "memory in use is taken"
    is "$(value over_budget_percent)" "<" 2 || fail "the budget is not kept"
    is "$(value state_changes_per_minute)" "<" 20 || fail "states swing"
    is "$(value giveback_ms_p99)" "<=" 250 || fail "memory is given back slowly"
done
cp "$tmp/out" "$tmp/before"
sim 0 "${host[@]}" --seed 3
cmp "$tmp/before" "$tmp/out" || fail "the same run gives other numbers"
sim 0 "${host[@]}" --seed 4
! cmp -s "$tmp/before" "$tmp/out" || fail "another seed gives the same numbers"

# ---- without the tax on idle memory, those who use theirs give more
sim 0 "${host[@]}" --idle-tax 75
with=$(group idle 1 resident_percent)
sim 0 "${host[@]}" --idle-tax 0
is "$(group idle 1 resident_percent)" ">" "$with" || fail "the idle tax takes nothing of idle memory"

# ---- enough for all: nobody gives; a host that waits for memory: soft leaves everybody alone, hard does not
sim 0 "${host[@]}" --overcommit 0.8
is "$(group idle 1 reclaimed_percent) + $(group steady 1 reclaimed_percent)" "==" 0 || fail "reclaimed without need"
sim 0 "${host[@]}" --stall 5
reclaimed=$(value reclaimed_gib)
is "$(state hard)" ">" 0 && is "$reclaimed" ">" 0 || fail "hard does not come"

# ---- far too little: what must hold holds, and new VMs wait outside
sim 0 "${host[@]}" --overcommit 5
is "$(value refused)" ">" 0 || fail "VMs are let in while memory is low"

# ---- traces
gib=$((1 << 30))
{
    echo "vm,second,guest_bytes,working_set_bytes,touched_bytes,limit_bytes,reservation_bytes"
    echo "# two VMs, one in its limit; the other is reserved what it has, and ends"
    echo "a,0,$((4 * gib)),$((gib / 4)),$((4 * gib)),$gib,0"
    echo "b,0,$((4 * gib)),$((gib / 4)),$((4 * gib)),0,$((4 * gib))"
    echo "b,200,0,0,0,0,0"
    echo "a,300,$((4 * gib)),$gib,$((4 * gib)),$gib,0"
} >"$tmp/trace.csv"
sim 0 --trace "$tmp/trace.csv" --host 5G --troubles off
[ "$(value vms)" = 2 ] || fail "a trace of two VMs"
is "$(value seconds)" "==" 301 || fail "a trace of five minutes"
sim 0 --trace - --host 5G <"$tmp/trace.csv"
# a device that is too slow to get a VM to its limit: that is found
sim 1 --trace "$tmp/trace.csv" --host 5G --troubles off --swap-mbps 1
grep -q "a is above its limit" <<<"$(value first_violation)" || fail "what was violated is not told"

# ---- what is wrong is refused
for line in "a,0,x,1,1,0,0" "a,0,1" "a,5,1,1,1,0,0
a,4,1,1,1,0,0" ",0,1,1,1,0,0" "a,0,-1,1,1,0,0" "a,0,1e300,1,1,0,0"; do
    { head -n 1 "$tmp/trace.csv" && echo "$line"; } >"$tmp/wrong.csv"
    sim 1 --trace "$tmp/wrong.csv"
    grep -q "wrong.csv, line [0-9]*: " "$tmp/err" || fail "not told where: $(cat "$tmp/err")"
done
echo "second,vm" >"$tmp/wrong.csv"
sim 1 --trace "$tmp/wrong.csv"
: >"$tmp/wrong.csv"
sim 1 --trace "$tmp/wrong.csv"
sim 1 --trace "$tmp/nowhere.csv"
for option in "--vms 0" "--vms x" "--host 1K" "--seconds -1" "--troubles maybe" "--bogus" "word"; do
    # shellcheck disable=SC2086
    sim 2 $option
done

# ---- a memd's status becomes a trace
cat >"$tmp/memctl" <<'END'
#!/bin/sh
[ "$*" = "status --json" ] || exit 1
n=$(cat count 2>/dev/null || echo 0)
echo $((n + 1)) >count
vm() { printf '{"name":"%s","guest_bytes":4194304,"resident_bytes":3145728,"pool_bytes":1048576,"packed_pages":256,"swapped_pages":0,"working_set_bytes":%s,"reservation_bytes":0,"limit_bytes":0,"shares":7,"swap":"never"}' "$1" "$2"; }
if [ "$n" = 0 ]; then echo "{\"vms\":[$(vm a 0),$(vm b 4096)]}"; else echo "{\"vms\":[$(vm a 8192)]}"; fi
END
chmod +x "$tmp/memctl"
(cd "$tmp" && rm -f count && "$sim" --record 2 --memctl "$tmp/memctl" >recorded.csv) || fail "a trace is not recorded"
diff - "$tmp/recorded.csv" <<'END' || fail "recorded otherwise"
second,vm,guest_bytes,touched_bytes,working_set_bytes,reservation_bytes,limit_bytes,shares,swap
0,a,4194304,3145728,3145728,0,0,7,never
0,b,4194304,3145728,4096,0,0,7,never
1,a,4194304,3145728,8192,0,0,7,never
1,b,0,0,0,0,0,0,allowed
END
sim 0 --trace "$tmp/recorded.csv" --host 64M
[ "$(value vms)" = 2 ] || fail "a recorded trace does not run"
"$sim" --record 1 --memctl /bin/false >"$tmp/out" 2>"$tmp/err" && fail "recorded of nobody"
grep -q "^Usage: policy-sim" <<<"$("$sim" --help)" || fail "policy-sim --help"
echo "the policy keeps to what must hold"
