#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=480 san=no
#
# Guests of libvirt, by the recipe of docs/qemu.md: the emulator is the wrapper that stands there. They are merged, also
# when memd was killed and is back, and when one was saved and restored.
#
# libvirtd is the test's own: in a mount namespace where its directories are empty, with no system bus to talk to, no
# cgroups, and without /dev/kvm, which its QEMUs, as an ordinary user, might not open.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

user=nobody
libvirtd_pid=
open= # a directory the user can get at

libvirt_clean_up() {
    [ -z "$libvirtd_pid" ] || kill -KILL "$libvirtd_pid" 2>/dev/null
    vehicle_clean_up
    rm -rf "$open"
    close_build
}

virt() { virsh -c "qemu+unix:///system?socket=$tmp/libvirt/libvirt-sock" "$@" >"$tmp/virsh.out" 2>&1; }

libvirtd_answers() {
    kill -0 "$libvirtd_pid" 2>/dev/null || fail "libvirtd has ended: $(tail -n 5 "$tmp/libvirtd.out")"
    [ -S "$tmp/libvirt/libvirt-sock" ] && virt version
}

libvirtd_start() {
    mkdir "$tmp/libvirt"
    # shellcheck disable=SC2016 # for the inner shell
    unshare --mount --propagation private bash -c '
        for dir in /etc/libvirt /run /var/lib /var/cache /var/log; do
            mount -t tmpfs -o mode=755 tmpfs $dir || exit 1
        done
        # users that libvirt was built for must exist, whoever is configured
        for file in passwd group; do
            cp /etc/$file /run/$file && mount --bind /run/$file /etc/$file || exit 1
        done
        getent passwd libvirt-qemu >/dev/null || echo "libvirt-qemu:x:65534:65534::/:/usr/sbin/nologin" >>/etc/passwd
        getent group libvirt-qemu >/dev/null || echo "libvirt-qemu:x:65534:" >>/etc/group
        # neither libvirt nor QEMU can use it: if they do not agree, libvirt asks QEMU again and again
        [ ! -e /dev/kvm ] || { mknod -m 600 /run/no-kvm c 1 3 && mount --bind /run/no-kvm /dev/kvm; } || exit 1
        printf "unix_sock_dir = \"%s\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n" "$1" >/etc/libvirt/libvirtd.conf
        printf "user = \"%s\"\ngroup = \"%s\"\n" "$2" "$(id -gn "$2")" >/etc/libvirt/qemu.conf
        printf "%s\n" "stdio_handler = \"file\"" "security_driver = \"none\"" "dynamic_ownership = 0" \
            "remember_owner = 0" "cgroup_controllers = []" >>/etc/libvirt/qemu.conf
        exec libvirtd --pid-file "$1/pid"' bash "$tmp/libvirt" "$user" >"$tmp/libvirtd.out" 2>&1 &
    libvirtd_pid=$!
    await 60 libvirtd_answers || fail "libvirtd does not answer: $(cat "$tmp/libvirtd.out" "$tmp/virsh.out")"
}

# wrapper: of the document, with the paths of this tree
wrapper() {
    sed -n '/^    #!\/bin\/sh$/,/^    exec/s/^    //p' "$MEMD_SOURCE_DIR/docs/qemu.md" |
        sed "s|/usr/local/bin/memd-run|$bin/memd-run --run-dir $run|; s|--domain [a-z]*|--domain common|" >"$open/emulator"
    grep -q "$bin/memd-run" "$open/emulator" || fail "docs/qemu.md has no wrapper: $(cat "$open/emulator")"
    chmod 755 "$open/emulator"
}

# domain NAME: its description, with the devices of qemu_command
domain_xml() {
    cat <<XML
<domain type='qemu'>
  <name>$1</name><memory unit='MiB'>160</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type>
    <kernel>$vehicle/vmlinuz</kernel><initrd>$vehicle/initramfs</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 mitigations=off audit=0</cmdline></os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff><on_crash>destroy</on_crash>
  <devices><emulator>$open/emulator</emulator>
    <disk type='file'><driver name='qemu' type='raw'/><source file='$vehicle/disk'/><target dev='vda' bus='virtio'/><readonly/></disk>
    <serial type='file'><source path='$files/$1.console'/></serial>
    <serial type='unix'><source mode='bind' path='$files/$1.agent'/></serial>
    <memballoon model='virtio' freePageReporting='on'/>
    <controller type='usb' model='none'/>
  </devices>
</domain>
XML
}

# pid_of NAME: in libvirtd's own /run
pid_of() { cat "/proc/$libvirtd_pid/root/run/libvirt/qemu/$1.pid"; }

# no_domain NAME: libvirt has taken note of its end
no_domain() { ! virt domstate "$1"; }

command -v libvirtd >/dev/null && command -v virsh >/dev/null || skip "needs libvirt-daemon-driver-qemu, libvirt-clients"
[ -z "$bare" ] || skip "is about memd"
in_own_mounts "$@"
memd_set_up
trap libvirt_clean_up EXIT
open_build "$user"
chmod 755 "$run"
printf '[domain common]\nuids = %s\n' "$user" >"$tmp/memd.conf"
memd_end
memd_start
open=$(mktemp -d /dev/shm/memd-libvirt.XXXXXX) || fail "cannot make a directory in /dev/shm"
chmod 755 "$open"
wrapper
files=$open/$user
mkdir "$files"
chown "$user" "$files"
libvirtd_start
step "libvirtd answers"

for g in g1 g2; do
    domain_xml $g >"$tmp/$g.xml"
    virt create "$tmp/$g.xml" || fail "libvirt does not start $g: $(cat "$tmp/virsh.out")"
    guest_pid[$g]=$(pid_of $g)
    [ "$(stat -c %U "/proc/${guest_pid[$g]}")" = "$user" ] || fail "$g does not run as $user"
    [ ! -e "/proc/${guest_pid[$g]}/root/dev/userfaultfd" ] || fail "$g sees the devices of the host"
done
step "started"
guests_live g1 g2

virt save g1 "$files/g1.save" || fail "libvirt does not save g1: $(cat "$tmp/virsh.out")"
await 10 is 1 total vms || fail "a saved guest is still there: $(ctl vm list)"
virt restore "$files/g1.save" || fail "libvirt does not restore g1: $(cat "$tmp/virsh.out")"
guest_pid[g1]=$(pid_of g1)
in_guest g1 hello >/dev/null
merged g1
guests_verify "g1 g2"
step "saved, restored and verified"

in_guest g1 poweroff
await 30 no_domain g1 || fail "g1 does not end"
unset 'guest_pid[g1]'
virt destroy g2 || fail "libvirt does not end g2: $(cat "$tmp/virsh.out")"
unset 'guest_pid[g2]'
kill -TERM "$libvirtd_pid"
wait "$libvirtd_pid" || fail "libvirtd ended with $?"
libvirtd_pid=
memd_tear_down
