//! Durable appends in this process.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use mirror_bus::bench::Engine;
use mirror_bus::{Config, RealDisk};
use mirror_types::{Origin, Subject};

use crate::machine::{Quiet, describe, median};

/// Size of the files, all filled before the clock starts.
const SEGMENT: u64 = 256 << 20;

/// A payload of 256 bytes that is JSON.
fn payload() -> Bytes {
    Bytes::from(format!("\"{}\"", "x".repeat(254)))
}

pub(crate) fn run(rounds: usize, seconds: f64, dir: Option<PathBuf>) -> anyhow::Result<()> {
    let temp = tempfile::Builder::new().prefix("bench").tempdir()?;
    let root = dir.unwrap_or_else(|| temp.path().to_owned());
    let span = Duration::from_secs_f64(seconds);
    println!("{}\n", describe());
    println!("| round | raw /s | 1 producer /s | ratio | 64 producers /s | ratio | syncs for 64 | machine |");
    println!("|---|---|---|---|---|---|---|---|");
    let (mut ones, mut many, mut quiet_all) = (Vec::new(), Vec::new(), true);
    for round in 1..=rounds {
        // Removed at the end: the file system's work for a large removal would fall into the next round.
        let home = root.join(format!("round-{round}"));
        std::fs::create_dir_all(&home)?;
        let record = record(&home)?;
        // All files are filled first, so that no measurement pays for the filling of the next one.
        let (file, one, many_producers) = (filled(&home)?, open(&home, "one")?, open(&home, "many")?);
        let quiet = Quiet::watch();
        quiet_all &= quiet.ok();
        let raw = raw(&file, &record, span)?;
        let one = thread(&one, span)?;
        let (sixty_four, syncs) = tasks(&many_producers, 64, span)?;
        ones.push(one / raw);
        many.push(sixty_four / raw);
        println!(
            "| {round} | {raw:.0} | {one:.0} | {:.2} | {sixty_four:.0} | {:.1} | {syncs} | {} |",
            one / raw,
            sixty_four / raw,
            quiet.note()
        );
    }
    for round in 1..=rounds {
        std::fs::remove_dir_all(root.join(format!("round-{round}")))?;
    }
    let verdict = if quiet_all { "" } else { " (not measured: the machine was busy in at least one round)" };
    println!(
        "\nMedians of ratios: 1 producer {:.2}, 64 producers {:.1}{verdict}",
        median(&ones),
        median(&many)
    );
    Ok(())
}

fn open(home: &Path, name: &str) -> anyhow::Result<Engine> {
    let bus = home.join(name);
    std::fs::create_dir_all(bus.join("log"))?;
    use std::os::unix::fs::PermissionsExt as _;
    for dir in [&bus, &bus.join("log")] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    }
    // One large segment, filled before the clock starts, as the raw file is.
    let config =
        Config { segment_first_kib: SEGMENT >> 10, segment_max_kib: SEGMENT >> 10, ..Config::default() };
    let origin = Origin::parse("0123456789abcdef.1").context("the origin is valid")?;
    let (engine, _) = Engine::open(&bus, &origin, &config, Arc::new(RealDisk))
        .map_err(|e| anyhow::anyhow!("open the bus: {e}"))?;
    Ok(engine)
}

/// Returns the bytes that one event takes on disk.
pub(crate) fn record(home: &Path) -> anyhow::Result<Vec<u8>> {
    let engine = open(home, "sample")?;
    let subject = Subject::parse("local.bench")?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(engine.append(&subject, None, payload()))?;
    engine.close();
    let dir = home.join("sample/log/0123456789abcdef.1/00000000000000000001.seg");
    let mut bytes = vec![0; 4096];
    let n = std::fs::File::open(dir)?.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    let end = bytes.windows(2).position(|w| w == b"\n\n").context("the segment is filled with newlines")?;
    bytes.truncate(end + 1);
    Ok(bytes)
}

/// Returns a file filled with newlines, as a segment is.
pub(crate) fn filled(home: &Path) -> anyhow::Result<File> {
    let path = home.join("raw");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let fill = vec![b'\n'; 1 << 20];
    for at in 0..SEGMENT >> 20 {
        file.write_all_at(&fill, at << 20)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// Writes and syncs the same bytes in a file that was filled before.
pub(crate) fn raw(file: &File, record: &[u8], span: Duration) -> anyhow::Result<f64> {
    let (mut n, mut offset) = (0_u64, 0_u64);
    let start = Instant::now();
    while start.elapsed() < span {
        file.write_all_at(record, offset)?;
        file.sync_data()?;
        n += 1;
        offset += record.len() as u64;
        if offset + record.len() as u64 > SEGMENT {
            offset = 0;
        }
    }
    Ok(n as f64 / start.elapsed().as_secs_f64())
}

/// Appends from one thread that waits for each acknowledgement. Returns the rate.
fn thread(engine: &Engine, span: Duration) -> anyhow::Result<f64> {
    let subject = Subject::parse("local.bench")?;
    let payload = payload();
    let mut n = 0_u64;
    let start = Instant::now();
    while start.elapsed() < span {
        engine.append_blocking(&subject, None, payload.clone())?;
        n += 1;
    }
    let rate = n as f64 / start.elapsed().as_secs_f64();
    engine.close();
    Ok(rate)
}

/// Appends from several producers, tasks on one executor, each waiting for its acknowledgement. Returns the rate and the syncs.
fn tasks(engine: &Engine, producers: usize, span: Duration) -> anyhow::Result<(f64, u64)> {
    let subject = Subject::parse("local.bench")?;
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let before = engine.state().2;
    let start = Instant::now();
    let result: anyhow::Result<()> = runtime.block_on(async {
        let work = (0..producers).map(|_| {
            let (engine, subject, done, stop) =
                (engine.clone(), subject.clone(), Arc::clone(&done), Arc::clone(&stop));
            tokio::spawn(async move {
                let payload = payload();
                while !stop.load(Relaxed) {
                    engine.append(&subject, None, payload.clone()).await?;
                    done.fetch_add(1, Relaxed);
                }
                Ok::<(), mirror_bus::BusError>(())
            })
        });
        let work: Vec<_> = work.collect();
        tokio::time::sleep(span).await;
        stop.store(true, Relaxed);
        for task in work {
            task.await??;
        }
        Ok(())
    });
    let took = start.elapsed().as_secs_f64();
    result?;
    let syncs = engine.state().2 - before;
    engine.close();
    Ok((done.load(Relaxed) as f64 / took, syncs))
}
