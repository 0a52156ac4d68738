#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=120
#
# memctl balloon: what it asks of the daemon, what it prints, how it waits, its exit code.
# shellcheck source=tests/ctl/lib.sh
. "$(dirname "$0")/lib.sh"

ctl 3 balloon list
err "^memctl: no memd at"
serve_start

# ---- looking
ctl 0 balloon list
out "^VM +BACKEND +STATE +RAM +ACTUAL +TARGET +FLOOR +AUTO"
out "^alpha +qmp +ready +1.0 GiB +1.0 GiB +- +232 MiB +off"
out "^beta +qmp +gone +- +- +- +- +off$"
out "^beta: nobody listens at /run/beta.qmp$"
ctl 0 balloon list --json
curl -sS --unix-socket "$dir/control.sock" http://memd/v1/balloons | cmp - "$tmp/out" ||
    fail "balloon list --json is not what GET /v1/balloons answers"
ctl 0 balloon stats alpha
out "^free +300 MiB$"
out "^major_faults +42$"
out "^as the guest said 1.5 s ago$"
! grep -q swap_in "$tmp/out" || fail "statistics the guest did not send"
ctl 0 balloon stats alpha --json
out '^  "swap_in_bytes": null'
ctl 1 balloon stats beta
err "^memctl: no statistics of beta: nobody listens at"
ctl 1 balloon stats gamma
err "^memctl: no balloon is known of a VM 'gamma': it embeds none, and memd.conf"
ctl 1 balloon stats a/b
ctl 2 balloon stats
ctl 2 balloon
err "needs list\|set\|auto\|stats\|limits"

# ---- by the policy
ctl 0 balloon auto on alpha
out "^alpha: auto on \(spare\)$"
ctl 0 balloon auto off
out "^alpha: auto off \(off\)$"
out "^beta: auto off \(off\)$"
ctl 1 balloon auto on gamma
err "^memctl: no balloon is known of a VM 'gamma'"
ctl 2 balloon auto maybe
err "'maybe' is neither on nor off"
ctl 2 balloon auto

# ---- moving
ctl 0 balloon set alpha 512M
out "^alpha: target 512 MiB, the guest has "
[ "$(tell get balloon)" = "536870912 0 0" ] || fail "set 512M asked for $(tell get balloon)"
fake balloon_steps=4
ctl 0 balloon set alpha 512M --wait
out "^alpha: target 512 MiB, the guest has 512 MiB$"
ctl 0 balloon set alpha 1G --wait --json
out '"actual_bytes": 1073741824'
ctl 0 balloon set alpha all --wait --timeout 20
out "^alpha: target 1.0 GiB, the guest has 1.0 GiB$"
ctl 1 balloon set alpha 1M
err "^memctl: that is below the floor$"
ctl 1 balloon set alpha 2G
err "^memctl: that is more than the RAM of the VM$"
ctl 1 balloon set beta 512M
err "^memctl: nobody listens at /run/beta.qmp$"
ctl 1 balloon set beta all
err "nobody listens"
ctl 1 balloon set gamma 512M
err "no balloon is known"
for size in 0 lots -1 1Q 512MB ''; do
    ctl 2 balloon set alpha -- "$size"
    err "neither a size such as 2G nor all"
done
ctl 2 balloon set alpha 512
err "'512' is less than 1M: is a unit missing"
ctl 2 balloon set alpha
ctl 2 balloon set alpha 1G 2G
ctl 2 balloon set alpha 1G --timeout 3
err "goes with --wait"

# each errno has a status of its own; the line is the VMM's
for case in 19:409:ENODEV 6:409:ENXIO 110:504:ETIMEDOUT 71:502:EPROTO 107:503:ENOTCONN 95:409:ENOTSUP; do
    IFS=: read -r errno status name <<<"$case"
    fake "balloon_error=$errno"
    ctl 1 balloon set alpha 512M
    err "^memctl: the VMM refuses$"
    curl -sS -o "$tmp/out" -w '%{http_code}' --unix-socket "$dir/control.sock" --data '{"target_bytes": 536870912}' \
        http://memd/v1/balloons/alpha >"$tmp/status"
    [ "$(cat "$tmp/status")" = "$status" ] || fail "$name: status $(cat "$tmp/status")"
    out "\"code\": \"$name\""
