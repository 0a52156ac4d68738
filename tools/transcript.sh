#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# transcript.sh [BUILD_DIR]: run the demo and put what it printed into README.md, between the marks.
set -euo pipefail

cd "$(dirname "$0")/.."
said=$(mktemp)
readme=$(mktemp)
trap 'rm -f "$said" "$readme"' EXIT
bench/demo/demo.sh --build-dir "${1:-build}" | grep -v "^ *figures: " | tee "$said"
awk -v said="$said" '
    /^<!-- end of the transcript/ { skipping = 0 }
    !skipping { print }
    /^<!-- transcript of/ {
        skipping = 1
        print ""
        while ((getline line <said) > 0)
            print line == "" ? "" : "    " line
        print ""
    }' README.md >"$readme"
cp "$readme" README.md
