//! The writer: one thread, one queue, one sync for all that waits.
//!
//! There is no timer: while one batch syncs the next one gathers. Invariant: nothing is acknowledged, visible or
//! indexed before it is synced; after a failed write nothing is acknowledged at all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use mirror_seal::Hash;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::erase::Spot;
use crate::error::BusError;
use crate::event::Prepared;

/// Events, and bytes in units of [`UNIT`], that may wait for the writer.
const QUEUE_EVENTS: usize = 8_192;
const QUEUE_UNITS: usize = (16 << 20) / UNIT;
const UNIT: usize = 64;

/// Soft bound of one write.
const BATCH_BYTES: usize = 1 << 20;

/// Longest time that the writer looks for more work before it sleeps: waking a thread costs about as much as a sync.
const LOOK: Duration = Duration::from_micros(300);

/// What must hold for a group to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Nothing,
    /// Last sequence of the first event's subject; 0 for none.
    Subject(u64),
    /// Last sequence of the log.
    Log(u64),
}

/// Receipt of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) seq: u64,
    pub(crate) leaf: Hash,
    pub(crate) id: Option<Box<str>>,
    pub(crate) duplicate: bool,
}

/// What became of a group: the receipts, and for a group that is not atomic the error that ended it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) acks: Vec<Ack>,
    pub(crate) error: Option<BusError>,
}

/// What a group is about besides its events; all but [`Work::Append`] has a write of its own.
#[derive(Debug)]
pub(crate) enum Work {
    Append,
    /// The log ends with it.
    Seal,
    /// Once it is stored, these payloads are overwritten.
    Erase(Vec<Spot>),
}

pub(crate) struct Group {
    pub(crate) events: Vec<Prepared>,
    pub(crate) expect: Expect,
    pub(crate) atomic: bool,
    /// The bus's own records may use the disk reserve.
    pub(crate) reserved: bool,
    pub(crate) work: Work,
    pub(crate) reply: oneshot::Sender<Outcome>,
    _permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

/// Last durable event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Head {
    pub(crate) seq: u64,
    pub(crate) leaf: Hash,
}

/// What the writer tells.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) last_sync_micros: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) free_bytes: AtomicU64,
    pub(crate) reserve_bytes: AtomicU64,
    pub(crate) active_bytes: AtomicU64,
    pub(crate) poisoned: AtomicBool,
    /// Position of the event that sealed the log; 0 while it is open.
    pub(crate) sealed: AtomicU64,
    pub(crate) clock_suspect: AtomicBool,
}

#[derive(Default)]
struct Queue {
    groups: VecDeque<Group>,
    stop: bool,
    asleep: bool,
}

/// The door to the writer.
pub(crate) struct Writer {
    queue: Mutex<Queue>,
    ready: Condvar,
    /// Groups in the queue, for a look without the lock.
    waiting: AtomicUsize,
    events: Arc<Semaphore>,
    units: Arc<Semaphore>,
    pub(crate) head: watch::Sender<Head>,
    pub(crate) gauges: Gauges,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("head", &*self.head.borrow()).finish_non_exhaustive()
    }
}

impl Writer {
    pub(crate) fn new(head: Head) -> Self {
        Self {
            queue: Mutex::default(),
            ready: Condvar::new(),
            waiting: AtomicUsize::new(0),
            events: Arc::new(Semaphore::new(QUEUE_EVENTS)),
            units: Arc::new(Semaphore::new(QUEUE_UNITS)),
            head: watch::channel(head).0,
            gauges: Gauges::default(),
        }
    }

    /// Returns how many events wait.
    pub(crate) fn queued(&self) -> u64 {
        (QUEUE_EVENTS - self.events.available_permits().min(QUEUE_EVENTS)) as u64
    }

    /// Hands a group to the writer, or refuses it when too much waits already.
    pub(crate) fn offer(
        &self,
        events: Vec<Prepared>,
        expect: Expect,
        atomic: bool,
    ) -> Result<oneshot::Receiver<Outcome>, BusError> {
        let (n, units) = size(&events);
        let slots = Arc::clone(&self.events).try_acquire_many_owned(n).map_err(|_| BusError::QueueFull)?;
        let bytes = Arc::clone(&self.units).try_acquire_many_owned(units).map_err(|_| BusError::QueueFull)?;
        Ok(self.enqueue(events, expect, atomic, None, Some((slots, bytes))))
    }

