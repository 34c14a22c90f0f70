//! Durable appends in this process: our log, and SQLite behind one batching thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use hdrhistogram::Histogram;
use mirror_bus::bench::Engine;
use mirror_bus::{Config, RealDisk};
use mirror_types::{Origin, Subject};

use crate::append::{filled, raw, record};
use crate::machine::{Quiet, describe, median};
use crate::peers::sqlite::{self, Batcher, Db};
use crate::peers::work::{PAYLOAD, Work, id, subject};
use crate::syncs::{Acknowledged, Flushes};

/// Part of each measurement before the clock starts: files reach their size, caches fill.
const WARM: f64 = 0.2;
/// Longest look of a single producer for its answer, as in `Engine::append_blocking`.
const LOOK: Duration = Duration::from_millis(1);

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Mirror,
    Sqlite,
    /// SQLite without the batching thread: the producer commits itself.
    Direct,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    work: Work,
    producers: usize,
    who: Who,
}

/// Returns all cases; the compared ones follow each other.
fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for work in [Work::Plain, Work::Ids] {
        for producers in [1, 64] {
            all.extend([Who::Mirror, Who::Sqlite].map(|who| Case { work, producers, who }));
            if producers == 1 {
                all.push(Case { work, producers, who: Who::Direct });
            }
        }
    }
    all
}

/// What one case gave in one round.
struct Sample {
    case: Case,
    rate: f64,
    times: Histogram<u64>,
}

pub(crate) fn run(rounds: usize, seconds: f64, dir: Option<PathBuf>) -> anyhow::Result<()> {
    let temp = tempfile::Builder::new().prefix("bench").tempdir()?;
    let root = dir.unwrap_or_else(|| temp.path().to_owned());
    let span = Duration::from_secs_f64(seconds);
    println!("{}; {}\n", describe(), sqlite::version());
    let (mut samples, mut raws, mut busy, mut note) = (Vec::new(), Vec::new(), 0, String::new());
    for round in 0..rounds {
        let home = root.join(format!("round-{round}"));
        std::fs::create_dir_all(&home)?;
        let quiet = Quiet::watch();
        busy += usize::from(!quiet.ok());
        let bytes = record(&home)?;
        let raw = raw(&filled(&home)?, &bytes, span)?;
        let mut order = cases();
        let turn = (round * 3) % order.len();
        order.rotate_left(turn);
        for case in order {
            let sample = measure(&home, case, span, raw).with_context(|| format!("{case:?}"))?;
            samples.push((round, sample));
        }
        raws.push(raw);
        note = quiet.note();
    }
    for round in 0..rounds {
        std::fs::remove_dir_all(root.join(format!("round-{round}")))?;
    }
    print(&samples, &raws);
    let verdict = match busy {
        0 => String::new(),
        n => format!(" **Not measured**: the machine was busy before {n} of {rounds} rounds."),
    };
    println!("\n{rounds} rounds of {seconds} s a cell; after the last: {note}.{verdict}");
    Ok(())
}

fn print(samples: &[(usize, Sample)], raws: &[f64]) {
    println!("Raw write + fdatasync of the same bytes: {} /s.\n", spread(raws));
    println!(
        "| work | producers | MirrorDNA /s | p50, p99 ms | SQLite behind a thread /s | p50, p99 ms | \
         ratio | SQLite without a thread /s |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for work in [Work::Plain, Work::Ids] {
        for producers in [1, 64] {
            let of = |who| {
                let case = Case { work, producers, who };
                let of: Vec<&Sample> = samples.iter().map(|(_, s)| s).filter(|s| s.case == case).collect();
                let rates: Vec<f64> = of.iter().map(|s| s.rate).collect();
                let at = |q: f64| {
                    let all: Vec<f64> =
                        of.iter().map(|s| s.times.value_at_quantile(q) as f64 / 1e6).collect();
                    median(&all)
                };
                (rates, format!("{:.3}, {:.3}", at(0.5), at(0.99)))
            };
            let ((ours, our_times), (theirs, their_times)) = (of(Who::Mirror), of(Who::Sqlite));
            let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| a / b).collect();
            let direct = match of(Who::Direct).0 {
                none if none.is_empty() => "-".to_owned(),
                rates => spread(&rates),
            };
            let work = match work {
                Work::Plain => "ordered",
                Work::Ids => "ordered, unique ids, by subject",
            };
            println!(
                "| {work} | {producers} | {} | {our_times} | {} | {their_times} | **{:.2}** | {direct} |",
                spread(&ours),
                spread(&theirs),
                median(&ratios)
            );
        }
    }
}

/// Returns the median with the least and the most.
pub(crate) fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.0} ({least:.0}-{most:.0})", median(values))
}

fn measure(home: &Path, case: Case, span: Duration, raw: f64) -> anyhow::Result<Sample> {
    let name = format!("{:?}-{:?}-{}", case.who, case.work, case.producers);
    let path = home.join(name);
    let (run, times) = match case.who {
        Who::Mirror => {
            let engine = Mirror { engine: open(&path)?, work: case.work };
            let result = drive(&engine, case.producers, home, span);
            engine.engine.close();
            result?
        }
        Who::Sqlite => {
            let batcher = Batcher::open(&path, case.work)?;
            let result = drive(&batcher, case.producers, home, span);
            batcher.close()?;
            result?
        }
        Who::Direct => {
            let db = Db::open(&path, case.work)?;
            one(home, span, |n| db.insert(&[n]))?
        }
    };
    Ok(Sample { case, rate: run.durable(raw)?, times })
}

