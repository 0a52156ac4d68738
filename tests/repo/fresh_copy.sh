#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=180 san=no
#
# What a commit would hold is enough to build from, in a directory of the user's choice, without a trace in the
# source; `make clean` takes away what was built and nothing else.
set -euo pipefail

fail() {
    echo "FAIL: $*"
    exit 1
}

if ! git -C "$MEMD_SOURCE_DIR" rev-parse --git-dir >/dev/null 2>&1; then
    echo "$MEMD_SOURCE_DIR is not a git repository: nothing tells what belongs to a commit"
    exit 77
fi
copy=$MEMD_TEST_TMP/copy built=$MEMD_TEST_TMP/built
mkdir "$copy"
git -C "$MEMD_SOURCE_DIR" ls-files -co --exclude-standard -z | while IFS= read -rd '' file; do
    # a tracked file may be gone from the working tree
    [ ! -e "$MEMD_SOURCE_DIR/$file" ] || printf '%s\0' "$file"
done | tar -C "$MEMD_SOURCE_DIR" --null -T - -cf - | tar -C "$copy" -xf -

# made TARGET...
made() {
    env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS -u SAN make -C "$copy" --no-print-directory B="$built" "$@" \
        >"$MEMD_TEST_TMP/make.log" 2>&1 || fail "make $*: $(tail -n 30 "$MEMD_TEST_TMP/make.log")"
}

list() {
    (cd "$copy" && find . -printf '%P %s %T@\n' | sort)
}

list >"$MEMD_TEST_TMP/before"
made help
grep -q '^make demo' "$MEMD_TEST_TMP/make.log" || fail "make help says nothing of demo"
made -j"$(nproc)" all
list | diff "$MEMD_TEST_TMP/before" - || fail "building changed the source directory"
for program in memd memctl memvm mkimage; do
    "$built/$program" --help >/dev/null || fail "$program --help"
done
[ -x "$built/bench/dedup" ] && [ -x "$built/bench/qemu" ] && [ -x "$built/bench/pager" ] && [ -x "$built/bench/balloon" ] && [ -x "$built/examples/embed" ] || fail "benchmark or example is missing"

made all
! grep -q . "$MEMD_TEST_TMP/make.log" || fail "a second make builds again: $(cat "$MEMD_TEST_TMP/make.log")"
made CC=gcc CFLAGS=-DNOTHING=1 "$built/memctl"
grep -q 'memd/ctl/main.c' "$MEMD_TEST_TMP/make.log" || fail "changed flags build nothing anew"

touch "$built/of-the-user"
made clean
[ "$(ls "$built")" = of-the-user ] || fail "make clean left $(ls "$built")"
list | diff "$MEMD_TEST_TMP/before" - || fail "make clean changed the source directory"
