//! What must be true of one consumer, kept in the plainest way: each event has one state.

use std::collections::BTreeMap;

use mirror_consumers::{Book, Config, DeadLetter, LETTER_RETRY_MS, Outcome, PullerId, Taken, Verdict};

/// What is to become of an event once that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Again(u64),
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Fresh,
    Held {
        until: u64,
        by: Option<PullerId>,
    },
    /// `held` is where it goes back to when the outcome cannot be stored.
    Closing {
        end: End,
        held: Option<(u64, Option<PullerId>)>,
        ticket: u64,
    },
    Waiting {
        due: u64,
    },
    Spent {
        due: u64,
    },
    Acked,
    Dead,
}

#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) state: State,
    pub(crate) attempts: u32,
    /// Failures that are stored: attempts, and when the next is due.
    stored: Option<(u32, u64)>,
    pub(crate) letters: u32,
    pub(crate) deliveries: u32,
    /// Failures of this life that could not be stored.
    refused: u32,
    /// Attempts that were forgotten or taken back.
    lost: u32,
}

/// All matching events from where the consumer begins.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) config: Config,
    pub(crate) events: BTreeMap<u64, Truth>,
    pub(crate) credit: BTreeMap<PullerId, u32>,
    /// Last event that was delivered for the first time in this life.
    last_fresh: u64,
}

impl Model {
    pub(crate) fn new(config: Config) -> Self {
        let (events, credit) = (BTreeMap::new(), BTreeMap::new());
        Self { config, events, credit, last_fresh: 0 }
    }

    pub(crate) fn add(&mut self, seq: u64) {
        let state = State::Fresh;
        let truth =
            Truth { state, attempts: 0, stored: None, letters: 0, deliveries: 0, refused: 0, lost: 0 };
        self.events.insert(seq, truth);
    }

    fn fail(&mut self, seq: u64, due: u64) {
        let last = self.config.max_attempts;
        let truth = self.events.get_mut(&seq).unwrap();
        let end = if truth.attempts >= last { End::Dead } else { End::Again(due) };
        truth.state = State::Closing { end, held: None, ticket: u64::MAX };
    }

    pub(crate) fn tick(&mut self, now: u64) {
        for seq in self.events.keys().copied().collect::<Vec<_>>() {
            match self.events[&seq].state {
                State::Held { until, .. } if until <= now => {
                    let wait = self.config.backoff(self.events[&seq].attempts);
                    self.fail(seq, until + wait);
                }
                State::Spent { due } if due <= now => {
                    let state = State::Closing { end: End::Dead, held: None, ticket: u64::MAX };
                    self.events.get_mut(&seq).unwrap().state = state;
                }
                _ => {}
            }
        }
    }

    pub(crate) fn open(&self) -> usize {
        let open = |t: &&Truth| !matches!(t.state, State::Fresh | State::Acked | State::Dead);
        self.events.values().filter(open).count()
    }

    /// Checks a delivery and takes it in.
    pub(crate) fn deliver(&mut self, taken: &Taken, now: u64) {
        let full = self.open() >= usize::try_from(self.config.max_in_hands).unwrap();
        let truth = self.events.get_mut(&taken.seq).expect("only matching events are delivered");
        match truth.state {
            State::Fresh => {
                assert!(!full, "no more than {} are not settled", self.config.max_in_hands);
                assert!(taken.seq > self.last_fresh, "first attempts are in order");
                self.last_fresh = taken.seq;
            }
            State::Waiting { due } => assert!(due <= now, "{} waits until {due}", taken.seq),
            other => panic!("{} is delivered while it is {other:?}", taken.seq),
        }
        truth.attempts += 1;
        truth.deliveries += 1;
        assert_eq!(taken.attempt, truth.attempts);
        assert!(taken.attempt <= self.config.max_attempts, "attempts are bounded");
        assert_eq!(taken.deadline, now + self.config.settle_within_ms);
        assert_eq!((taken.token.seq, taken.token.attempt), (taken.seq, taken.attempt));
        truth.state = State::Held { until: taken.deadline, by: Some(taken.puller) };
        let credit = self.credit.get_mut(&taken.puller).expect("who left gets nothing");
        *credit = credit.checked_sub(1).expect("nobody gets more than there is credit for");
    }

