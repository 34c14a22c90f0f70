# Commands worth typing; logic lives in `cargo xtask` and in tests.

# Lists the commands.
default:
    @just --list --unsorted

# What CI runs first; a change is ready when this passes.
gate: fmt-check clippy test doc tidy

fmt-check:
    cargo fmt --all --check

clippy:
    cargo clippy --workspace --all-targets --locked -- -D warnings

test:
    cargo test --workspace --locked

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Every law of the tree; `test` refuses the same.
tidy:
    cargo xtask tidy

# Writes plists, units, tables and the contract's lock.
render:
    cargo xtask contract
    cargo xtask render

# Formats everything.
fmt:
    cargo fmt --all

# Starts the fleet in the foreground; Ctrl-C drains it.
up:
    cargo run --release -- up

# Shows the state and the counters of a service.
look SERVICE:
    cargo run -q --release -- call {{SERVICE}} GetState '{}'
    cargo run -q --release -- metrics {{SERVICE}}

# Calls a method: just call bus GetStatus '{}'
call SERVICE METHOD JSON='{}':
    cargo run -q --release -- call {{SERVICE}} {{METHOD}} '{{JSON}}'

# Measures; docs/BENCHMARKS.md says what and how: just bench append, just bench report
bench *ARGS:
    cargo build --release -p mirror -p mirror-bench
    cargo run --release -q -p mirror-bench -- {{ARGS}}

# Writes a complete new service: just new memory shelf --tier 1 --summary "Keeps short texts."
new GROUP NOUN *ARGS:
    cargo xtask new-service {{GROUP}} {{NOUN}} {{ARGS}}

# Licences, advisories and duplicates; needs cargo-deny.
deny:
    cargo deny check
