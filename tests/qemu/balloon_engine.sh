#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=450 san=no
#
# The memory policy and a guest that has both, a balloon and an engine (QEMU under memd-run): when the budget is lowered
# the balloon is used and pages are packed beside it, for one VM with one budget, and memd says so in numbers. The guest
# keeps every byte, and has its memory again when there is no budget any more.
# shellcheck source=tests/qemu/lib.sh
. "$(dirname "$0")/lib.sh"

mib=256

step() { echo "[$SECONDS s] $*"; }
document() { curl -sS --unix-socket "$run/control.sock" "http://memd/v1/balloons/both"; }
balloon() { document | sed -nE "s/^  \"$1\": \"?([^\",]*)\"?,?\$/\1/p"; }
actual_mib() { echo $(($(balloon actual_bytes | sed 's/null/0/') >> 20)); }
state_is() { [ "$(balloon state)" = "$1" ]; }
is_below() { [ "$(actual_mib)" -lt "$1" ]; }
is_full() { [ "$(actual_mib)" -ge $((mib - 1)) ]; }
packed() { ctl vm show both --json | sed -n 's/^ *"page_outs": \([0-9]*\).*/\1/p' | head -n 1; }
has_packed() { [ "$(packed)" -gt 0 ]; }
told() { ctl balloon list; ctl why both; ctl budget; }

# decided FILTER: some decision memd remembers satisfies it; FILTER is awk over "object.key value" lines of one decision
decided() {
    ctl why both --json | awk '
        /^    \{/     { n++; object = "" }
        /^      "[a-z]*": \{/ { object = $1; gsub(/[":]/, "", object); object = object "."; next }
        /^      \}/   { object = ""; next }
        /^ *"[a-z_]*": / { key = $1; gsub(/[":]/, "", key); value = $2; gsub(/[",]/, "", value); is[n, object key] = value }
        END { for (i = 1; i <= n; i++) if ('"$1"') exit 0; exit 1 }'
}

vehicle_set_up
command -v curl >/dev/null || skip "needs curl"
{
    printf '[domain common]\nuids = %s\n' "$(id -u)"
    printf '[vm both]\nballoon = qmp:%s\nballoon-min = 128M\nballoon-auto = on\n' "$files/both.balloon"
} >"$tmp/memd.conf"
memd_start
qemu_prefix=("$bin/memd-run" --name '{}' --domain common --run-dir "$run" --)
# what its QEMU gives back is the balloon's doing and memd's
qemu_launch both $mib -global virtio-balloon-pci.deflate-on-oom=on -qmp "unix:both.balloon,server=on,wait=off" -set device.balloon.free-page-reporting=off
qemu_booted both
await 30 state_is ready || fail "booted: $(ctl balloon list)"
ctl vm show both >"$tmp/out" || fail "the guest has no engine: $(ctl status)"
# memory the guest minds, and leaves alone; memory that was used, and that nobody uses any more
in_guest both fill kept 40 files 1 >/dev/null
in_guest both fill x 80 zero >/dev/null
in_guest both free x
step "booted"

# ---- less than the guest's own pages need: both rungs have to give
ctl budget 96M >/dev/null || fail "no budget"
await 60 is_below 240 || fail "the balloon is not used: $(told)"
await 60 has_packed || fail "no page is packed: $(told)"
await 30 decided 'is[i, "balloon.asked_bytes"] + 0 > 0 && is[i, "balloon.rule"] == "spare"' ||
    fail "no decision asks for the balloon: $(ctl why both --json | head -n 120)"
await 30 decided 'is[i, "orders"] + 0 > 0 && is[i, "balloon.actual_bytes"] + 0 > 0' ||
    fail "no decision has an order beside the balloon: $(ctl why both --json | head -n 120)"
decided 'is[i, "balloon.available_bytes"] + 0 > 0 && is[i, "balloon.reserve_bytes"] + 0 > 0' || fail "no numbers of the guest"
[ "$(actual_mib)" -ge 128 ] || fail "below its floor: $(told)"
metric() { curl -sS --unix-socket "$run/control.sock" http://memd/metrics | awk -v name="$1" '$1 == name { print $2 }'; }
for name in orders asked_bytes returned_bytes; do
    for rung in balloon pager; do
        await 20 eval '[ "$(metric "memd_policy_${name}_total{rung=\"$rung\"}")" -gt 0 ]' ||
            fail "$name of the $rung: $(curl -sS --unix-socket "$run/control.sock" http://memd/metrics | grep memd_policy)"
    done
done
[ "$(metric 'memd_policy_decisions_total{reason="ordered"}')" -gt 0 ] || fail "no decisions are counted"
step "the guest has $(actual_mib) MiB, $(packed) pages were packed"
in_guest both check >/dev/null || fail "the guest has lost bytes"

# ---- without a budget everything goes back
ctl budget off >/dev/null
await 90 is_full || fail "not let go without a budget: $(told)"
in_guest both check >/dev/null || fail "the guest has lost bytes"
qemu_kill both
memd_end
