//! One log: its segments in order, plain or compressed, while the bus may be at work on them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::Options;
use crate::chain::Chain;
use crate::findings::{Findings, PACKED, segment_name};
use crate::folder::{Watch, list, open};
use crate::generations::{self, Generations};
use crate::keys::Keys;
use crate::packed::Packed;
use crate::report::{FindingKind, OriginReport, Tail};
use crate::source::ReadAt;
use crate::walk::{Opened, Segment, Walk};

/// How often the folder is listed again to follow a log that goes on growing while it is read.
const LISTINGS: usize = 8;

/// Bytes of a small event, by which the number of events is guessed.
const EVENT: u64 = 512;

/// How often a segment is looked for under its two names, of which one takes the place of the other.
const NAMES: usize = 4;

/// Verifies the log in one folder; returns also how many redactions there were that nobody could check.
pub(crate) fn verify(
    dir: &Path,
    origin: Option<&str>,
    options: &Options,
    keys: Arc<Keys>,
    sizes: &[u64],
    progress: Watch<'_>,
) -> io::Result<(OriginReport, u64)> {
    let mut chain = Chain::new(origin, options);
    chain.keys = keys;
    chain.ask(sizes.iter().copied());
    let mut walk = Walk::new(chain, Generations::of(dir), progress);
    if let Err(why) = walk.generations.read() {
        let (kind, name) = (FindingKind::BadGenerations, generations::NAME.to_owned());
        walk.chain.findings.add_named(kind, name, 0, None, why);
    }
    let mut names = segments(dir, &mut walk.chain.findings)?;
    walk.total = names.iter().map(|name| size(dir, *name)).sum();
    walk.chain.ids.expect(walk.total / EVENT);
    let mut tail = Tail::Clean;
    let mut first = 0;
    let mut from = 0;
    for _ in 0..LISTINGS {
        for (i, name) in names.iter().enumerate().skip(first) {
            let segment = Segment { name: *name, next: names.get(i + 1).copied(), from, packed: false };
            let ended = walk.file(segment, &|| find(dir, *name));
            (from, tail) = (ended.at, ended.tail);
            if segment.next.is_some() {
                walk.before += from;
                from = 0;
            }
        }
        let again = segments(dir, &mut Findings::default())?;
        let grown = names.last().is_some_and(|last| again.last().is_some_and(|newest| newest > last));
        let Some(last) = names.last().filter(|_| grown) else { break };
        // The segment that was the last is sealed by now: what came after the place where it ended is read too.
        first = again.iter().position(|name| name == last).unwrap_or(again.len());
        names = again;
    }
    let compressed = names.iter().filter(|name| walk.packed.contains(name)).count() as u64;
    let (read, unsigned) = (std::mem::take(&mut walk.read), walk.chain.erasures.unchecked);
    let now = walk.generations.read().unwrap_or_default();
    let stands = |seq: u64| is_unchanged(&read, &now, seq);
    let mut report = walk.chain.finish(names.len() as u64, tail, stands);
    report.compressed = compressed;
    Ok((report, unsigned))
}

/// Returns whether the segment of an event has the generation that it had when it was read.
fn is_unchanged(read: &BTreeMap<u64, u64>, now: &BTreeMap<u64, u64>, seq: u64) -> bool {
    let segment = read.range(..=seq).next_back();
    segment.is_none_or(|(first, generation)| now.get(first).copied().unwrap_or_default() == *generation)
}

/// Returns the bytes of a segment's file.
fn size(dir: &Path, name: u64) -> u64 {
    let plain = segment_name(name);
    let file = fs::metadata(dir.join(&plain)).or_else(|_| fs::metadata(dir.join(plain + PACKED)));
    file.map(|file| file.len()).unwrap_or_default()
}

/// Opens a segment by the name that it has; while it has both, the plain one counts.
fn find(dir: &Path, name: u64) -> io::Result<Opened> {
    let plain = segment_name(name);
    let packed = dir.join(format!("{plain}{PACKED}"));
    for _ in 0..NAMES {
        match open(&dir.join(&plain)) {
            Ok(file) => return Ok(Opened { bytes: Box::new(file), packed: false }),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) => {}
        }
        match open(&packed) {
            Ok(file) => {
                let len = file.metadata()?.len();
                let file: Box<dyn ReadAt> = Box::new(file);
                return Ok(Opened { bytes: Box::new(Packed::new(file, len)?), packed: true });
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) => {}
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Returns the names of the segments as numbers, in order.
fn segments(dir: &Path, findings: &mut Findings) -> io::Result<Vec<u64>> {
    let mut names = Vec::new();
    for name in list(dir)? {
        if !is_segment_like(&name) {
            continue;
        }
        let shown = name.to_string_lossy();
        let plain = shown.strip_suffix(PACKED).unwrap_or(&shown);
        match plain.strip_suffix(".seg").and_then(|digits| digits.parse::<u64>().ok()) {
            Some(number) if number > 0 && segment_name(number) == plain => names.push(number),
            _ => {
                let why =
                    "the file is not named after a sequence, <20 digits>.seg, so it is not read".to_owned();
                findings.add_named(FindingKind::SegmentName, shown.into_owned(), 0, None, why);
            }
        }
    }
    names.dedup();
    Ok(names)
}

/// Returns whether a name ends as that of a segment does.
pub(crate) fn is_segment_like(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    (bytes.ends_with(b".seg") || bytes.ends_with(b".seg.zst")) && !bytes.starts_with(b".")
}
