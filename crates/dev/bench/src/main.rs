//! Benchmarks that print tables beside a peer measured in the same run.
//!
//! It refuses to print a figure as measured when the machine was busy with something else.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its table")]
#![expect(clippy::disallowed_methods, reason = "a bench measures real time and owns its process")]

mod append;
mod chaos;
mod fleet;
mod machine;
mod report;
mod socket;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Benchmarks of MirrorDNA; each prints a Markdown table")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Durable appends in this process, against raw write + fdatasync of the same bytes.
    Append {
        /// Interleaved rounds.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds of each measurement.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// Folder on the disk to measure; a temporary one by default.
        #[arg(long)]
        dir: Option<std::path::PathBuf>,
    },
    /// One producer streaming 256-byte events over the socket of a bus process of its own.
    Stream {
        /// Seconds.
        #[arg(long, default_value_t = 60.0)]
        seconds: f64,
        /// Events in one message.
        #[arg(long, default_value_t = 1)]
        per_message: usize,
        /// Whether each event has an id of the caller's.
        #[arg(long)]
        ids: bool,
        /// The `mirror` binary; beside this one by default.
        #[arg(long)]
        mirror: Option<std::path::PathBuf>,
    },
    /// Memory, CPU and start of the idle fleet; fails above its bars.
    Idle {
        /// Seconds to watch.
        #[arg(long, default_value_t = 60.0)]
        seconds: f64,
        /// The `mirror` binary; beside this one by default.
        #[arg(long)]
        mirror: Option<std::path::PathBuf>,
    },
    /// Imports a folder of transcripts twice.
    Import {
        /// The folder.
        path: std::path::PathBuf,
        /// The `mirror` binary; beside this one by default.
        #[arg(long)]
        mirror: Option<std::path::PathBuf>,
    },
    /// Makes the table of docs/CHAOS.md from the rows that the chaos suite left.
    Chaos {
        /// The folder of rows.
        rows: std::path::PathBuf,
        /// The page.
        #[arg(long, default_value = "docs/CHAOS.md")]
        out: std::path::PathBuf,
    },
    /// Runs all of them and writes docs/BENCHMARKS.md.
    Report {
        /// The page.
        #[arg(long, default_value = "docs/BENCHMARKS.md")]
        out: std::path::PathBuf,
        /// A folder of transcripts; without it that section is left out.
        #[arg(long)]
        transcripts: Option<std::path::PathBuf>,
    },
    /// Unary durable appends over the socket at several windows.
    Unary {
        /// Seconds of each measurement.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// The `mirror` binary; beside this one by default.
        #[arg(long)]
        mirror: Option<std::path::PathBuf>,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().verb {
        Verb::Append { rounds, seconds, dir } => append::run(rounds, seconds, dir),
        Verb::Stream { seconds, per_message, ids, mirror } => {
            socket::stream(seconds, per_message, ids, mirror)
        }
        Verb::Idle { seconds, mirror } => fleet::idle(seconds, mirror),
        Verb::Import { path, mirror } => fleet::import(&path, mirror),
        Verb::Chaos { rows, out } => chaos::run(&rows, &out),
        Verb::Report { out, transcripts } => report::run(&out, transcripts),
        Verb::Unary { seconds, mirror } => socket::unary(seconds, mirror),
    }
}
