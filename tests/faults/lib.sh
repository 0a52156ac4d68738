#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: helper
#
# What the fault tests share: a memd of the test's own, memvm guests, and numbers out of both.
#
# Sourced. $run is the daemon's run directory, on a tmpfs, removed at the end together with all that was started.
# shellcheck shell=bash disable=SC2034
set -uo pipefail

bin=${MEMD_BUILD_DIR:?the tests are run by tests/run.sh}
tmp=${MEMD_TEST_TMP:?}
scale=${MEMD_TEST_SCALE:-0.1}
export MEMD_RUN_DIR=
run=
memd_pid=
memd_options=()
declare -A guest_pid=()
patience=3 # times what a quiet machine takes at most: others may be at work on this one
[ -z "${MEMD_SAN:-}" ] || patience=6

skip() {
    echo "skip: $1"
    exit 77
}

fail() {
    [ ! -s "$tmp/memd.err" ] || { echo "-- memd:" && tail -n 15 "$tmp/memd.err"; } >&2
    echo "FAILED: $*" >&2
    [ "$BASHPID" = $$ ] || kill -TERM $$ # out of a subshell, too
    exit 1
}

clean_up() {
    trap - EXIT
    local pid
    for pid in $memd_pid "${guest_pid[@]}"; do
        kill -CONT "$pid" 2>/dev/null
        kill -KILL "$pid" 2>/dev/null
    done
    wait 2>/dev/null
    [ -z "$run" ] || rm -rf "$run"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# set_up TMPFS: a run directory on it, as memd's frames need one
set_up() {
    [ -w /dev/userfaultfd ] || skip "needs /dev/userfaultfd"
    run=$(mktemp -d "$1/memd-test.XXXXXX") || fail "cannot make a directory in $1"
    MEMD_RUN_DIR=$run
    printf '[domain common]\nuids = %s\n' "$(id -u)" >"$tmp/memd.conf"
    accel=thread
    [ ! -w /dev/kvm ] || [ -n "${MEMD_SAN:-}" ] || accel=kvm
}

# scaled FULL LEAST: FULL times the scale, at least LEAST
scaled() {
    awk -v full="$1" -v least="$2" -v scale="$scale" 'BEGIN { n = int(full * scale); print n < least ? least : n }'
}

# random LESS_THAN
random() {
    echo $((RANDOM * 32768 % $1 + RANDOM % $1)) | awk -v n="$1" '{ print $1 % n }'
}

# await SECONDS COMMAND...: until the command succeeds; false when the time is up
await() {
    local end=$((SECONDS + $1 * patience))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.02
    done
}

# ---- memd

memd_is_ready() {
    grep -q '^memd: ready' "$tmp/memd.out" && return
    kill -0 "$memd_pid" 2>/dev/null || fail "memd has ended: $(tail -n 1 "$tmp/memd.err")"
    return 1
}

memd_start() {
    : >"$tmp/memd.out"
    "$bin/memd" --run-dir "$run" --state-dir "$tmp/state" --config "$tmp/memd.conf" --quiet-ms 20 \
        "${memd_options[@]}" >"$tmp/memd.out" 2>>"$tmp/memd.err" &
    memd_pid=$!
    await 10 memd_is_ready || fail "memd did not get ready in 10 s"
}

memd_kill() {
    kill -KILL "$memd_pid"
    wait "$memd_pid" 2>/dev/null
    memd_pid=
}

# SIGTERM; it must end with 0 and leave nothing behind.
memd_end() {
    kill -TERM "$memd_pid"
    wait "$memd_pid" || fail "memd ended with $?"
    memd_pid=
    [ -z "$(ls -A "$run")" ] || fail "memd left behind: $(find "$run")"
}

ctl() {
    "$bin/memctl" "$@"
}

# total KEY, daemon KEY, domain KEY (of the first domain): numbers of memctl status --json
section() {
    ctl status --json | sed -n "/^  \"$1\": [[{]/,/^  []}]/s/^ *\"$2\": \(-\{0,1\}[0-9][0-9]*\).*/\1/p" | head -n 1
}
total() { section totals "$1"; }
daemon() { section daemon "$1"; }
domain() { section domains "$1"; }

# vm NAME KEY: a number of memctl vm show
vm() {
    ctl vm show "$1" --json | sed -n "s/^ *\"$2\": \(-\{0,1\}[0-9][0-9]*\).*/\1/p" | head -n 1
}

# settle SECONDS: at most
settle() {
    ctl settle --timeout $(($1 * patience)) >/dev/null || fail "the host did not settle: $(ctl status)"
}

# ---- guests

# image NAME MIB SEED OPTION...: what guests are filled from
image() {
    local name=$1 mib=$2 seed=$3
    shift 3
    [ -f "$tmp/$name" ] || "$bin/mkimage" --recipe --out "$tmp/$name" --mem "$mib" --seed "$seed" "$@" >/dev/null ||
        fail "mkimage failed"
}

guest_is_ready() {
    grep -qs '"event": "ready"' "$tmp/$1.out" && return
    kill -0 "${guest_pid[$1]}" 2>/dev/null || fail "guest $1 has ended: $(tail -n 3 "$tmp/$1.err")"
    return 1
}

# guest NAME OPTION...: started, filled and checking itself
guest() {
    local name=$1
    shift
    "$bin/memvm" --accel "$accel" --name "$name" --thp off --verify --report 100 "$@" \
        >"$tmp/$name.out" 2>"$tmp/$name.err" &
    guest_pid[$name]=$!
    await 60 guest_is_ready "$name" || fail "guest $name did not get ready in 60 s"
}

# guest_number NAME KEY: of its last status line
guest_number() {
    tail -n 1 "$tmp/$1.out" | sed -n "s/.*\"$2\": \([0-9]*\).*/\1/p"
}

guest_verified() {
    [ "$(guest_number "$1" verify_passes)" -ge "$2" ] 2>/dev/null
}

# guests_check NAME...: all of their memory is compared with its checksums once more from now on, and they have found
# nothing wrong. However little of a CPU one gets, it must not stand still.
guests_check() {
    local name checks now end
    local -A goal=()
    for name; do goal[$name]=$(($(guest_number "$name" verify_passes) + 2)); done
    for name; do
        checks=-1 end=0
        until guest_verified "$name" "${goal[$name]}"; do
            now=$(guest_number "$name" verify_checks)
            [ "${now:-0}" -eq "$checks" ] || end=$((SECONDS + 20 * patience))
            checks=${now:-0}
            [ $SECONDS -lt $end ] || fail "guest $name stands still: $(tail -n 1 "$tmp/$name.out")"
            sleep 0.1
        done
        [ "$(guest_number "$name" verify_failures)" = 0 ] || fail "guest $name lost bytes: $(tail -n 3 "$tmp/$name.err")"
    done
}

guest_check() { guests_check "$1"; }

guest_end() {
    kill -TERM "${guest_pid[$1]}"
    wait "${guest_pid[$1]}" || fail "guest $1 ended with $?: $(tail -n 3 "$tmp/$1.err")"
    unset "guest_pid[$1]"
}

guest_kill() {
    kill -KILL "${guest_pid[$1]}"
    wait "${guest_pid[$1]}" 2>/dev/null
    unset "guest_pid[$1]"
}

# above NUMBER COMMAND...: the command prints a larger number
above() {
    local least=$1
    shift
    [ "$("$@")" -gt "$least" ]
}

# is NUMBER COMMAND...: the command prints this number
is() {
    local want=$1
    shift
    [ "$("$@")" = "$want" ]
}

# Nobody maps a frame any more: neither in memd's account nor in blocks.
frames_are_gone() {
    await 10 is 0 total pages_shared || fail "$(total pages_shared) frames have references nobody has"
    await 10 store_is_empty || fail "frames were leaked: $(du -ak "$run/store")"
}

store_is_empty() {
    [ -z "$(find "$run/store" -name "*.frames" -exec stat -c %b {} + 2>/dev/null | grep -v "^0$")" ]
}
