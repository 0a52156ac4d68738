#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# demo.sh: memd at work, in under two minutes.
#
# First, real Linux guests in unmodified QEMU (qemu.sh), where the machine has what they need. Then it starts a memd
# of its own and eight KVM guests whose memory is made of this machine's files, in one trust domain,
# and shows how the memory they cost the host falls while every guest keeps checking all of its own. Then it kills
# memd with SIGKILL and starts it again, lets one guest rewrite everything and give half of that to its balloon, and ends with what the kernel says.
#
# Guests are driven by a FIFO each (memvm --control -) and report once a second into a file; memd is asked through
# memctl. Memory is PSS of the guests' VMMs and of memd, plus the blocks of the frame store that nobody maps. Nothing
# outlives the demo: everything is in two private directories, and every process dies with this shell.
#
# Exit code: 0 no verify failure and nothing died; 1 otherwise, or when this machine lacks something; 2 usage; 130
# after Ctrl-C.
set -uo pipefail
export LC_ALL=C

usage() {
    cat <<END
usage: demo.sh [--build-dir DIR] [--json FILE] [--guests N] [--mem MIB]
Runs four Linux guests in QEMU, then N KVM guests (default 8) of MIB MiB (default 256, less on a small machine)
under memd.
The figures are also written to FILE (default DIR/demo.json).
END
}

build_dir=build
json_file=
guests=8
mem_mib=
while [ $# -gt 0 ]; do
    case $1 in
    --build-dir) build_dir=${2:?--build-dir needs a directory} && shift ;;
    --json) json_file=${2:?--json needs a file} && shift ;;
    --guests) guests=${2:?--guests needs a number} && shift ;;
    --mem) mem_mib=${2:?--mem needs a number of MiB} && shift ;;
    --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done
if ! [[ $guests =~ ^[1-9][0-9]?$ && ${mem_mib:-256} =~ ^[1-9][0-9]{1,4}$ ]]; then
    usage >&2
    exit 2
fi
json_file=${json_file:-$build_dir/demo.json}

readonly SETTLE_S=30          # at most, each time
readonly VERIFY_MBPS=100      # each guest's check of its own memory
readonly CHURN_PERCENT=0.02   # of its pages rewritten each second
readonly MIB=1048576

run_dir=
work_dir=
qemu=null # figures of the first part, as JSON
memd_pid=
restarts=0
balloon_bytes=0 # what g1 gave up, and what of it came back to the host
returned_bytes=0
failures=()
guest_pid=() # by guest, 1..N
guest_fd=()
guest_line=() # its last report
started=$SECONDS
on_terminal=0
[ ! -t 1 ] || on_terminal=1
view_lines=0

# ---------------------------------------------------------------- saying

say() {
    view_lines=0
    printf '[%2d s] %s\n' $((SECONDS - started)) "$*"
}

fail() {
    failures+=("$*")
    say "FAILED: $*"
}

quit() {
    echo "demo: $*" >&2
    exit 1
}

# number KEY JSON: the first number of that name, 0 if there is none
number() {
    local pattern="\"$1\": *(-?[0-9]+)"
    if [[ $2 =~ $pattern ]]; then
        echo "${BASH_REMATCH[1]}"
    else
        echo 0
    fi
}

mib() {
    echo $((($1 + MIB / 2) / MIB))
}

# ---------------------------------------------------------------- the end

end_process() {
    kill "$1" 2>/dev/null || return
    for _ in {1..50}; do
        kill -0 "$1" 2>/dev/null || return
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null
}

clean_up() {
    local i
    trap - EXIT INT TERM
    exec 2>/dev/null # the shell would announce what is ended here
    for i in "${!guest_pid[@]}"; do
        kill "${guest_pid[i]}"
    done
    for i in "${!guest_pid[@]}"; do
        end_process "${guest_pid[i]}"
    done
    [ -z "$memd_pid" ] || end_process "$memd_pid"
    jobs -p | xargs -r kill -KILL
    wait
    [ -z "$run_dir" ] || rm -rf "$run_dir"
    [ -z "$work_dir" ] || rm -rf "$work_dir"
}

on_signal() {
    echo
    echo "demo: interrupted; ending the guests and memd"
    clean_up
    exit 130
}

# ---------------------------------------------------------------- what the machine has

