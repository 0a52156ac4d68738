#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# build.sh DIR: make the Linux guest of the QEMU tests in DIR, or find it there.
#
#   DIR/vmlinuz     Debian's cloud kernel, out of its package (downloaded, not installed)
#   DIR/initramfs   busybox, the modules for virtio, init and agent from this directory
#   DIR/disk        ext4: files/ of this machine, their checksums (MD5: accidents are looked for, and a guest without
#                   KVM computes it two and a half times as fast as SHA-256), tools/ that are not static
#
# Each part has a key (DIR/*.key), a checksum over what it is made from; a part whose key is as before is left alone.
# Nothing here needs root. A machine that cannot have the guest is told why on stderr, with exit code 77.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dir=${1:?usage: $0 DIR}
meta_package=linux-image-cloud-amd64
modules=(virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_balloon virtio_console virtio_blk)
tools=(stress-ng memtester)
files_mib=320
file_kib_min=32
file_kib_max=4096
work=

missing() {
    echo "skip: no Linux guest: $1" >&2
    exit 77
}

clean_up() { [ -z "$work" ] || rm -rf "$work"; }
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# is_made PART KEY: it is there, from the same things
is_made() { [ -e "$dir/$1" ] && [ "$(cat "$dir/$1.key" 2>/dev/null)" = "$2" ]; }

# publish PART KEY: out of $work, whole or not at all
publish() {
    rm -f "$dir/$1.key"
    mv "$work/$1" "$dir/$1"
    echo "$2" >"$dir/$1.key"
}

# ---- kernel

# The package downloaded last stays in use: tests do not change with the archive, and need no network.
make_kernel() {
    local package ko name
    [ ! -e "$dir/vmlinuz.key" ] || return 0
    command -v apt-get >/dev/null || missing "no apt-get to download $meta_package with"
    package=$(apt-cache depends "$meta_package" 2>/dev/null | awk '/Depends:/ { print $2; exit }')
    [ -n "$package" ] || missing "apt-cache does not know $meta_package"
    echo "guest: downloading $package" >&2
    (cd "$work" && apt-get download -qq "$package") >"$work/log" 2>&1 ||
        missing "apt-get download $package: $(grep -m1 '^E:' "$work/log")"
    dpkg-deb -x "$work"/linux-image-*.deb "$work/package"
    mv "$work"/package/boot/vmlinuz-* "$work/vmlinuz"
    rm -rf "$dir/modules"
    mkdir "$dir/modules"
    for name in "${modules[@]}"; do
        ko=$(find "$work/package" -name "$name.ko*")
        case $ko in
        *.ko) cp "$ko" "$dir/modules/$name.ko" ;;
        *.xz) xz -dc "$ko" >"$dir/modules/$name.ko" ;;
        *) ;; # built in
        esac
    done
    publish vmlinuz "$package"
}

# ---- initramfs

make_initramfs() {
    local busybox key root=$work/root name
    busybox=$(command -v busybox) || missing "needs busybox-static"
    key=$(cat "$busybox" "$0" "$here/init" "$here/agent" "$dir/vmlinuz.key" | sha256sum)
    ! is_made initramfs "$key" || return 0
    "$busybox" cat /proc/self/maps | grep -q 'ld-linux' && missing "busybox is not static: needs busybox-static"
    mkdir -p "$root"/{bin,proc,sys,dev,tmp,data,modules}
    cp "$busybox" "$root/bin/busybox"
    for name in $("$busybox" --list); do
        [ "$name" = busybox ] || ln -s busybox "$root/bin/$name"
    done
    cp "$here/init" "$root/init"
    cp "$here/agent" "$root/bin/agent"
    chmod 755 "$root/init" "$root/bin/agent"
    for name in "${modules[@]}"; do
        [ ! -e "$dir/modules/$name.ko" ] || cp "$dir/modules/$name.ko" "$root/modules/" && echo "$name"
    done >"$root/modules/order"
    (cd "$root" && find . | LC_ALL=C sort | "$busybox" cpio -o -H newc 2>/dev/null) | gzip -1n >"$work/initramfs"
    publish initramfs "$key"
}

# ---- disk

# The files: the same share of each directory, in the order of their names. What the machine installs later does not
# make another disk.
choose_files() {
    find /usr/lib /usr/share -type f -perm -o=r -size +$((file_kib_min - 1))k -size -$((file_kib_max + 1))k \
        -printf '%s %Ts %p\n' 2>/dev/null | grep -vE '[^A-Za-z0-9 ._/+-]' | LC_ALL=C sort -k 3 |
        awk -v want=$((files_mib << 20)) '
            { size[NR] = $1; line[NR] = $0; total += $1 }
            END {
                share = total > want ? want / total : 1
                for (i = 1; i <= NR; i++)
                    if ((due += size[i] * share) >= taken + size[i]) {
                        taken += size[i]
                        print line[i]
                    }
            }'
}

copy_tools() {
    local tool path
    mkdir -p "$1/lib"
    for tool in "${tools[@]}"; do
        path=$(command -v "$tool") || missing "needs $tool"
        cp "$path" "$1/"
        ldd "$path" | sed -nE 's/.*(=> |^\t)(\/[^ ]*) .*/\2/p' | while read -r path; do
            cp -L "$path" "$1/lib/"
        done
    done
    mv "$1"/lib/ld-linux*.so.* "$1/loader"
}

make_disk() {
    local key root=$work/root_of_disk tool mib
    key=$({
        cat "$0"
        for tool in "${tools[@]}"; do cat "$(command -v "$tool" || echo /dev/null)"; done
    } | sha256sum)
    ! is_made disk "$key" || return 0
    choose_files >"$work/chosen"
    command -v mke2fs >/dev/null || missing "needs e2fsprogs"
    echo "guest: making a disk of $(wc -l <"$work/chosen") files" >&2
    mkdir -p "$root/files"
    awk '{ print $3 }' "$work/chosen" | tar -C / -cf - --no-recursion -T - 2>/dev/null | tar -C "$root/files" -xf -
    (cd "$root" && find files -type f | LC_ALL=C sort | xargs -d '\n' md5sum) >"$root/sums"
    copy_tools "$root/tools"
    mib=$(($(du -sm "$root" | cut -f 1) * 11 / 10 + 16))
    mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$root" "$work/disk" "${mib}m" >"$work/log" 2>&1 || missing "mke2fs: $(tail -n 1 "$work/log")"
    rm -rf "$root"
    publish disk "$key"
}

PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$dir"
exec 9>"$dir/lock" # one at a time: tests run side by side
flock 9
work=$(mktemp -d "$dir/work.XXXXXX")
make_kernel
make_initramfs
make_disk
