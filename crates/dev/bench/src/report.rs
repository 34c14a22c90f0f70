//! Runs all benchmarks and writes docs/BENCHMARKS.md.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

struct Section {
    title: &'static str,
    text: &'static str,
    args: &'static [&'static str],
}

const SECTIONS: &[Section] = &[
    Section {
        title: "Durable appends in this process",
        text: "Each round writes and syncs the bytes of one event with a 256-byte payload to a file that was filled before (raw), \
               then lets 1 producer (a thread) and 64 (tasks on one executor) append the same event and wait for its acknowledgement. \
               Bars: 0.7 of raw for 1 producer, 20 times raw for 64.",
        args: &["append", "--rounds", "7", "--seconds", "1.5"],
    },
    Section {
        title: "One producer streaming over the socket",
        text: "A bus process of its own; 256-byte payloads; each message is one event. Bar: 100,000 events/s for 60 s, and the \
               index caught up at the end.",
        args: &["stream", "--seconds", "60"],
    },
    Section {
        title: "The same, 64 events in a message",
        text: "",
        args: &["stream", "--seconds", "10", "--per-message", "64"],
    },
    Section {
        title: "The same, 64 events in a message, each with an id of the caller's",
        text: "Every id is looked up before, and indexed after; the stream waits when the index falls 200,000 events behind.",
        args: &["stream", "--seconds", "10", "--per-message", "64", "--ids"],
    },
    Section {
        title: "Unary appends over the socket",
        text: "One durable acknowledgement for each call; the window is the number of calls in flight on one connection.",
        args: &["unary", "--seconds", "3"],
    },
    #[cfg(feature = "peers")]
    Section {
        title: "In this process, against SQLite",
        text: "Every append is durable before it is acknowledged, on both sides; payloads of 256 bytes. SQLite has its write-ahead log and \
               synchronous FULL, an exclusive lock and 64 MiB of cache, behind one thread that takes all rows that wait into one \
               transaction, waits for more and inserts meanwhile, as the bus's writer does. *Ordered* keeps the event under its \
               position and no more; the other work adds a caller's id that must be unique and an index by subject, as the bus has \
               them; in both the bus also chains hashes, \
               which SQLite does not. One producer is a thread, 64 are tasks on one executor. Each cell is on new files, after a fifth of its \
               time to warm up; the filling of the next segment and SQLite's checkpoints fall into the time. Medians, with least and most; \
               the ratio is the median of the rounds' ratios. Bar: ahead at 1 and 64 producers.",
        args: &["peers-process", "--rounds", "7", "--seconds", "1.5"],
    },
    #[cfg(feature = "peers")]
    Section {
        title: "Over a local socket, against Redis and JetStream",
        text: "One client on one connection with a fixed number of appends in flight, each acknowledged after a sync; payloads of 256 bytes. The \
               bus and Redis are on Unix sockets; JetStream has none and is on the loopback. Redis: appendonly, appendfsync always, no \
               rewrites. JetStream: a file stream with sync_interval always. The clients are tonic, redis and async-nats, all on one \
               thread; redis-benchmark, in C, sends a window and waits for all of it. A rate is refused when the device was flushed fewer times \
               than it needs. Bar: ahead at 16 and 256; window 1 is shown with what it is made of.",
        args: &["peers-socket", "--rounds", "5", "--seconds", "2"],
    },
    #[cfg(feature = "peers")]
    Section {
        title: "The durable levels are equal",
        text: "Each server under strace -f; the client notes when it saw each acknowledgement. A sync counts when something was written to \
               the log file before it began. The controls are the same servers with settings that do not sync first, and the check must find \
               them out.",
        args: &["peers-strace"],
    },
    #[cfg(feature = "peers")]
    Section {
        title: "One log, 64 subscribers",
        text: "From the start of an append until a subscriber has the event; each subscriber has a connection of its own, all are tasks of one \
               thread. Bar: p99 no worse than JetStream's in the same run.",
        args: &["fanout", "--rounds", "5"],
    },
    Section {
        title: "64 subscribers under load and kills",
        text: "Producers with 256 events in flight each, and the bus killed with SIGKILL every few seconds. Followers are what services read \
               with; raw tails count what the bus itself sends. Bar: no gap, no repeat.",
        args: &["fanout-kills"],
    },
    Section {
        title: "Everything again from the log",
        text: "A log of rows of agents' sessions, notes, cards, incidents and marks of the schedule, 256 bytes each. First the bus alone, then \
               the whole fleet at once, after its folder of state was removed; the times are from the start of the processes.",
        args: &["rebuild"],
    },
    Section {
        title: "Verification of the log",
        text: "The second reader against the hashes and CRCs of the same bytes alone, which every verification must compute: CPU time, user and \
               system. Bar: at most twice.",
        args: &["verify", "--rounds", "7"],
    },
    Section {
        title: "The same, each event with an id of the caller's",
        text: "Ids are also checked to be different.",
        args: &["verify", "--rounds", "7", "--ids"],
    },
    Section {
        title: "The idle fleet",
        text: "All services of the catalogue under `mirror up`. Memory is the proportional set size.",
        args: &["idle", "--seconds", "30"],
    },
];

pub(crate) fn run(out: &Path, transcripts: Option<PathBuf>) -> anyhow::Result<()> {
    let exe = std::env::current_exe()?;
    let mut page = String::from(
        "# Benchmarks\n\n\
         Written by `mirror-bench report`, which scripts/peers.sh builds and runs; nothing here is typed by hand.\n\
         Each section names its command.\n\
         A line says \"not measured\" when more than 20 % of the time before it was lost to other processes' CPU pressure.\n",
    );
    let mut section = |title: &str, text: &str, args: &[&str]| -> anyhow::Result<()> {
        eprintln!("{title}");
        let output = Command::new(&exe).args(args).output().context("run a section")?;
        let result = if output.status.success() {
            String::new()
        } else {
            format!("\n**Failed:** {}\n", String::from_utf8_lossy(&output.stderr).trim())
        };
        let table = String::from_utf8_lossy(&output.stdout);
        let shown: Vec<&str> = args.iter().map(|a| if a.contains('/') { "DIR" } else { a }).collect();
        page.push_str(&format!(
            "\n## {title}\n\n{}`mirror-bench {}`\n\n{}{result}",
            if text.is_empty() { String::new() } else { format!("{text}\n\n") },
            shown.join(" "),
            table
        ));
        Ok(())
    };
    for s in SECTIONS {
        section(s.title, s.text, s.args)?;
    }
    if let Some(path) = transcripts {
        let path = path.to_str().context("the path is UTF-8")?;
        section(
            "Import of real transcripts",
            "Claude Code sessions with sub-agents and compactions; the second run finds every row on the bus.",
            &["import", path],
        )?;
    }
    std::fs::write(out, page)?;
    Ok(())
}
