#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=60 san=no
#
# tests/lint/lint.sh finds what it is for: every check that reads text passes on a small clean tree and fails when
# a fault is put into it.
set -euo pipefail

fail() {
    echo "FAIL: $*"
    exit 1
}

for tool in git clang-format shellcheck clang; do
    if ! command -v "$tool" >/dev/null; then
        echo "$tool is not installed (make deps)"
        exit 77
    fi
done

tree=$MEMD_TEST_TMP/tree
mkdir -p "$tree/tests" "$tree/include/memd" "$tree/memd/engine" "$tree/docs" "$tree/tools" "$tree/.ci"
cp -r "$MEMD_SOURCE_DIR/tests/lint" "$tree/tests/"
cp "$MEMD_SOURCE_DIR/.clang-format" "$tree/"
license_line='SPDX-License-Identifier: LGPL-2.1-or-later'
printf '/* %s */\n#include <stdint.h>\nint memd_one(uint32_t a);\n' "$license_line" >"$tree/include/memd/memd.h"
printf '# %s\nbuild gcc\n' "$license_line" >"$tree/tools/packages.txt"
printf '# Notes\n\nSee [below](#the-end), [this](a.md) and memd/engine/one.c.\n\n## The end\n' >"$tree/docs/a.md"
git -C "$tree" init -q

clean() {
    printf '/* %s */\n#include "memd/memd.h"\n\nint memd_one(uint32_t a)\n{\n    return (int)a;\n}\n' "$license_line" \
        >"$tree/memd/engine/one.c"
    printf '#!/usr/bin/env bash\n# %s\necho "$1"\n' "$license_line" >"$tree/tools/tool.sh"
}

# lint CHECK: its exit code, output in ret_output
lint() {
    ret_output=$("$tree/tests/lint/lint.sh" --build-dir "$MEMD_TEST_TMP/build" "$1" 2>&1)
}

# finds CHECK FILE TEXT: after TEXT is appended to FILE, the check fails and names the file
finds() {
    lint "$1" || fail "$1 on a clean tree: $ret_output"
    printf '%b' "$3" >>"$tree/$2"
    ! lint "$1" || fail "$1 does not find $3"
    grep -qF "$(basename "$2")" <<<"$ret_output" || fail "$1 does not name $2: $ret_output"
    [ "$(tail -n 1 <<<"$ret_output")" = '0 passed, 1 failed' ] || fail "last line of $1: $ret_output"
    clean
}

body=$(printf 'a++;\\n%.0s' $(seq 90))
clean
finds format memd/engine/one.c 'int  x;\n'
finds lengths memd/engine/one.c "int f(int a)\n{\n$body    return a;\n}\n"
finds lengths memd/engine/one.c "$(printf '\\n%.0s' $(seq 700))"
finds layers memd/engine/one.c '#include "memd/daemon/core.h"\n'
finds words memd/engine/one.c '/* TO''DO */\n'
finds shell tools/tool.sh 'rm $1\n'
finds shell tools/tool.sh 'if\n'
finds docs docs/a.md 'memd/engine/two.c\n'
sed -i '$d' "$tree/docs/a.md"
finds docs docs/a.md '[there](b.md)\n'
sed -i '$d' "$tree/docs/a.md"
finds docs docs/a.md '[there](#nowhere)\n'
sed -i '$d' "$tree/docs/a.md"
printf 'echo\n' >"$tree/tools/other.sh"
! lint license || fail "license does not find a file without it"
rm "$tree/tools/other.sh"
printf '/* %s */\nuint32_t two(void);\n' "$license_line" >"$tree/memd/engine/two.h"
! lint headers || fail "headers does not find one that needs another first"
printf '/* %s */\nvoid two(int *class);\n' "$license_line" >"$tree/memd/engine/two.h"
lint headers || fail "headers: $ret_output"
