#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=120 san=no
#
# tests/run.sh and .ci/run count what they run: passes, failures, skips with their reason, time-outs, processes
# left behind; and end with a line of exactly "N passed, N failed" and the right exit code. Tests run side by side,
# but those that have to be alone; what is printed is in order; an interrupted run leaves nothing behind.
set -euo pipefail

fail() {
    echo "FAIL: $*"
    exit 1
}

tree=$MEMD_TEST_TMP/tree
mkdir -p "$tree/tests/some" "$tree/bin" "$tree/.ci"
cp "$MEMD_SOURCE_DIR/tests/run.sh" "$tree/tests/"
cp "$MEMD_SOURCE_DIR/.ci/run" "$tree/.ci/"

# write_test NAME DIRECTIVES LINE...
write_test() {
    printf '#!/bin/bash\n# memd-test: %s\n' "$2" >"$tree/tests/some/$1.sh"
    printf '%s\n' "${@:3}" >>"$tree/tests/some/$1.sh"
    chmod +x "$tree/tests/some/$1.sh"
}

# run_tests PATTERN...: ret_status, ret_output
run_tests() {
    ret_status=0
    ret_output=$(MEMD_TEST_SCALE=0.1 "$tree/tests/run.sh" --build-dir "$tree/build" "$@" 2>&1) || ret_status=$?
}

# expect STATUS PASSED FAILED
expect() {
    [ "$ret_status" = "$1" ] || fail "exit code $ret_status, not $1: $ret_output"
    [ "$(tail -n 1 <<<"$ret_output")" = "$2 passed, $3 failed" ] || fail "not $2 passed, $3 failed: $ret_output"
}

write_test passes '' 'test -d "$MEMD_TEST_TMP" && test "$PWD" = "$MEMD_TEST_TMP" && test "$MEMD_TEST_SCALE" = 0.1'
write_test fails '' 'echo said before it failed' 'exit 3'
write_test skips '' 'echo no such device' 'exit 77'
write_test leaks '' "sleep 1000 & echo \$! >$MEMD_TEST_TMP/leaked"
write_test hangs 'timeout=1' 'sleep 1000'
write_test counts '' 'echo "[       OK ] one"' 'echo "[       OK ] two"' 'echo "[  FAILED  ] three"' 'exit 1'
write_test longest 'scale=long' 'exit 1'
write_test instrumented 'san=thread' 'exit 0'

run_tests passes
expect 0 1 0
run_tests fails
expect 1 0 1
grep -q 'said before it failed' <<<"$ret_output" || fail "the log is not shown: $ret_output"
run_tests skips
expect 0 0 0
grep -q 'skip .*some/skips: no such device' <<<"$ret_output" || fail "the reason is not shown: $ret_output"
grep -qx '1 skipped' <<<"$ret_output" || fail "a skip is not counted: $ret_output"
run_tests leaks
expect 1 0 1
grep -q 'left behind: pid' <<<"$ret_output" || fail "a process left behind is not told of: $ret_output"

# are_gone WHEN PID...: each of them is, or dead and about to be reaped; who was killed may still have to get a CPU to die on
are_gone() {
    local pid state
    for pid in "${@:2}"; do
        for _ in {1..500}; do
            state=$(awk '/^State/ {print $2}' "/proc/$pid/status" 2>/dev/null) || state=
            [ -n "$state" ] && [ "$state" != Z ] || continue 2
            sleep 0.02
        done
        fail "$1 a process goes on, in state $state"
    done
}
are_gone "left behind," "$(cat "$MEMD_TEST_TMP/leaked")"
run_tests hangs
expect 1 0 1
grep -q 'timed out after 1 s' <<<"$ret_output" || fail "no word of the time-out: $ret_output"
run_tests counts
expect 1 2 1
run_tests longest
expect 0 0 0
run_tests passes counts skips
expect 1 3 1
[ "$(cat "$tree/build/tests/summary")" = '3 1 1' ] || fail "summary: $(cat "$tree/build/tests/summary")"
ret_output=$("$tree/tests/run.sh" --build-dir "$tree/build" --san address --list)
! grep -q instrumented <<<"$ret_output" || fail "a test of another sanitizer is run: $ret_output"

# ---- side by side: each waits for the other
mkdir "$MEMD_TEST_TMP/met"
for one in one other; do
    met='until [ -e $0/one ] && [ -e $0/other ]; do sleep 0.02; done'
    write_test "meets_$one" "timeout=$([ $one = one ] && echo 20 || echo 10)" ": >$MEMD_TEST_TMP/met/$one" \
        "[ $one = other ] || trap 'sleep 0.3' EXIT" "${met//\$0/$MEMD_TEST_TMP/met}"
