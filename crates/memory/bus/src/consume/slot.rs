//! One consumer with those who pull from it, behind one lock that is never held across a wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_consumers::{Consumer, Counts, Outcome, PullerId, Standing, Token, Verdict};
use mirror_contract::mirror::bus::v1 as pb;
use tokio::sync::{Notify, mpsc, oneshot};

use super::wire::facts;
use crate::error::BusError;
use crate::wire::Filter;

/// Answers that may wait for a puller.
const DOOR: usize = 2;

/// What a puller is sent: deliveries, or why there are no more.
pub(super) type Parcel = Result<Vec<pb::Delivery>, BusError>;

/// Where a puller is reached.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) sender: mpsc::Sender<Parcel>,
    /// Whether payloads labelled private are shown.
    pub(super) private: bool,
    /// Whether it takes one parcel and goes on with that.
    pub(super) fetch: bool,
    /// Whether it is told when there is nothing to deliver now.
    pub(super) once: bool,
    /// Whether it was sent something.
    pub(super) sent: bool,
}

/// Somebody who waits until outcomes are stored.
#[derive(Debug)]
struct Waiter {
    first: u64,
    last: u64,
    reply: oneshot::Sender<Result<(), BusError>>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) consumer: Consumer,
    pub(super) doors: BTreeMap<PullerId, Door>,
    waiters: VecDeque<Waiter>,
    pullers: PullerId,
    /// Whether a task delivers, and whether one stores.
    pub(super) driving: bool,
    pub(super) storing: bool,
    pub(super) gone: bool,
}

/// A consumer.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) owner: String,
    created_ms: u64,
    pub(super) filter: Filter,
    inner: Mutex<Inner>,
    /// Wakes the task that delivers.
    pub(super) wake: Notify,
    /// Held while a record of this consumer is written.
    pub(super) writing: tokio::sync::Mutex<()>,
}

/// What a request to settle came to.
#[derive(Debug)]
pub(super) struct Settling {
    /// Tokens that name nothing in hands.
    pub(super) stale: Vec<String>,
    /// Says when the rest is stored; nothing when nothing has to be.
    pub(super) stored: Option<oneshot::Receiver<Result<(), BusError>>>,
}

impl Settling {
    /// Waits until all is stored; returns the tokens that could not be settled.
    pub(super) async fn done(self) -> Result<Vec<String>, BusError> {
        if let Some(stored) = self.stored {
            // A task that went away without an answer may have written.
            stored.await.map_err(|_| BusError::OutcomeUnknown)??;
        }
        Ok(self.stale)
    }
}

