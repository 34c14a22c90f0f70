//! The keeper's own log as the witness reads it: its hash chain, and what of it is recorded on the bus.
//!
//! It computes each hash anew from the record's fields (`docs/FORMAT.md` has the form of a line), so that a record that was
//! altered, left out or put in shows. Invariant: the ranges of the digests follow each other without gap or overlap.

use std::collections::VecDeque;
use std::time::Duration;

use mirror_seal::{hex, sha256};
use serde::Serialize;

use crate::witness::Cursor;

/// Hash that the first record names as that of the one before.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Most records that one digest spells out, besides refusals.
const LISTED: usize = 64;

/// Refusals that one digest spells out: whoever wants to flood the log makes refusals.
const REFUSALS_LISTED: usize = 8;

/// Shortest time between two digests that have nothing but refusals to tell.
const REFUSALS_EVERY: Duration = Duration::from_secs(600);

/// Records after which a digest is due whatever they are.
const SPAN: u64 = 1000;

/// Most characters of a record's text that a digest repeats.
const TEXT: usize = 96;

/// A record of the keeper's log; serialised, it is the content of its line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Record {
    pub(crate) v: u32,
    pub(crate) number: u64,
    pub(crate) prev: String,
    pub(crate) at_ms: u64,
    pub(crate) act: String,
    pub(crate) caller: String,
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) digest: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) root: String,
}

impl Record {
    /// Returns the hash that the record has after the one before.
    fn hash_after(&mut self, prev: &str) -> String {
        prev.clone_into(&mut self.prev);
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        // The hash is of the line up to where the hash itself stands.
        line.pop();
        hex(&sha256(&line))
    }

    fn is_checkpoint(&self) -> bool {
        self.act == "sign" && !self.root.is_empty()
    }
}

/// Why the keeper's log is not the one that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Broken {
    v: u32,
    /// The record that does not fit.
    pub(crate) number: u64,
    /// Hash that it must have; empty when it must be there.
    expected: String,
    /// Hash that it has; empty when it is not there.
    found: String,
}

impl Broken {
    fn new(number: u64, expected: String, found: &str) -> Self {
        Self { v: 1, number, expected, found: found.to_owned() }
    }
}

/// What is recorded of a range of records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Digest {
    v: u32,
    from: u64,
    to: u64,
    head: String,
    signed: u64,
    refused: u64,
    records: Vec<Listed>,
}

impl Digest {
    /// Returns the id of its event.
    pub(crate) fn id(&self) -> String {
        format!("witness-keeper-{}-{}", self.from, self.to)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Listed {
    number: u64,
    at_ms: u64,
    act: String,
    caller: String,
    #[serde(rename = "type")]
    kind: String,
    key: String,
    digest: String,
    reason: String,
}

impl Listed {
    fn of(record: &Record) -> Self {
        // A caller chooses some of these texts: what JSON would make longer is no part of a name.
        let plain = |c: char| if c.is_ascii_graphic() && !"\"\\".contains(c) { c } else { '?' };
        let short = |text: &str| text.chars().take(TEXT).map(plain).collect();
        Self {
            number: record.number,
            at_ms: record.at_ms,
            act: short(&record.act),
            caller: short(&record.caller),
            kind: short(&record.kind),
            key: short(&record.key),
            digest: short(&record.digest),
            reason: short(&record.reason),
        }
    }
}

/// Reads the keeper's log on from a place, and gathers what is to be recorded.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    at: Cursor,
    /// The digest that is being gathered.
    from: u64,
    signed: u64,
    refused: u64,
    listed: Vec<Listed>,
    sampled: usize,
    full: VecDeque<Digest>,
    /// When refusals alone were last told of, on the clock that is given.
    told: Option<Duration>,
}

impl Reading {
    /// Returns a reading that goes on after a place.
    pub(crate) fn after(place: Cursor) -> Self {
        let from = place.number + 1;
        Self {
            at: place,
            from,
            signed: 0,
            refused: 0,
            listed: Vec::new(),
            sampled: 0,
            full: VecDeque::new(),
            told: None,
        }
    }

    /// Returns the number of the next record to ask for: the last known one, to see that it is still the same.
    pub(crate) fn next(&self) -> u64 {
        self.at.number.max(1)
    }

    /// Returns whether what it has to tell begins after a place.
    pub(crate) fn begins_after(&self, told: &Cursor) -> bool {
        self.full.front().map_or(self.from, |digest| digest.from) == told.number + 1
    }

    /// Returns whether as much is gathered as may be held.
    pub(crate) fn is_full(&self) -> bool {
        self.full.len() >= 4
    }

    /// Returns the last record that was read.
    pub(crate) fn at(&self) -> &Cursor {
        &self.at
    }

    /// Takes records that begin with [`Self::next`], each with the hash that the keeper says it has.
    pub(crate) fn take(&mut self, records: Vec<(Record, String)>) -> Result<(), Broken> {
        if records.is_empty() && self.at.number > 0 {
            return Err(Broken::new(self.at.number, self.at.hash.clone(), ""));
        }
        for (mut record, named) in records {
            if record.number == self.at.number {
                // After an erased event the hash is not known, and that of the keeper is taken.
                if self.at.hash.is_empty() {
                    self.at.hash = named;
                } else if self.at.hash != named {
                    return Err(Broken::new(record.number, self.at.hash.clone(), &named));
                }
                continue;
            }
            let prev = if self.at.number == 0 { NOTHING } else { &self.at.hash };
            let hash = record.hash_after(prev);
            if record.number != self.at.number + 1 || hash != named {
                return Err(Broken::new(self.at.number + 1, hash, &named));
            }
            self.at = Cursor { number: record.number, hash };
            self.gather(&record);
        }
        Ok(())
    }

    fn gather(&mut self, record: &Record) {
        if record.is_checkpoint() {
            self.signed += 1;
        } else if record.act == "refuse" {
            self.refused += 1;
            if self.sampled < REFUSALS_LISTED {
                self.sampled += 1;
                self.listed.push(Listed::of(record));
            }
        } else {
            self.listed.push(Listed::of(record));
        }
        if self.listed.len() - self.sampled >= LISTED || record.number - self.from + 1 >= SPAN {
            self.close();
        }
    }

    fn close(&mut self) {
        self.full.push_back(Digest {
            v: 1,
            from: self.from,
            to: self.at.number,
            head: self.at.hash.clone(),
            signed: std::mem::take(&mut self.signed),
            refused: std::mem::take(&mut self.refused),
            records: std::mem::take(&mut self.listed),
        });
        self.sampled = 0;
        self.from = self.at.number + 1;
    }

    /// Returns the next digest that is to be recorded; `now` is a time that never runs backwards.
    pub(crate) fn due(&mut self, now: Duration) -> Option<Digest> {
        let important = self.listed.len() > self.sampled;
        let quiet = self.told.is_some_and(|told| now.saturating_sub(told) < REFUSALS_EVERY);
        if self.full.is_empty() && (important || (self.refused > 0 && !quiet)) {
            self.close();
        }
        let digest = self.full.front()?;
        if digest.refused > 0 {
            self.told = Some(now);
        }
        Some(digest.clone())
    }

    /// Says that the digest that is due was recorded.
    pub(crate) fn recorded(&mut self) {
        self.full.pop_front();
    }
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
