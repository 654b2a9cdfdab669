# Runs steps one after the other, each with a heading, a time limit and its
# duration, and sums up. Sourced by tests/run.sh.
#
#   step NAME COMMAND…   a gate or a test run; a failure does not stop the rest
#   part NAME COMMAND…   brings a real part; a failure leaves the part out, and
#                        is one of the run only where CI=true
#   exercised TEXT       a line for the summary
#   missing TEXT         a line for the summary: a part that was left out
#   summary              prints it and exits

STEP_LIMIT=${STEP_LIMIT:-75m}

passed=0 failed=0
failures=() exercised=() missing=()
group=
log=$(mktemp)

# Nothing outlives the run, whichever way it ends.
stop_group() {
    [ -z "$group" ] || kill -KILL -- "-$group" 2>/dev/null || true
    group=
}
trap 'stop_group; rm -f "$log" "$log.pipe"' EXIT
trap 'echo "interrupted" >&2; exit 130' INT
trap 'exit 143' TERM

# Runs a command in a process group of its own, or a shell function of ours in
# this shell; the output goes to the terminal and to $log.
run_group() {
    local status=0 copier
    mkfifo "$log.pipe"
    tee "$log" <"$log.pipe" &
    copier=$!
    if declare -F "$1" >/dev/null; then
        "$@" </dev/null >"$log.pipe" 2>&1 || status=$?
    else
        setsid timeout -k 10 "$STEP_LIMIT" "$@" </dev/null >"$log.pipe" 2>&1 &
        group=$!
        wait "$group" || status=$?
        stop_group
    fi
    wait "$copier"
    rm -f "$log.pipe"
    [ "$status" != 124 ] || echo "stopped: longer than $STEP_LIMIT"
    return "$status"
}

duration() {
    printf '%dm%02ds' $(($1 / 60)) $(($1 % 60))
}

step() {
    local name=$1 begin=$SECONDS status=0
    shift
    printf '\n=== %s\n' "$name"
    run_group "$@" || status=$?
    count_step "$name" "$status"
    printf -- '--- %s: %s, %s\n' "$name" \
        "$([ "$status" = 0 ] && echo ok || echo "FAILED ($status)")" "$(duration $((SECONDS - begin)))"
}

# Adds the results of the test programs in $log, or else the step itself.
count_step() {
    local name=$1 status=$2 ok=0 bad=0
    read -r ok bad < <(awk '/^test result: / {
        for (i = 1; i < NF; i++) { if ($(i + 1) ~ /^passed/) p += $i; if ($(i + 1) ~ /^failed/) f += $i }
    } END { print p + 0, f + 0 }' "$log")
    if [ "$status" = 0 ] && [ "$ok" = 0 ]; then
        ok=1
    elif [ "$status" != 0 ] && [ "$bad" = 0 ]; then
        bad=1
    fi
    passed=$((passed + ok))
    failed=$((failed + bad))
    [ "$status" = 0 ] || failures+=("$name")
}

part() {
    local name=$1 begin=$SECONDS status=0
    shift
    printf '\n=== real part: %s\n' "$name"
    "$@" || status=$?
    if [ "$status" != 0 ]; then
        missing+=("$name: ${why:-see above}")
        if [ "${CI-}" = true ]; then
            failed=$((failed + 1))
            failures+=("real part: $name")
        fi
    fi
    printf -- '--- real part: %s: %s, %s\n' "$name" \
        "$([ "$status" = 0 ] && echo there || echo MISSING)" "$(duration $((SECONDS - begin)))"
}

# Gives the reason why a part is missing.
without() {
    why=$*
    echo "$why" >&2
    return 1
}

parts_complete() {
    [ ${#missing[@]} = 0 ]
}

exercised() {
    exercised+=("$*")
}

missing() {
    missing+=("$*")
}

summary() {
    printf '\n=== summary, after %s\n' "$(duration "$SECONDS")"
    exercised "$(rustc --version)"
    printf 'exercised:     %s\n' "${exercised[@]}"
    [ ${#missing[@]} = 0 ] || printf 'NOT exercised: %s\n' "${missing[@]}"
    [ ${#failures[@]} = 0 ] || printf 'FAILED:        %s\n' "${failures[@]}"
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" = 0 ] || exit 1
    exit 0
}
