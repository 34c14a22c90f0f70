#!/usr/bin/env bash
# Starts a fleet and lets foreign clients use every socket: Python grpcio with reflection, and buf curl.
# Usage: run.sh MIRROR TOOLS, where TOOLS/venv has grpcio, grpcio-reflection and protobuf.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mirror=$(readlink -f "$1") tools=$2
temp=$(mktemp -d /tmp/mXXXXXX)
export MIRROR_HOME="$temp/h"
"$mirror" up >"$temp/up.out" 2>&1 &
up=$!
trap 'kill -TERM $up 2>/dev/null || true; wait $up || true; rm -rf "$temp"' EXIT
for _ in $(seq 200); do
    "$mirror" status >/dev/null 2>&1 && break
    sleep 0.1
done
"$mirror" status
"$tools/venv/bin/python3" "$here/foreign.py" "$MIRROR_HOME/run" --samples "$here/../samples"
sh "$here/buf.sh" "$MIRROR_HOME/run" "$tools/buf"
