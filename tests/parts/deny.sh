# cargo deny: licences, duplicates, sources, and known vulnerabilities where
# their database can be had. Sourced by tests/run.sh.

DENY_VERSION=0.20.2

deny_tools=$GREYPIT_CACHE/tools
PATH=$PATH:$deny_tools/bin

install_deny() {
    # Unoptimised: it builds in half the time and runs for a second.
    [ "$(cargo deny --version 2>/dev/null)" = "cargo-deny $DENY_VERSION" ] ||
        env -u CARGO_TARGET_DIR cargo install --quiet --debug --locked --force \
            --root "$deny_tools" --version "$DENY_VERSION" cargo-deny
}

deny_steps() {
    if [ -n "$quick" ] && ! cargo deny --version >/dev/null 2>&1; then
        missing 'cargo deny: not installed, and --quick installs nothing'
        return
    fi
    [ -n "$quick" ] || step 'cargo-deny' install_deny
    step 'licences, bans and sources' cargo deny --workspace --locked check licenses bans sources
    [ -n "$quick" ] || deny_advisories
}

# The database is a git repository elsewhere: being offline is no failure.
deny_advisories() {
    printf '\n=== known vulnerabilities\n'
    local out=$GREYPIT_CACHE/advisories.log
    if timeout 120 cargo deny --workspace --locked check advisories >"$out" 2>&1 </dev/null; then
        exercised 'known vulnerabilities: none'
        passed=$((passed + 1))
    elif grep -q '^error\[\(vulnerability\|unsound\|yanked\|unmaintained\|notice\)\]' "$out"; then
        cat "$out"
        failed=$((failed + 1))
        failures+=('known vulnerabilities')
    else
        tail -n 3 "$out"
        missing 'known vulnerabilities: the advisory database is out of reach'
    fi
}