/// Opens our log with segments of the size that they grow to; the next one is filled during the run, as it always is.
fn open(bus: &Path) -> anyhow::Result<Engine> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(bus.join("log"))?;
    for dir in [bus, &bus.join("log")] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    }
    let default = Config::default();
    let config = Config { segment_first_kib: default.segment_max_kib, ..default };
    let origin = Origin::parse("0123456789abcdef.1").context("the origin is valid")?;
    let (engine, _) = Engine::open(bus, &origin, &config, Arc::new(RealDisk))
        .map_err(|e| anyhow::anyhow!("open the bus: {e}"))?;
    Ok(engine)
}

/// An engine under test.
trait Log: Sync {
    /// Appends and waits; one producer, a thread, that looks for its answer before it sleeps.
    fn append_blocking(&self, n: u64) -> anyhow::Result<()>;
    /// Appends and waits; one of several producers, tasks on one executor.
    async fn append(&self, n: u64) -> anyhow::Result<()>;
}

struct Mirror {
    engine: Engine,
    work: Work,
}

impl Mirror {
    fn parts(&self, n: u64) -> anyhow::Result<(Subject, Option<String>)> {
        Ok((Subject::parse(subject(n))?, (self.work == Work::Ids).then(|| id(n))))
    }
}

impl Log for Mirror {
    fn append_blocking(&self, n: u64) -> anyhow::Result<()> {
        let (subject, id) = self.parts(n)?;
        self.engine.append_blocking(&subject, id.as_deref(), Bytes::from_static(PAYLOAD))?;
        Ok(())
    }

    async fn append(&self, n: u64) -> anyhow::Result<()> {
        let (subject, id) = self.parts(n)?;
        self.engine.append(&subject, id.as_deref(), Bytes::from_static(PAYLOAD)).await?;
        Ok(())
    }
}

impl Log for Batcher {
    fn append_blocking(&self, n: u64) -> anyhow::Result<()> {
        let (mut answer, start) = (self.offer(n), Instant::now());
        loop {
            match answer.try_recv() {
                Ok(()) => return Ok(()),
                Err(_) if start.elapsed() < LOOK => std::thread::yield_now(),
                Err(_) => return Ok(answer.blocking_recv()?),
            }
        }
    }

    async fn append(&self, n: u64) -> anyhow::Result<()> {
        Ok(self.offer(n).await?)
    }
}

type Run = (Acknowledged, Histogram<u64>);

fn drive(log: &impl Log, producers: usize, home: &Path, span: Duration) -> anyhow::Result<Run> {
    if producers == 1 {
        one(home, span, |n| log.append_blocking(n))
    } else {
        many(log, producers, home, span)
    }
}

fn one(home: &Path, span: Duration, append: impl Fn(u64) -> anyhow::Result<()>) -> anyhow::Result<Run> {
    let mut numbers = 0..;
    let mut times = Histogram::<u64>::new(3)?;
    let warm = Instant::now();
    while warm.elapsed() < span.mul_f64(WARM) {
        append(numbers.next().unwrap_or_default())?;
    }
    let flushes = Flushes::watch(home);
    let start = Instant::now();
    let mut last = start;
    while last.duration_since(start) < span {
        append(numbers.next().unwrap_or_default())?;
        let now = Instant::now();
        times.record(u64::try_from((now - last).as_nanos())?)?;
        last = now;
    }
    let seconds = last.duration_since(start).as_secs_f64();
    Ok((Acknowledged { count: times.len(), seconds, window: 1, flushes: flushes.count() }, times))
}

fn many(log: &impl Log, producers: usize, home: &Path, span: Duration) -> anyhow::Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (next, measuring, stop) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
    runtime.block_on(async {
        let work = (0..producers).map(|_| async {
            let mut times = Histogram::<u64>::new(3)?;
            while !stop.load(Relaxed) {
                let (counts, sent) = (measuring.load(Relaxed), Instant::now());
                log.append(next.fetch_add(1, Relaxed)).await?;
                if counts {
                    times.record(u64::try_from(sent.elapsed().as_nanos())?)?;
                }
            }
            anyhow::Ok(times)
        });
        let clock = async {
            tokio::time::sleep(span.mul_f64(WARM)).await;
            let flushes = Flushes::watch(home);
            measuring.store(true, Relaxed);
            let start = Instant::now();
            tokio::time::sleep(span).await;
            stop.store(true, Relaxed);
            anyhow::Ok((start, flushes))
        };
        let (all, clock) = tokio::join!(futures::future::try_join_all(work), clock);
        let (start, flushes) = clock?;
        let seconds = start.elapsed().as_secs_f64();
        let mut times = Histogram::<u64>::new(3)?;
        for part in all? {
            times.add(part)?;
        }
        let run = Acknowledged { count: times.len(), seconds, window: producers, flushes: flushes.count() };
        Ok((run, times))
    })
}