check_machine() {
    local program
    for program in memd memctl memvm mkimage; do
        [ -x "$build_dir/$program" ] || quit "$build_dir/$program is not there; run make first"
    done
    [ -e /dev/kvm ] || quit "no /dev/kvm: the guests need KVM. Load kvm_intel or kvm_amd;" \
        "in a virtual machine, nested virtualization must be switched on"
    if ! { [ -r /dev/kvm ] && [ -w /dev/kvm ]; }; then
        quit "no access to /dev/kvm for $(id -un): run as root, or join the group that owns it (kvm)"
    fi
    if ! { [ -r /dev/userfaultfd ] && [ -w /dev/userfaultfd ]; }; then
        quit "no access to /dev/userfaultfd: run as root, or give $(id -un) access to it (Linux 6.8 or newer)"
    fi
}

mem_available() {
    awk '/^MemAvailable:/ { printf "%.0f\n", $2 * 1024 }' /proc/meminfo
}

# Guests may use half of the memory available; what they cost before merging is all of their RAM.
choose_size() {
    local available
    available=$(mem_available)
    [ -z "$mem_mib" ] || return 0
    mem_mib=256
    while [ "$mem_mib" -gt 32 ] && [ $((guests * mem_mib * MIB * 2)) -gt "$available" ]; do
        mem_mib=$((mem_mib / 2))
    done
    [ $((guests * mem_mib * MIB * 2)) -le "$available" ] ||
        quit "only $(mib "$available") MiB of memory are available; $guests guests of 32 MiB need twice their size"
    [ "$mem_mib" -eq 256 ] ||
        say "$(mib "$available") MiB available: guests sized down to $mem_mib MiB"
}

make_directories() {
    local shm=/dev/shm
    [ -w $shm ] || shm=${TMPDIR:-/tmp}
    run_dir=$(mktemp -d "$shm/memd-demo.XXXXXX") || quit "cannot make a directory in $shm"
    work_dir=$(mktemp -d "${TMPDIR:-/tmp}/memd-demo.XXXXXX") || quit "cannot make a directory in ${TMPDIR:-/tmp}"
    printf '[domain demo]\n' >"$work_dir/memd.conf"
}

# ---------------------------------------------------------------- memd

memctl() {
    "$build_dir/memctl" "$@" --run-dir "$run_dir"
}

# start_memd OPTION...
start_memd() {
    setpriv --pdeathsig KILL "$build_dir/memd" --run-dir "$run_dir" --state-dir "$work_dir/state" \
        --config "$work_dir/memd.conf" "$@" >"$work_dir/memd.out" 2>>"$work_dir/memd.log" &
    memd_pid=$!
    for _ in {1..100}; do
        ! grep -q '^memd: ready' "$work_dir/memd.out" || return 0
        kill -0 "$memd_pid" 2>/dev/null || break
        sleep 0.1
    done
    quit "memd did not start: $(tail -n 1 "$work_dir/memd.log")"
}

