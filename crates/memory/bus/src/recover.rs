//! Opening a log after any kind of end: what is whole is kept, what was never acknowledged is cut and kept aside,
//! what was acknowledged and is damaged is named.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use mirror_types::Origin;

use crate::disk::{Disk, LogFile, fill, read_at, text_end};
use crate::line::{D_LIMIT, E_LIMIT, Header, Payload};
use crate::redact::UNLAWFUL;
use crate::scan::{Chain, Lines};
use crate::segments::{Damage, Segment, Segments, name};
use crate::source::Source;

/// A tail that was never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Torn {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// What one segment turned out to hold.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) chain: Chain,
    /// Where the next event goes.
    pub(crate) end: u64,
    /// Where the last write began.
    pub(crate) last_write: u64,
    pub(crate) torn: Option<Torn>,
    pub(crate) damage: Vec<Damage>,
    /// Payloads that were erased, for whoever knows the redactions to judge.
    pub(crate) erased: Vec<Erased>,
}

/// An erased payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Erased {
    pub(crate) seq: u64,
    /// The redaction that its line names.
    pub(crate) by: u64,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

impl Erased {
    /// Returns the damage that it is, when its redaction does not exist or does not name it.
    pub(crate) fn judge(&self, segments: &Segments) -> Option<Damage> {
        let Self { seq, by, segment, offset } = *self;
        (!segments.is_lawful(seq, by)).then_some(Damage {
            first: seq,
            last: Some(seq),
            segment,
            offset,
            why: UNLAWFUL,
            resume: None,
        })
    }
}

/// Opens the content of a segment, as often as it is asked to.
pub(crate) type Opener<'a> = &'a dyn Fn() -> io::Result<Source>;

/// Reads a segment from its start. `seen` is the highest sequence that something durable beside the log has seen.
pub(crate) fn scan(
    segments: &Segments,
    segment: &Segment,
    chain: Chain,
    active: bool,
    seen: u64,
) -> io::Result<Scanned> {
    scan_source(&|| segments.open(segment), &segments.origin, segment, chain, active, seen)
}

/// As [`scan`], from a source of the caller's.
pub(crate) fn scan_source(
    open: Opener<'_>,
    origin: &Origin,
    segment: &Segment,
    mut chain: Chain,
    active: bool,
    seen: u64,
) -> io::Result<Scanned> {
    let size = open()?.len()?;
    let mut lines = Lines::new(open()?, 0);
    let (mut damage, mut erased) = (Vec::new(), Vec::new());
    let mut write = (0, 0);
    loop {
        let offset = lines.offset();
        let why = match lines.event(origin)? {
            Ok(event) => match chain.follow(&event.header) {
                Ok(()) => {
                    let (seq, offset) = (event.header.seq, event.offset);
                    segment.note(seq, offset);
                    if let Payload::Redacted { by } = event.payload {
                        erased.push(Erased { seq, by, segment: segment.first, offset });
                    }
                    if write.0 != event.header.batch {
                        write = (event.header.batch, event.offset);
                    }
                    continue;
                }
                Err(flaw) => flaw,
            },
            Err(flaw) => flaw,
        };
        let why = lines.flaw().unwrap_or(why);
        let end = Scanned {
            chain,
            end: offset,
            last_write: write.1,
            torn: None,
            damage: Vec::new(),
            erased: Vec::new(),
        };
        if Lines::new(open()?, offset).only_newlines()? && (active || offset == size) {
            return Ok(Scanned { damage, erased, ..end });
        }
        let missing = chain.seq + 1;
        let after = look_ahead(open, offset, origin, missing)?;
        let acknowledged = !active || !damage.is_empty() || after.acknowledged || seen >= missing;
        if !acknowledged {
            let bytes = last_byte(open, offset, size)? - offset;
            let torn = Some(Torn { segment: segment.first, offset, bytes });
            return Ok(Scanned { torn, damage, erased, ..end });
        }
        let found = Damage {
            first: missing,
            last: after.resume.as_ref().map(|(_, header)| header.seq - 1),
            segment: segment.first,
            offset,
            why,
            resume: after.resume.as_ref().map(|(at, _)| *at),
        };
        damage.push(found);
        match after.resume {
            None => return Ok(Scanned { damage, erased, ..end }),
            Some((at, header)) => {
                segment.note_resume(header.seq, at);
                chain = Chain { seq: header.seq - 1, leaf: header.prev, hlc: mirror_types::Hlc::zero() };
                lines = Lines::new(open()?, at);
            }
        }
    }
}

