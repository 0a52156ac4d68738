#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: helper
#
# What the tests with real Linux guests share: QEMUs, with and without memd, and talk with the guests in them.
#
# Sourced, on top of the fault tests' library (memd, memctl, skip, fail, await). Guests are named; QEMU NAME has its
# files in $files/NAME.*: .console (of the guest), .qemu (what QEMU printed), and the sockets .agent and .qmp.
# Consoles and messages are kept in the build directory, tests/log/qemu/TEST.
# shellcheck shell=bash disable=SC2034
# shellcheck source=tests/faults/lib.sh
. "${BASH_SOURCE[0]%/*}/../faults/lib.sh"

files=$tmp
vehicle=$bin/qemu-guest
talk=$bin/tests/qemu/talk
log=$bin/tests/log/qemu/$(basename "$0" .sh)
booted="^agent: ready" # on the console
boot_s=60           # deadlines, times $patience: several guests boot and work on few cores, without KVM
answer_s=120
qemu_prefix=()      # words before QEMU; {} becomes the name
qemu_user=()        # words before those: another user, limits
qemu_accel=
declare -A qemu_append=() # further kernel parameters, by guest

# ---- set up

# vehicle_set_up: the guest is built, $run is there for memd
vehicle_set_up() {
    command -v qemu-system-x86_64 >/dev/null || skip "needs qemu-system-x86"
    "${BASH_SOURCE[0]%/*}/guest/build.sh" "$vehicle" >"$tmp/build.log" 2>&1 ||
        { [ $? -eq 77 ] && skip "$(sed -n 's/^skip: //p' "$tmp/build.log")" || fail "$(cat "$tmp/build.log")"; }
    set_up /dev/shm
    rm -rf "$log"
    mkdir -p "$log"
    trap vehicle_clean_up EXIT
    choose_accel
}

