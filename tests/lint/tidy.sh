#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# tidy.sh FILE...: clang-tidy over some files, with the flags of the build; without its count of suppressed
# warnings.
set -uo pipefail
timeout 600 clang-tidy --quiet --config-file="$(dirname "$0")/clang-tidy" "$@" -- \
    -std=gnu11 -D_GNU_SOURCE -Iinclude -I. -DMEMVM_PAYLOAD_BIN='"/dev/null"' 2> >(grep -v 'warnings generated\|^$' >&2)
