#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# run.sh [--build-dir DIR] [--san address|thread] [--list] [PATTERN...]: run the tests, say what happened.
#
# A test is a program built from a tests/DIR/NAME.c that has a main(), or an executable tests/DIR/*.sh. With
# patterns, only tests whose name contains one of them run. One test runs at a time. It gets
#   MEMD_BUILD_DIR    absolute path of the tree under test (memd, memctl, memvm, ...)
#   MEMD_TEST_SCALE   share of the full counts to do, 1.0 in `make check-long`
#   MEMD_TEST_TMP     a private directory, removed afterwards; also its working directory and TMPDIR
#   MEMD_SAN          address, thread or empty
# and says by its exit code: 0 passed, 77 skipped (the last line of its output is the reason), else failed.
# Tests of a cmocka program are counted one by one.
#
# A line in the source containing "memd-test:" followed by KEY=VALUE words sets:
#   timeout=SECONDS   at the scale of `make check` (default 120); grows with the scale, and under sanitizers
#   san=no|address|thread   in which instrumented trees it makes sense (default: both)
#   scale=long        only at scale 1
#   helper            this file is no test
#
# A test that leaves a process behind fails; the process is ended. Every process started by a test carries
# MEMD_TEST_ID in its environment, and only those are looked at. The last line is "N passed, N failed", the one
# before it says how many were skipped; the exit code is 0 only if none failed.
set -uo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top" || exit 1
build_dir=build
san=
list=0
patterns=()
while [ $# -gt 0 ]; do
    case $1 in
    --build-dir) build_dir=${2:?--build-dir needs a directory} && shift ;;
    --san) san=${2?--san needs a name} && shift ;;
    --list) list=1 ;;
    -*) echo "usage: $0 [--build-dir DIR] [--san address|thread] [--list] [PATTERN...]" >&2 && exit 2 ;;
    *) patterns+=("$1") ;;
    esac
    shift
done

scale=${MEMD_TEST_SCALE:-0.1}
case $build_dir in /*) ;; *) build_dir=$top/$build_dir ;; esac
log_dir=$build_dir/tests/log
current_test_id=
tmp_root=

# directive SOURCE KEY DEFAULT: value of KEY in the "memd-test:" line of the source
directive() {
    local line
    line=$(grep -m1 'memd-test:' "$1" | sed 's/.*memd-test://; s/\*\/.*//')
    local word
    for word in $line; do
        case $word in
        "$2"=*) echo "${word#*=}" && return ;;
        "$2") echo yes && return ;;
        esac
    done
    echo "$3"
}

# sources of all tests, in the order they run: the quick ones first
find_tests() {
    local dir file
    for dir in tests/unit $(find tests -mindepth 1 -maxdepth 1 -type d ! -name unit ! -name lint | sort); do
        for file in "$dir"/*.c "$dir"/*.sh; do
            [ -f "$file" ] || continue
            case $file in
            *.c) grep -qE '^(int|void) main\(' "$file" || continue ;;
            *.sh) [ -x "$file" ] || continue ;;
            esac
            [ "$(directive "$file" helper no)" = no ] && echo "$file"
        done
    done
}

wanted() {
    local pattern
    [ ${#patterns[@]} -gt 0 ] || return 0
    for pattern in "${patterns[@]}"; do
        [ "${1/"$pattern"/}" = "$1" ] || return 0
    done
    return 1
}

# pids of the living processes a test has started, whatever became of their parents
processes_of() {
    local environ pid
    # shellcheck disable=SC2013 # paths without blanks
    for environ in $(grep -lazs "^MEMD_TEST_ID=$1\$" /proc/[0-9]*/environ); do
        pid=${environ#/proc/}
        pid=${pid%/environ}
        [ "$pid" = $$ ] || echo "$pid"
    done
}

end_processes_of() {
    local pid
    for pid in $(processes_of "$1"); do
        kill -KILL "$pid" 2>/dev/null
    done
}

finish() {
    trap - EXIT INT TERM
    exec 2>/dev/null # the shell would announce what is ended below
    [ -z "$current_test_id" ] || end_processes_of "$current_test_id"
    [ -z "$tmp_root" ] || rm -rf "$tmp_root"
    exit "$1"
}

timeout_of() {
    awk -v t="$(directive "$1" timeout 120)" -v scale="$scale" -v san="$san" \
        'BEGIN { f = scale / 0.1; if (f < 1) f = 1; if (san != "") f *= 3; printf "%d", t * f + 0.5 }'
}

npassed=0
nfailed=0
nskipped=0
failed_names=()

# count LOG STATUS: adds to the totals; one count per cmocka test, else one per program
count() {
    local ok bad skip
    # cmocka names failed and skipped tests twice: when they end and in its summary
    ok=$(grep -cE '^\[ +OK +\] ' "$1")
    bad=$(grep -E '^\[ +FAILED +\] [A-Za-z_]' "$1" | grep -v ' test(s)' | sort -u | wc -l)
    skip=$(grep -E '^\[ +SKIPPED +\] [A-Za-z_]' "$1" | grep -v ' test(s)' | sort -u | wc -l)
    if [ $((ok + bad + skip)) -eq 0 ]; then
        case $2 in
        0) ok=1 ;;
        77) skip=1 ;;
        esac
    fi
    [ "$2" -eq 0 ] || [ "$2" -eq 77 ] || [ "$bad" -gt 0 ] || bad=1
    npassed=$((npassed + ok))
    nfailed=$((nfailed + bad))
    nskipped=$((nskipped + skip))
}

