#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# tidy.sh NODES FILE...: clang-tidy over some files, with the flags of the build; without its count of suppressed
# warnings. NODES is how many states the analyzer looks at in a function, at most.
set -uo pipefail
nodes=$1
shift
timeout 600 clang-tidy --quiet --config-file="$(dirname "$0")/clang-tidy" "$@" -- \
    -std=gnu11 -D_GNU_SOURCE -Iinclude -I. -DMEMVM_PAYLOAD_BIN='"/dev/null"' \
    -Xclang -analyzer-config -Xclang "max-nodes=$nodes" 2> >(grep -v 'warnings generated\|^$' >&2)
