//! Overwriting payloads in place: where they stand, what takes their place, and what a crash left to be done.
//!
//! Invariant: the event that proves an erasure is durable before the first byte is overwritten, and it is the last event
//! of the log until the last byte is. So what is unfinished shows by the log's last event alone, and a start needs to look
//! no further, however long the log is.

use std::collections::BTreeMap;
use std::io;

use mirror_seal::Hash;

use crate::disk::Disk;
use crate::line::{D_LIMIT, E_LIMIT, Header, Payload, payload_line, read_d, x_line};
use crate::recover::{last_byte, settle};
use crate::redact::Proof;
use crate::scan::Lines;
use crate::segments::{OnDisk, Segments, name};

/// A payload that is to be erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) seq: u64,
    /// Segment that holds it.
    segment: u64,
    /// Where its line begins.
    offset: u64,
    /// Bytes of the payload.
    len: usize,
}

/// Finds the payloads of some events of one segment, in order, that are not erased yet, or were by the redaction `again`.
///
/// Only E lines are believed: a payload's line may have been overwritten in part.
fn spots(
    segments: &Segments,
    segment: u64,
    targets: &[(u64, Hash)],
    again: Option<u64>,
    seek: &dyn Fn(u64) -> u64,
) -> io::Result<Vec<Spot>> {
    let mut found = Vec::new();
    let Some((first, _)) = targets.first() else { return Ok(found) };
    let mut lines = Lines::new(segments.source(segment)?, seek(*first));
    let mut line = Vec::new();
    for (seq, leaf) in targets {
        let from = seek(*seq);
        if from > lines.offset() {
            lines = Lines::new(segments.source(segment)?, from);
        }
        while let Some((at, header)) = lines.next_header(&segments.origin)? {
            if header.seq < *seq {
                continue;
            }
            if header.seq == *seq && header.leaf == *leaf {
                let offset = at + header.json.end as u64 + 1;
                line.resize(payload_line(header.len), 0);
                let n = segments.source(segment)?.read_at(&mut line, offset)?;
                let erased = match read_d(&line[..n], &header) {
                    Ok(Payload::Redacted { by }) => Some(by),
                    _ => None,
                };
                if (erased.is_none() || erased == again) && n == line.len() {
                    found.push(Spot { seq: *seq, segment, offset, len: header.len });
                }
            } else {
                // The event is missing; the next one is sought from here.
                lines = Lines::new(segments.source(segment)?, at);
            }
            break;
        }
    }
    Ok(found)
}

impl Segments {
    /// Finds the payloads of stored events, in order, that are not erased yet.
    pub(crate) fn spots(&self, targets: &[(u64, Hash)]) -> io::Result<Vec<Spot>> {
        let mut groups: BTreeMap<u64, Vec<(u64, Hash)>> = BTreeMap::new();
        for target in targets {
            let (segment, _) = self.of(target.0).ok_or_else(|| io::Error::other("no segment holds it"))?;
            groups.entry(segment.first).or_default().push(*target);
        }
        let mut found = Vec::new();
        for (first, targets) in groups {
            let seek = |seq| self.of(seq).map_or(0, |(segment, _)| segment.seek(seq).1);
            found.extend(spots(self, first, &targets, None, &seek)?);
        }
        Ok(found)
    }

    /// Overwrites payloads, each segment in a change of its own; `before` runs once, within the first of them.
    pub(crate) fn erase(
        &self,
        disk: &dyn Disk,
        by: u64,
        spots: &[Spot],
        before: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(first) = spots.first() else { return before() };
        let (here, later): (Vec<&Spot>, Vec<&Spot>) = spots.iter().partition(|s| s.segment == first.segment);
        // A disk that is too full for the change is met before the event that announces it.
        self.generations.change(first.segment, || {
            before()?;
            self.overwrite_spots(disk, by, &here)
        })?;
        later
            .chunk_by(|a, b| a.segment == b.segment)
            .try_for_each(|some| self.overwrite_spots(disk, by, some))
    }

    fn overwrite_spots(&self, disk: &dyn Disk, by: u64, spots: &[&Spot]) -> io::Result<()> {
        let Some(first) = spots.first() else { return Ok(()) };
        let lines: Vec<(u64, Vec<u8>)> = spots.iter().map(|s| (s.offset, x_line(by, s.len))).collect();
        let changes: Vec<(u64, &[u8])> = lines.iter().map(|(at, line)| (*at, line.as_slice())).collect();
        self.overwrite_all(disk, first.segment, &changes)
    }
}

/// What stands at the end of a log.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) header: Header,
    /// The redaction that it is.
    proof: Option<Proof>,
    /// Where it begins and ends.
    range: (u64, u64),
}

/// Reads the last event of the active segment; nothing when it holds none that is whole.
pub(crate) fn ending(segments: &Segments, active: u64) -> io::Result<Option<Ending>> {
    let open = || segments.source(active);
    let size = open()?.len()?;
    let end = last_byte(&open, 0, size)?;
    let from = end.saturating_sub((E_LIMIT + D_LIMIT + 4) as u64);
    let mut lines = Lines::new(open()?, from);
    let mut last = None;
    while let Some((at, _)) = lines.next_header(&segments.origin)? {
        last = Some(at);
    }
    let Some(at) = last else { return Ok(None) };
    let mut lines = Lines::new(open()?, at);
    let (header, proof) = match lines.event(&segments.origin)? {
        Ok(event) => (event.header.clone(), Proof::read(&event, segments.origin.as_str())),
        Err(_) => return Ok(None),
    };
    Ok(Some(Ending { header, proof, range: (at, lines.offset()) }))
}

/// Finishes the redaction with which a log ends, if it does.
///
/// Runs before any payload is judged, so that one that was overwritten in part is no damage. What the index has seen is
/// finished: it is told of a redaction only after that. Lines that are overwritten already are so again: a killed process
/// may have left them in memory only, and once the log goes on nobody looks any more.
pub(crate) fn finish(
    disk: &dyn Disk,
    segments: &Segments,
    found: &[OnDisk],
    ending: &Ending,
    seen: u64,
) -> io::Result<()> {
    let (Some(proof), Some(active)) = (&ending.proof, found.last()) else { return Ok(()) };
    if proof.seq <= seen {
        return Ok(());
    }
    let mut left = Vec::new();
    for (i, segment) in found.iter().enumerate() {
        let next = found.get(i + 1).map_or(u64::MAX, |next| next.first);
        let here = |seq: u64| seq >= segment.first && seq < next;
        let targets: Vec<_> = proof.targets.iter().filter(|(seq, _)| here(*seq)).copied().collect();
        left.extend(spots(segments, segment.first, &targets, Some(proof.seq), &|_| 0)?);
    }
    let path = segments.dir.join(name(active.first));
    let file = disk.open(&path)?;
    // A killed process may have left it in memory only, and nothing may be erased by an event that a power cut takes away.
    segments
        .erase(disk, proof.seq, &left, || settle(file.as_ref(), &path, ending.range.0, ending.range.1))?;
    tracing::info!(
        redaction = proof.seq,
        payloads = left.len(),
        "made sure of the redaction at the log's end"
    );
    Ok(())
}
