# What deploy/ holds beside the mail servers' own files: Prometheus' rules, by
# promtool, and the systemd unit, by systemd-analyze. Sourced by tests/run.sh.
#
# promtool comes from Debian's package prometheus, which is only unpacked.

promtool=$GREYPIT_CACHE/parts/prometheus/usr/bin/promtool

unpack_promtool() {
    if [ ! -x "$promtool" ]; then
        command -v apt-get >/dev/null || without 'this is not Debian' || return
        local scratch
        scratch=$(mktemp -d "$GREYPIT_CACHE/unpack.XXXXXX")
        apt_update || true # the lists may be good enough
        if ! (cd "$scratch" && apt-get "${apt_options[@]}" download prometheus && dpkg -x prometheus_*.deb root); then
            rm -rf "$scratch"
            without 'the package prometheus could not be had' || return
        fi
        rm -rf "$GREYPIT_CACHE/parts/prometheus"
        mkdir -p "$GREYPIT_CACHE/parts"
        mv "$scratch/root" "$GREYPIT_CACHE/parts/prometheus"
        rm -rf "$scratch"
    fi
    "$promtool" --version || without 'promtool does not run' || return
    exercised "$("$promtool" --version 2>&1 | sed -n 's/^\(promtool, version [^ ]*\).*/\1/p')"
}

check_alert_rules() (
    cd deploy/prometheus || return
    "$promtool" check config scrape.yml && "$promtool" test rules greypit.rules.test.yml
)

# The unit as it is, with a program that is there, and no looser than it is now.
check_systemd_unit() {
    local folder status=0
    folder=$(mktemp -d)
    sed 's,^ExecStart=[^ ]*,ExecStart=/bin/true,' deploy/systemd/greypit.service >"$folder/greypit.service"
    # It complains of other units of this machine too, but only ours fails it.
    systemd-analyze verify --man=no "$folder/greypit.service" || status=1
    # Fails above the threshold, in tenths.
    systemd-analyze security --no-pager --offline=true --threshold=15 "$folder/greypit.service" |
        grep '^→' || status=1
    # With what DHCP needs it is a little looser, and still runs without root.
    mkdir "$folder/greypit.service.d"
    cp deploy/systemd/greypit-boot.conf "$folder/greypit.service.d/"
    systemd-analyze verify --man=no "$folder/greypit.service" || status=1
    systemd-analyze security --no-pager --offline=true --threshold=19 "$folder/greypit.service" |
        grep '^→' || status=1
    rm -rf "$folder"
    return "$status"
}

deploy_steps() {
    if [ -z "$quick" ]; then
        part 'promtool' unpack_promtool
    fi
    if [ -x "$promtool" ]; then
        step 'alert rules' check_alert_rules
    elif [ -n "$quick" ]; then
        missing 'alert rules: no promtool, and --quick installs nothing'
    fi
    if command -v systemd-analyze >/dev/null; then
        step 'systemd unit' check_systemd_unit
    else
        missing 'systemd unit: no systemd-analyze here'
    fi
}
