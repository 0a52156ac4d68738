#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=400
#
# The balloon of a VMM that embeds libmemd, end to end: known to memd without a word in its configuration, moved by
# memctl, its memory with the host; memd killed and started anew in between; a VMM that stands still; a VMM that is
# killed; rules of the configuration by name. The guests check every byte they keep.
# shellcheck source=tests/faults/lib.sh
. "$(dirname "$0")/lib.sh"

# field NAME KEY: of the balloon of VM NAME
field() {
    ctl balloon list --json | awk -v vm="\"$1\"" -v key="\"$2\":" '
        $1 == "\"vm\":" { here = $2 == vm "," }
        here && $1 == key { sub(/,$/, ""); gsub(/"/, ""); sub(/^ *[a-z_]*: */, ""); print; exit }'
}
is_field() { [ "$(field "$1" "$2")" = "$3" ]; }
rss_mib() { awk '/^RssAnon/ { print int($2 / 1024) }' "/proc/${guest_pid[$1]}/status"; }
rss_below() { [ "$(rss_mib "$1")" -lt "$2" ]; }

set_up /dev/shm
cat >>"$tmp/memd.conf" <<'END'
[vm rule*]
balloon-min = 100M
balloon-max = 120M
END
memd_start
guest g1 --mem 128 --balloon --verify 100
await 10 is_field g1 state ready || fail "the balloon is not known: $(ctl balloon list)"
[ "$(field g1 address)" = embedded ] || fail "its address: $(field g1 address)"
[ "$(field g1 actual_bytes)" = $((128 << 20)) ] || fail "$(ctl balloon list)"
for can in target actual stats reporting events driver; do
    ctl balloon list --json | sed -n "/\"can\"/,/\]/p" | grep -q "\"$can\"" || fail "$can is not among: $(ctl balloon list --json)"
done
whole=$(rss_mib g1)

# ---- in, and the memory is the host's
ctl balloon set g1 80M --wait --timeout $((20 * patience)) >/dev/null || fail "set: $(ctl balloon list)"
[ "$(field g1 actual_bytes)" = $((80 << 20)) ] || fail "$(ctl balloon list)"
# under a sanitizer its shadow memory grows meanwhile
[ -n "${MEMD_SAN:-}" ] || await 10 rss_below g1 $((whole - 44)) || fail "of 48 MiB the host has $((whole - $(rss_mib g1)))"
ctl balloon set g1 10M 2>"$tmp/err" && fail "below the floor"
grep -q 'below the floor' "$tmp/err" || fail "$(cat "$tmp/err")"
ctl balloon set g1 1G 2>"$tmp/err" && fail "above RAM"
ctl balloon stats g1 | grep -q '^total' || fail "no statistics: $(ctl balloon stats g1)"
guest_check g1

ctl balloon limits g1 --min 76M --max 124M >/dev/null || fail "limits"

# ---- memd dies, the guest stays as it is, and the next memd finds it so
memd_kill
memd_start
await 15 is_field g1 state ready || fail "after a restart: $(ctl balloon list)"
is_field g1 target_bytes $((80 << 20)) || fail "after a restart the target is $(field g1 target_bytes)"
is_field g1 actual_bytes $((80 << 20)) || fail "after a restart the guest has $(field g1 actual_bytes)"
ctl balloon set g1 100M --wait --timeout $((20 * patience)) >/dev/null || fail "set: $(ctl balloon list)"
is_field g1 min_bytes $((76 << 20)) && is_field g1 max_bytes $((124 << 20)) || fail "limits were forgotten: $(ctl balloon list --json)"
ctl balloon set g1 125M 2>/dev/null && fail "above its maximum, after a restart"
ctl balloon limits g1 --max 0 >/dev/null || fail "limits"
ctl balloon set g1 all --wait --timeout $((20 * patience)) >/dev/null || fail "set: $(ctl balloon list)"
is_field g1 actual_bytes $((128 << 20)) || fail "$(ctl balloon list)"
guest_check g1

# ---- rules by name
guest rule-1 --mem 128 --balloon --verify 100
await 10 is_field rule-1 state ready || fail "$(ctl balloon list)"
is_field rule-1 floor_bytes $((100 << 20)) || fail "its floor is $(field rule-1 floor_bytes)"
ctl balloon set rule-1 90M 2>/dev/null && fail "below the minimum of its rule"
ctl balloon set rule-1 125M 2>/dev/null && fail "above the maximum of its rule"
guest none --mem 32 --verify 100
[ -z "$(field none state)" ] || fail "a VM without a balloon has one"

# ---- a VMM that stands still keeps nobody else waiting
kill -STOP "${guest_pid[g1]}"
ctl balloon set g1 100M 2>"$tmp/err" && fail "a VMM that stands still has answered"
grep -q 'does not answer' "$tmp/err" || fail "$(cat "$tmp/err")"
ctl balloon set rule-1 110M --wait --timeout $((20 * patience)) >/dev/null || fail "the other: $(ctl balloon list)"
is_field g1 state failed || fail "$(ctl balloon list)"
kill -CONT "${guest_pid[g1]}"
await 20 is_field g1 state ready || fail "$(ctl balloon list)"

# ---- it goes with its VM
guest_kill g1
await 10 is_field g1 state '' || fail "the balloon of a VM that is gone: $(ctl balloon list)"
ctl balloon set g1 100M 2>"$tmp/err" && fail "a balloon that is gone was moved"
grep -q 'no balloon is known' "$tmp/err" || fail "$(cat "$tmp/err")"
guest g1 --mem 128 --balloon --verify 100
await 10 is_field g1 state ready || fail "the next of that name: $(ctl balloon list)"
is_field g1 min_bytes $((76 << 20)) && is_field g1 max_bytes 0 || fail "what was said of it is forgotten: $(ctl balloon list --json)"
is_field g1 actual_bytes $((128 << 20)) || fail "$(ctl balloon list)"

# its VMM closes the engine and goes on: from there on it has none
guest_check rule-1
for i in g1 rule-1 none; do guest_end "$i"; done
await 10 is_field rule-1 state '' || fail "$(ctl balloon list)"
memd_end
