//! What a second reading of the log costs beside the hashes and CRCs alone, in CPU time.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use mirror_bus::bench::Engine;
use mirror_bus::{Config, RealDisk};
use mirror_types::{Origin, Subject};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use sha2::{Digest as _, Sha256};

use crate::machine::{Quiet, describe, median};

const ORIGIN: &str = "0123456789abcdef.1";

/// Producers that make the log; their events share writes.
const PRODUCERS: u64 = 1024;

/// How much is read at once, as the verification does.
const CHUNK: usize = 1 << 20;

type Hash = [u8; 32];

pub(crate) fn run(events: u64, rounds: usize, ids: bool, dir: Option<PathBuf>) -> anyhow::Result<()> {
    let temp = tempfile::Builder::new().prefix("bench").tempdir()?;
    let bus = dir.unwrap_or_else(|| temp.path().join("bus"));
    let log = bus.join("log").join(ORIGIN);
    if !log.is_dir() {
        make(&bus, events, ids)?;
    }
    let parts = parts(&log)?;
    println!("{}\n", describe());
    println!("| round | hashes and CRCs, CPU s | verify, CPU s | ratio | verify, events/s | machine |");
    println!("|---|---|---|---|---|---|");
    let (mut bare, mut full, mut ratios, mut quiet_all) = (Vec::new(), Vec::new(), Vec::new(), true);
    let mut count = 0;
    for round in 1..=rounds {
        let quiet = Quiet::watch();
        quiet_all &= quiet.ok();
        let (hashes, root) = cpu(|| hashes(&log, &parts))?;
        let (verify, report) = cpu(|| Ok(mirror_verify::verify(&log, &mut |_| {})?))?;
        let found = report.origins.first().context("a log was verified")?;
        let hex: String = root.iter().map(|byte| format!("{byte:02x}")).collect();
        anyhow::ensure!(report.is_intact(), "the log is not whole: {:?}", found.findings);
        anyhow::ensure!(found.root_hex.as_ref() == Some(&hex), "the two do not agree on the root");
        count = found.events;
        bare.push(hashes);
        full.push(verify);
        ratios.push(verify / hashes);
        println!(
            "| {round} | {hashes:.3} | {verify:.3} | {:.2} | {:.0} | {} |",
            verify / hashes,
            count as f64 / verify,
            quiet.note()
        );
    }
    let verdict = if quiet_all { "" } else { " (not measured: the machine was busy in at least one round)" };
    println!(
        "\nMedians for {count} events: hashes and CRCs {:.3} s, verify {:.3} s, ratio {:.2}; the bar is 2{verdict}",
        median(&bare),
        median(&full),
        median(&ratios)
    );
    Ok(())
}

/// Runs something; returns the CPU time of this process meanwhile, user and system, in seconds.
fn cpu<T>(run: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
    let now = || -> anyhow::Result<i64> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        Ok(usage.user_time().num_microseconds() + usage.system_time().num_microseconds())
    };
    let before = now()?;
    let result = run()?;
    Ok(((now()? - before) as f64 / 1e6, result))
}

/// Makes a log of events with payloads of 256 bytes.
fn make(bus: &Path, events: u64, ids: bool) -> anyhow::Result<()> {
    for dir in [bus, &bus.join("log")] {
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    let origin = Origin::parse(ORIGIN).context("the origin is valid")?;
    let (engine, _) = Engine::open(bus, &origin, &Config::default(), Arc::new(RealDisk))
        .map_err(|e| anyhow::anyhow!("open the bus: {e}"))?;
    let subject = Subject::parse("local.bench")?;
    let payload = Bytes::from(format!("\"{}\"", "x".repeat(254)));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let produce = |producer: u64| {
            let (engine, subject, payload) = (&engine, &subject, &payload);
            async move {
                for n in (producer..events).step_by(PRODUCERS as usize) {
                    let id = ids.then(|| format!("{n:032x}"));
                    engine.append(subject, id.as_deref(), payload.clone()).await?;
                }
                Ok::<(), mirror_bus::BusError>(())
            }
        };
        futures::future::try_join_all((0..PRODUCERS).map(produce)).await
    })?;
    engine.close();
    Ok(())
}

