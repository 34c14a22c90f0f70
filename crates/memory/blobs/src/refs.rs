//! Which event names which blob: a fold of the log, so that an erased event takes its blob with it.
//!
//! Two things name a blob: an event whose payload is of the type blob, and a row of an import whose member `blob` says
//! that the row was too large. It refuses to call a blob unnamed when it cannot tell: beyond [`LIMIT`] names none is deleted
//! for an erasure any more, and that is said.
//! Invariant: what became of the blobs of an erasure stands in the log, as an event `blobs.erased`, so that the answer is the
//! same when this state is lost and made again.

use std::collections::{BTreeMap, BTreeSet};

use mirror_contract::mirror::bus::v1::{Event, PayloadState, PayloadType};
use mirror_contract::mirror::fold::v1::Copy;
use mirror_kit::fold::{erasure, reached, unreached};
use serde::{Deserialize, Serialize};

use crate::blob::Digest;

/// Most names that are kept; they take 13 MB.
pub(crate) const LIMIT: usize = 200_000;

/// Subject of what this service records.
pub(crate) const ERASED: &str = "blobs.erased";

/// What became of the blob of an erased event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Became {
    /// Its bytes are deleted.
    Deleted,
    /// It stays, because another event names the same content.
    Kept,
    /// Whether the event named one, and which, is not known.
    Unknown,
}

/// What became of the blob of one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) seq: u64,
    pub(crate) became: Became,
}

/// The payload of `blobs.erased`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Form of the record: 1.
    pub(crate) v: u32,
    /// Position of the `bus.redacted` event.
    pub(crate) redaction: u64,
    /// Its events that named a blob, or may have.
    pub(crate) events: Vec<Outcome>,
}

/// The names, and the erasures.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Refs {
    names: BTreeMap<u64, Digest>,
    /// Whether there were more names than are kept.
    more: bool,
    /// Events that were erased before they were read, and may have named a blob.
    unknown: BTreeSet<u64>,
    /// Erasures of which the log does not say yet what became of the blobs, with the events of each.
    pending: BTreeMap<u64, Vec<u64>>,
    done: BTreeMap<u64, Vec<Outcome>>,
}

impl Refs {
    /// Takes an event; returns whether it was of any interest.
    pub(crate) fn take(&mut self, event: &Event) -> bool {
        if let Some(events) = erasure(event) {
            self.pending.insert(event.seq, events);
            return true;
        }
        if let Some(record) = record(event) {
            for seq in self.pending.remove(&record.redaction).into_iter().flatten() {
                self.names.remove(&seq);
                self.unknown.remove(&seq);
            }
            self.done.insert(record.redaction, record.events);
            return true;
        }
        if !may_name(event) {
            return false;
        }
        if event.payload_state() == PayloadState::Redacted {
            return self.unknown.insert(event.seq);
        }
        let Some(digest) = named(event) else { return false };
        self.more |= self.names.len() >= LIMIT;
        if !self.more {
            self.names.insert(event.seq, digest);
        }
        true
    }

    /// Returns the erasures of which the log does not say yet what became of the blobs, the oldest first.
    pub(crate) fn pending(&self) -> impl Iterator<Item = u64> {
        self.pending.keys().copied()
    }

    /// Returns whether the log says what became of the blobs of an erasure.
    pub(crate) fn is_done(&self, redaction: u64) -> bool {
        self.done.contains_key(&redaction)
    }

    /// Returns what is to become of the blobs of an erasure, and which are to be deleted for that.
    pub(crate) fn plan(&self, redaction: u64) -> (Record, BTreeSet<Digest>) {
        let erased: BTreeSet<u64> = self.pending.values().flatten().copied().collect();
        let alive =
            |digest: Digest| self.names.iter().any(|(seq, other)| *other == digest && !erased.contains(seq));
        let (mut events, mut delete) = (Vec::new(), BTreeSet::new());
        for seq in self.pending.get(&redaction).into_iter().flatten().copied() {
            let became = match self.names.get(&seq) {
                Some(_) if self.more => Became::Unknown,
                Some(digest) if alive(*digest) => Became::Kept,
                Some(digest) => {
                    delete.insert(*digest);
                    Became::Deleted
                }
                // Its name may be one of those that are not kept.
                None if self.unknown.contains(&seq) => Became::Unknown,
                None => continue,
            };
            events.push(Outcome { seq, became });
        }
        (Record { v: 1, redaction, events }, delete)
    }

