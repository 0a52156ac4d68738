#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: san=no
#
# Pages come home where the kernel commits memory strictly (vm.overcommit_memory 2): there a mapping that is made for
# that in addition could be refused when the one it replaces is gone already. The setting is only made believe, to the
# programs run here; that they take notice is seen by their system calls, no mapping being left behind where one moves.
set -uo pipefail

tests=${MEMD_BUILD_DIR:?the tests are run by tests/run.sh}/tests/engine
tmp=${MEMD_TEST_TMP:?}

skip() {
    echo "skipped: $1"
    exit 77
}

[ "$(id -u)" = 0 ] || skip "making them believe it needs root"
command -v strace >/dev/null || skip "strace is not installed"
strace -o /dev/null true 2>/dev/null || skip "strace may not trace here (ptrace is forbidden)"

# strictly COMMAND...
strictly() {
    # shellcheck disable=SC2016
    unshare --mount -- sh -c 'mount --bind "$1" /proc/sys/vm/overcommit_memory && shift && exec "$@"' sh \
        "$tmp/mode" "$@"
}

# moved FLAGS: mremap calls with exactly these
moved() {
    grep -c "mremap(.*, $1, 0x" "$tmp/trace"
}

echo 2 >"$tmp/mode"
strictly strace -f -qq -e trace=mremap -o "$tmp/trace" "$tests/readers" || exit 1
if [ "$(moved 'MREMAP_MAYMOVE|MREMAP_FIXED')" -eq 0 ]; then
    echo "nothing came home"
    exit 1
fi
if [ "$(moved 'MREMAP_MAYMOVE|MREMAP_FIXED|MREMAP_DONTUNMAP')" -ne 0 ]; then
    echo "mappings were made in addition"
    exit 1
fi
echo 0 >"$tmp/mode"
strictly strace -f -qq -e trace=mremap -o "$tmp/trace" "$tests/readers" || exit 1
if [ "$(moved 'MREMAP_MAYMOVE|MREMAP_FIXED|MREMAP_DONTUNMAP')" -eq 0 ]; then
    echo "the calls are not told apart"
    exit 1
fi

echo 2 >"$tmp/mode"
strictly "$tests/lost_write" || exit 1
strictly "$tests/vmas" || exit 1
echo "pages come home where memory is committed strictly"