impl Slot {
    pub(super) fn new(standing: &Standing, filter: Filter, nonce: u64, now: u64) -> Self {
        let (owner, created_ms) = facts(standing);
        let inner = Inner {
            consumer: Consumer::open(standing, nonce, now),
            doors: BTreeMap::new(),
            waiters: VecDeque::new(),
            pullers: 0,
            driving: false,
            storing: false,
            gone: false,
        };
        Self {
            name: standing.config.name.clone(),
            owner,
            created_ms,
            filter,
            inner: Mutex::new(inner),
            wake: Notify::new(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn missing(&self) -> BusError {
        BusError::ConsumerMissing(self.name.clone())
    }

    /// Returns the consumer and where it stands.
    pub(super) fn describe(&self, now: u64, head: u64) -> (pb::Consumer, Counts) {
        let mut inner = self.lock();
        inner.consumer.tick(now);
        let counts = inner.consumer.counts();
        let config = inner.consumer.config();
        (super::wire::consumer(config, &self.owner, self.created_ms, counts, head), counts)
    }

    /// Lets somebody pull; returns the name of this puller and where its deliveries come. `fetch` is how long one who
    /// takes one parcel waits for it.
    pub(super) fn join(
        &self,
        credit: u32,
        private: bool,
        fetch: Option<u64>,
    ) -> Result<(PullerId, mpsc::Receiver<Parcel>), BusError> {
        let (sender, receiver) = mpsc::channel(DOOR);
        let mut inner = self.lock();
        if inner.gone {
            return Err(self.missing());
        }
        inner.pullers += 1;
        let puller = inner.pullers;
        let door = Door { sender, private, fetch: fetch.is_some(), once: fetch == Some(0), sent: false };
        inner.doors.insert(puller, door);
        inner.consumer.join(puller);
        inner.consumer.credit(puller, credit);
        Ok((puller, receiver))
    }

    /// Takes in what became of deliveries.
    pub(super) fn settle(&self, settlements: Vec<(String, Outcome)>, now: u64) -> Result<Settling, BusError> {
        let mut inner = self.lock();
        if inner.gone {
            return Err(self.missing());
        }
        let mut stale = Vec::new();
        let mut range: Option<(u64, u64)> = None;
        for (text, outcome) in settlements {
            let verdict = match text.parse::<Token>() {
                Ok(token) => inner.consumer.settle(&token, outcome, now),
                Err(_) => Verdict::Stale,
            };
            let ticket = match verdict {
                Verdict::Extended => continue,
                Verdict::Begun(ticket) => Some(ticket),
                Verdict::Pending(ticket) => {
                    stale.push(text);
                    // What is told as settled before must be so when it is told.
                    Some(ticket)
                }
                Verdict::Stale => {
                    stale.push(text);
                    None
                }
            };
            if let Some(ticket) = ticket {
                let (first, last) = range.unwrap_or((ticket, ticket));
                range = Some((first.min(ticket), last.max(ticket)));
            }
        }
        let stored = range.map(|(first, last)| {
            let (reply, receiver) = oneshot::channel();
            inner.waiters.push_back(Waiter { first, last, reply });
            receiver
        });
        Ok(Settling { stale, stored })
    }
}

impl Inner {
    /// Tells those who wait what became of the outcomes from one number to another.
    pub(super) fn answer(&mut self, first: u64, last: u64, result: &Result<(), BusError>) {
        let waiters = std::mem::take(&mut self.waiters);
        for waiter in waiters {
            let concerned = waiter.first <= last && waiter.last >= first;
            if concerned && (result.is_err() || waiter.last <= last) {
                // Whoever asked may have gone away.
                let _ = waiter.reply.send(result.clone());
            } else {
                self.waiters.push_back(waiter);
            }
        }
    }

    /// Sends everybody away: the consumer is gone, or cannot go on.
    pub(super) fn end(&mut self, why: &BusError, now: u64) {
        for (puller, door) in std::mem::take(&mut self.doors) {
            if door.fetch && door.sent {
                // It goes on with what it has.
                self.doors.insert(puller, door);
                continue;
            }
            // One that is full finds the channel closed behind what it has.
            let _ = door.sender.try_send(Err(why.clone()));
            self.consumer.leave(puller, now);
        }
    }

    /// Ends all that concerns a consumer that was deleted.
    pub(super) fn bury(&mut self, why: &BusError) {
        self.gone = true;
        for (_, door) in std::mem::take(&mut self.doors) {
            let _ = door.sender.try_send(Err(why.clone()));
        }
        self.answer(0, u64::MAX, &Err(why.clone()));
    }
}

/// Takes back what a fetch was to get, unless it got it.
#[derive(Debug)]
pub(super) struct Fetching {
    pub(super) slot: Arc<Slot>,
    pub(super) puller: PullerId,
    pub(super) now: super::Steady,
}

impl Fetching {
    /// Says that whoever fetches goes on with what it got.
    pub(super) fn keep(&self) {
        let mut inner = self.slot.lock();
        inner.doors.remove(&self.puller);
        inner.consumer.detach(self.puller);
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        let mut inner = self.slot.lock();
        if inner.doors.remove(&self.puller).is_some() {
            inner.consumer.withdraw(self.puller, self.now.now());
            drop(inner);
            self.slot.wake.notify_one();
        }
    }
}
