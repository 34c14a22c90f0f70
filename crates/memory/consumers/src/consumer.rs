//! A consumer at work: who pulls, what is in whose hands, and what may be delivered next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::WAIT_LIMIT_MS;
use crate::book::Standing;
use crate::ranges::Ranges;
use crate::record::Config;
use crate::settle::Close;
use crate::token::Token;

/// Names one who pulls, within one process.
pub type PullerId = u64;

/// Most events of one answer to [`Consumer::demand`].
const PAGE: usize = 256;

/// Where an event is that was delivered and is not settled.
#[derive(Debug)]
pub(crate) enum Place {
    /// Waits for its next attempt.
    Waiting {
        /// When that is due.
        due: u64,
    },
    /// Is being worked on.
    Hands(Hands),
    /// Has an outcome that is not stored yet.
    Closing {
        /// The outcome.
        close: Close,
        /// Whose hands it was in; it goes back there when the outcome cannot be stored.
        hands: Option<Hands>,
        /// Its number among all outcomes.
        ticket: u64,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Hands {
    /// Nobody: whoever fetched it has gone on with it.
    pub(crate) puller: Option<PullerId>,
    pub(crate) deadline: u64,
}

#[derive(Debug)]
pub(crate) struct Open {
    /// Attempts that were begun.
    pub(crate) attempts: u32,
    /// Why the last one failed.
    pub(crate) reason: String,
    pub(crate) place: Place,
}

#[derive(Debug)]
struct Puller {
    credit: u32,
    ready: bool,
}

/// An event that was put into somebody's hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Position.
    pub seq: u64,
    /// Who has it.
    pub puller: PullerId,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// When it must be settled.
    pub deadline: u64,
    /// Names the delivery.
    pub token: Token,
}

/// What could be delivered at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// Events whose next attempt is due; the longest due first.
    pub again: Vec<u64>,
    /// So many events that were never delivered.
    pub fresh: usize,
}

/// How many events are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Everything up to here is settled or does not match.
    pub settled_upto: u64,
    /// Last position that was delivered.
    pub delivered_upto: u64,
    /// Delivered and not settled.
    pub in_hands: usize,
    /// Wait for their next attempt.
    pub waiting: usize,
    /// Dead letters so far.
    pub dead: u64,
}

/// One consumer at work.
#[derive(Debug)]
pub struct Consumer {
    pub(crate) id: u64,
    pub(crate) config: Config,
    nonce: u64,
    /// Everything up to here was looked at: it is open, settled, or does not match.
    pub(crate) seen: u64,
    /// Settled above `seen`.
    pub(crate) known: Ranges,
    /// Delivered, in this process or an earlier one, and not settled.
    pub(crate) open: BTreeMap<u64, Open>,
    /// Those that wait for their next attempt, by when it is due.
    pub(crate) due: BTreeSet<(u64, u64)>,
    /// Those that wait to become a dead letter, by when that is tried again.
    pub(crate) spent: BTreeSet<(u64, u64)>,
    /// Those in hands, by when their time is up.
    pub(crate) ends: BTreeSet<(u64, u64)>,
    pullers: BTreeMap<PullerId, Puller>,
    /// Who was served last.
    turn: PullerId,
    /// Those that have an outcome, in the order in which they got it.
    pub(crate) pending: VecDeque<u64>,
    /// Those whose outcome is being stored.
    pub(crate) recording: Vec<u64>,
    /// The watermark that is being stored.
    pub(crate) recording_upto: u64,
    pub(crate) tickets: u64,
    /// The last watermark that was stored, or that could not be.
    pub(crate) tried_upto: u64,
    delivered_upto: u64,
    pub(crate) dead: u64,
}

impl Consumer {
    /// Returns a consumer as its records left it. `nonce` differs in every process.
    ///
    /// What an earlier process had delivered and not settled is fresh again, or waits where a failure was recorded.
    pub fn open(standing: &Standing, nonce: u64, now: u64) -> Self {
        let mut consumer = Self {
            id: standing.id,
            config: standing.config.clone(),
            nonce,
            seen: standing.upto,
            known: standing.done.clone(),
            open: BTreeMap::new(),
            due: BTreeSet::new(),
            spent: BTreeSet::new(),
            ends: BTreeSet::new(),
            pullers: BTreeMap::new(),
            turn: 0,
            pending: VecDeque::new(),
            recording: Vec::new(),
            recording_upto: 0,
            tickets: 0,
            tried_upto: standing.upto,
            delivered_upto: standing.upto,
            dead: standing.dead,
        };
        for (&seq, &(attempts, due)) in &standing.failed {
            // A clock that was set back must not make it wait for years.
            let due = due.min(now.saturating_add(WAIT_LIMIT_MS));
            let open = Open { attempts, reason: String::new(), place: Place::Waiting { due } };
            consumer.open.insert(seq, open);
            consumer.wait(seq, due);
        }
        let last = consumer.open.last_key_value().map(|(seq, _)| *seq).max(consumer.known.last());
        consumer.delivered_upto = consumer.delivered_upto.max(last.unwrap_or(0));
        consumer
    }

