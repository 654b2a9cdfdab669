#!/usr/bin/env bash
# The one test command. See --help.
set -euo pipefail

usage() {
    cat <<'END'
tests/run.sh          everything: packages, real parts, gates, tests
tests/run.sh --quick  only the gates and the unit tests; installs nothing
tests/run.sh --help   this text

Runs on Debian 12 with a Rust toolchain. The tests that need real parts
(sendmail, Postfix, rsyslog, syslog-ng, an S3 server, Apache Kafka, QEMU and
clients of DHCP, TFTP and DNS) also want root, Go 1.25 or newer, and Java 17 or
newer, which is installed where there is none. Debian's packages for the others
are unpacked into the cache folder, not installed: the machine's own mail
server, logs and networks stay as they are.

GREYPIT_CACHE     what is built and unpacked, kept between runs
                  (default: ~/.cache/greypit)
CARGO_TARGET_DIR  what cargo builds (default: a folder in the cache)
CI=true           a real part that is missing is a failure

The last line is "N passed, N failed", gates included; the exit code is 1 if
anything failed.
END
}

quick=
case "${1-}" in
    '') ;;
    --quick) quick=1 ;;
    --help | -h) usage; exit ;;
    *) usage >&2; exit 2 ;;
esac

cd "$(dirname "$0")/.."
export GREYPIT_CACHE=${GREYPIT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/greypit}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$GREYPIT_CACHE/target}
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
mkdir -p "$GREYPIT_CACHE" "$CARGO_TARGET_DIR"

. tests/parts/steps.sh
. tests/parts/debian.sh
. tests/parts/boot.sh
. tests/parts/s3.sh
. tests/parts/kafka.sh
. tests/parts/deny.sh
. tests/parts/deploy.sh

# The same features everywhere, so that nothing is compiled twice.
workspace=(--workspace --locked)

if [ -z "$quick" ]; then
    step 'packages to build with' install_build_packages
    part 'sendmail, Postfix, rsyslog, syslog-ng, kcat' unpack_debian_parts
    part 'QEMU, OVMF, iPXE, DHCP, TFTP and DNS clients' unpack_boot_parts
    part 'S3 server' build_s3_server
    part 'Apache Kafka' bring_kafka
    if parts_complete; then
        workspace+=(--features greypit/real)
    fi
    # Kept by tests of an earlier run that failed, and the disks of those that were killed.
    awk -v below="${CARGO_TARGET_DIR:?}/tmp/" 'index($2, below) == 1 { print $2 }' /proc/mounts |
        while read -r disk; do umount --lazy "$disk"; done
    rm -rf "${CARGO_TARGET_DIR:?}/tmp"
fi

step 'format' cargo fmt --all --check
step 'clippy' cargo clippy "${workspace[@]}" --all-targets -- -D warnings
deny_steps
deploy_steps
step 'unit tests' cargo test "${workspace[@]}" --lib --bins --no-fail-fast
if [ -z "$quick" ]; then
    step 'integration tests' cargo test "${workspace[@]}" --test '*' --no-fail-fast
    step 'documentation tests' cargo test "${workspace[@]}" --doc --no-fail-fast
fi
summary
