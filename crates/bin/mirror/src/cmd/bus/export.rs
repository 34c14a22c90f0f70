//! `mirror bus export`: a copy of a log that can be verified anywhere, taken while the bus may be at work on it.
//!
//! What is copied is what the log held at one moment. Each segment is copied at a generation that still holds after the head
//! was asked for, so that each X line has its redaction in the copy, and no payload is copied that was erased meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mirror_clock::{Clock as _, SystemClock};
use mirror_contract::mirror::bus::v1::GetStatusRequest;
use mirror_errors::Kind;
use mirror_kit::Holder;
use mirror_paths::sync_dir;
use mirror_verify::{FindingKind, Report, Tail};
use serde_json::json;

use crate::args::ExportArgs;
use crate::cmd::bus::copy::{self, failed};
use crate::cmd::bus::verify::{damage, look};
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::Out;
use crate::text::{count, some};

/// How often a copy is brought up to date before the log is said to change too often.
const ROUNDS: usize = 200;
const WAIT: Duration = Duration::from_millis(25);

/// What is copied.
struct Source {
    bus: PathBuf,
    origin: String,
    is_own: bool,
}

impl Source {
    fn log(&self) -> PathBuf {
        self.bus.join("log").join(&self.origin)
    }
}

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &ExportArgs) -> Result<(), Failure> {
    let home = ctx.home()?;
    let own = mirror_kit::node(&home).ok().map(|node| node.origin.as_str().to_owned());
    let origin = args.origin.clone().or(own.clone());
    let origin =
        origin.ok_or_else(|| Failure::input("this home has no log of its own; name one with --origin"))?;
    let source = Source { bus: home.bus(), is_own: own.as_ref() == Some(&origin), origin };
    if !source.log().is_dir() {
        let why = format!("there is no log {} in {}", source.origin, source.bus.display());
        return Err(Failure::new(Kind::NotFound, "CLI_COPY_REFUSED", why));
    }
    let dir = std::path::absolute(&args.dir).map_err(failed("find", &args.dir))?;
    let partial = target(&dir)?;
    copy::folder(&partial)?;
    let result = fill(ctx, out, &source, &partial).await;
    let report = match result {
        Ok(report) => report,
        Err(failure) => {
            // Nothing but what was copied is in it.
            let _ = fs::remove_dir_all(&partial);
            return Err(failure);
        }
    };
    fs::rename(&partial, &dir).map_err(failed("name", &dir))?;
    let parent = dir.parent().unwrap_or(&dir);
    sync_dir(parent).map_err(failed("sync", parent))?;
    let log = report.origins.first().ok_or_else(|| Failure::bug("the copy has no log"))?;
    if out.json_wanted() {
        return out.json(&json!({
            "folder": dir,
            "origin": source.origin,
            "events": log.events,
            "head_leaf": log.head_leaf_hex,
            "root": log.root_hex,
            "segments": log.segments,
            "checkpoints": log.checkpoints,
        }));
    }
    out.line(&format!("folder  {}", dir.display()))?;
    let covered =
        if log.checkpoints == 0 { String::new() } else { format!(", signed up to {}", count(log.covered)) };
    out.line(&format!("log     {}: {}{covered}, verified", source.origin, some(log.events, "event")))
}

/// Checks that the folder may be made, and returns the one that is made first.
fn target(dir: &Path) -> Result<PathBuf, Failure> {
    let refused = |why: String| Failure::new(Kind::Precondition, "CLI_COPY_REFUSED", why);
    if dir.exists() && !(dir.is_dir() && copy::names(dir)?.is_empty()) {
        return Err(refused(format!("{} exists and is not an empty folder; name another", dir.display())));
    }
    let name = dir.file_name().ok_or_else(|| refused(format!("{} is no name of a folder", dir.display())))?;
    let partial = dir.with_file_name(format!("{}.partial", name.to_string_lossy()));
    if partial.exists() {
        let why =
            format!("{} is what an export leaves that was interrupted; remove it first", partial.display());
        return Err(refused(why));
    }
    Ok(partial)
}

/// Copies the log until the copy is of one moment, then what vouches for it, and verifies all of it.
async fn fill(ctx: &Ctx, out: &Out, source: &Source, to: &Path) -> Result<Report, Failure> {
    let (from, log) = (source.log(), to.join("log").join(&source.origin));
    copy::folder(&log)?;
    node(source, to)?;
    let mut copied: Vec<(u64, u64)> = Vec::new();
    let mut last = None;
    for _ in 0..ROUNDS {
        // It was cut where the head was, and may have grown.
        copied.retain(|(first, _)| Some(*first) != last);
        let before = copy::generations(&from);
        let segments = copy::segments(&from)?;
        if segments.iter().any(|(first, _)| copy::generation(&before, *first) % 2 == 1) {
            SystemClock.sleep(WAIT).await;
            continue;
        }
        let head = head(ctx, source).await?;
        // Named again after the head was asked for: the segment that holds it has its name by now.
        let segments = copy::segments(&from)?;
        let wanted: Vec<_> = segments.into_iter().filter(|(first, _)| *first <= head.max(1)).collect();
        last = wanted.last().map(|(first, _)| *first);
        for (first, name) in &wanted {
            let now = (*first, copy::generation(&before, *first));
            if copied.contains(&now) {
                continue;
            }
            copied.retain(|(segment, _)| segment != first);
            if one(&from, &log, name, if Some(*first) == last { head } else { u64::MAX })? {
                copied.push(now);
            }
        }
        let after = copy::generations(&from);
        let is_still =
            |(first, _): &(u64, String)| copied.contains(&(*first, copy::generation(&after, *first)));
        if !wanted.iter().all(is_still) {
            continue;
        }
        sync_dir(&log).map_err(failed("sync", &log))?;
        if let Some(report) = vouch(out, source, to, head)? {
            return Ok(report);
        }
        SystemClock.sleep(WAIT).await;
    }
    let why =
        "the log is being changed all the time, or a change was cut short; start the bus, which ends it";
    Err(Failure::new(Kind::Precondition, "CLI_COPY_REFUSED", why))
}

