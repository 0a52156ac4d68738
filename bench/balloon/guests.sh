#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# guests.sh DIR N MIB DISKS [RUN_DIR]: Linux guests g1..gN of MIB each, for as long as somebody holds the other end of stdin.
#
# The hands of the benchmark of balloons: the vehicle of the QEMU tests, with memd-agent and load (bench/balloon/guest)
# in it, and the data disk DISKS/gN, as fast as a common volume in a cloud. With RUN_DIR the QEMUs run under memd-run, in
# the domain "bench" of the memd there, and the agent is started. Says "PID..." of the QEMUs when all have booted. In DIR
# are, for each guest, the sockets gN.agent (commands), gN.qmp and gN.balloon (monitors).
#
# What goes wrong is said on stderr, with exit code 1; a machine that cannot have the guests, with 77 and "skip: REASON".
# The QEMUs end with it, whatever ends it. MEMD_BUILD_DIR: where the programs are.
dir=${1:?} number=${2:?} mib=${3:?} disks=${4:?} memd_dir=${5:-}
export MEMD_TEST_TMP=$dir
# shellcheck source=tests/qemu/lib.sh
. "$(dirname "$0")/../../tests/qemu/lib.sh"

exec 3>&1 >&2 # only answers go out
read_bytes=131072000 # a second; and requests
read_requests=3000

# the initramfs with the programs in it: archives may follow each other
with_programs() {
    mkdir -p "$tmp/root/bin"
    cp "$bin/memd-agent" "$bin/bench/guest/load" "$tmp/root/bin/"
    (cd "$tmp/root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1n) >"$tmp/added" || fail "no archive"
    cat "$vehicle/initramfs" "$tmp/added" >"$tmp/initramfs"
}

launch() {
    local name=$1 socket=$dir/$1.guest
    [ -z "$memd_dir" ] || socket=$memd_dir/agents/$name.sock
    qemu_append[$name]=psi=1
    qemu_launch "$name" "$mib" -initrd "$tmp/initramfs" -qmp "unix:$name.balloon,server=on,wait=off" \
        -drive "if=none,id=data,file=$disks/$name,format=raw,readonly=on,throttling.bps-read=$read_bytes,throttling.iops-read=$read_requests" \
        -device virtio-blk-pci,drive=data -device virtio-serial \
        -chardev "socket,id=memd,path=$socket,server=on,wait=off" -device virtserialport,chardev=memd,name=org.memd.agent.0
}

set_up() { :; } # memd and its directories are the benchmark's
log=$bin/bench/log/${dir##*/}
boot_s=240
vehicle_set_up
with_programs
qemu_user=(setpriv --pdeathsig KILL)
[ -z "$memd_dir" ] || qemu_prefix=("$bin/memd-run" --name '{}' --domain bench --run-dir "$memd_dir" --)

guests=()
pids=()
for ((i = 1; i <= number; i++)); do
    guests+=("g$i")
    launch "g$i"
    pids+=("${guest_pid[g$i]}")
done
qemu_booted "${guests[@]}"
if [ -n "$memd_dir" ]; then
    for name in "${guests[@]}"; do in_guest "$name" memd-agent-start >/dev/null; done
fi
echo "${pids[*]}" >&3
cat >/dev/null