    /// Checks the verdict on a settlement of this life and takes it in; `attempt` is the one that it names.
    pub(crate) fn settle(&mut self, seq: u64, attempt: u32, outcome: &Outcome, verdict: Verdict, now: u64) {
        self.tick(now);
        let last = self.config.max_attempts;
        let (within, wait) = (self.config.settle_within_ms, self.config.backoff(attempt));
        let truth = self.events.get_mut(&seq).unwrap();
        let same = truth.attempts == attempt;
        let (until, by) = match truth.state {
            State::Held { until, by } if same => (until, by),
            State::Closing { held: Some(_), ticket, .. } if same => {
                assert_eq!(verdict, Verdict::Pending(ticket));
                return;
            }
            _ => return assert_eq!(verdict, Verdict::Stale, "{seq} is {:?}", truth.state),
        };
        let end = match outcome {
            Outcome::Extend => {
                assert_eq!(verdict, Verdict::Extended);
                truth.state = State::Held { until: now + within, by };
                return;
            }
            Outcome::Ack => End::Done,
            Outcome::Term { .. } => End::Dead,
            Outcome::Nack { .. } if attempt >= last => End::Dead,
            Outcome::Nack { delay, .. } => End::Again(now + delay.unwrap_or(wait)),
        };
        let Verdict::Begun(ticket) = verdict else { panic!("{seq} is held, and the verdict is {verdict:?}") };
        truth.state = State::Closing { end, held: Some((until, by)), ticket };
    }

    pub(crate) fn leave(&mut self, puller: PullerId, now: u64) {
        self.credit.remove(&puller);
        for seq in self.held_by(puller) {
            self.fail(seq, now);
        }
        for truth in self.events.values_mut() {
            if let State::Closing { held, .. } = &mut truth.state
                && held.is_some_and(|(_, by)| by == Some(puller))
            {
                *held = None;
            }
        }
    }

    pub(crate) fn detach(&mut self, puller: PullerId) {
        self.credit.remove(&puller);
        for truth in self.events.values_mut() {
            if let State::Held { by, .. } | State::Closing { held: Some((_, by)), .. } = &mut truth.state
                && *by == Some(puller)
            {
                *by = None;
            }
        }
    }

    pub(crate) fn withdraw(&mut self, puller: PullerId, now: u64) {
        self.credit.remove(&puller);
        for seq in self.held_by(puller) {
            let truth = self.events.get_mut(&seq).unwrap();
            truth.lost += 1;
            truth.attempts -= 1;
            truth.state = State::Waiting { due: now };
        }
    }

    fn held_by(&self, puller: PullerId) -> Vec<u64> {
        let held = |t: &Truth| matches!(t.state, State::Held { by, .. } if by == Some(puller));
        self.events.iter().filter(|(_, t)| held(t)).map(|(seq, _)| *seq).collect()
    }

