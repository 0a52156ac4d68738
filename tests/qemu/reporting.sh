#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=240 san=no
#
# A guest whose kernel zeroes pages when they are freed (init_on_free), reports them to its device, and does not zero them
# again: what comes back of reported pages reads zeros, while memd merges, and packs what the guest keeps.
# shellcheck source=tests/qemu/lib.sh
. "$(dirname "$0")/lib.sh"

mib=256

step() { echo "[$SECONDS s] $*"; }
rss_mib() { awk '$1 == "VmRSS:" { print int($2 / 1024) }' "/proc/${guest_pid[zeros]}/status"; }
is_back() { [ "$(rss_mib)" -le "$1" ]; }
zeros() { in_guest zeros load "$1" >"$tmp/zeros" || fail "not zeros: $(cat "$tmp/zeros")"; }

vehicle_set_up
mkdir -p "$tmp/root/bin"
cp "$bin/tests/qemu/zeros" "$tmp/root/bin/"
# shellcheck disable=SC2016 # the guest's
printf '#!/bin/sh\nexec /data/tools/loader --library-path /data/tools/lib /bin/zeros "$@"\n' >"$tmp/root/bin/load"
chmod +x "$tmp/root/bin/load"
(cd "$tmp/root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1n) >"$tmp/added" || fail "no archive"
cat "$vehicle/initramfs" "$tmp/added" >"$tmp/initramfs"
printf '[domain common]\nuids = %s\n' "$(id -u)" >"$tmp/memd.conf"
memd_start
qemu_prefix=("$bin/memd-run" --name '{}' --domain common --run-dir "$run" --)
qemu_append[zeros]="init_on_free=1 loglevel=7"
qemu_launch zeros $mib -initrd "$tmp/initramfs"
qemu_booted zeros
grep -q 'mem auto-init:.*heap free:on' "$files/zeros.console" || skip "the guest's kernel does not zero what is freed"
in_guest zeros fill kept 30 word memd >/dev/null
step "booted"
for turn in 1 2 3; do
    in_guest zeros fill x 100 random >/dev/null
    full=$(rss_mib)
    in_guest zeros free x
    [ $turn != 2 ] || ctl pageout zeros >"$tmp/out" 2>&1 || fail "pageout: $(cat "$tmp/out")"
    await 30 is_back $((full - 64)) || fail "not reported: RSS was $full MiB and is $(rss_mib)"
    zeros 110
    in_guest zeros check >/dev/null
    step "turn $turn: RSS $full MiB, and zeros"
done
qemu_kill zeros
memd_end
