#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=240
#
# memd's memory policy on the modelled host of bench/policy-sim: who gives, who keeps, by balloons or pages, and
# that nothing is broken that must hold (its exit code), for some populations, seeds and traces. The same run
# gives the same numbers.
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
# balloons KEY: of all of them
balloons() {
    sed -n "s/^    \"$1\": \([^,]*\).*/\1/p" "$tmp/out" | head -n 1
}
# guest KIND KEY; rung NAME KEY; series SECOND KEY: of the first row from then on
guest() { of guest "$@"; }
rung() { of rung "$@"; }
of() {
    awk -v by="\"$1\":" -v name="\"$2\"," -v key="\"$3\":" '
        $1 == by         { of_name = $2 == name }
        $1 == key && of_name { print $2 + 0; found = 1; exit }
        END { exit !found }' "$tmp/out" || fail "no $3 of $1 $2"
}
series() {
    awk -v from="$1" -v key="\"$2\":" '
        $1 == "\"second\":"          { on = $2 + 0 >= from }
        $1 == key && on             { gsub(/[",]/, "", $2); print $2; found = 1; exit }
        END { exit !found }' "$tmp/out" || fail "no $2 from second $1 on"
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

# ---- twice as much touched memory as there is, of which a third is in use; no balloons
host=(--vms 200 --host 200G --seconds 900 --agents 0 --stats 0)
for seed in 1 2 3; do
    sim 0 "${host[@]}" --seed $seed
    [ "$(balloons filled_gib)" = 0.0 ] && is "$(guest none vms)" "==" 200 || fail "there are balloons"
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

# ---- the same with balloons: most have an agent, some only statistics, some nobody who says anything
guests=(--vms 200 --host 200G --seconds 900)
for seed in 1 2 3; do
    sim 0 "${host[@]}" --seed $seed
    pages=$(value reclaimed_gib)
    swapped=$(value refaults_swapped_gib)
    sim 0 "${guests[@]}" --seed $seed
    is "$(rung balloon taken_gib)" ">" 40 || fail "balloons are not used"
    is "$(balloons host_got_gib)" ">" "$(balloons filled_gib) * 0.3" || fail "balloons return nothing"
    is "$(value reclaimed_gib)" "<" "$pages * 0.7" || fail "pages are packed where balloons could give"
    is "$(value refaults_swapped_gib)" "<" "$swapped * 0.7" || fail "as much is read back from swap as without balloons"
    is "$(value over_budget_percent)" "<" 2 || fail "the budget is not kept"
    is "$(rung balloon back_gib)" ">" 1 || fail "nothing is given back"
    [ "$(value oom_kills)" = 0 ] || fail "guests kill"
    is "$(value needs)" ">" 50 || fail "nobody needs memory: nothing was tried"
    is "$(value memory_back_ms_p50)" "<=" 250 && is "$(guest agent back_ms_p99)" "<=" 1000 ||
        fail "guests wait for what their balloons hold"
    for kind in agent stats; do
        is "$(guest $kind balloon_percent)" ">" 10 || fail "guests with $kind give nothing by balloon"
        is "$(guest $kind lost_percent)" "<" 1 || fail "guests with $kind wait for their memory"
    done
    for kind in none mute risky; do
        is "$(guest $kind balloon_percent)" "==" 0 || fail "a balloon of a guest that is $kind was moved"
    done
    is "$(guest agent vms) + $(guest stats vms) + $(guest risky vms) + $(guest mute vms) + $(guest none vms)" "==" 200 || fail "who is who"
    for kind in steady idle phased batch; do
        is "$(group $kind 1 resident_percent)" ">" "$(group $kind 1 working_set_percent)" || fail "$kind VMs have less than they use"
        is "$(group $kind 1 lost_percent)" "<" 2 || fail "$kind VMs wait for their memory"
    done
    is "$(group idle 2 resident_percent)" ">" "$(group idle 1 resident_percent) * 1.15" || fail "shares do not count"
done
cp "$tmp/out" "$tmp/before"
sim 0 "${guests[@]}" --seed 3
cmp "$tmp/before" "$tmp/out" || fail "the same run gives other numbers"
grep -Eq "CPU time: [0-9]+ times as fast" "$tmp/err" || fail "not told how fast: $(cat "$tmp/err")"
# far too little of it, and without engines there are balloons alone
sim 0 "${guests[@]}" --overcommit 3
[ "$(value oom_kills)" = 0 ] || fail "guests kill where there is too little"
sim 0 "${guests[@]}" --agents 100 --no-engine 100 --overcommit 1.2
is "$(value orders)" "==" 0 && is "$(rung balloon taken_gib)" ">" 20 || fail "VMs without engines give by their balloons"

# ---- without the tax on idle memory, those who use theirs give more
sim 0 "${host[@]}" --idle-tax 75
with=$(group idle 1 resident_percent)
sim 0 "${host[@]}" --idle-tax 0
is "$(group idle 1 resident_percent)" ">" "$with" || fail "the idle tax takes nothing of idle memory"

# ---- enough for all: nobody gives, also by balloon; a host that waits for memory: soft leaves everybody alone, hard does not
sim 0 "${host[@]}" --overcommit 0.8
is "$(group idle 1 reclaimed_percent) + $(group steady 1 reclaimed_percent)" "==" 0 || fail "reclaimed without need"
sim 0 "${guests[@]}" --overcommit 0.8
# those that a few VMs are kept to their limits by
is "$(balloons filled_gib)" "<" 3 && is "$(guest agent balloon_percent) + $(guest stats balloon_percent)" "<" 0.5 ||
    fail "balloons fill without need"
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

# ---- one guest, and what becomes of it. It idles on a host that is full; then it wants all it has; then nothing
# one GUEST NEEDED: a trace in which its processes then want so many MiB of 4096
one() {
    local mib=$((1 << 20))
    echo "# policy-sim trace 2"
    echo "second,vm,guest_bytes,touched_bytes,working_set_bytes,needed_bytes,balloon,swap"
    echo "0,it,$((4096 * mib)),$((4000 * mib)),$((300 * mib)),$((400 * mib)),$1,never"
    echo "0,other,$((4096 * mib)),$((4000 * mib)),$((3900 * mib)),,none,never"
    echo "200,it,$((4096 * mib)),$((4000 * mib)),$((3000 * mib)),$(($2 * mib)),$1,never"
    echo "400,it,$((4096 * mib)),$((4000 * mib)),$((300 * mib)),$((400 * mib)),$1,never"
}
one agent 3600 >"$tmp/one.csv"
sim 0 --trace "$tmp/one.csv" --host 6300M --seconds 600 --troubles off
is "$(series 190 balloon_gib)" ">" 1 || fail "an idle guest keeps its memory"
is "$(series 260 balloon_gib)" "<" 0.1 || fail "what a guest needs is not given back"
is "$(series 590 balloon_gib)" ">" 1 || fail "a guest that is idle again keeps its memory"
[ "$(value oom_kills)$(value oom_kills_own)" = 00 ] || fail "a guest with an agent kills"
is "$(value needs)" ">" 0 && is "$(value memory_back_ms_p99)" "<=" 2000 || fail "it waits for its memory"
grep -q '"need": ' "$tmp/out" || fail "it was not given back for a need"
# more than it has at all: that is its own doing; with nobody who speaks for it, nothing is taken
one agent 4200 >"$tmp/own.csv"
sim 0 --trace "$tmp/own.csv" --host 6300M --seconds 600 --troubles off
is "$(value oom_kills_own)" ">" 0 && [ "$(value oom_kills)" = 0 ] || fail "more than there is in a guest"
is "$(series 210 balloon_gib)" "<" 0.1 || fail "it kills before it has all of its memory" # after that it wants less
for kind in none mute risky; do
    one $kind 3600 >"$tmp/kind.csv"
    sim 0 --trace "$tmp/kind.csv" --host 6300M --seconds 600 --troubles off
    [ "$(balloons filled_gib)$(value oom_kills)" = 0.00 ] || fail "of a guest that is $kind memory was taken"
done
one stats 3600 >"$tmp/kind.csv"
sim 0 --trace "$tmp/kind.csv" --host 6300M --seconds 600 --troubles off
is "$(series 190 balloon_gib)" ">" 1 && [ "$(value oom_kills)" = 0 ] || fail "a guest with statistics"
# what would be if: who has a balloon is said by options, also of a trace that knows none
sim 0 --trace "$tmp/trace.csv" --host 5G --troubles off
[ "$(balloons filled_gib)" = 0.0 ] && is "$(guest none vms)" "==" 2 || fail "an old trace has balloons"
sim 0 --trace "$tmp/trace.csv" --host 5G --troubles off --agents 100
is "$(guest agent vms)" "==" 2 && is "$(rung balloon taken_gib)" ">" 1 || fail "an old trace with agents"

# ---- what is wrong is refused
{ echo "# policy-sim trace 3" && cat "$tmp/trace.csv"; } >"$tmp/wrong.csv"
sim 1 --trace "$tmp/wrong.csv"
grep -q "too new" "$tmp/err" || fail "a newer trace: $(cat "$tmp/err")"
for what in "s/,agent,/,agnet,/" "s/,[0-9]*,agent,/,x,agent,/"; do
    sed "$what" "$tmp/one.csv" >"$tmp/wrong.csv"
    sim 1 --trace "$tmp/wrong.csv"
done
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
for option in "--vms 0" "--vms x" "--host 1K" "--seconds -1" "--troubles maybe" "--agents 101" "--agents 60 --stats 50" \
    "--no-engine x" "--bogus" "word"; do
    # shellcheck disable=SC2086
    sim 2 $option
done

# ---- guests that are busy in turn, for less time than samples take to see it: what guests say is believed meanwhile
awk -v mib=$((1 << 20)) 'BEGIN {
    print "# policy-sim trace 2\nsecond,vm,guest_bytes,touched_bytes,working_set_bytes,needed_bytes,balloon"
    for (t = 0; t < 188; t++)
        for (v = 0; v < 3; v++) {
            busy = t >= 8 && int((t - 8) / 15) % 3 == v
            printf "%d,g%d,%.0f,%.0f,%.0f,%.0f,agent\n", t, v, 384 * mib, 380 * mib, (busy ? 320 : 50) * mib,
                (busy ? 152 : 40) * mib
        }
}' >"$tmp/phases.csv"
sim 0 --trace "$tmp/phases.csv" --host 691M --troubles off
is "$(guest agent lost_percent)" "<=" 5 || fail "guests that are busy in turn lose $(guest agent lost_percent)% of their time"
is "$(value taken_in_use_percent)" "<=" 40 || fail "what guests use is taken from them"

# ---- a memd's status becomes a trace
cat >"$tmp/memctl" <<'END'
#!/bin/sh
case $* in
"agent list --json") [ -z "$AGENTS" ] || exec cat agents ;;
"balloon list --json") [ -z "$AGENTS" ] || exec cat balloons ;;
"status --json") ;;
*) exit 1 ;;
esac
[ "$*" = "status --json" ] || exit 1
n=$(cat count 2>/dev/null || echo 0)
echo $((n + 1)) >count
vm() { printf '{"name":"%s","guest_bytes":4194304,"resident_bytes":3145728,"pool_bytes":1048576,"packed_pages":256,"swapped_pages":0,"working_set_bytes":%s,"reservation_bytes":0,"limit_bytes":0,"shares":7,"swap":"never"}' "$1" "$2"; }
if [ "$n" = 0 ]; then echo "{\"vms\":[$(vm a 0),$(vm b 4096)]}"; else echo "{\"vms\":[$(vm a 8192)]}"; fi
END
chmod +x "$tmp/memctl"
(cd "$tmp" && rm -f count && "$sim" --record 2 --memctl "$tmp/memctl" >recorded.csv) || fail "a trace is not recorded"
diff - "$tmp/recorded.csv" <<'END' || fail "recorded otherwise"
# policy-sim trace 2
second,vm,guest_bytes,touched_bytes,working_set_bytes,reservation_bytes,limit_bytes,shares,swap,needed_bytes,balloon,balloon_min_bytes,engine
0,a,4194304,3145728,3145728,0,0,7,never,,none,0,yes
0,b,4194304,3145728,4096,0,0,7,never,,none,0,yes
1,a,4194304,3145728,8192,0,0,7,never,,none,0,yes
1,b,0,0,0,0,0,0,allowed,,none,0,yes
END
# with what guests say; c and d have no engine
cat >"$tmp/agents" <<'END'
{"agents":[{"vm":"a","state":"live","memory":{"mem_total_bytes":4000000,"mem_available_bytes":3000000}},
{"vm":"c","state":"stale","memory":{"mem_total_bytes":4000000,"mem_available_bytes":1}}]}
END
balloon() { echo "{\"vm\":\"$1\",\"state\":\"$2\",\"can\":[$3],\"ram_bytes\":8388608,\"actual_bytes\":4194304,\"floor_bytes\":65536,\"stats\":{\"available_bytes\":$4}}"; }
echo "{\"balloons\":[$(balloon a ready '"actual"' null),$(balloon b ready '' null),$(balloon c ready '"deflate-on-oom"' 1048576),$(balloon d ready '' 1048576),$(balloon e gone '' null)]}" >"$tmp/balloons"
(cd "$tmp" && rm -f count && AGENTS=1 "$sim" --record 1 --memctl "$tmp/memctl" >guests.csv) || fail "a trace with guests is not recorded"
diff - <(tail -n +3 "$tmp/guests.csv") <<'END' || fail "guests are recorded otherwise"
0,a,4194304,3145728,3145728,0,0,7,never,1194304,agent,65536,yes
0,b,4194304,3145728,4096,0,0,7,never,,mute,65536,yes
0,c,8388608,4194304,3145728,0,0,0,never,3145728,stats,65536,no
0,d,8388608,4194304,3145728,0,0,0,never,3145728,risky,65536,no
0,e,8388608,4194304,4194304,0,0,0,never,,none,0,no
END
sim 0 --trace "$tmp/guests.csv" --host 64M
is "$(guest agent vms) + $(guest stats vms) + $(guest risky vms) + $(guest mute vms)" "==" 4 || fail "recorded guests"
sim 0 --trace "$tmp/recorded.csv" --host 64M
[ "$(value vms)" = 2 ] || fail "a recorded trace does not run"
"$sim" --record 1 --memctl /bin/false >"$tmp/out" 2>"$tmp/err" && fail "recorded of nobody"
grep -q "^Usage: policy-sim" <<<"$("$sim" --help)" || fail "policy-sim --help"
echo "the policy keeps to what must hold"
