# What boots and what serves boots in the tests: Debian's packages, unpacked as
# those of debian.sh are. They stand in a folder of their own, parts/boot, since
# they have four times their size and clash with nothing there. Sourced by tests/run.sh.
#
# QEMU starts machines by BIOS (seabios and the network card's iPXE of
# ipxe-qemu) and UEFI (ovmf); ipxe is what they load next, and then Linux with
# the busybox. The clients are its udhcpc, dhclient, bootpc, perfdhcp (kea-admin),
# two of TFTP, dig; the servers to compare with dnsmasq, Kea and tftpd-hpa.

BOOT_PACKAGES=(qemu-system-x86 seabios ipxe-qemu ipxe ovmf iproute2 tcpdump
    linux-image-cloud-amd64 busybox-static isc-dhcp-client bootpc kea-common kea-admin kea-dhcp4-server dnsmasq-base
    tftp-hpa tftpd-hpa atftp bind9-dnsutils bind9-libs)
# Of these one module and some files are used; the libraries of the others
# (sound, displays, smart cards) would be many.
BOOT_PACKAGES_ALONE=(qemu-system-common qemu-system-data)

boot_root=$GREYPIT_CACHE/parts/boot

unpack_boot_parts() {
    if ! command -v apt-get >/dev/null; then
        without 'this is not Debian' || return
    fi
    if ! all_unpacked "$boot_root" "${BOOT_PACKAGES[@]}" "${BOOT_PACKAGES_ALONE[@]}"; then
        local packages
        apt_update || true # the lists may be good enough
        mapfile -t packages < <(with_libraries "${BOOT_PACKAGES[@]}" && newest_kernel)
        unpack_into "$boot_root" "${packages[@]}" "${BOOT_PACKAGES_ALONE[@]}" || return
    fi
    check_boot_parts
}

# The package that linux-image-cloud-amd64 stands for; its name has a version.
newest_kernel() {
    apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" { print $2; exit }'
}

# What was unpacked finds its libraries, and this user may make networks with it.
check_boot_parts() {
    local name versions=()
    finds_libraries "$boot_root" usr/bin/qemu-system-x86_64 "usr/lib/$(uname -m)-linux-gnu/qemu/accel-tcg-x86_64.so" \
        bin/ip usr/bin/tcpdump sbin/dhclient usr/sbin/{perfdhcp,kea-dhcp4,dnsmasq,in.tftpd} \
        usr/bin/{tftp,atftp,dig} || return
    for name in qemu-system-x86 ipxe ovmf linux-image-cloud-amd64 busybox-static isc-dhcp-client bootpc kea-admin dnsmasq-base tftp-hpa atftp bind9-dnsutils; do
        versions+=("$(unpacked_version "$boot_root" "$name")")
    done
    echo "unpacked: ${versions[*]}"
    if [ "$(id -u)" != 0 ]; then
        without 'not root: the tests make networks of their own' || return
    fi
    if ! LD_LIBRARY_PATH=$(library_path "$boot_root") unshare --net "$boot_root/bin/ip" tuntap add probe mode tap; then
        without 'no private networks or no taps here (unshare --net, /dev/net/tun)' || return
    fi
    exercised "$(printf '%s, ' "${versions[@]}" | sed 's/, $//')"
}
