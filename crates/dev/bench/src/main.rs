//! Benchmarks that print tables beside a peer measured in the same run.
//!
//! It refuses to print a figure as measured when the machine was busy with something else.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its table")]
#![expect(clippy::disallowed_methods, reason = "a bench measures real time and owns its process")]

mod append;
mod bus;
mod chaos;
mod corpus;
mod fanout;
mod fleet;
mod machine;
#[cfg(feature = "peers")]
mod peers;
mod rebuild;
mod report;
mod socket;
#[cfg(feature = "peers")]
mod syncs;
mod verify;
#[cfg(feature = "peers")]
mod window;

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
    /// Durable appends in this process against SQLite behind one batching thread.
    #[cfg(feature = "peers")]
    PeersProcess {
        /// Interleaved rounds.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds of each measurement.
        #[arg(long, default_value_t = 1.5)]
        seconds: f64,
        /// Folder on the disk to measure; a temporary one by default.
        #[arg(long)]
        dir: Option<std::path::PathBuf>,
    },
    /// Durable appends over a local socket against Redis and JetStream, with equal windows.
    #[cfg(feature = "peers")]
    PeersSocket {
        /// Interleaved rounds.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds of each measurement.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// The `mirror` binary; beside this one by default.
        #[arg(long)]
        mirror: Option<std::path::PathBuf>,
    },
    /// Proves with strace that each engine syncs before it acknowledges; fails when one does not.
    #[cfg(feature = "peers")]
    PeersStrace {
        /// The `mirror` binary; beside this one by default.
        #[arg(long)]
        mirror: Option<std::path::PathBuf>,
    },
    /// Appends to SQLite and prints the times; a part of peers-strace.
    #[cfg(feature = "peers")]
    #[command(hide = true)]
    PeersChild {
        /// The database.
        db: std::path::PathBuf,
    },
    /// How late 64 subscribers are, against JetStream.
    #[cfg(feature = "peers")]
    Fanout {
        /// Interleaved rounds.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Subscribers, each with a connection of its own.
        #[arg(long, default_value_t = 64)]
        subscribers: usize,
        /// Events a second of the steady phase.
        #[arg(long, default_value_t = 500)]
        rate: u32,
        /// Seconds of the steady phase.
        #[arg(long, default_value_t = 6.0)]
        seconds: f64,
        /// Events of the burst.
        #[arg(long, default_value_t = 5000)]
        burst: u64,
        /// The `mirror` binary; beside this one by default.
        #[arg(long)]
        mirror: Option<std::path::PathBuf>,
    },
    /// Subscribers at full load while the bus is killed again and again; fails at the first gap or repeat.
    FanoutKills {
        /// Seconds for which producers append.
        #[arg(long, default_value_t = 30.0)]
        seconds: f64,
        /// Seconds from one kill to the next.
        #[arg(long, default_value_t = 3.0)]
        every: f64,
        /// Subscribers that follow as services do.
        #[arg(long, default_value_t = 64)]
        followers: usize,
        /// Subscribers that read raw tails.
        #[arg(long, default_value_t = 16)]
        tails: usize,
        /// Producers, each with 256 events in flight.
        #[arg(long, default_value_t = 4)]
        producers: usize,
        /// Most events.
        #[arg(long, default_value_t = 1_000_000)]
        events: u64,
        /// The `mirror` binary; beside this one by default.
        #[arg(long)]
        mirror: Option<std::path::PathBuf>,
    },
    /// Times the rebuild of the index and of every fold from nothing, with memory.
    Rebuild {
        /// Events of the log.
        #[arg(long, default_value_t = 1_000_000)]
        events: u64,
        /// The `mirror` binary; beside this one by default.
        #[arg(long)]
        mirror: Option<std::path::PathBuf>,
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
    /// CPU time of a verification of the log, against that of its hashes and CRCs alone.
    Verify {
        /// Events of 256 bytes.
        #[arg(long, default_value_t = 1_000_000)]
        events: u64,
        /// Interleaved rounds.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Whether each event has an id of the caller's.
        #[arg(long)]
        ids: bool,
        /// Bus folder to make the log in, or that has it already; a temporary one by default.
        #[arg(long)]
        dir: Option<std::path::PathBuf>,
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
        #[cfg(feature = "peers")]
        Verb::PeersProcess { rounds, seconds, dir } => peers::process::run(rounds, seconds, dir),
        #[cfg(feature = "peers")]
        Verb::PeersSocket { rounds, seconds, mirror } => peers::socket::run(rounds, seconds, mirror),
        #[cfg(feature = "peers")]
        Verb::PeersStrace { mirror } => peers::strace::run(mirror),
        #[cfg(feature = "peers")]
        Verb::PeersChild { db } => peers::strace::append(&db),
        #[cfg(feature = "peers")]
        Verb::Fanout { rounds, subscribers, rate, seconds, burst, mirror } => {
            fanout::latency(rounds, fanout::Shape { subscribers, rate, seconds, burst }, mirror)
        }
        Verb::FanoutKills { seconds, every, followers, tails, producers, events, mirror } => {
            fanout::kills(fanout::Load { seconds, every, followers, tails, producers, events }, mirror)
        }
        Verb::Rebuild { events, mirror } => rebuild::run(events, mirror),
        Verb::Report { out, transcripts } => report::run(&out, transcripts),
        Verb::Verify { events, rounds, ids, dir } => verify::run(events, rounds, ids, dir),
        Verb::Unary { seconds, mirror } => socket::unary(seconds, mirror),
    }
}
