//! The fold over the records: which consumers there are, and what is durably known of each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ranges::Ranges;
use crate::record::{Config, Record, Settled};

/// What the records say of one consumer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// How it reads.
    pub config: Config,
    /// Who made it.
    pub owner: String,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
    /// Position of the event that made it; tells two consumers apart that had the same name.
    pub id: u64,
    /// Position of the last record that counts here.
    pub at: u64,
    /// Everything up to here is settled or does not match.
    pub upto: u64,
    /// Ranges above `upto` that are settled or do not match.
    pub done: Ranges,
    /// Events above `upto` that failed: attempts, and when the next is due in milliseconds since 1970.
    pub failed: BTreeMap<u64, (u32, u64)>,
    /// Dead letters so far.
    pub dead: u64,
}

impl Standing {
    fn settled(&mut self, record: &Settled) {
        for &(first, last) in &record.done {
            self.done.insert(first, last);
        }
        for failed in &record.failed {
            self.failed.insert(failed.0, (failed.1, failed.2));
        }
        self.dead = self.dead.max(record.dead);
        self.raise(record.upto);
    }

    fn raise(&mut self, upto: u64) {
        self.upto = self.done.raise(self.upto.max(upto));
        let (upto, done) = (self.upto, &self.done);
        self.failed.retain(|seq, _| *seq > upto && !done.contains(*seq));
    }
}

/// All consumers of a log, as its records say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book(BTreeMap<String, Standing>);

impl Book {
    /// Takes in the record that stands at a position.
    ///
    /// Records of one consumer are taken in order. A record that was taken in before changes nothing, so a reader may
    /// begin too early; one about a consumer that does not exist changes nothing either.
    pub fn apply(&mut self, seq: u64, record: &Record) {
        let known = self.0.get_mut(record.consumer());
        if known.as_ref().is_some_and(|standing| seq <= standing.at) {
            return;
        }
        match (record, known) {
            (Record::Created(created), _) => {
                let from = created.config.from;
                let standing = Standing {
                    config: created.config.clone(),
                    owner: created.owner.clone(),
                    created_ms: created.created_ms,
                    id: seq,
                    at: seq,
                    upto: if from == 0 { seq } else { from - 1 },
                    done: Ranges::default(),
                    failed: BTreeMap::new(),
                    dead: 0,
                };
                self.0.insert(created.config.name.clone(), standing);
            }
            (_, None) => {}
            (Record::Deleted(deleted), Some(_)) => {
                self.0.remove(&deleted.consumer);
            }
            (Record::Settled(settled), Some(standing)) => {
                standing.at = seq;
                standing.settled(settled);
            }
            (Record::Dead(letter), Some(standing)) => {
                standing.at = seq;
                // A record that counts it may follow, or may have been lost with the power.
                if letter.seq > standing.upto && !standing.done.contains(letter.seq) {
                    standing.dead += 1;
                    standing.done.insert(letter.seq, letter.seq);
                    standing.raise(0);
                }
            }
        }
    }

    /// Returns what is known of a consumer.
    pub fn get(&self, name: &str) -> Option<&Standing> {
        self.0.get(name)
    }

    /// Returns all consumers, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = &Standing> {
        self.0.values()
    }

    /// Returns how many consumers there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Created, DeadLetter, Deleted, Failed, FilterSpec};

    fn created(from: u64) -> Record {
        let config = Config {
            name: "a".into(),
            filter: FilterSpec::default(),
            from,
            settle_within_ms: 1_000,
            max_attempts: 5,
            backoff_ms: Vec::new(),
            max_in_hands: 8,
        };
        Record::Created(Created::new(config, "local".into(), 1))
    }

    fn settled(upto: u64, done: &[(u64, u64)], failed: &[Failed]) -> Record {
        let mut settled = Settled::new("a".into(), upto, 0);
        settled.done = done.to_vec();
        settled.failed = failed.to_vec();
        Record::Settled(settled)
    }

    #[test]
    fn records_add_up_and_taking_one_twice_changes_nothing() {
        let dead = Record::Dead(DeadLetter::new("a".into(), 12, 5, String::new()));
        let records = [
            (3, settled(9, &[], &[])),
            (4, created(0)),
            (20, settled(6, &[(8, 9), (13, 14)], &[Failed(7, 1, 50), Failed(12, 4, 60)])),
            (21, dead),
            (22, settled(9, &[(12, 12)], &[])),
        ];
        let mut book = Book::default();
        for (seq, record) in &records {
            book.apply(*seq, record);
        }
        let standing = book.get("a").unwrap().clone();
        assert_eq!((standing.id, standing.at, standing.upto, standing.dead), (4, 22, 9, 1));
        assert_eq!(standing.done.iter().collect::<Vec<_>>(), [(12, 14)]);
        assert!(standing.failed.is_empty());
        let whole = book.clone();
        for (seq, record) in records.iter().skip(1) {
            book.apply(*seq, record);
        }
        assert_eq!(book, whole);
        let text = serde_json::to_string(&book).unwrap();
        assert_eq!(serde_json::from_str::<Book>(&text).unwrap(), whole);
    }

    #[test]
    fn a_name_that_is_used_again_begins_anew() {
        let mut book = Book::default();
        book.apply(5, &created(1));
        assert_eq!(book.get("a").unwrap().upto, 0);
        book.apply(6, &settled(5, &[], &[]));
        book.apply(7, &Record::Deleted(Deleted::new("a".into())));
        assert!(book.is_empty());
        book.apply(8, &settled(6, &[], &[]));
        assert!(book.is_empty());
        book.apply(9, &created(3));
        // What is read a second time is older than the new one.
        book.apply(7, &Record::Deleted(Deleted::new("a".into())));
        assert_eq!((book.len(), book.get("a").map(|s| (s.id, s.upto))), (1, Some((9, 2))));
    }
}
