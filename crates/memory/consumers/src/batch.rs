//! What is stored: outcomes, many at a time, and what follows when they are stored or cannot be.

use std::collections::BTreeSet;

use crate::consumer::{Consumer, Place};
use crate::record::{DeadLetter, Failed, Settled};
use crate::settle::Close;
use crate::{LETTER_LIMIT, LETTER_RETRY_MS, RECORD_LIMIT, WATERMARK_STEP};

/// What is to be stored in one write: first the dead letters, then the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Dead letters; each settles its event by itself.
    pub letters: Vec<DeadLetter>,
    /// The record.
    pub settled: Settled,
    /// Numbers of the outcomes in it, all from the first to the last; nothing when it only says how far the consumer
    /// is.
    pub tickets: Option<(u64, u64)>,
}

impl Consumer {
    /// Returns whether [`Consumer::batch`] has something to store.
    pub fn has_records(&self) -> bool {
        self.recording.is_empty()
            && self.recording_upto == 0
            && (!self.pending.is_empty() || self.is_behind())
    }

    fn is_behind(&self) -> bool {
        self.watermark() >= self.tried_upto.saturating_add(WATERMARK_STEP)
    }

    /// Returns what is to be stored next; nothing while a batch is being stored.
    ///
    /// The caller stores it and then says [`Consumer::recorded`] or [`Consumer::failed`].
    pub fn batch(&mut self) -> Option<Batch> {
        if !self.has_records() {
            return None;
        }
        let mut letters = Vec::new();
        let mut failed = Vec::new();
        let mut settled = BTreeSet::new();
        let mut tickets = None;
        while let Some(&seq) = self.pending.front() {
            let Some(open) = self.open.get(&seq) else {
                self.pending.pop_front();
                continue;
            };
            let Place::Closing { close, ticket, .. } = &open.place else {
                self.pending.pop_front();
                continue;
            };
            if self.recording.len() == RECORD_LIMIT
                || (*close == Close::Dead && letters.len() == LETTER_LIMIT)
            {
                break;
            }
            match close {
                Close::Again { due } => failed.push(Failed(seq, open.attempts, *due)),
                Close::Done => {
                    settled.insert(seq);
                }
                Close::Dead => {
                    settled.insert(seq);
                    let name = self.config.name.clone();
                    letters.push(DeadLetter::new(name, seq, open.attempts, open.reason.clone()));
                }
            }
            let first = tickets.map_or(*ticket, |(first, _)| first);
            tickets = Some((first, *ticket));
            self.recording.push(seq);
            self.pending.pop_front();
        }
        // What stays open when this is stored, in order.
        let stays: Vec<u64> = self.open.keys().filter(|seq| !settled.contains(*seq)).copied().collect();
        let upto = stays.first().map_or(self.seen, |first| self.seen.min(first - 1));
        let dead = self.dead + letters.len() as u64;
        let mut record = Settled::new(self.config.name.clone(), upto, dead);
        record.failed = failed;
        for seq in settled.into_iter().filter(|seq| *seq > upto) {
            let at = stays.partition_point(|s| *s < seq);
            let range = if seq > self.seen {
                // Between it and what was looked at there may be events that nobody had yet.
                (seq, seq)
            } else {
                // As wide as can be, so that the ranges of all records together are as few as what stays open.
                let after = at.checked_sub(1).map_or(upto, |i| stays[i]);
                let before = stays.get(at).map_or(u64::MAX, |s| s - 1);
                (after.saturating_add(1), before.min(self.seen))
            };
            if record.done.last() != Some(&range) {
                record.done.push(range);
            }
        }
        self.recording_upto = upto.max(1);
        Some(Batch { letters, settled: record, tickets })
    }

    /// Takes in that the batch is stored.
    pub fn recorded(&mut self) {
        for seq in std::mem::take(&mut self.recording) {
            let Some(open) = self.open.get(&seq) else { continue };
            match open.place {
                Place::Closing { close: Close::Again { due }, .. } => {
                    self.wait(seq, due);
                }
                Place::Closing { close, .. } => {
                    self.dead += u64::from(close == Close::Dead);
                    self.open.remove(&seq);
                    if seq > self.seen {
                        self.known.insert(seq, seq);
                    }
                }
                Place::Waiting { .. } | Place::Hands(_) => {}
            }
        }
        self.seen = self.known.raise(self.seen);
        self.tried_upto = self.tried_upto.max(self.recording_upto);
        self.recording_upto = 0;
    }

    /// Takes in that the batch cannot be stored, so that nothing of it was settled.
    ///
    /// What somebody had settled is in these hands again. What had failed by itself is tried again all the same, and
    /// what would be a dead letter waits to become one.
    pub fn failed(&mut self, now: u64) {
        let back = std::mem::take(&mut self.recording);
        for &seq in &back {
            let Some(open) = self.open.get_mut(&seq) else { continue };
            let Place::Closing { close, hands, .. } = &open.place else { continue };
            match (*hands, *close) {
                (Some(hands), _) => {
                    open.place = Place::Hands(hands);
                    self.ends.insert((hands.deadline, seq));
                }
                (None, close) => {
                    let due = match close {
                        Close::Again { due } => due,
                        // Whoever had acknowledged it went away meanwhile.
                        Close::Done if open.attempts < self.config.max_attempts => now,
                        Close::Done | Close::Dead => now.saturating_add(LETTER_RETRY_MS),
                    };
                    self.wait(seq, due);
                }
            }
        }
        self.tried_upto = self.tried_upto.max(self.recording_upto);
        self.recording_upto = 0;
    }
}