    /// Returns the position of the event that made it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns how it reads.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the first position that was not looked at.
    pub fn next(&self) -> u64 {
        self.seen.saturating_add(1)
    }

    /// Lets somebody pull; without credit for now.
    pub fn join(&mut self, puller: PullerId) {
        self.pullers.entry(puller).or_insert(Puller { credit: 0, ready: true });
    }

    /// Lets so many more events be delivered to somebody.
    pub fn credit(&mut self, puller: PullerId, more: u32) {
        if let Some(puller) = self.pullers.get_mut(&puller) {
            puller.credit = puller.credit.saturating_add(more);
        }
    }

    /// Says whether somebody can take events right now, whatever the credit.
    pub fn ready(&mut self, puller: PullerId, ready: bool) {
        if let Some(puller) = self.pullers.get_mut(&puller) {
            puller.ready = ready;
        }
    }

    /// Lets somebody go, who has failed at all that is in these hands: it is due again at once.
    pub fn leave(&mut self, puller: PullerId, now: u64) {
        self.pullers.remove(&puller);
        for seq in self.held_by(puller) {
            self.fail(seq, "whoever had it went away", now);
        }
        for open in self.open.values_mut() {
            if let Place::Closing { hands, .. } = &mut open.place
                && hands.is_some_and(|h| h.puller == Some(puller))
            {
                *hands = None;
            }
        }
    }

    /// Lets somebody go, who goes on with what is in these hands and will settle it in time.
    pub fn detach(&mut self, puller: PullerId) {
        self.pullers.remove(&puller);
        for open in self.open.values_mut() {
            if let Place::Hands(hands) | Place::Closing { hands: Some(hands), .. } = &mut open.place
                && hands.puller == Some(puller)
            {
                hands.puller = None;
            }
        }
    }

    /// Lets somebody go, whom nothing has reached: no attempt counts.
    pub fn withdraw(&mut self, puller: PullerId, now: u64) {
        self.pullers.remove(&puller);
        for seq in self.held_by(puller) {
            let Some(open) = self.open.get_mut(&seq) else { continue };
            if let Place::Hands(hands) = open.place {
                self.ends.remove(&(hands.deadline, seq));
            }
            open.attempts = open.attempts.saturating_sub(1);
            self.wait(seq, now);
        }
    }

    /// Lets an event wait for its next attempt, or for the end when it had the last one.
    pub(crate) fn wait(&mut self, seq: u64, due: u64) {
        let Some(open) = self.open.get_mut(&seq) else { return };
        open.place = Place::Waiting { due };
        let set = if open.attempts < self.config.max_attempts { &mut self.due } else { &mut self.spent };
        set.insert((due, seq));
    }

    fn held_by(&self, puller: PullerId) -> Vec<u64> {
        let holds = |open: &Open| matches!(open.place, Place::Hands(h) if h.puller == Some(puller));
        self.open.iter().filter(|(_, open)| holds(open)).map(|(seq, _)| *seq).collect()
    }

    /// Takes in that time has passed: what was not settled in time has failed.
    pub fn tick(&mut self, now: u64) {
        while let Some(&(deadline, seq)) = self.ends.first()
            && deadline <= now
        {
            let attempt = self.open.get(&seq).map_or(0, |open| open.attempts);
            let due = deadline.saturating_add(self.config.backoff(attempt));
            self.fail(seq, "it was not settled in time", due);
            self.ends.remove(&(deadline, seq));
        }
        while let Some(&(at, seq)) = self.spent.first()
            && at <= now
        {
            self.close(seq, Close::Dead);
            self.spent.remove(&(at, seq));
        }
    }

    /// Returns when [`Consumer::tick`] or [`Consumer::demand`] has something new to say; nothing: never by itself.
    pub fn wake(&self) -> Option<u64> {
        let due = self.due.first().filter(|_| self.room() > 0);
        [self.ends.first(), self.spent.first(), due].into_iter().flatten().map(|(at, _)| *at).min()
    }

