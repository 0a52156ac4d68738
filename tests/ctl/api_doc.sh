#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=60
#
# docs/api.md, held against the control server: its examples run as they stand and answer what it shows, every
# key an answer has is described, and so is every metric.
# shellcheck source=tests/ctl/lib.sh
. "$(dirname "$0")/lib.sh"

command -v curl >/dev/null || skip "needs curl"
doc=$top/docs/api.md
serve_start

# blocks of the document: N.sh, and N.json with the answer to it, if there is one
awk -v dir="$tmp" '
    /^```sh$/   { n++; file = dir "/" n ".sh"; next }
    /^```json$/ { file = dir "/" n ".json"; next }
    /^```$/     { file = ""; next }
    file != ""  { print >file }
    END         { print n >(dir "/count") }' "$doc"
count=$(cat "$tmp/count")
[ "$count" -ge 8 ] || fail "found only $count examples in docs/api.md"

# answers differ in numbers and versions, not in what they are called and of which kind they are
shape() {
    sed -E 's/: -?[0-9][0-9.]*(,?)$/: N\1/; s/"(version|release)": "[^"]*"/"\1": "V"/' "$1"
}

for n in $(seq "$count"); do
    sed "s#/run/memd#$dir#g" "$tmp/$n.sh" >"$tmp/now.sh"
    bash -euo pipefail "$tmp/now.sh" >"$tmp/out" 2>"$tmp/err" || fail "example $n failed: $(cat "$tmp/$n.sh")"
    [ -s "$tmp/out" ] || fail "example $n answered nothing: $(cat "$tmp/$n.sh")"
    if [ -f "$tmp/$n.json" ]; then
        # of several commands the last one's answer is shown
        tail -n "$(wc -l <"$tmp/$n.json")" "$tmp/out" >"$tmp/last"
        shape "$tmp/last" >"$tmp/is"
        shape "$tmp/$n.json" | diff - "$tmp/is" || fail "example $n answers otherwise: $(cat "$tmp/$n.sh")"
    elif grep -q '"error"' "$tmp/out"; then
        fail "example $n was refused: $(cat "$tmp/$n.sh")"
    fi
done

# ---- nothing undocumented
ctl 0 status --json
cp "$tmp/out" "$tmp/answers"
for words in "agent list" "why alpha"; do
    # shellcheck disable=SC2086
    ctl 0 $words --json
    cat "$tmp/out" >>"$tmp/answers"
done
for key in $(grep -o '^ *"[a-z_]*":' "$tmp/answers" | tr -d '": ' | sort -u); do
    grep -q "\`$key\`" "$doc" || fail "docs/api.md does not describe the key $key"
done
metrics=$(curl -sS --unix-socket "$dir/control.sock" http://memd/metrics | sed -n 's/^# TYPE \([a-z_]*\) .*/\1/p')
[ "$(wc -l <<<"$metrics")" -gt 50 ] || fail "/metrics lists too little: $metrics"
for name in $metrics; do
    key=${name#memd_}
    key=${key#vm_}
    key=${key#domain_}
    grep -qE "\`$key\`|\`${name}(_total|_info)?[\`{]" "$doc" || [ "$key" = cpu_seconds ] ||
        fail "docs/api.md does not describe the metric $name"
done

# ---- nothing documented that is not there
# shellcheck disable=SC2016 # the quotes of Markdown
table=$(sed -n 's/^| `\([A-Z]*\) \([^`]*\)` |.*/\1 \2/p' "$doc")
[ "$(wc -l <<<"$table")" = 22 ] || fail "the table of requests is not where it was: $table"
while read -r method path; do
    path=${path//\{vm\}/alpha}
    path=${path//\{job\}/1}
    code=$(curl -sS -o /dev/null -w '%{http_code}' -X "$method" --unix-socket "$dir/control.sock" "http://memd$path")
    case $code in 404 | 405) fail "$method $path: status $code" ;; esac
done <<<"$table"
serve_end
echo "$count examples of docs/api.md do what it says"