    /// Returns the copies of what an erasure erases.
    pub(crate) fn copies(&self, redaction: u64) -> Vec<Copy> {
        let copy = |outcome: &Outcome| {
            let seq = outcome.seq;
            match outcome.became {
                Became::Deleted => reached(seq, "the blob that it named"),
                Became::Kept => unreached(
                    seq,
                    "the blob that it named",
                    "another event names the same content; have that one erased too",
                ),
                Became::Unknown => unreached(
                    seq,
                    "the blob that it may have named",
                    "it was erased before the service blobs had read which blob it names; \
                     remove by hand the file in blobs/ that no event names",
                ),
            }
        };
        self.done.get(&redaction).into_iter().flatten().map(copy).collect()
    }
}

/// Returns the record of an event; only this service's own counts.
fn record(event: &Event) -> Option<Record> {
    let own = event.subject == ERASED && event.actor == "svc:blobs";
    own.then(|| serde_json::from_slice(&event.payload).ok()).flatten()
}

fn may_name(event: &Event) -> bool {
    event.r#type() == PayloadType::Blob || event.subject.starts_with("import.")
}

/// Returns the blob that an event names.
fn named(event: &Event) -> Option<Digest> {
    #[derive(Deserialize)]
    struct Name {
        blake3: Digest,
    }
    #[derive(Deserialize)]
    struct Row {
        blob: Name,
    }
    if event.r#type() == PayloadType::Blob {
        return serde_json::from_slice::<Name>(&event.payload).ok().map(|name| name.blake3);
    }
    // Few rows name one, and to look for the word is quicker than to read the row.
    let text = std::str::from_utf8(&event.payload).ok().filter(|text| text.contains("\"blake3\""))?;
    serde_json::from_str::<Row>(text).ok().map(|row| row.blob.blake3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_contract::mirror::fold::v1::copy::State;

    fn digest(n: u8) -> String {
        format!("{n:02x}").repeat(32)
    }

    fn event(seq: u64, subject: &str, kind: PayloadType, payload: String) -> Event {
        let actor = match subject.split('.').next() {
            Some(prefix @ ("bus" | "blobs" | "import")) => format!("svc:{prefix}"),
            _ => "local".to_owned(),
        };
        Event {
            seq,
            subject: subject.to_owned(),
            actor,
            r#type: kind.into(),
            payload: payload.into(),
            payload_state: PayloadState::Present.into(),
            ..Event::default()
        }
    }

    fn blob(seq: u64, n: u8) -> Event {
        let payload = format!(r#"{{"blake3":"{}","bytes":9,"type":"text"}}"#, digest(n));
        event(seq, "local.file", PayloadType::Blob, payload)
    }

    fn row(seq: u64, n: u8) -> Event {
        let payload = format!(r#"{{"source":"x","blob":{{"blake3":"{}","bytes":9}}}}"#, digest(n));
        event(seq, "import.claude.turn", PayloadType::Json, payload)
    }

    fn erasure(seq: u64, events: &[u64]) -> Event {
        let payload = format!(r#"{{"v":1,"envelope":{{}},"events":{events:?}}}"#);
        event(seq, "bus.redacted", PayloadType::Json, payload)
    }

    fn gone(event: Event) -> Event {
        Event { payload: "".into(), payload_state: PayloadState::Redacted.into(), ..event }
    }

    fn told(seq: u64, record: &Record) -> Event {
        event(seq, ERASED, PayloadType::Json, serde_json::to_string(record).unwrap())
    }

    fn folded(events: &[Event]) -> Refs {
        let mut refs = Refs::default();
        events.iter().for_each(|event| {
            refs.take(event);
        });
        refs
    }

    #[track_caller]
    fn check(events: &[Event], redaction: u64, became: &[(u64, Became)], deleted: &[u8]) {
        let (record, delete) = folded(events).plan(redaction);
        let found: Vec<_> = record.events.iter().map(|outcome| (outcome.seq, outcome.became)).collect();
        assert_eq!(found, became);
        assert_eq!(
            delete.iter().map(ToString::to_string).collect::<Vec<_>>(),
            deleted.iter().map(|n| digest(*n)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_blob_goes_with_the_last_event_that_names_it() {
        use Became::{Deleted, Kept, Unknown};
        check(&[blob(1, 7), erasure(2, &[1])], 2, &[(1, Deleted)], &[7]);
        check(&[row(1, 7), erasure(2, &[1])], 2, &[(1, Deleted)], &[7]);
        check(&[blob(1, 7), row(2, 7), erasure(3, &[1])], 3, &[(1, Kept)], &[]);
        check(&[blob(1, 7), erasure(2, &[1]), row(3, 7)], 2, &[(1, Kept)], &[]);
        check(&[blob(1, 7), row(2, 7), erasure(3, &[1, 2])], 3, &[(1, Deleted), (2, Deleted)], &[7]);
        check(&[blob(1, 7), row(2, 7), erasure(3, &[1]), erasure(4, &[2])], 3, &[(1, Deleted)], &[7]);
        check(&[gone(blob(1, 7)), erasure(2, &[1])], 2, &[(1, Unknown)], &[]);
        check(&[gone(row(1, 7)), erasure(2, &[1])], 2, &[(1, Unknown)], &[]);
    }

    #[test]
    fn what_names_no_blob_is_no_business_of_this_service() {
        let like = |payload: &str| event(1, "import.claude.turn", PayloadType::Json, payload.to_owned());
        let note = event(1, "local.note", PayloadType::Json, row(1, 7).payload.escape_ascii().to_string());
        for event in [like(r#"{"row":{"blake3":"x"}}"#), like(r#"{"blob":{"blake3":"x"}}"#), like("{"), note]
        {
            check(&[event, erasure(2, &[1])], 2, &[], &[]);
        }
    }

    #[test]
    fn beyond_the_bound_nothing_is_deleted_and_that_is_said() {
        let mut refs = folded(&[blob(1, 7)]);
        refs.names.extend((2..=LIMIT as u64).map(|seq| (seq, Digest::parse(&digest(1)).unwrap())));
        assert!(!refs.more);
        refs.take(&blob(300_000, 8));
        refs.take(&erasure(300_001, &[1]));
        assert_eq!(refs.names.len(), LIMIT);
        let (record, delete) = refs.plan(300_001);
        assert_eq!((record.events[0].became, delete.len()), (Became::Unknown, 0));
    }

    #[test]
    fn a_fold_that_comes_later_answers_as_one_that_was_there() {
        let plain = event(2, "import.claude.turn", PayloadType::Json, "{}".to_owned());
        let before = [blob(1, 7), plain, blob(3, 8), row(4, 8), erasure(5, &[1, 2, 3])];
        let mut there = folded(&before);
        let record = there.plan(5).0;
        assert!(!there.is_done(5) && there.pending().eq([5]));
        there.take(&told(6, &record));
        assert!(there.is_done(5) && there.pending().count() == 0);
        let states: Vec<_> = there.copies(5).iter().map(|copy| (copy.seq, copy.state())).collect();
        assert_eq!(states, [(1, State::Reached), (3, State::Unreached)]);

        let [one, two, three, four, five] = before;
        let late = folded(&[gone(one), gone(two), gone(three), four, five, told(6, &record)]);
        assert_eq!(late, there);

        let forged = Event { actor: "local".into(), ..told(6, &record) };
        assert!(!folded(&[erasure(5, &[1]), forged]).is_done(5));
    }
}
