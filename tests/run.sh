#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# run.sh [--build-dir DIR] [--san address|thread] [--jobs N] [--list] [PATTERN...]: run the tests, say what happened.
#
# A test is a program built from a tests/DIR/NAME.c that has a main(), or an executable tests/DIR/*.sh. With
# patterns, only tests whose name contains one of them run. It gets
#   MEMD_BUILD_DIR    absolute path of the tree under test (memd, memctl, memvm, ...)
#   MEMD_TEST_SCALE   share of the full counts to do, 1.0 in `make check-long`
#   MEMD_TEST_TMP     a private directory, removed afterwards; also its working directory and TMPDIR
#   MEMD_SAN          address, thread or empty
# and says by its exit code: 0 passed, 77 skipped (the last line of its output is the reason), else failed.
# Tests of a cmocka program are counted one by one.
#
# A line in the source containing "memd-test:" followed by KEY=VALUE words sets:
#   timeout=SECONDS   at the scale of `make check` (default 120); grows with the scale, under sanitizers, and
#                     beside other tests
#   alone             no other test may run meanwhile: it changes settings of the whole machine, or judges times
#   san=no|address|thread   in which instrumented trees it makes sense (default: both)
#   scale=long        only at scale 1
#   helper            this file is no test
#
# N tests run side by side (default: one for each CPU, and each 2 GiB of memory), those with the longest timeout
# first; after them, one by one, those that have to be alone. What is printed comes in that order, too. Beside
# the time a test took stands the CPU time of its processes, which says the same on a busy machine.
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
jobs=
patterns=()
usage="usage: $0 [--build-dir DIR] [--san address|thread] [--jobs N] [--list] [PATTERN...]"
while [ $# -gt 0 ]; do
    case $1 in
    --build-dir) build_dir=${2:?--build-dir needs a directory} && shift ;;
    --san) san=${2?--san needs a name} && shift ;;
    --jobs) jobs=${2:?--jobs needs a number} && shift ;;
    --list) list=1 ;;
    -*) echo "$usage" >&2 && exit 2 ;;
    *) patterns+=("$1") ;;
    esac
    shift
done
case $jobs in *[!0-9]* | 0*) echo "$usage" >&2 && exit 2 ;; esac

scale=${MEMD_TEST_SCALE:-0.1}
case $build_dir in /*) ;; *) build_dir=$top/$build_dir ;; esac
log_dir=$build_dir/tests/log
tmp_root=
run_id=$$.$RANDOM.$RANDOM

# by source: the words of its "memd-test:" line
declare -A directives=()

read_directives() {
    local source words
    while IFS=: read -r source words; do
        words=${words#*memd-test:}
        directives[$source]=${words%%\*/*}
    done < <(grep -Hm1 'memd-test:' "$@")
}

# directive SOURCE KEY DEFAULT: ret_value, of KEY in the "memd-test:" line of the source
directive() {
    local word
    ret_value=$3
    for word in ${directives[$1]:-}; do
        case $word in
        "$2"=*) ret_value=${word#*=} && return ;;
        "$2") ret_value=yes && return ;;
        esac
    done
}

