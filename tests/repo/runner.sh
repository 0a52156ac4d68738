#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=60 san=no
#
# tests/run.sh and .ci/run count what they run: passes, failures, skips with their reason, time-outs, processes
# left behind; and end with a line of exactly "N passed, N failed" and the right exit code.
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
# gone, or dead and about to be reaped
state=$(awk '/^State/ {print $2}' "/proc/$(cat "$MEMD_TEST_TMP/leaked")/status" 2>/dev/null) || state=
[ -z "$state" ] || [ "$state" = Z ] || fail "a process left behind goes on, in state $state"
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
