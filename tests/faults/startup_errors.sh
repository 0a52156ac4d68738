#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=60
#
# What keeps memd from starting is told in one line that names it, with an exit code, and nothing is left behind.
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"

set_up /dev/shm
ran=$tmp/ran # what memd was given to make and fill

# refuses CODE PATTERN COMMAND...: it ends with CODE, one line on stderr that matches PATTERN, and left nothing
refuses() {
    local code=$1 pattern=$2 status
    shift 2
    timeout 20 "$@" >"$tmp/out" 2>"$tmp/err"
    status=$?
    [ $status = "$code" ] || fail "$* ended with $status, not $code: $(cat "$tmp/err")"
    [ "$(wc -l <"$tmp/err")" = 1 ] || fail "$*: not one line: $(cat "$tmp/err")"
    grep -qE "$pattern" "$tmp/err" || fail "$*: does not say \"$pattern\": $(cat "$tmp/err")"
    ! grep -q 'memd: ready' "$tmp/out" || fail "$*: said that it is ready"
    [ ! -e "$ran" ] || fail "$*: left behind $(find "$ran")"
}

memd=("$bin/memd" --log-level warn --config "$tmp/memd.conf" --run-dir "$ran/run" --state-dir "$ran/state")

# make_ran COMMAND...: with $ran there, as it was
in_ran() {
    mkdir -p "$ran"
    "$@"
    rm -rf "$ran"
}

# ---- options and configuration: 2
refuses 2 "unknown .*option.*--mrege" "$bin/memd" --mrege on
refuses 2 "merge: 'maybe' is neither on nor off" "$bin/memd" --merge maybe
printf '[memd]\nmerge = perhaps\n' >"$tmp/bad.conf"
refuses 2 "bad.conf:2: merge" "$bin/memd" --config "$tmp/bad.conf"
printf '[domain a]\nuids = nobody-of-that-name\n' >"$tmp/bad.conf"
refuses 2 "bad.conf:2: uids" "$bin/memd" --config "$tmp/bad.conf"
refuses 2 "cannot read the configuration" "$bin/memd" --config "$tmp/none.conf"

# ---- directories: 1, and what memd made goes again
left_alone() {
    local before
    echo "a file" >"$ran/file"
    before=$(find "$ran" | sort)
    mv "$ran" "$ran.kept" # refuses() looks whether $ran is there
    refuses 1 "$1" "${memd[@]/#$ran/$ran.kept}"
    mv "$ran.kept" "$ran"
    [ "$(find "$ran" | sort)" = "$before" ] || fail "left behind: $(find "$ran")"
}
state_is_a_file() {
    echo "a file" >"$ran/state"
    left_alone "cannot write to the state directory .*/state: "
}
run_is_a_file() {
    echo "a file" >"$ran/run"
    left_alone "cannot (make|write to) the run directory .*/run: "
}
in_ran state_is_a_file
in_ran run_is_a_file

# ---- another memd
memd_start
lines=$(find "$run" | sort)
refuses 1 "another memd is serving $run" "$bin/memd" --log-level warn --run-dir "$run" \
    --state-dir "$ran/s"
[ "$(find "$run" | sort)" = "$lines" ] || fail "the second memd changed the first one's directory"
ctl status >/dev/null || fail "the first memd does not answer any more"
memd_end

# ---- the directory of frames belongs to somebody else
mkdir "$run/store"
chmod 777 "$run/store"
refuses 1 "$run/store is not a directory of this user alone" "$bin/memd" --log-level warn \
    --run-dir "$run" --state-dir "$ran/state"
rmdir "$run/store"
[ -z "$(ls -A "$run")" ] || fail "left behind: $(find "$run")"

if [ "$(id -u)" = 0 ]; then
    # ---- no device: a /dev without it, in a mount namespace
    refuses 1 "userfaultfd is missing" unshare --mount -- sh -c \
        'mount -t tmpfs memd-test /dev && mknod -m 666 /dev/null c 1 3 && exec "$@"' sh "${memd[@]}"
    # ---- an ordinary user without access to it
    cp "$bin/memd" "$tmp/memd" && chmod 755 "$tmp/memd" "$tmp"
    mkdir -m 755 "$tmp/dev"
    # shellcheck disable=SC2016 # $1 is the inner shell's
    refuses 1 "userfaultfd: Permission denied; .*setfacl" unshare --mount -- sh -c \
        'cp -a /dev/null /dev/userfaultfd "$1/dev/" && chmod 600 "$1/dev/userfaultfd" &&
        mount --bind "$1/dev" /dev && shift && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"' \
        sh "$tmp" "$tmp/memd" --run-dir "$ran/run" --state-dir "$ran/state"
else
    echo "skip: a /dev without userfaultfd needs root"
fi

# ---- and with none of this wrong, it starts where it just refused to, and ends leaving nothing
: >"$tmp/memd.out" # of the first one
"${memd[@]}" >"$tmp/memd.out" 2>>"$tmp/memd.err" &
memd_pid=$!
await 10 memd_is_ready || fail "memd did not get ready"
kill -TERM $memd_pid
wait $memd_pid || fail "memd ended with $?"
memd_pid=
[ "$(find "$ran" -type f -o -type s)" = "$ran/state/restarts" ] || fail "left behind: $(find "$ran")"
echo "every refusal was one line"
