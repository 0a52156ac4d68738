#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=120 san=no alone
#
# Alone: with another prefix memd and memctl are linked anew.
# What `make install` puts where, that `make uninstall` takes it away again, what the libraries export, and that
# a program builds and runs against the installed tree alone: shared, and with nothing shared.
set -euo pipefail

fail() {
    echo "FAIL: $*"
    exit 1
}

tmp=$MEMD_TEST_TMP
version=$(sed -n 's/^#define MEMD_VERSION *"\(.*\)".*/\1/p' "$MEMD_SOURCE_DIR/include/memd/memd.h")
memd_pid=

finish() {
    local status=$?
    if [ -n "$memd_pid" ]; then
        kill "$memd_pid" 2>/dev/null || true
        wait "$memd_pid" || true
    fi
    exit $status
}
trap finish EXIT

# in_tree TARGET VARIABLE=VALUE...: nothing is inherited from a make this test may run under
in_tree() {
    env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS -u SAN make -C "$MEMD_SOURCE_DIR" --no-print-directory \
        B="$MEMD_BUILD_DIR" "$@" >"$tmp/make.log" 2>&1 || fail "make $*: $(cat "$tmp/make.log")"
}

list() {
    (cd "$1" && find . ! -type d -printf '%P\n' | sort)
}

echo "-- the same files wherever they go, and gone afterwards"
mkdir "$tmp/stage" "$tmp/prefix"
in_tree install DESTDIR="$tmp/stage"
in_tree install PREFIX="$tmp/prefix"
list "$tmp/stage/usr/local" >"$tmp/staged"
list "$tmp/prefix" >"$tmp/plain"
diff "$tmp/staged" "$tmp/plain" || fail "DESTDIR and PREFIX install different files"
[ "$(list "$tmp/stage" | grep -cv '^usr/local/')" = 0 ] || fail "files outside of PREFIX: $(list "$tmp/stage")"
for file in bin/memd bin/memctl bin/memd-run lib/memd/libmemd-preload.so include/memd/memd.h include/memd/balloon.h include/memd/wire.h lib/libmemd.a lib/libmemd.so \
    lib/libmemd.so.0 "lib/libmemd.so.$version" lib/pkgconfig/memd.pc lib/systemd/system/memd.service lib/systemd/system/memd-agent.service bin/memd-agent share/man/man8/memd-agent.8 \
    share/doc/memd/README.md share/doc/memd/LICENSE share/doc/memd/examples/embed.c \
    share/man/man8/memd.8 share/man/man1/memctl.1 share/man/man1/memd-run.1 share/doc/memd/qemu.md; do
    grep -qxF "$file" "$tmp/plain" || fail "$file was not installed: $(cat "$tmp/plain")"
done
in_tree uninstall DESTDIR="$tmp/stage"
[ -z "$(list "$tmp/stage")" ] || fail "uninstall left $(list "$tmp/stage")"
[ -z "$(ls -A "$tmp/stage")" ] || fail "uninstall left $(find "$tmp/stage")"
mkdir -p "$tmp/stage/usr/local/bin" "$tmp/stage/usr/local/share/man/man1"
in_tree install DESTDIR="$tmp/stage"
in_tree install DESTDIR="$tmp/stage" # over itself
in_tree uninstall DESTDIR="$tmp/stage"
[ "$(cd "$tmp/stage/usr/local" && find . -mindepth 1 -printf '%P\n' | sort | xargs)" = "bin share share/man share/man/man1" ] ||
    fail "uninstall left, or took away what it had not made: $(find "$tmp/stage")"
! grep -rn '@[A-Z]*@' "$tmp/prefix/lib/pkgconfig" "$tmp/prefix/lib/systemd" || fail "a place was not filled in"
! grep -rlF "$MEMD_SOURCE_DIR/" "$tmp/prefix/lib/pkgconfig" "$tmp/prefix/lib/systemd" || fail "names the source"

