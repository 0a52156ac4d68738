#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: san=no
#
# The system calls of the engine, thread by thread, are those of docs/syscalls.md: none is made that is not in the
# table, and what the table calls certain is made. syscalls_probe is traced, one file per thread; the thread "api" and
# the engine's two are known by their names, the probe's child and a forked child by the flags of their clone.
set -uo pipefail

source_dir=${MEMD_SOURCE_DIR:?the tests are run by tests/run.sh}
tmp=${MEMD_TEST_TMP:?}
table=$source_dir/docs/syscalls.md
probe=${MEMD_BUILD_DIR:?}/tests/engine/syscalls_probe
columns=(worker fault api probe child)

skip() {
    echo "skipped: $1"
    exit 77
}

command -v strace >/dev/null || skip "strace is not installed"
strace -o /dev/null true 2>/dev/null || skip "strace may not trace here (ptrace is forbidden)"

mkdir "$tmp/trace" || exit 1
MEMD_TEST_TMP=$tmp strace -ff -qq -o "$tmp/trace/t" "$probe" >"$tmp/out" 2>&1
status=$?
if [ $status -ne 0 ]; then
    cat "$tmp/out"
    [ $status -ne 77 ] || exit 77
    echo "syscalls_probe exited with $status"
    exit 1
fi

# file of the thread that called itself NAME
api_file=$(grep -l 'PR_SET_NAME, "api"' "$tmp"/trace/t.*)
[ -n "$api_file" ] || { echo "no thread named api" && exit 1; }

# tid of the thread the api thread gave this name: it opens its comm file, then writes the name
tid_named() {
    awk -v name="\"$1\"" '
        match($0, /task\/[0-9]+\/comm/) { split(substr($0, RSTART, RLENGTH), part, "/"); tid = part[2] }
        /^write\(/ && index($0, name) { print tid; exit }' "$api_file"
}

worker=$(tid_named memd-work)
fault=$(tid_named memd-fault)
if [ -z "$worker" ] || [ -z "$fault" ]; then
    echo "the engine's threads were not found"
    exit 1
fi

# children by the flags they were cloned with: none at all is the probe
children() {
    sed -nE "s/^clone\(child_stack=NULL, flags=$1.*= ([0-9]+)\$/\2/p" "$api_file" "$tmp/trace/t.$worker"
}

files_of() {
    case $1 in
    worker) echo "$tmp/trace/t.$worker" ;;
    fault) echo "$tmp/trace/t.$fault" ;;
    api) echo "$api_file" ;;
    probe) children '(0)' | sed "s,^,$tmp/trace/t.," ;;
    child) children '([A-Z].*SIGCHLD)' | sed "s,^,$tmp/trace/t.," ;;
    esac
}

# system calls made by a class of threads
made() {
    local file
    for file in $(files_of "$1"); do
        # what the test itself did on the api thread before and after is not the engine's
        sed -nE '/PR_SET_NAME, "api"/d; s/^([a-z_0-9]+)\(.*/\1/p' "$file"
    done | sort -u
}

# calls of the table whose column NUMBER (from 1) says WORD
listed() {
    awk -F'|' -v column=$(($1 + 2)) -v words="$2" '
        /^\| `/ {
            gsub(/[` ]/, "", $2); gsub(/ /, "", $column)
            if (index(" " words " ", " " $column " ") && $column != "") print $2
        }' "$table" | sort -u
}

wrong=0
for i in "${!columns[@]}"; do
    class=${columns[$i]}
    made "$class" >"$tmp/made"
    [ -s "$tmp/made" ] || { echo "$class: no system calls were seen" && wrong=1; }
    listed $((i + 1)) "yes may" >"$tmp/allowed"
    listed $((i + 1)) "yes" >"$tmp/certain"
    for call in $(comm -23 "$tmp/made" "$tmp/allowed"); do
        echo "$class: $call is made, and not listed in docs/syscalls.md"
        wrong=1
    done
    for call in $(comm -13 "$tmp/made" "$tmp/certain"); do
        echo "$class: $call is listed as certain in docs/syscalls.md, and not made"
        wrong=1
    done
    echo "$class: $(tr '\n' ' ' <"$tmp/made")"
done
exit $wrong
