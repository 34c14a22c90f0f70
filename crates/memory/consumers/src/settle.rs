//! What becomes of deliveries: acknowledged, failed, given more time, given up.

use crate::WAIT_LIMIT_MS;
use crate::consumer::{Consumer, Place};
use crate::token::Token;

/// What became of a delivered event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Ack,
    /// It failed.
    Nack {
        /// Wait before the next attempt in milliseconds, at most a day; nothing: the backoff.
        delay: Option<u64>,
        /// Why.
        reason: String,
    },
    /// It needs more time.
    Extend,
    /// It can never be done.
    Term {
        /// Why.
        reason: String,
    },
}

/// What a settlement came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It counts once the outcome with this number is stored.
    Begun(u64),
    /// It counts, and nothing has to be stored.
    Extended,
    /// Another outcome of the same delivery is being stored, under this number.
    Pending(u64),
    /// Unknown, settled before, or its time had run out.
    Stale,
}

/// An outcome that is to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    /// Acknowledged.
    Done,
    /// Failed; to be tried again.
    Again { due: u64 },
    /// Given up.
    Dead,
}

impl Consumer {
    /// Takes in what became of a delivery.
    pub fn settle(&mut self, token: &Token, outcome: Outcome, now: u64) -> Verdict {
        self.tick(now);
        if !self.made(token) {
            return Verdict::Stale;
        }
        let within = self.config.settle_within_ms;
        let Some(open) = self.open.get_mut(&token.seq).filter(|open| open.attempts == token.attempt) else {
            return Verdict::Stale;
        };
        let hands = match &mut open.place {
            Place::Waiting { .. } => return Verdict::Stale,
            // One without hands has failed already: it was late, or whoever had it was gone.
            Place::Closing { hands: None, .. } => return Verdict::Stale,
            Place::Closing { ticket, .. } => return Verdict::Pending(*ticket),
            Place::Hands(hands) => hands,
        };
        let close = match outcome {
            Outcome::Extend => {
                self.ends.remove(&(hands.deadline, token.seq));
                hands.deadline = now.saturating_add(within);
                self.ends.insert((hands.deadline, token.seq));
                return Verdict::Extended;
            }
            Outcome::Ack => Close::Done,
            Outcome::Term { reason } => {
                open.reason = reason;
                Close::Dead
            }
            Outcome::Nack { delay, reason } => {
                open.reason = reason;
                let wait = delay.unwrap_or_else(|| self.config.backoff(token.attempt)).min(WAIT_LIMIT_MS);
                self.again(token.attempt, now.saturating_add(wait))
            }
        };
        Verdict::Begun(self.close(token.seq, close))
    }

    /// Returns what becomes of an event whose attempt failed.
    fn again(&self, attempts: u32, due: u64) -> Close {
        if attempts >= self.config.max_attempts { Close::Dead } else { Close::Again { due } }
    }

    /// Ends the attempt of an event in hands, which nobody said anything about.
    pub(crate) fn fail(&mut self, seq: u64, reason: &str, due: u64) {
        let Some(open) = self.open.get_mut(&seq) else { return };
        reason.clone_into(&mut open.reason);
        let close = self.again(self.open.get(&seq).map_or(0, |open| open.attempts), due);
        self.close(seq, close);
        if let Some(Place::Closing { hands, .. }) = self.open.get_mut(&seq).map(|open| &mut open.place) {
            *hands = None;
        }
    }

    /// Notes the outcome of an event; returns its number.
    pub(crate) fn close(&mut self, seq: u64, close: Close) -> u64 {
        let ticket = self.tickets + 1;
        let Some(open) = self.open.get_mut(&seq) else { return self.tickets };
        let hands = match open.place {
            Place::Waiting { due } => {
                self.due.remove(&(due, seq));
                self.spent.remove(&(due, seq));
                None
            }
            Place::Hands(hands) => {
                self.ends.remove(&(hands.deadline, seq));
                Some(hands)
            }
            Place::Closing { ticket, .. } => return ticket,
        };
        open.place = Place::Closing { close, hands, ticket };
        self.tickets = ticket;
        self.pending.push_back(seq);
        ticket
    }
}
