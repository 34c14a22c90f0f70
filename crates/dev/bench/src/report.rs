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
         Written by `cargo run --release -p mirror-bench -- report` after `cargo build --release`; nothing here is typed by hand.\n\
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