    /// Returns how many deliveries there is credit for.
    fn room(&self) -> usize {
        let credit = self.pullers.values().filter(|p| p.ready).map(|p| p.credit);
        usize::try_from(credit.fold(0, u32::saturating_add)).unwrap_or(usize::MAX)
    }

    /// Returns what could be delivered at once.
    pub fn demand(&self, now: u64) -> Demand {
        let room = self.room().min(PAGE);
        let again: Vec<u64> =
            self.due.iter().take_while(|(due, _)| *due <= now).take(room).map(|(_, seq)| *seq).collect();
        let limit = usize::try_from(self.config.max_in_hands).unwrap_or(usize::MAX);
        let fresh = (room - again.len()).min(limit.saturating_sub(self.open.len()));
        Demand { again, fresh }
    }

    /// Puts events into hands whose next attempt is due; leaves out those for which there is no credit any more.
    pub fn redeliver(&mut self, seqs: &[u64], now: u64) -> Vec<Taken> {
        let mut taken = Vec::new();
        for &seq in seqs {
            let Some(Open { place: Place::Waiting { due }, .. }) = self.open.get(&seq) else { continue };
            let at = (*due, seq);
            if *due > now || !self.due.contains(&at) {
                continue;
            }
            let Some(puller) = self.pick() else { break };
            self.due.remove(&at);
            taken.extend(self.hand_over(seq, puller, now));
        }
        taken
    }

    /// Takes in what stands in the log from [`Consumer::next`] to `upto`: the matching events in order. Puts as many
    /// into hands as there is credit and room for, and begins the next time with the first that it did not take.
    pub fn offer(&mut self, matching: &[u64], upto: u64, now: u64) -> Vec<Taken> {
        let mut taken = Vec::new();
        let limit = usize::try_from(self.config.max_in_hands).unwrap_or(usize::MAX);
        for &seq in matching {
            if seq <= self.seen || self.open.contains_key(&seq) || self.known.contains(seq) {
                continue;
            }
            let puller = if self.open.len() < limit { self.pick() } else { None };
            let Some(puller) = puller else {
                self.advance(seq - 1);
                return taken;
            };
            let place = Place::Waiting { due: now };
            self.open.insert(seq, Open { attempts: 0, reason: String::new(), place });
            taken.extend(self.hand_over(seq, puller, now));
        }
        self.advance(upto);
        taken
    }

    fn advance(&mut self, upto: u64) {
        self.seen = self.known.raise(self.seen.max(upto));
    }

    /// Returns who is next among those with credit.
    fn pick(&self) -> Option<PullerId> {
        let able = |(_, puller): &(&PullerId, &Puller)| puller.ready && puller.credit > 0;
        let after = self.pullers.range(self.turn.saturating_add(1)..).find(able);
        after.or_else(|| self.pullers.range(..=self.turn).find(able)).map(|(id, _)| *id)
    }

    fn hand_over(&mut self, seq: u64, puller: PullerId, now: u64) -> Option<Taken> {
        let deadline = now.saturating_add(self.config.settle_within_ms);
        let open = self.open.get_mut(&seq)?;
        open.attempts += 1;
        open.place = Place::Hands(Hands { puller: Some(puller), deadline });
        self.ends.insert((deadline, seq));
        if let Some(puller) = self.pullers.get_mut(&puller) {
            puller.credit = puller.credit.saturating_sub(1);
        }
        self.turn = puller;
        self.delivered_upto = self.delivered_upto.max(seq);
        let attempt = open.attempts;
        let token = Token { consumer: self.id, seq, attempt, nonce: self.nonce };
        Some(Taken { seq, puller, attempt, deadline, token })
    }

    /// Returns whether a token is of this consumer and this process.
    pub(crate) fn made(&self, token: &Token) -> bool {
        token.consumer == self.id && token.nonce == self.nonce
    }

    /// Returns whether anybody pulls.
    pub fn has_pullers(&self) -> bool {
        !self.pullers.is_empty()
    }

    /// Returns whether time changes something although nobody pulls.
    pub fn has_deadlines(&self) -> bool {
        !self.ends.is_empty() || !self.spent.is_empty()
    }

    /// Returns how many events are where.
    pub fn counts(&self) -> Counts {
        Counts {
            settled_upto: self.watermark(),
            delivered_upto: self.delivered_upto,
            in_hands: self.open.len() - self.due.len() - self.spent.len(),
            waiting: self.due.len() + self.spent.len(),
            dead: self.dead,
        }
    }

    /// Returns the position up to which everything is settled, durably, or does not match.
    pub(crate) fn watermark(&self) -> u64 {
        self.open.first_key_value().map_or(self.seen, |(first, _)| self.seen.min(first - 1))
    }
}