done

# ---- bodies
for body in '{}' '[]' '{"target_bytes": "1G"}' '{"target_bytes": -1}' '{"target_bytes": 1.5}' '{"size": 1}' \
    '{"min_bytes": null}' '{"max_bytes": 1e99}'; do
    status=$(curl -sS -o "$tmp/out" -w '%{http_code}' --unix-socket "$dir/control.sock" --data "$body" \
        http://memd/v1/balloons/alpha)
    [ "$status" = 400 ] || fail "$body: status $status"
done

# ---- waiting that ends early: 1, the target stays
waits() {
    [ "$(tell get polls)" -gt 2 ]
}
for signal in INT TERM; do
    fake balloon_steps=0
    env --default-signal=INT "$bin/memctl" balloon set alpha 512M --wait >"$tmp/out" 2>"$tmp/err" &
    pid=$!
    await 20 waits || fail "memctl does not look"
    kill -$signal $pid
    wait $pid
    [ $? = 1 ] || fail "interrupted, memctl ended with another code than 1"
    err "^memctl: interrupted at 1.0 GiB; the target of 512 MiB stays$"
    [ "$(tell get balloon)" = "536870912 0 0" ] || fail "SIG$signal changed the target"
done
fake balloon_steps=0
ctl 1 balloon set alpha 512M --wait --timeout 1
err "^memctl: time-out at 1.0 GiB; the target of 512 MiB stays$"
ctl 1 balloon set alpha 512M --wait
err "^memctl: the guest stays at 1.0 GiB for 15 s now; the target of 512 MiB stays$"
fake balloon_steps=0 balloon_state=2
ctl 1 balloon set alpha 512M --wait
err "^memctl: stopped waiting at 1.0 GiB of 512 MiB: the guest has no balloon driver bound$"
fake balloon_mute=1
ctl 1 balloon set alpha 512M --wait
err "this VMM does not say how far the guest has got"

if command -v script >/dev/null; then
    fake balloon_steps=6
    TERM=xterm script -qec "$bin/memctl balloon set alpha 512M --wait" /dev/null >"$tmp/out" 2>"$tmp/err" </dev/null ||
        fail "balloon set --wait on a terminal"
    out "balloon +[0-9]+%"
else
    echo "skip: progress on a terminal needs script(1)"
fi

# ---- limits
fake
ctl 0 balloon limits alpha
out "^alpha: min not set \(floor 232 MiB\), max not set$"
ctl 0 balloon limits alpha --min 256M --max 768M
out "^alpha: min 256 MiB \(floor 256 MiB\), max 768 MiB$"
[ "$(tell get balloon)" = "0 268435456 805306368" ] || fail "limits asked for $(tell get balloon)"
ctl 0 balloon set alpha all
out "^alpha: target 768 MiB"
ctl 0 balloon limits alpha --max 0 --json
out '"min_bytes": 268435456'
out '"max_bytes": 0'
ctl 1 balloon limits alpha --min 2G
err "above the RAM"
ctl 2 balloon limits alpha --min lots
err "'lots' is not a size"
ctl 2 balloon list --min 1G

curl -sS --unix-socket "$dir/control.sock" http://memd/metrics >"$tmp/out"
out '^memd_balloon_state\{vm="beta",backend="qmp",state="gone"\} 1$'
out '^memd_balloon_ram_bytes\{vm="alpha"\} 1073741824$'
! grep -q '^memd_balloon_rule{' "$tmp/out" || fail "a rule of balloons that are not moved"
ctl 0 balloon auto on alpha
curl -sS --unix-socket "$dir/control.sock" http://memd/metrics >"$tmp/out"
out '^memd_balloon_rule\{vm="alpha",rule="spare"\} 1$'
! grep -qE '^memd_balloon_(ram|floor)_bytes\{vm="beta"\}' "$tmp/out" || fail "sizes of a VM nobody knows"
serve_end
echo "memctl balloon does what it says"