/// Returns the last durable event; without limit where no bus runs, and what stands whole is all there is.
async fn head(ctx: &Ctx, source: &Source) -> Result<u64, Failure> {
    if !source.is_own || !is_running(ctx)? {
        return Ok(u64::MAX);
    }
    let status = ctx.bus()?.get_status(GetStatusRequest {}).await.map_err(|s| ctx.refused("bus", &s))?;
    Ok(status.into_inner().head)
}

/// Returns whether a bus holds the log.
pub(crate) fn is_running(ctx: &Ctx) -> Result<bool, Failure> {
    Ok(matches!(mirror_kit::holder(&ctx.home()?, "bus"), Ok(Holder::Process(_) | Holder::Unknown)))
}

/// Copies one segment under its name; returns whether it was there to the end.
fn one(from: &Path, to: &Path, name: &str, head: u64) -> Result<bool, Failure> {
    let (source, target) = (from.join(name), to.join(name));
    let plain = name.strip_suffix(".zst");
    let other = plain.map_or_else(|| format!("{name}.zst"), str::to_owned);
    let gone = match fs::remove_file(to.join(other)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Some(error),
        _ => None,
    };
    if let Some(error) = gone {
        return Err(Failure::file("replace", &target, &error));
    }
    if !source.exists() {
        return Ok(false);
    }
    let len = if head == u64::MAX || plain.is_some() { u64::MAX } else { copy::end_of(&source, head)? };
    match copy::file(&source, &target, len) {
        Ok(()) => {}
        Err(_) if !source.exists() => return Ok(false),
        Err(failure) => return Err(failure),
    }
    if plain.is_none() {
        // What is filled ahead of use is no part of the log.
        let end = copy::end_of(&target, u64::MAX)?;
        let cut = || OpenOptions::new().write(true).open(&target)?.set_len(end);
        let (len, rest) = tail(&target, end).map_err(failed("read", &target))?;
        if end < len && rest {
            cut().map_err(failed("cut", &target))?;
        }
    }
    Ok(true)
}

/// Returns the length of a file, and whether nothing but newlines follows from a place on.
fn tail(path: &Path, from: u64) -> io::Result<(u64, bool)> {
    use std::os::unix::fs::FileExt as _;
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let (mut at, mut bytes) = (from, vec![0; 1 << 20]);
    while at < len {
        let n = file.read_at(&mut bytes, at)?;
        if n == 0 {
            break;
        }
        if bytes[..n].iter().any(|byte| *byte != b'\n') {
            return Ok((len, false));
        }
        at += n as u64;
    }
    Ok((len, true))
}

/// Copies `node.json`.
fn node(source: &Source, to: &Path) -> Result<(), Failure> {
    for folder in copy::vouchers(&source.bus, &source.origin, source.is_own) {
        if copy::small(&folder.join("node.json"), &to.join("node.json"))? {
            return Ok(());
        }
    }
    let why = format!(
        "what is known of the log {} has no node.json, so its copy could not be verified",
        source.origin
    );
    Err(Failure::new(Kind::Precondition, "CLI_COPY_REFUSED", why))
}

/// Copies what vouches for the log and verifies the copy; nothing when it has to be made up to date once more.
fn vouch(out: &Out, source: &Source, to: &Path, head: u64) -> Result<Option<Report>, Failure> {
    for name in copy::KEYS {
        for folder in copy::vouchers(&source.bus, &source.origin, source.is_own) {
            if copy::small(&folder.join(name), &to.join(name))? {
                break;
            }
        }
    }
    let part = |name: &str| (source.bus.join(name).join(&source.origin), to.join(name).join(&source.origin));
    let (from, notes) = part("checkpoints");
    let mut report = look(out, to, Vec::new())?;
    // The tail that a power cut left was never acknowledged.
    if let Some(Tail::Torn { segment, offset, .. }) = report.origins.first().map(|log| log.tail.clone()) {
        let path = to.join("log").join(&source.origin).join(segment);
        let cut = || OpenOptions::new().write(true).open(&path)?.set_len(offset);
        cut().map_err(failed("cut", &path))?;
    }
    copy::checkpoints(&from, &notes, head)?;
    let (from, tiles) = part("tiles");
    copy::tree(&from, &tiles)?;
    report = look(out, to, Vec::new())?;
    let kinds: Vec<FindingKind> =
        report.origins.iter().flat_map(|log| &log.findings).map(|f| f.kind).collect();
    if kinds.contains(&FindingKind::RedactionUnfinished) || kinds.contains(&FindingKind::BeingChanged) {
        return Ok(None);
    }
    match damage(&report) {
        None => Ok(Some(report)),
        Some(first) => {
            Err(Failure::new(Kind::Corrupt, "CLI_COPY_DAMAGED", format!("the copy is damaged: {first}"))
                .hint("see all of it with: mirror bus verify"))
        }
    }
}
