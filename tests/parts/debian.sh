# Debian's packages: those to build with are installed where they are missing,
# those that tests start are only unpacked. Sourced by tests/run.sh.
#
# sendmail and postfix remove one another when they are installed, start on
# port 25 and ask questions, syslog-ng removes rsyslog; unpacked into a folder
# of the cache they do none of that. The tests find them under $GREYPIT_CACHE/parts/debian.

BUILD_PACKAGES=(gcc libc6-dev make perl curl openssl ca-certificates procps)
PART_PACKAGES=(sendmail-bin sendmail-cf rsyslog rsyslog-openssl syslog-ng-core postfix m4 libfaketime miltertest kcat)

debian_root=$GREYPIT_CACHE/parts/debian
apt_options=(-qq -o APT::Sandbox::User=root -o DPkg::Lock::Timeout=120)

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Lists are updated once a run, and only if something is wanted.
apt_update() {
    [ -z "${apt_updated-}" ] || return 0
    apt_updated=1
    [ "$(id -u)" != 0 ] || apt-get "${apt_options[@]}" update
}

install_build_packages() {
    local package wanted=()
    for package in "${BUILD_PACKAGES[@]}"; do
        installed "$package" || wanted+=("$package")
    done
    if [ ${#wanted[@]} = 0 ]; then
        echo "all there: ${BUILD_PACKAGES[*]}"
        return
    fi
    echo "to install: ${wanted[*]}"
    if [ "$(id -u)" != 0 ]; then
        echo "not root: please install ${wanted[*]}"
        return 1
    fi
    apt_update || return
    DEBIAN_FRONTEND=noninteractive apt-get "${apt_options[@]}" install -y --no-install-recommends "${wanted[@]}"
}

# The named packages and the libraries below them that this machine lacks.
with_libraries() {
    local todo=("$@") name depends
    local -A seen=()
    while [ ${#todo[@]} -gt 0 ]; do
        name=${todo[0]}
        todo=("${todo[@]:1}")
        [ -z "${seen[$name]-}" ] || continue
        seen[$name]=1
        echo "$name"
        depends=$(apt-cache depends --important "$name" | sed -n 's/^ *|\{0,1\}\(Pre\)\{0,1\}Depends: \(lib[^ ]*\)$/\2/p')
        for name in $depends; do
            installed "$name" || todo+=("$name")
        done
    done
}

download_and_unpack() {
    local downloads=$1 root=$2 package
    mapfile -t packages < <(with_libraries "${PART_PACKAGES[@]}")
    echo "unpacking ${packages[*]}"
    (cd "$downloads" && apt-get "${apt_options[@]}" download "${packages[@]}") || return
    for package in "$downloads"/*.deb; do
        dpkg -x "$package" "$root" || return
    done
    # The loader would take no library path for a program that is setgid.
    chmod g-s "$root"/usr/libexec/sendmail/* || return
    for package in "$downloads"/*.deb; do
        dpkg-deb --show "$package" || return
    done >"$root/packages"
}

# Whether an earlier run unpacked every package that is wanted now.
all_unpacked() {
    local package
    for package in "${PART_PACKAGES[@]}"; do
        awk -v name="$package" '$1 == name { found = 1 } END { exit !found }' "$debian_root/packages" 2>/dev/null || return
    done
}

unpack_debian_parts() {
    if ! command -v apt-get >/dev/null; then
        without 'this is not Debian' || return
    fi
    if ! all_unpacked; then
        local scratch
        scratch=$(mktemp -d "$GREYPIT_CACHE/unpack.XXXXXX")
        mkdir -p "$scratch/debs" "$scratch/root" "$GREYPIT_CACHE/parts"
        apt_update || true # the lists may be good enough
        if ! download_and_unpack "$scratch/debs" "$scratch/root"; then
            rm -rf "$scratch"
            without 'the packages could not be had' || return
        fi
        chmod 755 "$scratch/root"
        rm -rf "$debian_root"
        mv "$scratch/root" "$debian_root"
        rm -rf "$scratch"
    fi
    check_debian_parts
}

# What was unpacked finds its libraries, and this user may use it.
check_debian_parts() {
    local arch program name libraries
    arch=$(uname -m)-linux-gnu
    libraries=$debian_root/usr/lib/$arch:$debian_root/lib/$arch:$debian_root/usr/lib/postfix:$debian_root/usr/lib/syslog-ng
    for program in usr/libexec/sendmail/{sendmail,makemap,mail.local} usr/sbin/{rsyslogd,syslog-ng,smtp-sink,smtp-source} \
        usr/lib/postfix/sbin/{master,smtpd} usr/bin/{m4,miltertest,kcat}; do
        if LD_LIBRARY_PATH=$libraries ldd "$debian_root/$program" | grep 'not found'; then
            without "$program lacks a library" || return
        fi
    done
    for name in sendmail-bin rsyslog postfix libfaketime miltertest syslog-ng-core kcat; do
        part_versions+=("$(awk -v name="$name" '$1 == name { print $1, $2 }' "$debian_root/packages")")
    done
    echo "unpacked: ${part_versions[*]}"
    if [ "$(id -u)" != 0 ]; then
        without 'not root: sendmail needs namespaces and other users of its own' || return
    fi
    if ! unshare --mount --uts --pid --fork --kill-child --mount-proc true; then
        without 'no private namespaces here (unshare)' || return
    fi
    exercised "$(printf '%s, ' "${part_versions[@]}" | sed 's/, $//')"
}
part_versions=()
