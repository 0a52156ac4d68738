#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=180 san=no
#
# A program nobody has told of memd: two redis servers with the same data under memd-run --all-anon, each with a load
# and saves in the background (it forks), while memd merges, unmerges, and is killed and restarted. Every value is
# compared at the end, in the server and in what it has saved.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

nkeys=$(scaled 200000 20000)
value_words=60 # a value is "KEY KEY KEY..."

# cli NAME WORD...
cli() {
    local name=$1
    shift
    redis-cli -s "$tmp/$name.sock" "$@"
}

answers() { [ "$(cli "$1" ping 2>/dev/null)" = PONG ]; }

# start NAME: over a unix socket only
start() {
    local -a prefix=("$bin/memd-run" --name "$1" --domain common --run-dir "$run" --all-anon 64K --)
    [ -z "$bare" ] || prefix=()
    mkdir -p "$tmp/$1.dir"
    "${prefix[@]}" redis-server --port 0 --unixsocket "$tmp/$1.sock" --dir "$tmp/$1.dir" --save '' \
        --daemonize no >>"$tmp/$1.log" 2>&1 &
    guest_pid[$1]=$!
    await 20 answers "$1" || fail "redis does not start: $(tail -n 3 "$tmp/$1.log")"
}

stop() {
    cli "$1" shutdown nosave >/dev/null 2>&1
    wait "${guest_pid[$1]}" || fail "redis $1 ended with $?: $(tail -n 3 "$tmp/$1.log")"
    unset "guest_pid[$1]"
}

# data GENERATION: commands that set every key
data() {
    awk -v n="$nkeys" -v generation="$1" -v words="$value_words" 'BEGIN {
        for (i = 0; i < n; i++) {
            value = word = "g" generation "k" i
            for (w = 1; w < words; w++)
                value = value "-" word
            printf "*3\r\n$3\r\nSET\r\n$%d\r\nkey%d\r\n$%d\r\n%s\r\n", length("key" i), i, length(value), value
        }
    }'
}

load() { data "$2" | cli "$1" --pipe | grep -q 'errors: 0,' || fail "redis $1 refuses data"; }

# check NAME GENERATION: all values, read back in order
check() {
    awk -v n="$nkeys" 'BEGIN { for (i = 0; i < n; i++) print "get key" i }' | cli "$1" |
        awk -v n="$nkeys" -v generation="$2" -v words="$value_words" '{
            value = word = "g" generation "k" (NR - 1)
            for (w = 1; w < words; w++)
                value = value "-" word
            if ($0 != value)
                wrong++
        }
        END { print NR, wrong + 0; exit NR != n || wrong > 0 }' >"$tmp/check" ||
        fail "redis $1 has lost data: read, wrong: $(cat "$tmp/check")"
}

saved() { grep -q '^rdb_bgsave_in_progress:0' <<<"$(cli "$1" info persistence)"; }

# save NAME: in the background; it must have been good
save() {
    cli "$1" bgsave >/dev/null
    await 60 saved "$1" || fail "redis $1 does not end its save"
    grep -q '^rdb_last_bgsave_status:ok' <<<"$(cli "$1" info persistence)" || fail "a save of redis $1 failed"
}

memd_set_up
command -v redis-server >/dev/null && command -v redis-cli >/dev/null || skip "needs redis-server, redis-tools"
start r1
start r2
load r1 1
load r2 1
merged r1 r2
memd_settle
check r1 1
check r2 1
step "merged: $nkeys values each"
for generation in 2 3 4; do
    cli r1 bgsave >/dev/null
    load r1 $generation # while the child saves what was before
    await 60 saved r1 || fail "redis does not end its save"
    save r2
    case $generation in
    2) memd_ctl unmerge all --timeout 30 && memd_ctl merge on ;;
    3) memd_bounce check r1 $generation ;;
    4) memd_settle ;;
    esac
    check r1 $generation
    check r2 1
    step "generation $generation"
done
save r1
stop r1
start r1 # from what it saved
check r1 4
stop r1
stop r2
memd_tear_down
