# How .ci/run runs its steps: each with a log of its own, and at the end what failed.
# shellcheck shell=bash
passed=0 failed=() started=$SECONDS

# A kept target folder goes by the times of files, which a checkout does not keep: for another commit, or at another place,
# the workspace's own crates are built anew.
now="$(pwd) $(git rev-parse HEAD 2>/dev/null || date)"
if [ "$(cat "$CARGO_TARGET_DIR/built-from" 2>/dev/null)" != "$now" ]; then
    find crates proto tests -type f -exec touch -c {} +
    rm -rf "$CARGO_TARGET_DIR/debug/incremental"
    printf '%s' "$now" >"$CARGO_TARGET_DIR/built-from"
fi

step() {
    local name=$1 from=$SECONDS
    shift
    printf '\n=== %s: %s\n' "$name" "$*"
    if "$@" 2>&1 | tee "$logs/$name.log"; then
        passed=$((passed + 1))
        printf '=== %s: ok, %d s\n' "$name" $((SECONDS - from))
    else
        failed+=("$name")
        printf '=== %s: FAILED, %d s\n' "$name" $((SECONDS - from))
    fi
}

install_tools() {
    if ! command -v strace >/dev/null || ! command -v zstd >/dev/null; then
        apt-get update -q && apt-get install -y -q --no-install-recommends strace zstd || return 1
    fi
    if [ ! -x "$tools/venv/bin/python3" ]; then
        python3 -m venv "$tools/venv" || return 1
    fi
    "$tools/venv/bin/pip" install -q --disable-pip-version-check grpcio grpcio-reflection protobuf
}

finish() {
    for name in "${failed[@]}"; do
        printf '\n--- failed: %s\n' "$name"
        grep -nE 'panicked at|FAILED|^error|did not|No space' "$logs/$name.log" | head -20
        printf '... and its last lines\n'
        tail -n 25 "$logs/$name.log"
    done
    printf '\nran in %d s\n' $((SECONDS - started))
    printf '%d passed, %d failed%s\n' "$passed" "${#failed[@]}" "${failed:+: ${failed[*]}}"
    [ "${#failed[@]}" -eq 0 ]
}
