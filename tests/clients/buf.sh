#!/bin/sh
# Calls a running fleet with buf, a client that shares no code with it, and lints the contract.
# Needs npm and, the first time, a network. Usage: buf.sh <run folder> <folder that keeps buf>
set -eu

run=${1:?usage: buf.sh <run folder> <folder that keeps buf>}
kept=${2:?usage: buf.sh <run folder> <folder that keeps buf>}
here=$(cd "$(dirname "$0")" && pwd)
proto=$here/../../proto
buf=$kept/node_modules/.bin/buf

# A connection that hangs would hold up everything: it is given up, and tried again.
if [ "$("$buf" --version 2>/dev/null)" != 1.75.0 ]; then
    mkdir -p "$kept"
    for try in 1 2 3; do
        timeout 60 npm install --no-save --no-audit --no-fund --silent --prefix "$kept" @bufbuild/buf@1.75.0 && break
        [ "$try" -lt 3 ]
    done
fi

(cd "$proto" && "$buf" lint && "$buf" build -o /dev/null)
echo "ok    the contract is built and linted by buf $("$buf" --version)"

# Without a schema: buf asks the reflection of the socket.
call() {
    "$buf" curl --protocol grpc --http2-prior-knowledge --unix-socket "$run/$1.sock" -d "$3" "http://localhost/$2"
}
# Fails with what was seen unless $2 is in it.
has() {
    case $2 in
    *"$3"*) echo "ok    $1" ;;
    *) echo "FAIL  $1: $2"; exit 1 ;;
    esac
}

has "bus: GetStatus" "$(call bus mirror.bus.v1.BusService/GetStatus '{}')" '"WRITER_OPEN"'

# "aGVsbG8=" is "hello".
ack=$(call bus mirror.bus.v1.BusService/Append \
    '{"event": {"subject": "local.buf", "payload": "aGVsbG8=", "type": "PAYLOAD_TYPE_TEXT"}}')
has "bus: Append" "$ack" '"DURABILITY_SYNCED"'
seq=$(printf '%s' "$ack" | sed -n 's/.*"seq": *"\([0-9]*\)".*/\1/p')
event=$(call bus mirror.bus.v1.BusService/GetEvent "{\"seq\": \"$seq\"}")
has "bus: GetEvent" "$event" '"aGVsbG8="'

# buf shows an error's details by type; foreign.py reads what is in them.
error=$(call bus mirror.bus.v1.BusService/GetEvent '{"seq": "999999999"}' 2>&1 || true)
has "bus: an error has its code" "$error" '"out_of_range"'
has "bus: an error has its reason" "$error" '"google.rpc.ErrorInfo"'

for socket in "$run"/*.sock; do
    name=$(basename "$socket" .sock)
    has "$name: GetState" "$(call "$name" mirror.kit.v1.KitService/GetState '{}')" '"STATE_SERVING"'
    has "$name: health" "$(call "$name" grpc.health.v1.Health/Check '{}')" '"SERVING"'
done
echo "buf: all passed"
