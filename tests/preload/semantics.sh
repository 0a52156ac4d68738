#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=180 san=no
#
# A program that knows nothing of memd does to its merged memory what programs do: everything means what it
# always meant. The same without a memd.
# shellcheck source=tests/preload/lib.sh
. "$(dirname "$0")/lib.sh"

program=$bin/tests/preload/program

try() {
    local said
    said=$(under "$1" "$program" "$@" 2>"$tmp/$1.err") || fail "$* exited with $?: $(cat "$tmp/$1.err")"
    [ "${said##*$'\n'}" = ok ] || fail "$* said: $said"
}

# A child that goes on has a session and a name of its own.
child_is_known() {
    grep -q "child\.$child_pid " <<<"$(ctl vm list 2>/dev/null)"
}

child_says() { grep -qs '^child' "$tmp/child.out"; }

try_child() {
    mkfifo "$tmp/in"
    under child "$program" child <"$tmp/in" >"$tmp/child.out" 2>"$tmp/child.err" &
    local pid=$!
    guest_pid[child]=$pid
    exec 9>"$tmp/in"
    await 40 child_says || fail "no child: $(cat "$tmp/child.err")"
    child_pid=$(sed -n 's/^child //p' "$tmp/child.out")
    await 10 child_is_known || fail "the child is not known: $(ctl vm list)"
    exec 9>&-
    wait "$pid" || fail "child exited with $?: $(cat "$tmp/child.err")"
    unset 'guest_pid[child]'
    [ ! -s "$tmp/child.err" ] || fail "there was something to say: $(cat "$tmp/child.err")"
}

set_up /dev/shm
# pages that are samples are merged later, which in small arenas may be most of them
memd_options=(--sample-pages 0)
cases="discard unmap map_over resize move protect lock advise forks userfault descriptors nothing signals pieces cancel main_first child_remaps guards"
for case in $cases; do
    try "$case" alone
done
[ "$(grep -c 'no memd answers' "$tmp/signals.err")" = 1 ] || fail "not one warning: $(cat "$tmp/signals.err")"
# memd appears later
under late "$program" discard >"$tmp/late.out" 2>"$tmp/late.err" &
late=$!
guest_pid[late]=$late
await 20 grep -q 'no memd answers' "$tmp/late.err" || fail "no warning: $(cat "$tmp/late.err")"
[ ! -s "$tmp/nothing.err" ] || fail "a warning without a reason: $(cat "$tmp/nothing.err")"
memd_start
wait "$late" || fail "late exited with $?: $(cat "$tmp/late.err")"
unset 'guest_pid[late]'
for case in $cases; do
    try "$case"
done
try_child
await 5 is 0 total vms || fail "VMs are left: $(ctl status)"
memd_end
# some pages are set aside as samples whenever one looks
memd_options=(--sample-ms 100)
memd_start
for case in discard unmap resize move lock; do
    try "$case"
done
# nobody waits for a memd that does not answer
kill -STOP "$memd_pid"
for case in discard unmap resize lock forks; do
    try "$case" alone
done
kill -CONT "$memd_pid"
await 5 is 0 total vms || fail "VMs are left: $(ctl status)"
frames_are_gone
memd_end
