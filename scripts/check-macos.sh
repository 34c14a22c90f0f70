#!/usr/bin/env bash
# Type-checks the workspace for the Mac from Linux. The C parts of dependencies are compiled by zig (PyPI: ziglang).
# Usage: scripts/check-macos.sh TOOLS_DIR. Exits with 0 and a loud line where the target cannot be had.
set -euo pipefail
tools=$1
target=aarch64-apple-darwin
cd "$(dirname "$0")/.."

if ! rustup target list --installed 2>/dev/null | grep -qx "$target" && ! rustup target add "$target"; then
    echo "SKIPPED: the target $target cannot be had here; NOTHING WAS CHECKED FOR THE MAC"
    exit 0
fi
[ -x "$tools/venv/bin/python3" ] || python3 -m venv "$tools/venv"
"$tools/venv/bin/pip" install -q --disable-pip-version-check ziglang

mkdir -p "$tools/zig"
cat >"$tools/zig/cc" <<WRAPPER
#!/usr/bin/env bash
# cc-rs names the target in clang's words, and zig in its own.
args=()
for arg in "\$@"; do
    case \$arg in
        --target=* | -mmacosx-version-min=* | -arch | arm64) ;;
        *) args+=("\$arg") ;;
    esac
done
exec "$tools/venv/bin/python3" -m ziglang cc -target aarch64-macos "\${args[@]}"
WRAPPER
printf '#!/usr/bin/env bash\nexec "%s" -m ziglang ar "$@"\n' "$tools/venv/bin/python3" >"$tools/zig/ar"
chmod +x "$tools/zig/cc" "$tools/zig/ar"

export CC_aarch64_apple_darwin="$tools/zig/cc" AR_aarch64_apple_darwin="$tools/zig/ar"
# No SDK is needed to compile the C parts; a folder keeps cc-rs from asking xcrun for one.
export SDKROOT="$tools/zig"
cargo check --workspace --target "$target"
