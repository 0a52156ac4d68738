#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=180 san=no
#
# What few programs do to their merged memory means what it always meant, and comes back. The same without a
# memd.
# shellcheck source=tests/preload/lib.sh
. "$(dirname "$0")/lib.sh"

program=$bin/tests/preload/rare

try() {
    local said
    said=$(under "$1" "$program" "$@" 2>"$tmp/$1.err") || fail "$* exited with $?: $(cat "$tmp/$1.err")"
    [ "${said##*$'\n'}" = ok ] || fail "$* said: $said"
}

set_up /dev/shm
# pages that are samples are merged later, which in small arenas may be most of them
memd_options=(--sample-pages 0)
cases="${CASES:-stack children stray vforked refused shared_over vectored hole small dumped}"
if unshare -U true 2>/dev/null; then cases+=" namespaces"; else echo "no user namespaces here: not tried"; fi
for case in $cases; do
    try "$case" alone
done
memd_start
for case in $cases; do
    try "$case"
done
await 5 is 0 total vms || fail "VMs are left: $(ctl status)"
frames_are_gone
memd_end
