#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: helper
#
# What the tests of memd-run share: a memd, and programs under it. Sourced.
# shellcheck shell=bash source=tests/faults/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../faults/lib.sh"

# under NAME COMMAND...: in the domain of all
# shellcheck disable=SC2154 # bin, run: of lib.sh
under() {
    local name=$1
    shift
    "$bin/memd-run" --name "$name" --domain common --run-dir "$run" -- "$@"
}
