//! Single bits that flip in a log: each is seen by the bus and by the other reader, and both name the event that it hit.

use std::fs;
use std::path::{Path, PathBuf};

use mirror_types::Origin;
use mirror_verify::Severity;

use crate::Rng;
use crate::fuzz::log::{ORIGIN, config, origin, place, private, written};

/// Name of the only segment.
const SEGMENT: &str = "00000000000000000001.seg";

/// A log whose bits are flipped one at a time.
#[derive(Debug, Clone)]
pub struct Log {
    bytes: Vec<u8>,
    /// Where each event begins, and where the last one ends.
    starts: Vec<usize>,
}

/// What flips came to.
#[derive(Debug, Clone, Default)]
pub struct Flips {
    /// Bits that were flipped.
    pub flipped: u64,
    /// Sentences about those that were not seen, or not placed.
    pub missed: Vec<String>,
}

impl Log {
    /// Lets the bus write a log of so many events; nothing when it cannot.
    pub fn new(events: usize) -> Option<Self> {
        let bytes = written(events)?;
        let mut starts = Vec::new();
        let mut at = 0;
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            match line {
                [b'E', ..] => starts.push(at),
                [b'D', ..] => {}
                _ => break,
            }
            at += line.len();
        }
        starts.push(at);
        (starts.len() == events + 1).then_some(Self { bytes, starts })
    }

    /// Returns how many bytes the log has.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether the log has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Flips bits of the bytes in a range: all eight of each, or one that the seed decides.
    pub fn flip(&self, range: std::ops::Range<usize>, all: bool, seed: u64) -> Flips {
        let mut flips = Flips::default();
        let Some(origin) = origin() else { return flips };
        let bus = place().join("flips");
        for at in range {
            let one = Rng::at(seed, at as u64).below(8);
            for bit in (0..8).filter(|bit| all || *bit == one) {
                flips.flipped += 1;
                if let Err(why) = self.check(&bus, &origin, at, bit) {
                    flips.missed.push(format!("bit {bit} of byte {at}, event {}: {why}", self.hit(at)));
                }
            }
        }
        flips
    }

    /// Returns the event that a byte belongs to; one more than there are for the unused end.
    fn hit(&self, at: usize) -> u64 {
        self.starts.partition_point(|start| *start <= at) as u64
    }

    fn check(&self, bus: &Path, origin: &Origin, at: usize, bit: usize) -> Result<(), String> {
        let (hit, events) = (self.hit(at), self.starts.len() as u64 - 1);
        let mut bytes = self.bytes.clone();
        bytes[at] ^= 1 << bit;
        let dir: PathBuf = bus.join("log").join(ORIGIN);
        private(bus, &dir);
        fs::write(dir.join(SEGMENT), &bytes).map_err(|e| e.to_string())?;
        let report = mirror_verify::verify(&dir, &mut |_| {}).map_err(|e| e.to_string())?;
        let findings: Vec<_> = report.origins.iter().flat_map(|o| &o.findings).collect();
        let placed = findings.iter().any(|f| {
            let first = f.first_seq.unwrap_or(0);
            (first..=f.last_seq.unwrap_or(first)).contains(&hit)
        });
        // Nothing shows that the last write had been acknowledged.
        let tail = hit >= events && report.severity() == Severity::TornTail;
        if !placed && !tail {
            return Err(format!("verify says {:?}: {findings:?}", report.severity()));
        }
        let _ = fs::remove_dir_all(bus.join("quarantine"));
        let found = mirror_bus::bench::recover(bus, origin, &config(), events).map_err(|e| e.to_string())?;
        let right = if hit > events {
            found.damage.is_empty() && found.head == events && found.torn > 0
        } else {
            // A newline that goes may take the next event's first line with it.
            matches!(found.damage[..], [(first, last)] if first == hit && last.is_none_or(|l| l == hit || l == hit + 1))
        };
        if right { Ok(()) } else { Err(format!("the bus says {found:?}")) }
    }
}