vehicle_clean_up() {
    cp "$files"/*.console "$files"/*.qemu "$tmp"/memd.err "$log/" 2>/dev/null
    clean_up
}

probe_is_over() { grep -qs "$booted" "$files/probe.console" || qemu_has_ended probe; }

# KVM, if it boots the guest; where the processor's own virtualization is missing that takes minutes. Found out once,
# by the first of the tests that run side by side.
choose_accel() {
    local cache=$vehicle/accel lock
    exec {lock}>"$vehicle/lock"
    flock "$lock"
    if [ ! -w /dev/kvm ]; then
        qemu_accel=tcg
    elif [ -s "$cache" ]; then
        qemu_accel=$(cat "$cache")
    else
        qemu_accel=kvm
        guest_pid[probe]=
        { # where KVM boots nothing QEMU may abort, and be gone: that is what is asked here, no news
            qemu_launch probe 128
            await 5 probe_is_over || true
            grep -qs "$booted" "$files/probe.console" || qemu_accel=tcg
            qemu_kill probe
        } 2>/dev/null
        echo $qemu_accel >"$cache"
    fi
    exec {lock}>&-
}

# ---- QEMU

# qemu_command NAME MIB: the array qemu_words, QEMU and the options all guests have
qemu_command() {
    local name=$1 accel=kvm cpu=host
    # TCG: a small cache of translations, so that a QEMU is mostly guest RAM; the kernel's favourite string
    # instructions are slow in it
    [ "$qemu_accel" = kvm ] || { accel=tcg,tb-size=32 && cpu=max,-erms,-fsrm; }
    # shellcheck disable=SC2054 # the commas are QEMU's
    qemu_words=(qemu-system-x86_64 -name "$name" -nodefaults -no-user-config -display none -vga none -no-reboot
        -machine pc -accel "$accel" -cpu "$cpu" -m "$2"
        -kernel "$vehicle/vmlinuz" -initrd "$vehicle/initramfs"
        -append "console=ttyS0 quiet panic=-1 mitigations=off audit=0 no_timer_check ${qemu_append[$name]:-}"
        -serial "file:$name.console"
        -chardev "socket,id=agent,path=$name.agent,server=on,wait=off" -serial chardev:agent
        -qmp "unix:$name.qmp,server=on,wait=off"
        -drive "if=none,id=disk,file=$vehicle/disk,format=raw,readonly=on" -device virtio-blk-pci,drive=disk
        -device virtio-balloon-pci,id=balloon,free-page-reporting=on)
}

# qemu_launch NAME MIB [OPTION...]: in the background, under qemu_prefix, in its own directory
qemu_launch() {
    local -a qemu_words
    local name=$1
    qemu_command "$1" "$2"
    shift 2
    (cd "$files" && exec "${qemu_user[@]}" "${qemu_prefix[@]//'{}'/$name}" "${qemu_words[@]}" "$@") \
        >"$files/$name.qemu" 2>&1 &
    guest_pid[$name]=$!
}

qemu_is_alive() {
    kill -0 "${guest_pid[$1]}" 2>/dev/null || fail "QEMU $1 has ended: $(tail -n 5 "$files/$1.qemu" "$files/$1.console")"
}

qemu_has_booted() {
    grep -qs "$booted" "$files/$1.console" && return
    qemu_is_alive "$1"
    return 1
}

# qemu_booted NAME...: they take commands
qemu_booted() {
    local name
    for name; do
        await $boot_s qemu_has_booted "$name" || fail "guest $name does not boot: $(tail -n 5 "$files/$name.console")"
        in_guest "$name" hello >/dev/null
    done
}

# qmp NAME COMMAND [ARGUMENTS]: prints the answer; the test fails if QEMU refuses
qmp() {
    local answer
    answer=$(qmp_try "$@") || fail "QEMU $1 refuses $2 ${3:-}: $answer"
    [ "$answer" = '{}' ] || echo "$answer"
}

qmp_try() {
    local name=$1
    shift
    "$talk" qmp "$files/$name.qmp" $((30 * patience)) "$@"
}

# monitor NAME WORD...: a command of the human monitor; whatever it prints is an error
monitor() {
    local name=$1 answer
    shift
    answer=$(qmp "$name" human-monitor-command "{\"command-line\": \"$*\"}") || exit 1
    [ "$answer" = '""' ] || fail "QEMU $name: $*: $answer"
}

# qemu_status NAME STATUS: it is in this state
qemu_status() {
    [[ $(qmp_try "$1" query-status) = *"\"status\": \"$2\""* ]]
}

# qemu_job NAME WANTED: the migration (or snapshot) is in this state; fails at once if it has failed
qemu_migration_is() {
    local answer
    answer=$(qmp_try "$1" query-migrate)
    case $answer in
    *"\"status\": \"$2\""*) return 0 ;;
    *'"status": "failed"'* | *'"status": "cancelled"'*) fail "migration of $1: $answer" ;;
    esac
    return 1
}

qemu_has_ended() { ! kill -0 "${guest_pid[$1]}" 2>/dev/null; }

# qemu_end NAME...: by powering the guest off; QEMU must end well
qemu_end() {
    local name
    for name; do
        in_guest "$name" poweroff
        await 20 qemu_has_ended "$name" || fail "QEMU $name does not end"
        qemu_reap "$name"
    done
}

# qemu_quit NAME: without the guest's doing
qemu_quit() {
    qmp "$1" quit
    await 20 qemu_has_ended "$1" || fail "QEMU $1 does not end"
    qemu_reap "$1"
}

# of a QEMU in the background of its own there is no exit code
qemu_reap() {
    local status=0
    wait "${guest_pid[$1]}" 2>/dev/null || status=$?
    case $status in 0 | 127) ;; *) fail "QEMU $1 ended with $status: $(tail -n 5 "$files/$1.qemu")" ;; esac
    unset "guest_pid[$1]"
}

qemu_kill() { guest_kill "$1"; }

# ---- guests

# in_guest NAME COMMAND [ARGUMENT...]: of guest/agent; prints what it prints, the test fails if it does
in_guest() {
    local answer status=0
    answer=$(in_guest_try "$@" 2>&1) || status=$?
    [ $status -eq 0 ] || fail "guest $*: $answer (exit $status); QEMU said: $(tail -n 5 "$files/$1.qemu")"
    [ -z "$answer" ] || echo "$answer"
}

# the same; exit code 1: the command failed, 2: no answer
in_guest_try() {
    local name=$1
    shift
    "$talk" guest "$files/$name.agent" $((answer_s * patience)) "$@"
}

# in_guests "NAME..." COMMAND [ARGUMENT...]: in all of them at once; an argument @ becomes 1 in the first, 2 in the next...
in_guests() {
    local names=$1 name pid word number=0
    local -a pids=() words
    shift
    for name in $names; do
        number=$((number + 1))
        words=()
        for word; do
            [ "$word" != @ ] || word=$number
            words+=("$word")
        done
        in_guest "$name" "${words[@]}" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do
        wait "$pid" || fail "a guest has failed"
    done
}

# ---- memory, by the kernel

# pss_kib PID...: sum of their proportional set sizes, but for files, of which a share goes when another test runs QEMU
pss_kib() {
    local pid
    for pid; do cat "/proc/$pid/smaps_rollup"; done | awk '$1 == "Pss_Anon:" || $1 == "Pss_Shmem:" { sum += $2 } END { print sum + 0 }'
}

# qemu_pss_kib: of all guests
qemu_pss_kib() { pss_kib "${guest_pid[@]}"; }