# Sets totals to the daemon's sums as JSON text, or to nothing when there is no daemon.
ask_totals() {
    local text
    totals=
    text=$(memctl status --json 2>/dev/null) || return
    totals=${text#*\"totals\"}
    totals=${totals%%\"vms\": \[*}
}

# ---------------------------------------------------------------- guests

make_images() {
    local i running=0 cpus
    cpus=$(nproc)
    for ((i = 1; i <= guests; i++)); do
        "$build_dir/mkimage" --out "$work_dir/g$i.img" --mem "$mem_mib" --seed "$i" >/dev/null &
        running=$((running + 1))
        if [ "$running" -ge "$cpus" ]; then
            wait -n || quit "making an image failed"
            running=$((running - 1))
        fi
    done
    while [ "$running" -gt 0 ]; do
        wait -n || quit "making an image failed"
        running=$((running - 1))
    done
}

start_guest() {
    local i=$1 fd
    mkfifo "$work_dir/g$i.control"
    (
        # a FIFO ends for its guest when nobody else holds it open
        for fd in "${guest_fd[@]}"; do
            exec {fd}>&-
        done
        exec setpriv --pdeathsig KILL "$build_dir/memvm" --name "g$i" --domain demo --run-dir "$run_dir" \
            --mem "$mem_mib" --image "$work_dir/g$i.img" --verify "$VERIFY_MBPS" --churn "$CHURN_PERCENT" \
            --balloon --control - --report 1000
    ) <"$work_dir/g$i.control" >"$work_dir/g$i.out" 2>>"$work_dir/g$i.log" &
    guest_pid[i]=$!
    exec {fd}>"$work_dir/g$i.control"
    guest_fd[i]=$fd
}

guest_alive() {
    kill -0 "${guest_pid[$1]}" 2>/dev/null
}

start_guests() {
    local i
    for ((i = 1; i <= guests; i++)); do
        start_guest "$i"
    done
    for ((i = 1; i <= guests; i++)); do
        until grep -q '"event": "ready"' "$work_dir/g$i.out"; do
            guest_alive "$i" || quit "guest g$i did not start: $(tail -n 1 "$work_dir/g$i.log")"
            sleep 0.1
        done
        rm -f "$work_dir/g$i.img"
    done
}

# The last whole report of each guest; answers to commands are other lines. Ends the demo if one has died.
read_guests() {
    local i
    for ((i = 1; i <= guests; i++)); do
        guest_line[i]=$(grep '^{"event".*}$' "$work_dir/g$i.out" | tail -n 1)
        guest_alive "$i" || quit "guest g$i died: $(tail -n 1 "$work_dir/g$i.log")"
    done
}

# ---------------------------------------------------------------- the kernel's numbers

pss_of() {
    awk '/^Pss:/ { n = $2 * 1024 } END { printf "%.0f\n", n }' "/proc/$1/smaps_rollup" 2>/dev/null || echo 0
}

# Sets pss_bytes: PSS of VMMs and memd, and what of the store no one maps (an unmapped tmpfs block is in no PSS).
measure() {
    local i pid mapped=0 blocks n
    pss_bytes=0
    for pid in "${guest_pid[@]}" "$memd_pid"; do
        n=$(pss_of "$pid")
        pss_bytes=$((pss_bytes + n))
        n=$(awk -v dir="$run_dir/" '
            /^[0-9a-f]+-/ { of_store = index($0, dir) }
            of_store && /^Pss:/ { n += $2 }
            of_store && /^Anonymous:/ { n -= $2 }
            END { printf "%d", n }' "/proc/$pid/smaps")
        mapped=$((mapped + n * 1024))
    done
    blocks=$(find "$run_dir" -type f -printf '%b\n' | awk '{ n += $1 } END { printf "%.0f", n * 512 }')
    [ "$blocks" -le "$mapped" ] || pss_bytes=$((pss_bytes + blocks - mapped))
    available_bytes=$(mem_available)
}

# ---------------------------------------------------------------- the live view

last_merges=0
last_ms=0

view_rows() {
    local i line pss sum=0 checks=0 bad=0
    printf '  %-6s %8s %10s %9s %9s %14s %9s\n' guest RAM private zero shared 'pages checked' failures
    for ((i = 1; i <= guests; i++)); do
        line=${guest_line[i]}
        pss=$(pss_of "${guest_pid[i]}")
        sum=$((sum + pss))
        checks=$((checks + $(number verify_checks "$line")))
        bad=$((bad + $(number verify_failures "$line")))
        printf '  %-6s %4d MiB %6d MiB %5d MiB %5d MiB %14d %9d\n' "g$i" "$mem_mib" "$(mib "$pss")" \
            $(($(number zero_pages "$line") / 256)) $(($(number merged_pages "$line") / 256)) \
            "$(number verify_checks "$line")" "$(number verify_failures "$line")"
    done
    printf '  %-6s %4d MiB %6d MiB %41d %9d\n' all $((guests * mem_mib)) "$(mib "$sum")" "$checks" "$bad"
}

# Sets rate to merges a second since the last call; zero pages dropped count as merged.
merge_rate() {
    local i merges=0 now_ms
    now_ms=$(($(date +%s%N) / 1000000))
    for ((i = 1; i <= guests; i++)); do
        merges=$((merges + $(number merges "${guest_line[i]}") + $(number zero_drops "${guest_line[i]}")))
    done
    rate=0
    [ "$last_ms" -eq 0 ] || [ "$now_ms" -le "$last_ms" ] ||
        rate=$(((merges - last_merges) * 1000 / (now_ms - last_ms)))
    last_merges=$merges
    last_ms=$now_ms
}

# One picture of it all: drawn over the last one on a terminal, else a line.
view() {
    local text head sum=0 i checks=0 bad=0
    read_guests
    ask_totals
    merge_rate
    if [ -n "$totals" ]; then
        head="memd: saved $(mib "$(number saved_bytes "$totals")") MiB, net $(mib "$(number net_saved_bytes "$totals")") MiB, $rate merges/s"
    else
        head="memd: not running"
    fi
    if [ "$on_terminal" -eq 1 ]; then
        text=$(view_rows)$'\n'"  $head"
        [ "$view_lines" -eq 0 ] || printf '\033[%dA' "$view_lines"
        while IFS= read -r line; do
            printf '%s\033[K\n' "$line"
        done <<<"$text"
        view_lines=$((guests + 3))
        return
    fi
    for ((i = 1; i <= guests; i++)); do
        sum=$((sum + $(pss_of "${guest_pid[i]}")))
        checks=$((checks + $(number verify_checks "${guest_line[i]}")))
        bad=$((bad + $(number verify_failures "${guest_line[i]}")))
    done
    say "$guests guests: private $(mib "$sum") of $((guests * mem_mib)) MiB; $head; $checks pages checked, $bad failures"
}

# ---------------------------------------------------------------- acts

# Watch until memctl says that the host is settled.
settle() {
    local pid
    memctl settle --timeout "$SETTLE_S" >"$work_dir/settle.out" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        view
        sleep 1
    done
    wait "$pid" || fail "memctl settle: $(tail -n 1 "$work_dir/settle.out")"
    view
    say "memctl settle: $(tail -n 1 "$work_dir/settle.out")"
}

restart_memd() {
    local i
    say "killing memd (pid $memd_pid) with SIGKILL; the guests go on alone"
    kill -KILL "$memd_pid"
    wait "$memd_pid" 2>/dev/null
    for i in 1 2; do
        sleep 1
        view
    done
    start_memd
    restarts=$((restarts + 1))
    say "memd is back as pid $memd_pid"
    for i in {1..100}; do
        ask_totals
        [ "$(number vms "$totals")" -ne "$guests" ] || break
        sleep 0.1
    done
    [ "$(number vms "$totals")" -eq "$guests" ] || fail "only $(number vms "$totals") of $guests guests came back"
    view
    say "$(number vms "$totals") guests re-adopted: $(number pages_sharing "$totals") pages still share" \
        "$(number pages_shared "$totals") frames"
}

rewrite_one() {
    say "g1 now rewrites all of its memory"
    echo rewrite >&"${guest_fd[1]}"
    while view && [ "$(number rewrites_done "${guest_line[1]}")" -lt 1 ]; do
        sleep 0.5
    done
    view
    say "g1 has rewritten $(number rewrite_writes "${guest_line[1]}") pages"
}

# Sets balloon_moved to true once the balloon of g1 holds this many MiB.
move_balloon() {
    local bytes=$(($1 * MIB)) n
    balloon_moved=false
    echo "balloon $bytes" >&"${guest_fd[1]}"
    for n in {1..300}; do
        read_guests
        if [ "$(number actual_bytes "${guest_line[1]}")" -eq "$bytes" ]; then
            balloon_moved=true
            return
        fi
        [ $((n % 10)) -ne 0 ] || view
        sleep 0.1
    done
    fail "the balloon of g1 does not reach $1 MiB: ${guest_line[1]}"
}

# What g1 gives up must be the host's again.
balloon_one() {
    local half_mib=$((mem_mib / 2)) before after
    before=$(pss_of "${guest_pid[1]}")
    say "memory is wanted elsewhere: the balloon of g1 is to hold $half_mib MiB"
    move_balloon "$half_mib"
    [ "$balloon_moved" = true ] || return
    after=$(pss_of "${guest_pid[1]}")
    balloon_bytes=$((half_mib * MIB)) returned_bytes=$((before - after))
    say "g1 gave up $half_mib MiB; PSS of its VMM fell from $(mib "$before") to $(mib "$after") MiB"
    move_balloon 0
    say "g1 has it back, zeroed, and works on all of its memory"
}

# Let every guest go; they check all of their memory once more. Sums their counters.
end_guests() {
    local i line
    verify_checks=0
    verify_failures=0
    for ((i = 1; i <= guests; i++)); do
        echo quit >&"${guest_fd[i]}"
    done
    for ((i = 1; i <= guests; i++)); do
        wait "${guest_pid[i]}" || fail "guest g$i ended with code $?: $(tail -n 1 "$work_dir/g$i.log")"
        line=$(grep '"event": "exit"' "$work_dir/g$i.out" | tail -n 1)
        [ -n "$line" ] || fail "guest g$i ended without a word"
        verify_checks=$((verify_checks + $(number verify_checks "$line")))
        verify_failures=$((verify_failures + $(number verify_failures "$line")))
    done
    guest_pid=()
    kill "$memd_pid"
    wait "$memd_pid" || fail "memd ended with code $?: $(tail -n 1 "$work_dir/memd.log")"
    memd_pid=
}

# ---------------------------------------------------------------- Linux guests

run_qemu_part() {
    local status=0 said=$work_dir/qemu.out
    mkdir "$work_dir/qemu" || quit "cannot make a directory in $work_dir"
    MEMD_BUILD_DIR=$(realpath "$build_dir") MEMD_TEST_TMP=$work_dir/qemu \
        "$(dirname "$0")/qemu.sh" "$work_dir/qemu.json" |
        tee "$said" | grep --line-buffered -v '^skip: '
    status=${PIPESTATUS[0]}
    case $status in
    0) qemu=$(cat "$work_dir/qemu.json") ;;
    77) say "no Linux guests in QEMU here: $(sed -n 's/^skip: //p' "$said")" ;;
    *) fail "the part with Linux guests in QEMU" ;;
    esac
    rm -rf "$work_dir/qemu"
}