echo "-- what the libraries export: the functions of memd.h and balloon.h, no more, no less"
sed -n 's/^[a-z].*[ *]\(memd_[a-z_]*\)(.*/\1/p' "$MEMD_SOURCE_DIR"/include/memd/{memd,balloon}.h | sort >"$tmp/declared"
[ -s "$tmp/declared" ] || fail "no function found in the headers"
nm -D --defined-only --format=posix "$tmp/prefix/lib/libmemd.so" | awk '$2 != "A" {sub(/@.*/, "", $1); print $1}' |
    sort >"$tmp/shared"
nm -g --defined-only --format=posix "$tmp/prefix/lib/libmemd.a" | awk 'NF >= 3 {print $1}' | sort >"$tmp/static"
diff "$tmp/declared" "$tmp/shared" || fail "libmemd.so and its headers differ"
diff "$tmp/declared" "$tmp/static" || fail "libmemd.a and its headers differ"
grep -q 'SONAME.*\[libmemd\.so\.0\]' <<<"$(readelf -d "$tmp/prefix/lib/libmemd.so")" || fail "soname is not libmemd.so.0"
[ "$(readlink "$tmp/prefix/lib/libmemd.so.0")" = "libmemd.so.$version" ] || fail "libmemd.so.0 leads elsewhere"

echo "-- the example of a configuration names every option that can stand in a file"
while read -r option; do
    case $option in config | daemon | help | version | nodes | proc-root | sys-root) continue ;; esac
    grep -Eq "^;?$option = " "$tmp/prefix/share/doc/memd/examples/memd.conf" || fail "memd.conf lacks $option"
done < <("$tmp/prefix/bin/memd" --help | sed -n 's/^  --\([a-z-]*\).*/\1/p')

echo "-- the example, built as an embedder would"
export PKG_CONFIG_PATH=$tmp/prefix/lib/pkgconfig
[ "$(pkg-config --modversion memd)" = "$version" ] || fail "pkg-config tells another version"
example=$tmp/prefix/share/doc/memd/examples/embed.c
# shellcheck disable=SC2046 # words are what is wanted
cc -Wall -Werror -o "$tmp/embed.shared" "$example" $(pkg-config --cflags --libs memd) -Wl,-rpath,"$tmp/prefix/lib"
# shellcheck disable=SC2046
cc -Wall -Werror -static -o "$tmp/embed.static" "$example" $(pkg-config --static --cflags --libs memd)
grep -q "libmemd.so.0 => $tmp/prefix/lib/" <<<"$(ldd "$tmp/embed.shared")" || fail "not linked with libmemd.so.0"
ldd "$tmp/embed.static" >/dev/null 2>&1 && fail "the static program is not static"

if [ ! -r /dev/userfaultfd ] || [ ! -w /dev/userfaultfd ]; then
    echo "SKIP: running the example: no access to /dev/userfaultfd"
    exit 0
fi
echo "-- and run beside the installed memd, which reads the example of a configuration with all options uncommented"
export MEMD_RUN_DIR=$tmp/run
sed 's/^;//; /^run-dir/d; /^state-dir/d' "$tmp/prefix/share/doc/memd/examples/memd.conf" >"$tmp/memd.conf"
"$tmp/prefix/bin/memd" --state-dir "$tmp/state" --config "$tmp/memd.conf" >"$tmp/memd.log" 2>&1 &
memd_pid=$!
for _ in $(seq 100); do
    ! grep -q '^memd: ready' "$tmp/memd.log" || break
    kill -0 "$memd_pid" 2>/dev/null || fail "memd ended: $(cat "$tmp/memd.log")"
    sleep 0.1
done
grep -q '^memd: ready' "$tmp/memd.log" || fail "memd did not get ready: $(cat "$tmp/memd.log")"
for kind in shared static; do
    "$tmp/embed.$kind" >"$tmp/embed.log" || fail "embed ($kind): $(cat "$tmp/embed.log")"
    grep -q '^0 bytes differ' "$tmp/embed.log" || fail "embed ($kind): $(cat "$tmp/embed.log")"
    tail -n 2 "$tmp/embed.log" | head -n 1 | grep -Eq 'connected, zero [1-9][0-9]*, merged [1-9]' ||
        fail "embed ($kind) merged nothing: $(cat "$tmp/embed.log")"
done
"$tmp/prefix/bin/memctl" status >/dev/null || fail "memctl status"
