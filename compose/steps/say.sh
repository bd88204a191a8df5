# shellcheck shell=bash
# How the scripts talk: one line for each thing that takes time, the details only where something fails.

say() {
    printf '%s\n' "$*"
}

die() {
    printf 'compose: %s\n' "$*" >&2
    exit 1
}

# start command...: runs it in the background as $job, in a process group of its own, so that it can be stopped whole.
start() {
    set -m
    "$@" </dev/null &
    job=$!
    set +m
}

stop() {
    [[ -z ${job:-} ]] || kill -- "-$job" 2>/dev/null || true
}

# quietly "What it does" command...: shows the command's last words only if it fails, and a sign of life meanwhile.
quietly() {
    local what=$1 log started=$SECONDS told=$SECONDS job='' code=0
    shift
    log=$(mktemp)
    printf '%s ... ' "$what"
    start "$@" >"$log" 2>&1
    while kill -0 "$job" 2>/dev/null; do
        sleep 0.2
        if ((SECONDS - told >= 60)); then
            told=$SECONDS
            printf '\n  %ss: %s ' "$((SECONDS - started))" "$(tail -n 1 "$log" | tr -d '\r' | cut -c 1-110)"
        fi
    done
    wait "$job" || code=$?
    if ((code == 0)); then
        say "$((SECONDS - started))s"
    else
        say "failed"
        tail -n 60 "$log" | sed 's/^/  | /' >&2
    fi
    rm -f "$log"
    return "$code"
}

# The same, but on a terminal the command shows its own progress.
loudly() {
    if [[ -t 1 ]]; then
        shift
        "$@"
    else
        quietly "$@"
    fi
}
