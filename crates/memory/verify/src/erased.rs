//! X lines that wait for the event that erased them, which comes later in the log.

use std::collections::BTreeMap;

use crate::findings::{Findings, Place};
use crate::report::{FindingKind, Redacted};

/// How many X lines may wait at once.
const WAITING: usize = 1 << 20;

/// How many proven redactions are listed.
const LISTED: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Mark {
    seq: u64,
    place: Place,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Erasures {
    waiting: BTreeMap<u64, Vec<Mark>>,
    count: usize,
    pub(crate) proven: u64,
    pub(crate) listed: Vec<Redacted>,
}

impl Erasures {
    /// Notes that the payload of `seq` says that it was erased by `by`.
    pub(crate) fn note(&mut self, place: Place, seq: u64, by: u64, findings: &mut Findings) {
        let why = match by.cmp(&seq) {
            std::cmp::Ordering::Equal => "the X line names its own event as the redaction",
            std::cmp::Ordering::Less => "the X line names an earlier event as the redaction",
            std::cmp::Ordering::Greater if self.count == WAITING => {
                "too many X lines wait for their redaction"
            }
            std::cmp::Ordering::Greater => {
                self.waiting.entry(by).or_default().push(Mark { seq, place });
                self.count += 1;
                return;
            }
        };
        findings.add(FindingKind::RedactionUnproven, place, Some((seq, seq)), why);
    }

    /// Settles the X lines that name the event `by`, now that it is read.
    pub(crate) fn settle(&mut self, by: u64, is_redaction: bool, findings: &mut Findings) {
        if self.count == 0 {
            return;
        }
        let Some(marks) = self.waiting.remove(&by) else { return };
        self.count -= marks.len();
        for Mark { seq, place } in marks {
            if is_redaction {
                self.proven += 1;
                if self.listed.len() < LISTED {
                    self.listed.push(Redacted { seq, by });
                }
            } else {
                let why = format!("the X line names event {by}, which is no bus.redacted");
                findings.add(FindingKind::RedactionUnproven, place, Some((seq, seq)), why);
            }
        }
    }

    /// Reports the X lines whose event never came.
    pub(crate) fn finish(&mut self, findings: &mut Findings) {
        for (by, marks) in std::mem::take(&mut self.waiting) {
            for Mark { seq, place } in marks {
                let why = format!("the X line names event {by}, which is not in the log");
                findings.add(FindingKind::RedactionUnproven, place, Some((seq, seq)), why);
            }
        }
        self.listed.sort_unstable();
    }
}
