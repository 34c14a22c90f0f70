//! `mirror-fuzz`: runs the fuzz bodies on many inputs and prints what they did.
//!
//! Exits with 1 when one panicked or took more memory than it may. An input of a failure is left in the folder of the build.

#![expect(clippy::print_stdout, reason = "the table is what it is for")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use clap::Parser;
use mirror_clock::{Clock as _, SystemClock};
use mirror_faults::alloc::Counting;
use mirror_faults::flips::{Flips, Log};
use mirror_faults::fuzz::{Body, Outcome, Plan, bodies, input, run};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs every reader and decoder on bytes that nobody wrote.
#[derive(Debug, Parser)]
struct Args {
    /// Inputs for each body.
    #[arg(long, default_value_t = 20_000)]
    inputs: u64,
    /// Only bodies whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// What decides the inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this one input only, and print it.
    #[arg(long)]
    at: Option<u64>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Print a row for each decoder too, not one for all.
    #[arg(long)]
    all: bool,
    /// Flip bits of a log of so many events, and fuzz nothing.
    #[arg(long, value_name = "EVENTS")]
    flips: Option<usize>,
    /// Flip every bit, not one of each byte.
    #[arg(long)]
    every: bool,
    /// Where failing inputs are left.
    #[arg(long, default_value = "target/fuzz")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(events) = args.flips {
        return flips(&args, events);
    }
    let chosen: Vec<Body> = bodies().into_iter().filter(|b| b.name.contains(&args.only)).collect();
    if let Some(at) = args.at {
        for body in &chosen {
            let mut bytes = Vec::new();
            input(body, &(body.seeds)(body.name), args.seed, at, &mut bytes);
            println!("{}: {} bytes\n{}", body.name, bytes.len(), bytes.escape_ascii());
            body.call(&bytes);
        }
        return ExitCode::SUCCESS;
    }
    // Panics are counted and told below; a thousand of them would hide that.
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Outcome)>> = Mutex::default();
    let plan = Plan { from: 0, inputs: args.inputs, seed: args.seed };
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(|| {
                while let Some((i, body)) = {
                    let i = next.fetch_add(1, SeqCst);
                    chosen.get(i).map(|b| (i, b))
                } {
                    let outcome = run(body, plan);
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((i, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    report(&args, &chosen, &done)
}

fn flips(args: &Args, events: usize) -> ExitCode {
    let Some(log) = Log::new(events) else {
        println!("no log of {events} events can be written here");
        return ExitCode::FAILURE;
    };
    let clock = SystemClock;
    let began = clock.boot();
    let share = log.len().div_ceil(args.threads.max(1));
    let log = &log;
    let all: Vec<Flips> = std::thread::scope(|scope| {
        let starts = (0..log.len()).step_by(share.max(1));
        let threads: Vec<_> = starts
            .map(|from| {
                scope.spawn(move || log.flip(from..(from + share).min(log.len()), args.every, args.seed))
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let (flipped, missed) =
        (all.iter().map(|f| f.flipped).sum::<u64>(), all.iter().map(|f| f.missed.len()).sum::<usize>());
    let took = clock.boot().saturating_sub(began).as_secs_f64();
    println!(
        "{flipped} bits flipped in {events} events of {} bytes, {missed} not detected or not located, {took:.1} s, seed {}",
        log.len(),
        args.seed
    );
    for why in all.iter().flat_map(|f| &f.missed).take(20) {
        println!("{why}");
    }
    let wanted = log.len() as u64 * if args.every { 8 } else { 1 };
    if missed == 0 && flipped == wanted { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(args: &Args, chosen: &[Body], done: &[(usize, Outcome)]) -> ExitCode {
    println!(
        "| body | inputs | seconds | failures | peak memory, KiB |\n| --- | ---: | ---: | ---: | ---: |"
    );
    let row = |name: &str, inputs: u64, took: Duration, failures: usize, peak: usize| {
        println!("| {name} | {inputs} | {:.1} | {failures} | {} |", took.as_secs_f64(), peak.div_ceil(1024));
    };
    let (mut messages, mut all, mut bad) = (0, (0, Duration::ZERO, 0, 0), 0);
    for (i, outcome) in done {
        let name = chosen[*i].name;
        bad += outcome.failures.len();
        if name.starts_with("mirror.") && !args.all {
            messages += 1;
            all.0 += outcome.inputs;
            all.1 += outcome.took;
            all.2 += outcome.failures.len();
            all.3 = all.3.max(outcome.peak);
        } else {
            row(name, outcome.inputs, outcome.took, outcome.failures.len(), outcome.peak);
        }
    }
    if messages > 0 {
        row(&format!("decoders of {messages} messages"), all.0, all.1, all.2, all.3);
    }
    println!("seed {}, {} bodies, {bad} failures", args.seed, done.len());
    for (i, outcome) in done {
        for (number, bytes, why) in &outcome.failures {
            let name = chosen[*i].name;
            let path = args.out.join(format!("{}-{number}", name.replace([':', '.'], "-")));
            let kept = std::fs::create_dir_all(&args.out).and_then(|()| std::fs::write(&path, bytes));
            let place = kept.map_or_else(|e| format!("not kept: {e}"), |()| path.display().to_string());
            println!("{name}: input {number} of seed {}: {why} ({place})", args.seed);
        }
    }
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
