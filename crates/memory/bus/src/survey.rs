//! What is not whole in the files of a log, read anew from the first byte to the last: the work of a repair.

use std::io;

use crate::copy::Copy;
use crate::recover::scan_source;
use crate::scan::{Chain, Lines};
use crate::segments::{Damage, OnDisk, Segment, Segments, list};
use crate::source::Source;

/// Events that a segment lacks, and where they belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Where the first belongs.
    pub(crate) offset: u64,
    /// Where the next whole event stands.
    pub(crate) resume: Option<u64>,
    /// What is wrong there.
    pub(crate) flaw: &'static str,
    /// Why it cannot be filled; empty while it can.
    pub(crate) why: String,
}

impl Hole {
    pub(crate) fn damage(&self, segment: u64) -> Damage {
        let Self { first, last, offset, resume, flaw, .. } = self;
        Damage { first: *first, last: Some(*last), segment, offset: *offset, why: flaw, resume: *resume }
    }
}

/// A segment whose file is to be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) first: u64,
    /// First event of the segment after it; none for the active one.
    pub(crate) next: Option<u64>,
    /// The file that is there.
    pub(crate) file: Option<OnDisk>,
    /// Whether the file made is a compressed one.
    pub(crate) packed: bool,
    /// Whether the compressed file has lost its table.
    pub(crate) lost_table: bool,
    /// Where the file's events end.
    pub(crate) end: u64,
    pub(crate) holes: Vec<Hole>,
}

impl Work {
    pub(crate) fn is_active(&self) -> bool {
        self.next.is_none()
    }
}

/// Reads the whole log up to `head`; returns the segments that are not whole, in order.
pub(crate) fn survey(segments: &Segments, copy: &Copy, head: u64) -> io::Result<Vec<Work>> {
    let files = list(&segments.dir)?;
    let mut works = Vec::new();
    let known = [segments.firsts(), copy.firsts()].concat();
    let mut chain = Chain::EMPTY;
    for (i, file) in files.iter().enumerate() {
        if file.first > chain.seq + 1 {
            works.extend(missing(segments, copy, chain.seq + 1, file.first - 1, true));
            chain = Chain { seq: file.first - 1, ..Chain::EMPTY };
        }
        if file.first <= chain.seq {
            return Err(io::Error::other(format!(
                "the segment of event {} stands where another one is; move one of them away",
                file.first
            )));
        }
        let next = files.get(i + 1).map(|file| file.first);
        let (work, end) = one(segments, file, next, &known, chain, head)?;
        works.extend(work);
        chain = end;
    }
    if chain.seq < head {
        works.extend(missing(segments, copy, chain.seq + 1, head, false));
    }
    Ok(works)
}

/// Reads one segment.
fn one(
    segments: &Segments,
    file: &OnDisk,
    next: Option<u64>,
    known: &[u64],
    mut chain: Chain,
    head: u64,
) -> io::Result<(Option<Work>, Chain)> {
    let open = || segments.salvage(file.first);
    let origin = &segments.origin;
    if chain.seq > 0
        && chain.leaf == [0; 32]
        && let Ok(event) = Lines::new(open()?, 0).event(origin)?
    {
        // What stands before is missing too, so the first event is taken at its word for now.
        chain.leaf = event.header.prev;
    }
    let active = next.is_none() && !file.packed;
    let scanned = scan_source(&open, origin, &Segment::new(file.first), chain, active, u64::MAX)?;
    // Where a segment after it is missing, this one ends where that one began.
    let beyond = |start: &u64| *start > scanned.chain.seq.max(file.first) && *start <= head;
    let next = known.iter().copied().filter(beyond).chain(next).min();
    let upto = next.map_or(head, |next| next - 1);
    let mut holes: Vec<Hole> = scanned.damage.iter().map(|damage| hole(damage, upto)).collect();
    let mut chain = scanned.chain;
    if holes.last().is_none_or(|hole| hole.resume.is_some()) && chain.seq < upto {
        let (first, last, offset) = (chain.seq + 1, upto, scanned.end);
        let flaw = "the segment ends too early";
        holes.push(Hole { first, last, offset, resume: None, flaw, why: String::new() });
    }
    for damage in scanned.erased.iter().filter_map(|erased| erased.judge(segments)) {
        let mut lines = Lines::new(open()?, damage.offset);
        let whole = lines.event(origin)?.is_ok();
        holes.push(Hole { resume: whole.then(|| lines.offset()), ..hole(&damage, upto) });
    }
    holes.sort_by_key(|hole| hole.first);
    holes.retain(|hole| hole.first <= upto);
    if chain.seq < upto {
        chain = Chain { seq: upto, ..Chain::EMPTY };
    }
    let lost_table = match segments.source(file.first)? {
        Source::Packed(packed) => packed.is_lost(),
        Source::Plain(_) => false,
    };
    let work = Work {
        first: file.first,
        next,
        file: Some(*file),
        packed: file.packed,
        lost_table,
        end: scanned.end,
        holes,
    };
    Ok((Some(work).filter(|work| lost_table || !work.holes.is_empty()), chain))
}

fn hole(damage: &Damage, upto: u64) -> Hole {
    let last = damage.last.unwrap_or(upto.max(damage.first));
    let Damage { first, offset, resume, why, .. } = *damage;
    Hole { first, last, offset, resume, flaw: why, why: String::new() }
}

/// Returns the segments that are not there at all: as this process knows them, else as the copy has them.
fn missing(segments: &Segments, copy: &Copy, first: u64, last: u64, sealed: bool) -> Vec<Work> {
    let own = segments.firsts();
    let known = if own.contains(&first) { own } else { copy.firsts() };
    let mut starts = vec![first];
    starts.extend(known.into_iter().filter(|start| (first + 1..=last).contains(start)));
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([last]).collect::<Vec<_>>();
    let works = starts.iter().zip(ends).map(|(start, end)| Work {
        first: *start,
        next: (sealed || end < last).then_some(end + 1),
        file: None,
        packed: copy.file(*start).is_some_and(|file| file.packed),
        lost_table: false,
        end: 0,
        holes: vec![Hole {
            first: *start,
            last: end,
            offset: 0,
            resume: None,
            flaw: "the segment is missing",
            why: String::new(),
        }],
    });
    works.collect()
}