# run_one SOURCE
run_one() {
    local source=$1 name=${1#tests/} program status started seconds limit_s leaked word
    name=${name%.*}
    case $source in
    *.c) program=$build_dir/tests/$name ;;
    *) program=$top/$source ;;
    esac
    local log=$log_dir/${name//\//.}.log tmp
    mkdir -p "$log_dir"
    tmp=$(mktemp -d "$tmp_root/XXXXXX")
    limit_s=$(timeout_of "$source")
    current_test_id=$$.$RANDOM.$RANDOM

    local -a run=(timeout --kill-after=5 "$limit_s")
    # the shadow memory of the sanitizers does not always fit between randomized mappings
    [ -z "$san" ] || run+=(setarch -R)
    started=$(date +%s.%N)
    if [ ! -x "$program" ]; then
        echo "$program was not built" >"$log"
        status=1
    else
        (
            cd "$tmp" || exit 1
            exec env --default-signal=INT,QUIT MEMD_TEST_ID="$current_test_id" MEMD_BUILD_DIR="$build_dir" MEMD_TEST_SCALE="$scale" \
                MEMD_TEST_TMP="$tmp" TMPDIR="$tmp" MEMD_SAN="$san" MEMD_SOURCE_DIR="$top" \
                "${run[@]}" "$program"
        ) >"$log" 2>&1 </dev/null &
        # in the background, so that Ctrl-C ends the wait
        wait $!
        status=$?
    fi
    seconds=$(awk -v a="$started" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
    case $status in 124 | 137) echo "timed out after $limit_s s" >>"$log" ;; esac

    leaked=$(processes_of "$current_test_id")
    if [ -n "$leaked" ]; then
        for pid in $leaked; do
            echo "left behind: pid $pid $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)" >>"$log"
        done
        end_processes_of "$current_test_id"
        [ "$status" -ne 0 ] && [ "$status" -ne 77 ] || status=1
    fi
    current_test_id=
    rm -rf "$tmp"

    count "$log" "$status"
    case $status in
    0) word=ok ;;
    77) word=skip ;;
    *) word=FAIL && failed_names+=("$name") ;;
    esac
    printf '%-4s %7s s  %s' "$word" "$seconds" "$name"
    [ "$status" -ne 77 ] || printf ': %s' "$(tail -n 1 "$log")"
    printf '\n'
    # a part of a program that skipped says why, too
    [ "$status" -eq 77 ] || grep -iE '^(skip|skipped):? ' "$log" | sort -u | sed 's/^/       /'
    if [ "$word" = FAIL ]; then
        {
            echo "---- $log (exit $status)"
            grep -h -m 5 '^FAILED' "$log" | cut -c 1-1000 | sed 's/^/  > /' # may be far from the end
            tail -n 60 "$log" | sed 's/^/  | /'
            echo "----"
        } | tee -a "$build_dir/tests/failures"
    fi
}

selected=()
while read -r source; do
    name=${source#tests/}
    wanted "${name%.*}" || continue
    if [ -n "$san" ]; then
        case $(directive "$source" san both) in both | "$san") ;; *) continue ;; esac
    fi
    if [ "$(directive "$source" scale any)" = long ] && [ "$scale" != 1 ]; then
        continue
    fi
    selected+=("$source")
done < <(find_tests)

if [ "$list" -eq 1 ]; then
    printf '%s\n' "${selected[@]}"
    exit 0
fi

trap 'finish 130' INT
trap 'finish 143' TERM
tmp_root=$(mktemp -d "${TMPDIR:-/tmp}/memd-tests.XXXXXX")
export ASAN_OPTIONS=${ASAN_OPTIONS:-abort_on_error=1:detect_stack_use_after_return=0}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-exitcode=66:second_deadlock_stack=1:die_after_fork=0}
unset MEMD_RUN_DIR

begun=$SECONDS
rm -f "$build_dir/tests/failures"
echo "kernel $(uname -r), $(nproc) CPUs, scale $scale${san:+, $san sanitizer}: ${#selected[@]} programs"
[ -e /dev/kvm ] || echo "no /dev/kvm: tests that need it on this host are skipped or run in a nested guest"
for source in "${selected[@]}"; do
    run_one "$source"
done

[ ${#failed_names[@]} -eq 0 ] || echo "failed: ${failed_names[*]}"
echo "$((SECONDS - begun)) s; logs in ${log_dir#"$top"/}"
[ "$nskipped" -eq 0 ] || echo "$nskipped skipped"
echo "$npassed passed, $nfailed failed"
echo "$npassed $nfailed $nskipped" >"$build_dir/tests/summary"
finish $((nfailed > 0))