    /// Takes in what was stored: the log's truth from here on.
    pub(crate) fn stored(&mut self, letters: &[DeadLetter], book: &Book, upto_ticket: u64) {
        for letter in letters {
            let truth = self.events.get_mut(&letter.seq).unwrap();
            assert!(
                matches!(truth.state, State::Closing { end: End::Dead, .. }),
                "{} is a dead letter, and is {:?}",
                letter.seq,
                truth.state
            );
            assert_eq!(letter.attempts, truth.attempts);
            truth.state = State::Dead;
            truth.letters += 1;
        }
        let standing = book.get(&self.config.name).unwrap();
        let settled = |seq: u64| seq <= standing.upto || standing.done.contains(seq);
        for (&seq, truth) in &mut self.events {
            match truth.state {
                State::Closing { end: End::Done, ticket, .. } => {
                    if settled(seq) {
                        truth.state = State::Acked;
                    }
                    assert!(ticket > upto_ticket || settled(seq), "the outcome of {seq} should be stored");
                }
                State::Closing { end: End::Again(due), ticket, .. } => {
                    let failed = standing.failed.get(&seq).copied();
                    if failed == Some((truth.attempts, due)) {
                        truth.state = State::Waiting { due };
                        truth.stored = failed;
                    } else {
                        let held = matches!(truth.state, State::Closing { held: Some(_), .. });
                        assert!(!held || ticket > upto_ticket, "the failure of {seq} should be stored");
                    }
                }
                State::Acked | State::Dead => {}
                _ => {}
            }
            let gone = matches!(truth.state, State::Acked | State::Dead);
            assert_eq!(settled(seq), gone, "{seq} is {:?} and the records say otherwise", truth.state);
            if !gone {
                assert_eq!(standing.failed.get(&seq).copied(), truth.stored, "what is stored of {seq}");
            }
        }
        let bound = usize::try_from(self.config.max_in_hands).unwrap();
        assert!(standing.done.len() <= bound + 1, "{} ranges for {bound} open events", standing.done.len());
        assert!(standing.failed.len() <= bound);
    }

    /// Takes in that a batch was refused; `tickets` were in it.
    pub(crate) fn refused(&mut self, seqs: &[u64], now: u64) {
        let last = self.config.max_attempts;
        for seq in seqs {
            let truth = self.events.get_mut(seq).unwrap();
            let State::Closing { end, held, .. } = truth.state else { panic!("{seq} was not closing") };
            truth.refused += u32::from(held.is_none());
            truth.state = match (held, end) {
                (Some((until, by)), _) => State::Held { until, by },
                (None, End::Again(due)) => State::Waiting { due },
                (None, End::Done) if truth.attempts < last => State::Waiting { due: now },
                (None, End::Dead) if truth.attempts < last => State::Waiting { due: now + LETTER_RETRY_MS },
                (None, _) => State::Spent { due: now + LETTER_RETRY_MS },
            };
        }
    }

    /// Takes in that the process is another one: only what is stored is known.
    pub(crate) fn restart(&mut self) {
        self.credit.clear();
        self.last_fresh = 0;
        for truth in self.events.values_mut() {
            if matches!(truth.state, State::Acked | State::Dead) {
                continue;
            }
            let stored = truth.stored.map_or(0, |(attempts, _)| attempts);
            let lost = truth.attempts - stored;
            assert!(lost <= 1 + truth.refused, "a kill forgets one attempt, not {lost}");
            (truth.attempts, truth.lost, truth.refused) = (stored, truth.lost + lost, 0);
            truth.state = truth.stored.map_or(State::Fresh, |(_, due)| State::Waiting { due });
        }
    }

    /// Checks that every event has come to its end, once.
    pub(crate) fn finished(&self, book: &Book, head: u64) {
        let standing = book.get(&self.config.name).unwrap();
        let mut dead = 0;
        for (seq, truth) in &self.events {
            let limit = self.config.max_attempts + truth.lost;
            assert!(truth.deliveries <= limit, "{seq} was delivered {} times", truth.deliveries);
            match truth.state {
                State::Acked => assert_eq!(truth.letters, 0, "{seq}"),
                State::Dead => assert_eq!(truth.letters, 1, "{seq}"),
                other => panic!("{seq} is lost: {other:?}"),
            }
            dead += u64::from(truth.state == State::Dead);
        }
        assert_eq!(standing.dead, dead);
        let last = self.events.last_key_value().map_or(0, |(seq, _)| *seq);
        assert!(standing.upto >= last && standing.upto <= head, "{} of {last} to {head}", standing.upto);
        assert!(standing.done.is_empty() && standing.failed.is_empty());
    }
}