/// Where the lines of an event stand in a part: E line, header, D line, payload, end.
struct Span {
    head: usize,
    header: usize,
    body: usize,
    payload: usize,
    end: usize,
}

/// Whole events next to each other in one segment.
struct Part {
    file: PathBuf,
    at: u64,
    len: usize,
    spans: Vec<Span>,
}

/// Finds the lines beforehand, so that the measurement has nothing to look for.
fn parts(log: &Path) -> anyhow::Result<Vec<Part>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(log)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    files.sort();
    let mut parts: Vec<Part> = Vec::new();
    for file in files {
        let bytes = fs::read(&file)?;
        let field = |from: usize, n: usize| {
            bytes[from..]
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte == b' ')
                .nth(n)
                .map(|(i, _)| from + i + 1)
        };
        let line = |from: usize| bytes[from..].iter().position(|byte| *byte == b'\n').map(|i| from + i + 1);
        let (mut at, mut start) = (0, None);
        while bytes.get(at) == Some(&b'E') {
            let body = line(at).context("the E line ends")?;
            let end = line(body).context("the D line ends")?;
            let begin = *start.get_or_insert(at);
            if begin == at || end - begin > CHUNK {
                start = Some(at);
                parts.push(Part { file: file.clone(), at: at as u64, len: 0, spans: Vec::new() });
            }
            let begin = start.unwrap_or(at);
            let part = parts.last_mut().context("a part was begun")?;
            part.spans.push(Span {
                head: at - begin,
                header: field(at, 2).context("the E line has a header")? - begin,
                body: body - begin,
                payload: field(body, 3).context("the D line has a payload")? - begin,
                end: end - begin,
            });
            part.len = end - begin;
            at = end;
        }
    }
    Ok(parts)
}

/// Reads the files, and computes leaf, digest, nodes of the tree and both CRCs of each event, and nothing else.
fn hashes(log: &Path, parts: &[Part]) -> anyhow::Result<Hash> {
    anyhow::ensure!(log.is_dir(), "the log is there");
    let (mut edge, mut size, mut check): (Vec<Hash>, u64, u32) = (Vec::new(), 0, 0);
    let mut window = vec![0; 2 * CHUNK];
    let mut open: Option<(&Path, File)> = None;
    for part in parts {
        if open.as_ref().is_none_or(|(path, _)| *path != part.file) {
            open = Some((&part.file, File::open(&part.file)?));
        }
        let bytes = &mut window[..part.len];
        if let Some((_, file)) = &open {
            file.read_exact_at(bytes, part.at)?;
        }
        for span in &part.spans {
            // The newline is no part of what is hashed; the CRC begins after "E ", eight digits and a space.
            let (head, header) = (&bytes[span.head + 11..span.body - 1], &bytes[span.header..span.body - 1]);
            let (body, payload) = (&bytes[span.body + 11..span.end - 1], &bytes[span.payload..span.end - 1]);
            check ^= crc32c::crc32c(head) ^ crc32c::crc32c(body);
            let digest: Hash = Sha256::new().chain_update([0x5a; 16]).chain_update(payload).finalize().into();
            check ^= u32::from(digest[0]);
            let mut hash: Hash = Sha256::new().chain_update([0]).chain_update(header).finalize().into();
            for _ in 0..size.trailing_ones() {
                if let Some(left) = edge.pop() {
                    hash = node(&left, &hash);
                }
            }
            edge.push(hash);
            size += 1;
        }
    }
    std::hint::black_box(check);
    let mut edge = edge.into_iter().rev();
    let last = edge.next().context("the log has events")?;
    Ok(edge.fold(last, |right, left| node(&left, &right)))
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}
