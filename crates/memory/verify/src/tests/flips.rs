//! One bit at a time.

use super::{FILL, draft, log_of, many};
use crate::FindingKind::RedactionUnproven;
use crate::chain::Chain;
use crate::generations::Generations;
use crate::source::ReadAt;
use crate::testlog::{Draft, Log};
use crate::walk::{Ended, Segment, Walk};
use crate::{Finding, Severity, Tail};

/// Bytes in memory of which one is not as it was.
pub(super) struct Flipped<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) mask: u8,
}

impl ReadAt for Flipped<'_> {
    fn read_at(&self, into: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let start = usize::try_from(offset).unwrap().min(self.bytes.len());
        let len = into.len().min(self.bytes.len() - start);
        into[..len].copy_from_slice(&self.bytes[start..start + len]);
        if (start..start + len).contains(&self.at) {
            into[self.at - start] ^= self.mask;
        }
        Ok(len)
    }
}

fn walk(chain: Chain, from: usize, bytes: Flipped<'_>) -> (Chain, Ended) {
    let mut progress = |_: crate::Progress<'_>| {};
    let mut walk = Walk::new(chain, Generations::none(), &mut progress);
    let ended =
        walk.segment(Segment { name: 1, next: None, from: from as u64, packed: false }, Box::new(bytes));
    (walk.chain, ended)
}

/// A log of 200 events, of which two are erased, in writes of 1 to 3 events.
fn sample() -> Log {
    let mut log = log_of(120);
    let redaction = log.redaction(&[50]);
    log.write(&[redaction]);
    log.erase(50, 121);
    let redaction = log.redaction(&[51]);
    log.write(&[redaction]);
    log.erase(51, 122);
    while log.next() <= 200 {
        let first = log.next();
        let drafts: Vec<Draft> = (first..=(first + first % 3).min(200)).map(draft).collect();
        log.write(&drafts);
    }
    log
}

/// The bits of a byte that are flipped: one, or with `MIRROR_ALL_BITS` each.
pub(super) fn masks(at: usize) -> Vec<(usize, u8)> {
    let every = std::env::var_os("MIRROR_ALL_BITS").is_some();
    if every { (0..8).map(|bit| (at, 1 << bit)).collect() } else { vec![(at, bit_of(at))] }
}

/// Which bit of a byte is flipped: fixed, but without a pattern that the format could share.
fn bit_of(at: usize) -> u8 {
    let mixed = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 << (mixed >> 61)
}

fn names(finding: &Finding, seq: u64) -> bool {
    finding.kind.severity() == Severity::Damage
        && finding.first_seq.is_some_and(|first| first <= seq)
        && finding.last_seq.is_some_and(|last| seq <= last)
}

#[test]
fn a_flipped_bit_in_any_byte_is_found_and_named() {
    let log = sample();
    assert_eq!(log.spans.len(), 200);
    let last_write = log.spans[199].batch;
    // Events before the flip are read once: reading goes on from the state that they leave.
    let mut before = Chain::new(Some(&log.origin), &crate::Options::default());
    for (i, span) in log.spans.iter().enumerate() {
        // The log as it was when the write after that of the event was stored, which is a log like any other.
        let here = log.spans[i..].iter().find(|later| later.batch > span.batch);
        let until = here.map_or(span.batch, |later| later.batch);
        let end = log.spans.iter().rfind(|later| later.batch <= until).unwrap().end;
        let window = [&log.bytes[..end], FILL].concat();
        for (at, mask) in (span.start..span.end).flat_map(masks) {
            let flipped = Flipped { bytes: &window, at, mask };
            let (chain, ended) = walk(before.clone(), span.start, flipped);
            let report = chain.finish(1, ended.tail, |_| true);
            let what = || format!("event {}, byte {} of {span:?}: {report:#?}", span.seq, at - span.start);
            if span.batch == last_write {
                assert!(report.severity() >= Severity::TornTail, "{}", what());
                continue;
            }
            assert!(report.findings.iter().any(|finding| names(finding, span.seq)), "{}", what());
            let others = report.findings.iter().filter(|finding| finding.kind != RedactionUnproven);
            assert!(others.clone().count() == 1, "{}", what());
            assert!(
                others.clone().all(|f| f.first_seq == Some(span.seq) && f.last_seq == f.first_seq),
                "{}",
                what()
            );
            assert_eq!(report.tail, Tail::Clean, "{}", what());
        }
        let clean = Flipped { bytes: &log.bytes[..span.end], at: usize::MAX, mask: 0 };
        let (after, ended) = walk(before, span.start, clean);
        assert_eq!((ended.at, ended.tail), (span.end as u64, Tail::Clean));
        before = after;
    }
    let whole = [&log.bytes, FILL].concat();
    for (at, mask) in (log.bytes.len()..whole.len()).flat_map(masks) {
        let flipped = Flipped { bytes: &whole, at, mask };
        let (chain, ended) = walk(before.clone(), log.bytes.len(), flipped);
        assert!(chain.finish(1, ended.tail, |_| true).severity() == Severity::TornTail, "fill byte {at}");
    }
}

#[test]
fn a_flipped_bit_is_found_in_whole_folders() {
    let log = sample();
    let parts =
        [(1, log.events(1, 70)), (71, log.events(71, 140)), (141, [&log.events(141, 200), FILL].concat())];
    let read = |parts: &[(u64, Vec<u8>)]| {
        many(&parts.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect::<Vec<_>>())
    };
    let clean = read(&parts);
    assert_eq!((clean.severity(), clean.redacted_count), (Severity::Clean, 2));
    for (i, (_, bytes)) in parts.iter().enumerate() {
        for at in (0..bytes.len()).step_by(1499) {
            let mut parts = parts.clone();
            parts[i].1[at] ^= bit_of(at);
            let report = read(&parts);
            let sealed = i < 2;
            let least = if sealed { Severity::Damage } else { Severity::TornTail };
            assert!(report.severity() >= least, "byte {at} of segment {i}: {report:#?}");
            assert!(report.findings.len() <= 3, "byte {at} of segment {i}: {report:#?}");
        }
    }
}