# sources of all tests, the quick ones first
find_tests() {
    local dir file
    local -a programs
    for dir in tests/unit $(find tests -mindepth 1 -maxdepth 1 -type d ! -name unit ! -name lint | sort); do
        mapfile -t programs < <(grep -lE '^(int|void) main\(' /dev/null "$dir"/*.c 2>/dev/null)
        for file in "${programs[@]}" "$dir"/*.sh; do
            case $file in *.sh) [ -x "$file" ] || continue ;; esac
            echo "$file"
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

# pids of the living processes a test (or a run: all of its tests) has started, whatever became of their parents
processes_of() {
    local environ pid
    # shellcheck disable=SC2013 # paths without blanks
    for environ in $(grep -lazs "^MEMD_TEST_ID=$1\$" /proc/[0-9]*/environ); do
        pid=${environ#/proc/}
        pid=${pid%/environ}
        [ "$pid" = $$ ] || echo "$pid"
    done
}

# left_by NUMBER: those of its processes that go on. Who has been killed, perhaps by the end of its parent, and has
# not got a CPU to die on yet is waited for.
left_by() {
    local pid status pids dying=1 look
    for ((look = 0; dying && look < 500; look++)); do
        dying=
        pids=$(processes_of "$run_id\.$1")
        for pid in $pids; do
            status=$(cat "/proc/$pid/status" 2>/dev/null)
            # SIGKILL is pending
            [[ ! $status =~ SigPnd:[[:space:]]+[0-9a-f]{13}[13579bdf][0-9a-f]{2} ]] || dying=1
        done
        [ -z "$dying" ] || sleep 0.02
    done
    echo "$pids"
}

end_processes_of() {
    local pid
    for pid in $(processes_of "$1"); do
        kill -KILL "$pid" 2>/dev/null
    done
}

# by the pid of its shell: the number of a test that runs
declare -A running=()

finish() {
    trap - EXIT INT TERM
    say_all >&"$out" # what waited for one that has not ended
    exec 2>/dev/null # the shell would announce what is ended below
    if [ ${#running[@]} -gt 0 ]; then
        kill -KILL "${!running[@]}"
        wait "${!running[@]}"
        # one may be forking
        for _ in {1..20}; do
            [ -n "$(processes_of "$run_id\.[0-9]*")" ] || break
            end_processes_of "$run_id\.[0-9]*"
            sleep 0.02
        done
    fi
    [ -z "$tmp_root" ] || rm -rf "$tmp_root"
    exit "$1"
}

# limit_of SOURCE: ret_value, in seconds
limit_of() {
    directive "$1" timeout 120
    ret_value=$(awk -v t="$ret_value" -v scale="$scale" -v san="$san" -v jobs="$jobs" \
        'BEGIN { f = scale / 0.1; if (f < 1) f = 1; if (san != "") f *= 3; if (jobs > 1) f *= 2; printf "%d", t * f + 0.5 }')
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

# start NUMBER: of the selected tests, in the background
start() {
    local source=${selected[$1]} number=$1
    local name=${source#tests/} program
    name=${name%.*}
    case $source in
    *.c) program=$build_dir/tests/$name ;;
    *) program=$top/$source ;;
    esac
    local log=$log_dir/${name//\//.}.log tmp=$tmp_root/$number
    mkdir "$tmp"
    limit_of "$source"
    limits[number]=$ret_value
    local -a run=(timeout --kill-after=5 "$ret_value")
    # the shadow memory of the sanitizers does not always fit between randomized mappings
    [ -z "$san" ] || run+=(setarch -R)
    (
        exec {out}>&-
        [ -x "$program" ] || { echo "$program was not built" >"$log" && exit 1; }
        cd "$tmp" || exit 1
        export MEMD_TEST_ID=$run_id.$number # of env, too
        TIMEFORMAT='%R %U %S'
        time env --default-signal=INT,QUIT MEMD_BUILD_DIR="$build_dir" MEMD_TEST_SCALE="$scale" MEMD_TEST_TMP="$tmp" \
            TMPDIR="$tmp" MEMD_SAN="$san" MEMD_SOURCE_DIR="$top" "${run[@]}" "$program" >"$log" 2>&1 </dev/null
    ) 2>"$tmp.times" &
    running[$!]=$number
}

# ended NUMBER STATUS: counts it; what there is to say is kept in $tmp_root/NUMBER.said
ended() {
    local number=$1 status=$2 source=${selected[$1]} word leaked pid seconds='' cpu=''
    local name=${source#tests/} tmp=$tmp_root/$number
    name=${name%.*}
    local log=$log_dir/${name//\//.}.log
    case $status in 124 | 137) echo "timed out after ${limits[number]} s" >>"$log" ;; esac

    leaked=$(left_by "$number")
    if [ -n "$leaked" ]; then
        for pid in $leaked; do
            echo "left behind: pid $pid $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)" >>"$log"
        done
        end_processes_of "$run_id\.$number"
        [ "$status" -ne 0 ] && [ "$status" -ne 77 ] || status=1
    fi
    # whatever else the shell had to say of its child stands before
    read -r seconds cpu < <(tail -n 1 "$tmp.times" | awk 'NF == 3 { printf "%.1f %.1f\n", $1, $2 + $3 }')
    rm -rf "$tmp" "$tmp.times"

    count "$log" "$status"
    cpu_seconds+=" ${cpu:-0}"
    case $status in
    0) word=ok ;;
    77) word=skip ;;
    *) word=FAIL && failed_names+=("$name") ;;
    esac
    {
        printf '%-4s %7s s %7s cpu  %s' "$word" "${seconds:-0}" "${cpu:-0}" "$name"
        [ "$status" -ne 77 ] || printf ': %s' "$(tail -n 1 "$log")"
        printf '\n'
        # a part of a program that skipped says why, too
        [ "$status" -eq 77 ] || grep -iE '^(skip|skipped):? ' "$log" | sort -u | sed 's/^/       /'
        [ "$word" != FAIL ] || say_failed "$log" "$status" | tee -a "$build_dir/tests/failures"
    } >"$tmp.new"
    mv "$tmp.new" "$tmp.said"
}

# say_failed LOG STATUS
say_failed() {
    echo "---- $1 (exit $2)"
    grep -h -m 5 '^FAILED' "$1" | cut -c 1-1000 | sed 's/^/  > /' # may be far from the end
    tail -n 60 "$1" | sed 's/^/  | /'
    echo "----"
}

# await_one: until one that runs has ended; prints what comes next
await_one() {
    local pid='' status=0 number
    wait -n -p pid "${!running[@]}" || status=$?
    [ -n "$pid" ] || { echo "a test is gone" >&2 && finish 1; }
    number=${running[$pid]}
    unset "running[$pid]"
    ended "$number" "$status"
    while [ -e "$tmp_root/$nprinted.said" ]; do
        cat "$tmp_root/$nprinted.said"
        rm "$tmp_root/$nprinted.said"
        nprinted=$((nprinted + 1))
    done
}

say_all() {
    local number
    for number in "${!selected[@]}"; do
        [ ! -e "$tmp_root/$number.said" ] || cat "$tmp_root/$number.said"
    done
}

# select_tests: into `selected`, in the order they are started; from number first_alone on each is to be alone
select_tests() {
    local source name limit
    local -a all alone=() others=()
    mapfile -t all < <(find_tests)
    read_directives "${all[@]}"
    for source in "${all[@]}"; do
        name=${source#tests/}
        wanted "${name%.*}" || continue
        directive "$source" helper no
        [ "$ret_value" = no ] || continue
        directive "$source" san both
        [ -z "$san" ] || case $ret_value in both | "$san") ;; *) continue ;; esac
        directive "$source" scale any
        [ "$ret_value" != long ] || [ "$scale" = 1 ] || continue
        directive "$source" timeout 120
        limit=$ret_value
        directive "$source" alone no
        if [ "$ret_value" = yes ]; then alone+=("$source"); else others+=("$limit $source"); fi
    done
    [ ${#others[@]} -eq 0 ] || mapfile -t selected < <(printf '%s\n' "${others[@]}" | sort -rns -k 1,1 | cut -d ' ' -f 2)
    first_alone=${#selected[@]}
    selected+=("${alone[@]}")
}

selected=()
limits=()
select_tests
if [ "$list" -eq 1 ]; then
    printf '%s\n' "${selected[@]}"
    exit 0
fi
if [ -z "$jobs" ]; then
    jobs=$(awk -v cpus="$(nproc)" '/^MemAvailable:/ { n = int($2 / 2097152); print n < 1 ? 1 : n < cpus ? n : cpus }' \
        /proc/meminfo)
fi
[ "$jobs" -le "$first_alone" ] || jobs=$((first_alone > 1 ? first_alone : 1))

exec {out}>&1 # wherever a signal meets it
trap 'finish 130' INT
trap 'finish 143' TERM
tmp_root=$(mktemp -d "${TMPDIR:-/tmp}/memd-tests.XXXXXX")
export ASAN_OPTIONS=${ASAN_OPTIONS:-abort_on_error=1:detect_stack_use_after_return=0}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-exitcode=66:second_deadlock_stack=1:die_after_fork=0}
unset MEMD_RUN_DIR

begun=$SECONDS
nprinted=0
cpu_seconds=
mkdir -p "$log_dir"
rm -f "$build_dir/tests/failures"
echo "kernel $(uname -r), $(nproc) CPUs, scale $scale${san:+, $san sanitizer}: ${#selected[@]} programs, $jobs at a time"
[ -e /dev/kvm ] || echo "no /dev/kvm: tests that need it on this host are skipped or run in a nested guest"
for number in "${!selected[@]}"; do
    at_most=$((number < first_alone ? jobs : 1))
    while [ ${#running[@]} -ge $at_most ]; do await_one; done
    start "$number"
done
while [ ${#running[@]} -gt 0 ]; do await_one; done

[ ${#failed_names[@]} -eq 0 ] || echo "failed: ${failed_names[*]}"
# shellcheck disable=SC2086 # words are what is wanted
cpu=$(printf '%s\n' $cpu_seconds | awk '{ sum += $1 } END { printf "%d", sum }')
echo "$((SECONDS - begun)) s, $cpu s of CPU; logs in ${log_dir#"$top"/}"
[ "$nskipped" -eq 0 ] || echo "$nskipped skipped"
echo "$npassed passed, $nfailed failed"
echo "$npassed $nfailed $nskipped" >"$build_dir/tests/summary"
finish $((nfailed > 0))
