#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# lint.sh [--build-dir DIR] [CHECK...]: the checks that need no running memd. All by default; the last line is as
# of tests/run.sh.
#
#   format    clang-format with the repository's file changes nothing
#   lengths   no file of more than 700 lines, no function of more than 90
#   headers   every header compiles alone, with gcc and with clang, the public ones as C++ too
#   gcc       everything builds without a warning with gcc (DIR)
#   clang     and with clang (DIR/clang)
#   layers    includes point the allowed way (docs/architecture.md, "Parts")
#   license   every source file names its license
#   shell     shell scripts parse, and shellcheck finds nothing
#   static    clang-tidy with the short list of checks in tests/lint/clang-tidy
#   words     nothing unfinished is left in the code
#   docs      every file and every section the documents name exists
set -uo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top" || exit 1
jobs=$(nproc)
build_dir=build
file_lines_max=700
function_lines_max=90
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

# Functions are what stands between a brace in the first column and the next one, or a shell function's.
check_lengths() {
    files '*.c' '*.h' '*.sh' '*.mk' Makefile .ci/run |
        xargs -r awk -v file_max="$file_lines_max" -v function_max="$function_lines_max" '
        FNR == 1 { begun = 0 }
        FNR == file_max + 1 { print FILENAME ": more than " file_max " lines"; bad = 1 }
        /^{$/ || /^[a-z_]+\(\) [{(]$/ { begun = FNR; name = /^{$/ ? before : $0 }
        /^[})]$/ && begun {
            if (FNR - begun + 1 > function_max) {
                print FILENAME ":" begun ": " FNR - begun + 1 " lines, at most " function_max ": " name
                bad = 1
            }
            begun = 0
        }
        { before = $0 }
        END { exit bad }'
}

check_headers() {
    local header compiler status=0
    for compiler in gcc clang; do
        hosted '*.h' | xargs -r -P "$jobs" -n 16 "$compiler" "${flags[@]}" -Wno-unused-function -fsyntax-only -x c || status=1
    done
    # what embedders include belongs to C++ programs, too
    for header in include/memd/memd.h include/memd/balloon.h; do
        [ -f "$header" ] || continue
        clang++ -Iinclude -fsyntax-only -Wall -Wextra -Werror -x c++ "$header" || status=1
    done
    return $status
}

check_gcc() {
    make --no-print-directory -j"$jobs" B="$build_dir" CC=gcc SAN= all tests
}

check_clang() {
    make --no-print-directory -j"$jobs" B="$build_dir/clang" CC=clang SAN= all tests
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
memd/daemon         memd/((common|daemon)/)?[a-z_]+\.h|balloon-driver/backends/(balloons|embedded)\.h
memd/ctl            memd/(ctl/)?[a-z_]+\.h
memd/preload        memd/((common|engine|preload)/)?[a-z_]+\.h
balloon-driver/device memd/balloon\.h|balloon-driver/device/[a-z_]+\.h
balloon-driver/backends memd/(common/)?[a-z_]+\.h|balloon-driver/backends/[a-z_]+\.h
balloon-driver/guest balloon-driver/guest/[a-z_]+\.h
guest-agent         memd/(memd|agent)\.h|memd/common/agent_codec\.h|guest-agent/[a-z_]+\.h
bench/memvm         memd/[a-z_]+\.h|balloon-driver/guest/balloon\.h|bench/memvm/.*\.h|bench/memvm/payload/(payload|balloon)\.c
bench/common        memd/memd\.h|bench/common/.*\.h
bench/dedup         memd/[a-z_]+\.h|bench/(common|dedup)/.*\.h|bench/memvm/mkimage/recipe\.h
bench/qemu          bench/(common|qemu)/.*\.h
bench/pager         memd/[a-z_]+\.h|bench/(common|pager)/.*\.h|bench/memvm/(mkimage/files|payload/page)\.h
bench/balloon       memd/[a-z_]+\.h|bench/(common|balloon)/.*\.h
bench/policy-sim    memd/daemon/(balloon_rung|budget|policy)\.h|balloon-driver/backends/balloons\.h|bench/policy-sim/sim\.h
docs/examples       memd/memd\.h
LAYERS
    return $status
}

check_license() {
    local status=0 file
    while read -r file; do
        # data read by tests and tools has no comments
        case $file in *.json | *.txt | *.in) [ "$file" != tools/packages.txt ] && continue ;; esac
        echo "$file: no SPDX line"
        status=1
    done < <(files '*.c' '*.h' '*.sh' '*.mk' '*.ld' '*.map' '*.awk' '*.py' Makefile tools .ci |
        xargs -r awk -v license='SPDX-License-Identifier: LGPL-2.1-or-later' '
            FNR == 1 && file != "" && !named { print file }
            FNR == 1 { file = FILENAME; named = 0 }
            FNR <= 3 && index($0, license) { named = 1 }
            FNR > 3 { nextfile }
            END { if (file != "" && !named) print file }')
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
    # SC2015, SC2016: "a && b || fail" and text in single quotes for another shell are meant as they stand
    printf '%s\n' "${scripts[@]}" | xargs -r -P "$jobs" -n 8 \
        shellcheck --severity=info --external-sources --source-path=SCRIPTDIR --exclude=SC2015,SC2016 || status=1
    return $status
}

# the large files first, so that none is left alone at the end
check_static() {
    hosted '*.c' | grep -v '^tests/' | xargs -r ls -S | xargs -r -P "$jobs" -n 2 tests/lint/tidy.sh
}

check_words() {
    ! files '*.c' '*.h' '*.sh' '*.mk' Makefile | grep -v '^tests/lint/' |
        xargs -r grep -nwE 'TODO|FIXME|XXX|HACK' /dev/null
}

# Paths named in documents, and [text](path#section) links.
check_docs() {
    local status=0 doc path target section
    while read -r doc path; do
        [ -e "$path" ] || [ -e "include/$path" ] && continue
        echo "$doc: there is no $path"
        status=1
    done < <(files '*.md' | xargs -r grep -HoE \
        '\b(balloon-driver|bench|dist|docs|include|memd|mk|tests|tools)/[A-Za-z0-9_./-]*\.(awk|[ch]|in|map|md|mk|sh|txt)\b' |
        tr ':' ' ' | sort -u)
    while IFS=: read -r doc target; do
        target=${target#](}
        target=${target%)}
        section=${target#"${target%%#*}"}
        target=${target%%#*}
        target=$([ -z "$target" ] && echo "$doc" || echo "$(dirname "$doc")/$target")
        if [ ! -e "$target" ]; then
            echo "$doc: link to $target, which is not there"
            status=1
        elif [ -n "$section" ] && ! grep -qxF "${section#\#}" <<<"$(sections "$target")"; then
            echo "$doc: $target has no section $section"
            status=1
        fi
    done < <(files '*.md' | xargs -r grep -HoE '\]\([^):]+\)')
    return $status
}

# the anchors of a document's headings
sections() {
    sed -n 's/^##* //p' "$1" | tr '[:upper:] ' '[:lower:]-' | tr -cd 'a-z0-9_\n-'
}

all=(format lengths headers gcc clang layers license shell static words docs)
if [ "${1-}" = --build-dir ]; then
    build_dir=${2:?--build-dir needs a directory}
    shift 2
fi
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
mkdir -p "$build_dir"
echo "$npassed $nfailed" >"$build_dir/lint-summary"
echo "$npassed passed, $nfailed failed"
[ "$nfailed" -eq 0 ]
