#!/usr/bin/env bash
# Makes a service with `cargo xtask new-service` in a copy of the repository, and runs its tests and lints.
set -euo pipefail
cd "$(dirname "$0")/../.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -xf - -C "$copy"
# A target folder of its own: a shared one would mix the copy's crates with the original's.
target="$copy/target"
mkdir -p "$target/debug"
for part in deps build .fingerprint; do
    [ ! -d "${CARGO_TARGET_DIR:-target}/debug/$part" ] || cp -a "${CARGO_TARGET_DIR:-target}/debug/$part" "$target/debug/"
done
cd "$copy"
touch crates/base/contract/build.rs
export CARGO_TARGET_DIR="$target"
git init -q && git add -A && git -c user.name=ci -c user.email=ci@localhost commit -qm start
cargo xtask new-service memory sampleshelf --tier 1 --needs bus --summary "Keeps short texts."
cargo test -p mirror-sampleshelf
cargo clippy -p mirror-sampleshelf --all-targets --no-deps -- -D warnings
cargo fmt --all --check
cargo test -p xtask