done
run_tests --jobs 2 meets
expect 0 2 0
[ "$(sed -n 's/^ok .* some\/meets_//p' <<<"$ret_output" | xargs)" = "one other" ] || fail "not in order: $ret_output"
rm "$MEMD_TEST_TMP"/met/*
sed -i 's/timeout=20/timeout=6/; s/timeout=10/timeout=5/' "$tree"/tests/some/meets_*.sh
run_tests --jobs 1 meets # and with one at a time the first waits in vain
expect 1 1 1
for bad in 0 x -1; do
    run_tests --jobs "$bad" passes
    [ "$ret_status" = 2 ] || fail "--jobs $bad is taken"
done

# ---- alone: nobody else is there meanwhile
in_use="$MEMD_TEST_TMP/in_use"
for n in 1 2 3; do
    write_test "shares_$n" '' "mkdir $in_use.$n" 'sleep 0.2' "rmdir $in_use.$n"
    write_test "keeps_$n" 'alone timeout=200' "mkdir $in_use.alone && ! ls -d $in_use.[0-9]" 'status=$?' 'sleep 0.1' \
        "rmdir $in_use.alone" 'exit $status'
done
run_tests --jobs 3 shares keeps
expect 0 6 0

# ---- interrupted: everything that was started is gone, and its files
for n in 1 2; do
    write_test "stays_$n" '' "setsid sleep 1000 &" "echo \$! \$\$ >$MEMD_TEST_TMP/stays.$n" 'sleep 1000'
done
write_test stays_not 'timeout=10' 'true' # has ended when the others are interrupted, and is told of
mkdir "$MEMD_TEST_TMP/tmp"
for how in INT:130 TERM:143; do
    signal=${how%:*}
    rm -f "$MEMD_TEST_TMP"/stays.*
    TMPDIR=$MEMD_TEST_TMP/tmp env --default-signal=INT "$tree/tests/run.sh" --build-dir "$tree/build" --jobs 3 stays >"$MEMD_TEST_TMP/stays" 2>&1 &
    run=$!
    until [ -s "$MEMD_TEST_TMP/stays.1" ] && [ -s "$MEMD_TEST_TMP/stays.2" ]; do
        kill -0 $run || fail "it has ended: $(cat "$MEMD_TEST_TMP/stays")"
        sleep 0.02
    done
    until compgen -G "$MEMD_TEST_TMP/tmp/*/*.said" >/dev/null; do sleep 0.02; done
    kill -"$signal" $run
    ret_status=0
    wait $run || ret_status=$?
    [ "$ret_status" = "${how#*:}" ] || fail "exit code $ret_status after SIG$signal"
    read -ra pids < <(cat "$MEMD_TEST_TMP"/stays.[12] | xargs)
    are_gone "after SIG$signal" "${pids[@]}"
    grep -q '^ok .* some/stays_not$' "$MEMD_TEST_TMP/stays" || fail "not told of one that had ended: $(cat "$MEMD_TEST_TMP/stays")"
    [ -z "$(ls -A "$MEMD_TEST_TMP/tmp")" ] || fail "SIG$signal left $(find "$MEMD_TEST_TMP/tmp")"
done

# .ci/run adds up what its steps say, and counts those that say nothing
cat >"$tree/bin/make" <<'MAKE'
#!/bin/sh
for target; do :; done
mkdir -p build/tests build/asan/tests build/tsan/tests
case $target in
lint) echo "7 1" >build/lint-summary && exit 1 ;;
check) echo "10 0 2" >build/tests/summary ;;
check-asan) echo "5 0 0" >build/asan/tests/summary && exit 1 ;;
check-tsan) exit 2 ;;
esac
MAKE
chmod +x "$tree/bin/make"
ret_status=0
ret_output=$(PATH="$tree/bin:$PATH" "$tree/.ci/run" 2>&1) || ret_status=$?
# 1 (dependencies) + 7 + 10 + 5; 1 (lint) + 1 (check-asan failed after its tests) + 1 (check-tsan said nothing)
expect 1 23 3
grep -qx 'failed: lint check-asan check-tsan' <<<"$ret_output" || fail "steps that failed: $ret_output"
grep -qx '2 skipped' <<<"$ret_output" || fail "skips are not told of: $ret_output"
