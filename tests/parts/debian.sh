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
    local round=("$@") name
    local -A known=()
    for name in $(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p'); do
        known[$name]=1
    done
    while [ ${#round[@]} -gt 0 ]; do
        printf '%s\n' "${round[@]}"
        mapfile -t found < <(apt-cache depends --important "${round[@]}" |
            sed -n 's/^ *|\{0,1\}\(Pre\)\{0,1\}Depends: \(lib[^ ]*\)$/\2/p' | sort -u)
        round=()
        for name in "${found[@]}"; do
            [ -n "${known[$name]-}" ] || round+=("$name")
            known[$name]=1
        done
    done
}

# download_and_unpack FOLDER PACKAGE…: into FOLDER/root, where a list of them is left.
download_and_unpack() {
    local downloads=$1/debs root=$1/root package
    shift
    mkdir -p "$downloads" "$root"
    echo "unpacking $*"
    (cd "$downloads" && apt-get "${apt_options[@]}" download "$@") || return
    for package in "$downloads"/*.deb; do
        dpkg -x "$package" "$root" || return
    done
    for package in "$downloads"/*.deb; do
        dpkg-deb --show "$package" || return
    done >"$root/packages"
    chmod 755 "$root"
}

# all_unpacked ROOT PACKAGE…: whether an earlier run unpacked all that is wanted now.
all_unpacked() {
    local root=$1 package
    shift
    for package; do
        [ -n "$(unpacked_version "$root" "$package")" ] || return
    done
}

# unpacked_version ROOT PACKAGE: its name and version, or nothing.
unpacked_version() {
    awk -v name="$2" '$1 == name { print $1, $2 }' "$1/packages" 2>/dev/null
}

# unpack_into ROOT PACKAGE…: as the new contents of ROOT, once they are complete.
unpack_into() {
    local root=$1 scratch
    shift
    scratch=$(mktemp -d "$GREYPIT_CACHE/unpack.XXXXXX")
    if ! download_and_unpack "$scratch" "$@"; then
        rm -rf "$scratch"
        without 'the packages could not be had' || return
    fi
    mkdir -p "$(dirname "$root")"
    rm -rf "$root"
    mv "$scratch/root" "$root"
    rm -rf "$scratch"
}

# library_path ROOT: where the libraries of what is unpacked there are.
library_path() {
    local arch
    arch=$(uname -m)-linux-gnu
    echo "$1/usr/lib/$arch:$1/lib/$arch:$1/usr/lib/postfix:$1/usr/lib/syslog-ng"
}

# finds_libraries ROOT PROGRAM…: whether the programs find all of theirs.
finds_libraries() {
    local root=$1 program
    shift
    for program; do
        if [ ! -e "$root/$program" ] || LD_LIBRARY_PATH=$(library_path "$root") ldd "$root/$program" | grep 'not found'; then
            without "$program is not there or lacks a library" || return
        fi
    done
}

unpack_debian_parts() {
    if ! command -v apt-get >/dev/null; then
        without 'this is not Debian' || return
    fi
    if ! all_unpacked "$debian_root" "${PART_PACKAGES[@]}"; then
        local packages
        apt_update || true # the lists may be good enough
        mapfile -t packages < <(with_libraries "${PART_PACKAGES[@]}")
        unpack_into "$debian_root" "${packages[@]}" || return
    fi
    check_debian_parts
}

# What was unpacked finds its libraries, and this user may use it.
check_debian_parts() {
    local name versions=()
    # The loader would take no library path for a program that is setgid.
    chmod g-s "$debian_root"/usr/libexec/sendmail/* || return
    finds_libraries "$debian_root" usr/libexec/sendmail/{sendmail,makemap,mail.local} \
        usr/sbin/{rsyslogd,syslog-ng,smtp-sink,smtp-source} usr/lib/postfix/sbin/{master,smtpd} \
        usr/bin/{m4,miltertest,kcat} || return
    for name in sendmail-bin rsyslog postfix libfaketime miltertest syslog-ng-core kcat; do
        versions+=("$(unpacked_version "$debian_root" "$name")")
    done
    echo "unpacked: ${versions[*]}"
    if [ "$(id -u)" != 0 ]; then
        without 'not root: sendmail needs namespaces and other users of its own' || return
    fi
    if ! unshare --mount --uts --pid --fork --kill-child --mount-proc true; then
        without 'no private namespaces here (unshare)' || return
    fi
    exercised "$(printf '%s, ' "${versions[@]}" | sed 's/, $//')"
}