struct After {
    acknowledged: bool,
    resume: Option<(u64, Header)>,
}

/// Longest time that a reader waits for the end of a change, and how often it looks again at a segment that changes.
const CHANGE: Duration = Duration::from_secs(10);
const LOOKS: usize = 8;

/// Reads a whole segment again after a reader met a flaw, and records what cannot be read up to `head`.
///
/// What stands after `head` is left alone: the writer may be at work there. What is found while the segment is changed is no
/// finding.
pub(crate) fn rescan(
    segments: &Segments,
    segment: &Segment,
    next: Option<u64>,
    head: u64,
) -> io::Result<bool> {
    for _ in 0..LOOKS {
        let Some(before) = segments.generations.steady(segment.first, CHANGE) else { break };
        let mut start = Chain { seq: segment.first - 1, ..Chain::EMPTY };
        if let Ok(event) = Lines::new(segments.open(segment)?, 0).event(&segments.origin)? {
            start.leaf = event.header.prev;
        }
        let (found, _) = examine(segments, segment, start, next, head)?;
        if found.is_empty() {
            return Ok(false);
        }
        if segments.generations.get(segment.first) == before {
            let news = found.into_iter().map(|damage| segments.mark(damage)).filter(|is_news| *is_news);
            return Ok(news.count() > 0);
        }
    }
    Err(io::Error::other(format!("segment {} is being changed", name(segment.first))))
}

/// Reads a whole segment; returns what cannot be read up to `head`, and where the chain ends.
pub(crate) fn examine(
    segments: &Segments,
    segment: &Segment,
    start: Chain,
    next: Option<u64>,
    head: u64,
) -> io::Result<(Vec<Damage>, Chain)> {
    let scanned = scan(segments, segment, start, next.is_none(), u64::MAX)?;
    let last = next.map_or(head, |next| next - 1);
    let mut found = scanned.damage;
    if found.last().is_none_or(|damage| damage.last.is_some()) && scanned.chain.seq < last {
        found.push(Damage {
            first: scanned.chain.seq + 1,
            last: Some(last),
            segment: segment.first,
            offset: scanned.end,
            why: "the segment ends too early",
            resume: None,
        });
    }
    found.retain(|damage| damage.first <= head);
    for damage in &mut found {
        damage.last = damage.last.or(Some(last.max(damage.first)));
    }
    let erased = scanned.erased.iter().filter(|erased| erased.seq <= head);
    found.extend(erased.filter_map(|erased| erased.judge(segments)));
    found.sort_by_key(|damage| damage.first);
    Ok((found, scanned.chain))
}

/// Looks behind a flaw for the next whole event, and for proof that the missing one had been synced.
fn look_ahead(open: Opener<'_>, offset: u64, origin: &Origin, missing: u64) -> io::Result<After> {
    let mut after = After { acknowledged: false, resume: None };
    let mut lines = Lines::new(open()?, offset);
    while let Some((at, header)) = lines.next_header(origin)? {
        if header.seq < missing {
            continue;
        }
        // Whatever stands before the write that stored this event was synced before it.
        after.acknowledged |= header.batch > missing;
        if after.resume.is_none() && header.seq > missing {
            let whole = Lines::new(open()?, at).event(origin)?.is_ok();
            if whole {
                after.resume = Some((at, header));
            }
        }
        if after.acknowledged && after.resume.is_some() {
            break;
        }
    }
    Ok(after)
}

