# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: helper
#
# What the tests of memctl and the control API share: the real control server over a fake core (serve.c), and
# memctl run with its output and exit code kept. Sourced.
# shellcheck shell=bash disable=SC2034
set -uo pipefail

bin=${MEMD_BUILD_DIR:?the tests are run by tests/run.sh}
top=${MEMD_SOURCE_DIR:?}
tmp=${MEMD_TEST_TMP:?}
dir=$(mktemp -d /dev/shm/memd-test.XXXXXX) || exit 1 # the test's own directory is closed to other users
export MEMD_RUN_DIR=$dir
serve_pid=
trap 'rm -rf "$dir"' EXIT
trap 'exit 143' INT TERM

fail() {
    echo "FAILED: $*" >&2
    [ ! -f "$tmp/out" ] || { echo "-- stdout:" && head -n 30 "$tmp/out"; } >&2
    [ ! -f "$tmp/err" ] || { echo "-- stderr:" && head -n 30 "$tmp/err"; } >&2
    exit 1
}

skip() {
    echo "skip: $1"
    exit 77
}

serve_start() {
    local line
    coproc SERVE { exec "$bin/tests/ctl/serve" "$dir" 2>"$tmp/serve.err"; }
    # shellcheck disable=SC2153 # coproc sets it
    serve_pid=$SERVE_PID
    read -r -t 20 -u "${SERVE[0]}" line
    [ "${line:-}" = ready ] || fail "serve: $(cat "$tmp/serve.err")"
}

# tell WORD...: a command for the fake core; prints its answer
tell() {
    local line
    echo "$*" >&"${SERVE[1]}"
    read -r -t 20 -u "${SERVE[0]}" line || fail "serve does not answer: $(cat "$tmp/serve.err")"
    echo "$line"
}

# fake FIELD=NUMBER...: a fresh fake core with these fields
fake() {
    local setting
    [ "$(tell reset)" = ok ] || fail "reset"
    for setting in "$@"; do
        [ "$(tell set "${setting%%=*}" "${setting#*=}")" = ok ] || fail "set $setting"
    done
}

# The server must end well: a sanitizer that found something ends it with another code.
serve_end() {
    local pid=$serve_pid
    serve_pid=
    eval "exec ${SERVE[1]}>&-"
    wait "$pid" || fail "serve ended with $?: $(cat "$tmp/serve.err")"
    [ ! -e "$dir/control.sock" ] || fail "the socket is still there"
}

# ctl CODE WORD...: memctl ends with CODE; stdout and stderr in $tmp/out and $tmp/err
ctl() {
    local code=$1 status
    shift
    timeout 120 "$bin/memctl" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    status=$?
    [ $status = "$code" ] || fail "memctl $* ended with $status, not $code"
    # a message is one line, and errors are the only thing on stderr
    case $code in
    0) [ ! -s "$tmp/err" ] || fail "memctl $*: something on stderr" ;;
    *) [ "$(wc -l <"$tmp/err")" -le 1 ] || fail "memctl $*: more than one line on stderr" ;;
    esac
}

# out PATTERN, err PATTERN: what the last memctl said matches
out() {
    grep -qE -- "$1" "$tmp/out" || fail "stdout does not match: $1"
}
err() {
    grep -qE -- "$1" "$tmp/err" || fail "stderr does not match: $1"
}

# await SECONDS COMMAND...: until the command succeeds; false when the time is up
await() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.02
    done
}
