//! Faults against a fleet of real processes: what pulse says, what it does, how long it takes, and whom it leaves alone.
//!
//! Each fault leaves a row; `cargo run -p mirror-bench -- chaos` makes the table of docs/CHAOS.md from them.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test reports by panicking")]

mod leaf;
mod machine;
mod many;
mod stage;
mod state;
