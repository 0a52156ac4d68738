#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# lint.sh [CHECK...]: the checks that need no running memd. All by default; last line as the tests' runner.
#
#   format    clang-format with the repository's file changes nothing
#   headers   every header compiles alone, with gcc and with clang
#   clang     every source compiles without a warning under clang too
#   layers    includes point the allowed way (docs/architecture.md, "Layout")
#   license   every source file names its license
#   shell     shell scripts parse, and shellcheck finds nothing
#   static    clang-tidy with the short list of checks in tests/lint/clang-tidy
#   words     nothing unfinished is left in the code
set -uo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top" || exit 1
jobs=$(nproc)
flags=(-std=gnu11 -D_GNU_SOURCE -DMEMVM_PAYLOAD_BIN="\"/dev/null\"" -Iinclude -I. -Wall -Wextra -Wshadow -Wstrict-prototypes -Werror)

# tracked files, and new ones that are not ignored: what a commit would hold
files() {
    git ls-files -co --exclude-standard -- "$@" | while read -r file; do
        [ ! -f "$file" ] || echo "$file"
    done
}

check_format() {
    files '*.c' '*.h' | xargs -r clang-format --dry-run -Werror
}

# the payload and the balloon's guest half are freestanding and are compiled by their own rules
hosted() {
    files "$@" | grep -vE '^(bench/memvm/payload|balloon-driver/guest)/'
}

check_headers() {
    local header compiler status=0
    for compiler in gcc clang; do
        while read -r header; do
            "$compiler" "${flags[@]}" -Wno-unused-function -fsyntax-only -x c "$header" || status=1
        done < <(hosted '*.h')
    done
    # the public header belongs to C++ programs, too, when a compiler for it is there
    if command -v g++ >/dev/null; then
        g++ -Iinclude -fsyntax-only -x c++ include/memd/memd.h || status=1
    fi
    return $status
}

check_clang() {
    hosted '*.c' | xargs -r -P "$jobs" -n 4 clang "${flags[@]}" -O1 -fsyntax-only
}

# allow DIR REGEX: a file under DIR includes, of this repository, only paths that match
check_layers() {
    local status=0 dir regex line
    while read -r dir regex; do
        while read -r line; do
            echo "$line: not allowed under $dir (allowed: $regex)"
            status=1
        done < <(files "$dir/*.c" "$dir/*.h" |
            xargs -r grep -nE '^#include "' /dev/null | grep -vE "#include \"($regex)\"")
    done <<'LAYERS'
include             memd/[a-z_]+\.h
memd/common         memd/(common/)?[a-z_]+\.h
memd/engine         memd/((common|engine)/)?[a-z_]+\.h
memd/daemon         memd/((common|daemon)/)?[a-z_]+\.h
memd/ctl            memd/(ctl/)?[a-z_]+\.h
memd/preload        memd/((common|engine|preload)/)?[a-z_]+\.h
bench/memvm         memd/[a-z_]+\.h|bench/memvm/.*\.h|bench/memvm/payload/payload\.c
docs/examples       memd/memd\.h
LAYERS
    return $status
}

check_license() {
    local status=0 file
    while read -r file; do
        head -n 3 "$file" | grep -q 'SPDX-License-Identifier: LGPL-2.1-or-later' && continue
        # data read by tests and tools has no comments
        case $file in *.json | *.txt | *.in) [ "$file" != tools/packages.txt ] && continue ;; esac
        echo "$file: no SPDX line"
        status=1
    done < <(files '*.c' '*.h' '*.sh' '*.mk' '*.ld' '*.map' '*.awk' '*.py' Makefile tools .ci)
    return $status
}

check_shell() {
    local status=0 script
    local -a scripts
    mapfile -t scripts < <(files | while read -r file; do
        head -n 1 "$file" | grep -qE '^#!.*\b(ba)?sh\b' && echo "$file"
    done)
    for script in "${scripts[@]}"; do
        bash -n "$script" || status=1
    done
    shellcheck --severity=info "${scripts[@]}" || status=1
    return $status
}

check_static() {
    hosted '*.c' | grep -v '^tests/' |
        xargs -r -P "$jobs" -n 4 tests/lint/tidy.sh
}

check_words() {
    ! files '*.c' '*.h' '*.sh' '*.mk' Makefile | grep -v '^tests/lint/' |
        xargs -r grep -nwE 'TODO|FIXME|XXX|HACK' /dev/null
}

all=(format headers clang layers license shell static words)
selected=("$@")
[ $# -gt 0 ] || selected=("${all[@]}")
npassed=0
nfailed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for check in "${selected[@]}"; do
    if ! declare -F "check_$check" >/dev/null; then
        echo "lint: no check named $check (${all[*]})" >&2
        exit 2
    fi
    begun=$SECONDS
    if "check_$check" >"$log" 2>&1; then
        printf 'ok   %4d s  %s\n' $((SECONDS - begun)) "$check"
        npassed=$((npassed + 1))
    else
        printf 'FAIL %4d s  %s\n' $((SECONDS - begun)) "$check"
        head -n 80 "$log" | sed 's/^/  | /'
        nfailed=$((nfailed + 1))
    fi
done
mkdir -p build
echo "$npassed passed, $nfailed failed" | tee build/lint-summary
[ "$nfailed" -eq 0 ]