# ---------------------------------------------------------------- figures

write_json() {
    mkdir -p "$(dirname "$json_file")"
    cat >"$json_file" <<END
{
  "guests": $guests,
  "guest_bytes": $((guests * mem_mib * MIB)),
  "pss_bytes_before": $before_bytes,
  "pss_bytes_after": $after_bytes,
  "pss_bytes_after_rewrite": $rewritten_bytes,
  "zero_pages": $(number zero_pages "$settled"),
  "pages_shared": $(number pages_shared "$settled"),
  "pages_sharing": $(number pages_sharing "$settled"),
  "net_saved_bytes": $(number net_saved_bytes "$settled"),
  "verify_checks": $verify_checks,
  "verify_failures": $verify_failures,
  "balloon_bytes": $balloon_bytes,
  "balloon_returned_bytes": $returned_bytes,
  "daemon_restarts": $restarts,
  "qemu": $qemu
}
END
}

row() {
    printf '  %-44s %8d MiB %8d MiB %8d MiB\n' "$1" "$(mib "$2")" "$(mib "$3")" "$(mib "$4")"
}

print_table() {
    echo
    printf '  %-44s %12s %12s %12s\n' "host memory, by the kernel" before settled "g1 rewritten"
    row "PSS of VMMs and memd, and unmapped frames" "$before_bytes" "$after_bytes" "$rewritten_bytes"
    row "MemAvailable" "$before_available" "$after_available" "$rewritten_available"
    echo
    echo "  $guests guests of $mem_mib MiB now cost $((100 * after_bytes / before_bytes))% of what they did:" \
        "$(number zero_pages "$settled") zero pages dropped,"
    echo "  $(number pages_sharing "$settled") further pages share $(number pages_shared "$settled") frames;" \
        "memd counts $(mib "$(number net_saved_bytes "$settled")") MiB saved, net of frames and metadata"
    echo "  memd was killed and restarted $restarts time(s); $verify_checks pages were checked by the guests"
    echo "  verify failures: $verify_failures"
    echo "  figures: $json_file"
}

main() {
    check_machine
    trap clean_up EXIT
    trap on_signal INT TERM
    choose_size
    make_directories
    run_qemu_part
    say "making $guests images of $mem_mib MiB from this machine's files"
    make_images
    start_memd --merge off
    say "memd runs as pid $memd_pid, merging off; starting $guests guests in one trust domain"
    start_guests
    measure
    before_bytes=$pss_bytes before_available=$available_bytes
    view

    say "memctl merge on"
    memctl merge on >/dev/null || quit "memctl merge on failed"
    settle
    restart_memd
    settle
    measure
    after_bytes=$pss_bytes after_available=$available_bytes settled=$totals
    rewrite_one
    measure
    rewritten_bytes=$pss_bytes rewritten_available=$available_bytes
    balloon_one

    end_guests
    write_json
    print_table
    [ "$verify_failures" -eq 0 ] || fail "the guests found $verify_failures damaged pages"
    [ "$verify_checks" -gt 0 ] || fail "the guests have checked nothing"
    [ ${#failures[@]} -eq 0 ]
}

main