    /// Hands a group to the writer, waiting for a place.
    pub(crate) async fn send(&self, events: Vec<Prepared>, expect: Expect) -> oneshot::Receiver<Outcome> {
        let (n, units) = size(&events);
        let slots = Arc::clone(&self.events).acquire_many_owned(n).await;
        let bytes = Arc::clone(&self.units).acquire_many_owned(units).await;
        // The semaphores are never closed.
        let permits = slots.ok().zip(bytes.ok());
        self.enqueue(events, expect, false, None, permits)
    }

    /// Hands over a record of the bus itself.
    pub(crate) fn record(&self, event: Prepared) -> oneshot::Receiver<Outcome> {
        self.work(event, Work::Append)
    }

    /// Hands over a record of the bus itself, and what is to be done with it.
    pub(crate) fn work(&self, event: Prepared, work: Work) -> oneshot::Receiver<Outcome> {
        self.enqueue(vec![event], Expect::Nothing, true, Some(work), None)
    }

    /// Hands over records of the bus itself that are written together.
    pub(crate) fn record_all(&self, events: Vec<Prepared>) -> oneshot::Receiver<Outcome> {
        self.enqueue(events, Expect::Nothing, true, Some(Work::Append), None)
    }

    fn enqueue(
        &self,
        events: Vec<Prepared>,
        expect: Expect,
        atomic: bool,
        own: Option<Work>,
        permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    ) -> oneshot::Receiver<Outcome> {
        let (reply, receiver) = oneshot::channel();
        let reserved = own.is_some();
        let work = own.unwrap_or(Work::Append);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !queue.stop {
            queue.groups.push_back(Group {
                events,
                expect,
                atomic,
                reserved,
                work,
                reply,
                _permits: permits,
            });
            self.waiting.store(queue.groups.len(), Ordering::Release);
            let asleep = queue.asleep;
            drop(queue);
            if asleep {
                self.ready.notify_one();
            }
        }
        receiver
    }

    /// Ends the writer after what waits is written.
    pub(crate) fn stop(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.ready.notify_all();
    }

    /// Returns what waits, or nothing when the writer is to end.
    ///
    /// Before it sleeps it looks for work for as long as the last sync took. The callers of the `answered` groups of the
    /// last sync are likely to come back, so it waits up to half a sync for them to share the next one with those that
    /// wait already.
    #[expect(
        clippy::disallowed_methods,
        reason = "the look is bounded by real time, also where a test stops the clock"
    )]
    pub(crate) fn take(&self, look: Duration, answered: usize) -> Option<Vec<Group>> {
        let look = look.min(LOOK);
        let start = std::time::Instant::now();
        let all = answered + self.waiting.load(Ordering::Acquire);
        loop {
            let waiting = self.waiting.load(Ordering::Acquire);
            let limit = if waiting > 0 { look / 2 } else { look };
            if (waiting > 0 && waiting >= all) || start.elapsed() >= limit {
                break;
            }
            // Not a spin: on a busy machine the callers need the core to come back.
            std::thread::yield_now();
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while queue.groups.is_empty() {
            if queue.stop {
                return None;
            }
            queue.asleep = true;
            queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.asleep = false;
        }
        let mut groups = Vec::new();
        let mut bytes = 0;
        while let Some(group) = queue.groups.front() {
            bytes += group.events.iter().map(Prepared::cost).sum::<usize>();
            let alone = !matches!(group.work, Work::Append);
            if !groups.is_empty() && (bytes > BATCH_BYTES || alone) {
                break;
            }
            groups.extend(queue.groups.pop_front());
            if alone {
                break;
            }
        }
        self.waiting.store(queue.groups.len(), Ordering::Release);
        Some(groups)
    }

    pub(crate) fn refuse_rest(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.stop = true;
        for group in queue.groups.drain(..) {
            let _ = group.reply.send(Outcome { acks: Vec::new(), error: Some(BusError::OutcomeUnknown) });
        }
    }
}

fn size(events: &[Prepared]) -> (u32, u32) {
    let clamp = |n: usize, max: usize| u32::try_from(n.min(max)).unwrap_or(u32::MAX);
    let bytes: usize = events.iter().map(Prepared::cost).sum();
    (clamp(events.len(), QUEUE_EVENTS), clamp(bytes.div_ceil(UNIT), QUEUE_UNITS))
}
