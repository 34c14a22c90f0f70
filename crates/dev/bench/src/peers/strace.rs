//! Whether each engine syncs before it acknowledges: the durable levels are equal.
//!
//! Each server runs under strace; the client notes when it saw each acknowledgement, by the clock of the trace. Two servers
//! with other settings are controls: the check must find them out.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use crate::bus::{Bus, event};
use crate::machine::describe;
use crate::peers::jetstream::{self, JetStream};
use crate::peers::redis::{self, Redis};
use crate::peers::sqlite::{self, Db};
use crate::peers::trace::{self, Trace};
use crate::peers::window;
use crate::peers::work::Work;
use crate::window::Until;

/// Appends of each run.
const COUNT: u64 = 400;
const WINDOWS: [usize; 2] = [1, 16];

/// What one run under strace showed.
struct Proof {
    engine: String,
    window: usize,
    acknowledged: usize,
    trace: Trace,
    early: usize,
    /// Whether the engine is not durable, and the check must say so.
    control: bool,
}

/// Seconds since the Unix epoch.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn wrapper(out: &Path) -> anyhow::Result<Vec<&str>> {
    let out = out.to_str().context("the folder is UTF-8")?;
    let words = ["strace"].into_iter().chain(trace::OPTIONS).chain(["-e", trace::CALLS, "-o", out]);
    Ok(words.collect())
}

pub(crate) fn run(mirror: Option<PathBuf>) -> anyhow::Result<()> {
    println!("{}; {}; {}; {}\n", describe(), sqlite::version(), redis::version()?, jetstream::version()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let proofs = runtime.block_on(all(mirror))?;
    println!(
        "| engine | window | acknowledged | writes | syncs after a write | appends a sync | \
         acknowledged before the sync |"
    );
    println!("|---|---|---|---|---|---|---|");
    for p in &proofs {
        let (writes, syncs) = (p.trace.writes.len(), p.trace.syncs.len());
        let each = if syncs == 0 { f64::INFINITY } else { p.acknowledged as f64 / syncs as f64 };
        let control = if p.control { " (control: not durable)" } else { "" };
        println!(
            "| {}{control} | {} | {} | {writes} | {syncs} | {each:.1} | {} |",
            p.engine, p.window, p.acknowledged, p.early
        );
    }
    for p in &proofs {
        anyhow::ensure!(
            p.control || p.early == 0,
            "{}: {} were acknowledged before the sync",
            p.engine,
            p.early
        );
        anyhow::ensure!(!p.control || p.early > 0, "{}: the check did not find the control out", p.engine);
    }
    println!(
        "\nIn every engine the n-th acknowledgement with w in flight came after n / w syncs of its log file, each after a \
         write; in the controls it did not."
    );
    Ok(())
}

async fn all(mirror: Option<PathBuf>) -> anyhow::Result<Vec<Proof>> {
    let mut proofs = Vec::new();
    for window in WINDOWS {
        proofs.push(bus(mirror.clone(), window).await?);
        proofs.push(redis(redis::Sync::Always, window).await?);
        proofs.push(jetstream(jetstream::Sync::Always, window).await?);
    }
    proofs.push(child()?);
    proofs.push(redis(redis::Sync::EverySecond, 1).await?);
    proofs.push(jetstream(jetstream::Sync::Default, 1).await?);
    Ok(proofs)
}

/// Makes the calls of one run; returns when it began and when each acknowledgement was seen.
async fn calls<F: Future<Output = anyhow::Result<()>>>(
    window: usize,
    append: impl Fn(u64) -> F,
) -> anyhow::Result<(f64, Vec<f64>)> {
    append(0).await?;
    // Whatever the first append still has to sync.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (seen, from) = (RefCell::new(Vec::new()), now());
    window::calls(Path::new("/"), Until::count(COUNT), window, |n| {
        let call = append(n);
        async {
            call.await?;
            seen.borrow_mut().push(now());
            Ok(())
        }
    })
    .await?;
    Ok((from, seen.into_inner()))
}

fn proof(
    engine: String,
    window: usize,
    control: bool,
    out: &Path,
    ending: &str,
    (from, seen): (f64, Vec<f64>),
) -> anyhow::Result<Proof> {
    let text = String::from_utf8_lossy(&std::fs::read(out)?).into_owned();
    let trace = trace::read(&text, ending).since(from);
    let early = trace.early(&seen, window);
    Ok(Proof { engine, window, acknowledged: seen.len(), trace, early, control })
}

async fn bus(mirror: Option<PathBuf>, window: usize) -> anyhow::Result<Proof> {
    let temp = tempfile::tempdir()?;
    let out = temp.path().join("trace");
    let bus = Bus::start_under(mirror, &wrapper(&out)?)?;
    let client = bus.ready().await?;
    let run = calls(window, |_| window::unary(&client, event(None))).await?;
    drop((client, bus));
    proof("MirrorDNA, Append".to_owned(), window, false, &out, ".seg", run)
}

async fn redis(sync: redis::Sync, window: usize) -> anyhow::Result<Proof> {
    let temp = tempfile::tempdir()?;
    let out = temp.path().join("trace");
    let server = Redis::start(&wrapper(&out)?, sync)?;
    let connection = server.connect().await?;
    let run = calls(window, |n| connection.append(n)).await?;
    drop((connection, server));
    let (name, control) = match sync {
        redis::Sync::Always => ("Redis, appendfsync always", false),
        redis::Sync::EverySecond => ("Redis, appendfsync everysec", true),
    };
    proof(name.to_owned(), window, control, &out, ".incr.aof", run)
}

async fn jetstream(sync: jetstream::Sync, window: usize) -> anyhow::Result<Proof> {
    let temp = tempfile::tempdir()?;
    let out = temp.path().join("trace");
    let server = JetStream::start(&wrapper(&out)?, sync)?;
    let connection = server.connect().await?;
    connection.create("proof").await?;
    let run = calls(window, |_| connection.append_one("proof")).await?;
    drop((connection, server));
    let (name, control) = match sync {
        jetstream::Sync::Always => ("JetStream, sync_interval always", false),
        jetstream::Sync::Default => ("JetStream, default sync_interval", true),
    };
    proof(name.to_owned(), window, control, &out, ".blk", run)
}

/// SQLite works in the bench's process, so another bench process is traced.
fn child() -> anyhow::Result<Proof> {
    let temp = tempfile::tempdir()?;
    let out = temp.path().join("trace");
    let words = wrapper(&out)?;
    let output = Command::new(words[0])
        .args(&words[1..])
        .arg(std::env::current_exe()?)
        .arg("peers-child")
        .arg(temp.path().join("db"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start strace; scripts/peers.sh installs it")?;
    anyhow::ensure!(output.status.success(), "the traced process failed");
    let text = String::from_utf8(output.stdout)?;
    let mut times = text.lines().map(str::parse::<f64>);
    let from = times.next().context("the traced process printed nothing")??;
    let run = (from, times.collect::<Result<Vec<_>, _>>()?);
    proof("SQLite, WAL, synchronous FULL".to_owned(), 1, false, &out, "-wal", run)
}

/// Appends to SQLite, and prints when it began and when each COMMIT had ended.
pub(crate) fn append(db: &Path) -> anyhow::Result<()> {
    let db = Db::open(db, Work::Plain)?;
    db.insert(&[0])?;
    let mut times = vec![now()];
    for n in 0..COUNT {
        db.insert(&[n])?;
        times.push(now());
    }
    for time in times {
        println!("{time:.6}");
    }
    Ok(())
}
