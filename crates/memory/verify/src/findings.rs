//! A bounded list of findings that joins what belongs together.

use crate::report::{Finding, FindingKind, Severity};

const LIMIT: usize = 256;

/// How many of the last findings are looked at for one to extend: an event can break several rules at once.
const NEAR: usize = 6;

/// A place in a log: which segment, by its name as a number, whether it is compressed, and the byte in its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) packed: bool,
    pub(crate) offset: u64,
}

impl Place {
    /// Returns the name of the file.
    pub(crate) fn file(&self) -> String {
        let name = segment_name(self.segment);
        if self.packed { name + PACKED } else { name }
    }
}

/// What the name of a compressed segment has after that of a plain one.
pub(crate) const PACKED: &str = ".zst";

#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    pub(crate) list: Vec<Finding>,
    pub(crate) left_out: u64,
    /// How often damage was found, listed or not.
    pub(crate) damage: u64,
}

impl Findings {
    /// Adds a finding about the events of `range`, or extends the one before when it is about the events just before.
    pub(crate) fn add(
        &mut self,
        kind: FindingKind,
        place: Place,
        range: Option<(u64, u64)>,
        message: impl Into<String>,
    ) {
        self.add_named(kind, place.file(), place.offset, range, message.into());
    }

    pub(crate) fn add_named(
        &mut self,
        kind: FindingKind,
        segment: String,
        offset: u64,
        range: Option<(u64, u64)>,
        message: String,
    ) {
        self.damage += u64::from(kind.severity() == Severity::Damage);
        if let Some((first, last)) = range {
            let near = self.list.iter_mut().rev().take(NEAR);
            let before = first.checked_sub(1);
            for old in near {
                if old.kind == kind
                    && old.segment == segment
                    && old.last_seq.is_some()
                    && old.last_seq == before
                {
                    old.last_seq = Some(last);
                    return;
                }
            }
        }
        let finding = Finding {
            kind,
            segment,
            offset,
            first_seq: range.map(|(first, _)| first),
            last_seq: range.map(|(_, last)| last),
            message,
        };
        if self.list.len() < LIMIT {
            self.list.push(finding);
            return;
        }
        self.left_out += 1;
        // A list full of notices must not hide that there is damage.
        let damage = |finding: &Finding| finding.kind.severity() == Severity::Damage;
        if damage(&finding)
            && let Some(last) = self.list.last_mut().filter(|last| !damage(last))
        {
            *last = finding;
        }
    }
}

/// Returns the file name of a segment.
pub(crate) fn segment_name(first: u64) -> String {
    format!("{first:020}.seg")
}
