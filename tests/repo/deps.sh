#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=30 san=no
#
# tools/deps.sh: silent when nothing is missing, one command for an ordinary user, an installation for root, and
# a clear end when that fails. What it calls (dpkg-query, id, apt-get) is replaced by stand-ins.
set -euo pipefail

fail() {
    echo "FAIL: $*"
    exit 1
}

deps=$MEMD_SOURCE_DIR/tools/deps.sh
bin=$MEMD_TEST_TMP/bin
mkdir "$bin"

# stand_in NAME LINE...: a command of that name
stand_in() {
    printf '#!/bin/sh\n' >"$bin/$1"
    printf '%s\n' "${@:2}" >>"$bin/$1"
    chmod +x "$bin/$1"
}

# run GROUP...: ret_status, ret_output
run() {
    ret_status=0
    ret_output=$(PATH="$bin:$PATH" "$deps" "$@" 2>&1) || ret_status=$?
}

stand_in id 'echo 1000'
stand_in apt-get "echo \"\$*\" >>$MEMD_TEST_TMP/apt; exit 0"

stand_in dpkg-query 'printf installed'
run build test guest lint
[ "$ret_status" = 0 ] && [ -z "$ret_output" ] || fail "nothing missing: $ret_status, $ret_output"

stand_in dpkg-query 'exit 1'
run build
[ "$ret_status" = 1 ] || fail "missing, not root: exit code $ret_status"
[ "$(grep -c 'sudo apt-get install' <<<"$ret_output")" = 1 ] || fail "not one command: $ret_output"
while read -r package; do
    grep -qw -- "$package" <<<"$ret_output" || fail "$package is not in: $ret_output"
done < <(awk '$1 == "build" {print $2}' "$MEMD_SOURCE_DIR/tools/packages.txt")
! grep -qw libcmocka-dev <<<"$ret_output" || fail "a package of another group: $ret_output"
[ ! -e "$MEMD_TEST_TMP/apt" ] || fail "apt-get was called without root"

# only what is missing is installed
stand_in dpkg-query "for last; do :; done; [ \"\$last\" != make ] && printf installed"
stand_in id 'echo 0'
run build
[ "$ret_status" = 0 ] || fail "as root: exit code $ret_status, $ret_output"
[ "$(tail -n 1 "$MEMD_TEST_TMP/apt")" = 'install -y --no-install-recommends make' ] ||
    fail "apt-get was called with: $(cat "$MEMD_TEST_TMP/apt")"

stand_in apt-get 'echo "E: no network" >&2; exit 100'
run build
[ "$ret_status" = 1 ] && grep -q 'no network' <<<"$ret_output" && grep -q 'by hand.*: make$' <<<"$ret_output" ||
    fail "apt-get failed: $ret_status, $ret_output"

run nonsense
[ "$ret_status" = 2 ] || fail "an unknown group: exit code $ret_status"
