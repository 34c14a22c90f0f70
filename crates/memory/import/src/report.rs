//! What became of each row.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::kind::{Kind, Vendor};

/// Quarantined rows that a report lists.
const LISTED: usize = 100;
/// Sessions that are told apart.
const SESSIONS_LIMIT: usize = 1_000_000;

/// A row that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// File, relative to the request's path.
    pub(crate) file: String,
    /// Line, from 1.
    pub(crate) line: u64,
    /// Why, one sentence.
    pub(crate) why: String,
}

/// Counts of one run. Invariant: `rows` is the sum of `taken`, `skipped` and `quarantined`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) files: u64,
    pub(crate) files_ignored: u64,
    pub(crate) rows: u64,
    pub(crate) taken: u64,
    pub(crate) skipped: u64,
    pub(crate) quarantined: u64,
    pub(crate) blobs: u64,
    pub(crate) sessions: u64,
    pub(crate) taken_by_kind: BTreeMap<&'static str, u64>,
    pub(crate) last_seq: u64,
    #[serde(skip)]
    pub(crate) quarantine: Vec<Kept>,
    #[serde(skip)]
    seen: HashSet<(Vendor, String)>,
}

impl Report {
    /// Counts a session once.
    pub(crate) fn session(&mut self, vendor: Vendor, session: &str) {
        if session.is_empty() || self.seen.len() >= SESSIONS_LIMIT {
            return;
        }
        if self.seen.insert((vendor, session.to_owned())) {
            self.sessions += 1;
        }
    }

    /// Counts a row that was appended at a position; 0 when nothing is appended.
    pub(crate) fn taken(&mut self, kind: Kind, seq: u64) {
        self.rows += 1;
        self.taken += 1;
        *self.taken_by_kind.entry(kind.name()).or_default() += 1;
        self.last_seq = self.last_seq.max(seq);
    }

    /// Counts a row that was there.
    pub(crate) fn skipped(&mut self) {
        self.rows += 1;
        self.skipped += 1;
    }

    /// Counts a row that could not be read, and lists the first ones.
    pub(crate) fn quarantined(&mut self, kept: Kept) {
        self.rows += 1;
        self.quarantined += 1;
        if self.quarantine.len() < LISTED {
            self.quarantine.push(kept);
        }
    }

    /// Returns the counts as one JSON object.
    pub(crate) fn counts(&self) -> Vec<u8> {
        let mut counts = serde_json::to_value(self).unwrap_or_default();
        let text = format!("took {} of {} rows from {} sessions", self.taken, self.rows, self.sessions);
        counts["text"] = text.into();
        counts.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_lists_have_an_end() {
        let mut report = Report::default();
        for seq in [3, 9, 5] {
            report.taken(Kind::Turn, seq);
        }
        report.skipped();
        for line in 0..150 {
            report.quarantined(Kept { file: "a/secret name".into(), line, why: "x".into() });
        }
        for session in ["a", "b", "a", ""] {
            report.session(Vendor::Claude, session);
        }
        report.session(Vendor::Codex, "a");
        assert_eq!(report.rows, report.taken + report.skipped + report.quarantined);
        assert_eq!((report.last_seq, report.sessions, report.quarantine.len()), (9, 3, LISTED));
        let counts = String::from_utf8(report.counts()).unwrap();
        assert!(counts.contains(r#""taken_by_kind":{"turn":3}"#), "{counts}");
        assert!(!counts.contains("secret"), "an event holds counts only");
    }
}