/// Returns the end of the last byte that is no newline.
pub(crate) fn last_byte(open: Opener<'_>, from: u64, size: u64) -> io::Result<u64> {
    let mut source = open()?;
    let mut end = size;
    let mut buf = vec![0; 64 << 10];
    while end > from {
        let start = end.saturating_sub(buf.len() as u64).max(from);
        let len = usize::try_from(end - start).unwrap_or(buf.len());
        let n = source.read_at(&mut buf[..len], start)?;
        let text = text_end(&buf[..n]);
        if text > 0 {
            return Ok(start + text as u64);
        }
        end = start;
    }
    Ok(from)
}

/// Returns the header of the event with which a sealed segment ends.
pub(crate) fn last_header(segments: &Segments, first: u64) -> io::Result<Option<Header>> {
    let size = segments.source(first)?.len()?;
    let mut from = size.saturating_sub(8 << 10);
    loop {
        let mut lines = Lines::new(segments.source(first)?, from);
        let mut last = None;
        while let Some((at, header)) = lines.next_header(&segments.origin)? {
            last = Some((at, header));
        }
        if let Some((at, header)) = last {
            let mut lines = Lines::new(segments.source(first)?, at);
            let whole = lines.event(&segments.origin)?.is_ok();
            return Ok((whole && lines.offset() == size).then_some(header));
        }
        let window = (E_LIMIT + D_LIMIT + 4) as u64;
        if from == 0 || size - from >= window {
            return Ok(None);
        }
        from = size.saturating_sub(window);
    }
}

/// Cuts a torn tail: a copy goes to the quarantine, newlines take its place.
pub(crate) fn cut(
    disk: &dyn Disk,
    segments: &Segments,
    torn: &Torn,
    quarantine: &Path,
    wall_ms: u64,
) -> io::Result<()> {
    let path = segments.dir.join(name(torn.segment));
    let folder = quarantine.join(format!("{wall_ms}-torn-tail"));
    mirror_paths::private_dir(&folder).map_err(io::Error::other)?;
    let source = File::open(&path)?;
    let size = source.metadata()?.len();
    let copy = disk.open(&folder.join(format!("{}@{}", name(torn.segment), torn.offset)))?;
    let mut buf = vec![0; 64 << 10];
    let mut at = 0;
    while at < torn.bytes {
        let len = buf.len().min(usize::try_from(torn.bytes - at).unwrap_or(usize::MAX));
        let n = read_at(&source, &mut buf[..len], torn.offset + at)?;
        if n == 0 {
            break;
        }
        copy.write_all_at(&buf[..n], at)?;
        at += n as u64;
    }
    copy.sync_data()?;
    disk.sync_dir(&folder)?;
    disk.sync_dir(quarantine)?;
    // Only now may the original go.
    let file = disk.open(&path)?;
    fill(file.as_ref(), torn.offset, size.max(torn.offset + torn.bytes))?;
    file.sync_data()
}

/// Makes durable what was found whole: the last write of a log may have been read from memory only.
///
/// A process that was killed between its write and its sync leaves such a write, and so does a failed sync: the system
/// then takes the bytes for clean, and syncing them again does nothing. So they are written again first.
pub(crate) fn settle(file: &dyn LogFile, path: &Path, from: u64, end: u64) -> io::Result<()> {
    let source = File::open(path)?;
    let mut buf = vec![0; 64 << 10];
    let mut at = from;
    while at < end {
        let len = buf.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let n = read_at(&source, &mut buf[..len], at)?;
        if n == 0 {
            return Err(io::Error::other("the log became shorter while it was opened"));
        }
        file.write_all_at(&buf[..n], at)?;
        at += n as u64;
    }
    file.sync_data()
}
