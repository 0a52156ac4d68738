#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The manual pages name exactly the options the programs have, and are sound as far as the tools here can tell.
# shellcheck source=tests/ctl/lib.sh
. "$(dirname "$0")/lib.sh"

man=$top/docs/man

# words of a page without its markup: \- is a dash, \fB and the like are fonts
plain() {
    sed -e '/^\.\\"/d' -e 's/\\-/-/g; s/\\f[BIRP]//g' "$1"
}

# compare NAME PAGE: options in the file $tmp/help against those of the page
compare() {
    grep -oE -- '--[a-z][a-z-]*' "$tmp/help" | sort -u >"$tmp/has"
    plain "$man/$2" | grep -oE -- '--[a-z][a-z-]*' | sort -u >"$tmp/says"
    diff "$tmp/has" "$tmp/says" >"$tmp/out" || fail "$2 and $1 --help differ"
}

"$bin/memd" --help >"$tmp/help" || fail "memd --help"
compare memd memd.8

"$bin/memctl" --help >"$tmp/help" || fail "memctl --help"
commands=$(sed -n '/COMMAND$/,/^Options/s/^  \([a-z-]*\( \(list\|show\|set\|on\|off\|reclaim\|stats\|limits\|auto\)\)\{0,1\}\) .*/\1/p' "$tmp/help")
[ "$(wc -l <<<"$commands")" = 23 ] || fail "memctl --help lists other commands: $commands"
while read -r command; do
    # shellcheck disable=SC2086
    "$bin/memctl" $command --help >>"$tmp/help" || fail "memctl $command --help"
    plain "$man/memctl.1" | grep -E "^(\.BR? \"?)?$command\b" >/dev/null || fail "memctl.1 does not describe $command"
done <<<"$commands"
echo "--merge" >>"$tmp/help" # an option of memd, which an example starts
compare memctl memctl.1

"$bin/memvm" --help >"$tmp/help" 2>&1 || fail "memvm --help"
compare memvm memvm.1

"$bin/memd-agent" --help >"$tmp/help" || fail "memd-agent --help"
compare memd-agent memd-agent.8

"$bin/memd-run" --help >"$tmp/help" || fail "memd-run --help"
compare memd-run memd-run.1

# the file takes every option that takes a value, by its name without dashes
"$bin/memd" --help | sed -n 's/^  --\([a-z-]*\) .*/\1/p' | grep -vxE 'config|daemon|help|version' >"$tmp/keys"
plain "$man/memd.conf.5" >"$tmp/conf"
while read -r key; do
    grep -qE "\b$key\b" "$tmp/conf" || fail "memd.conf.5 does not name $key"
done <"$tmp/keys"

if command -v groff >/dev/null && [ -e /usr/share/groff/current/tmac/an.tmac ]; then
    for page in "$man"/*; do
        groff -man -Tutf8 -ww -z "$page" 2>"$tmp/err" || fail "$page"
        [ ! -s "$tmp/err" ] || fail "groff complains of $page"
    done
else
    echo "skip: the look of the pages needs groff with its man macros"
fi
echo "pages and programs name the same options"
