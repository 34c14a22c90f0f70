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
pub(crate) const BATCH_BYTES: usize = 1 << 20;

/// Groups for which the queue is locked while a batch gathers.
const TOGETHER: usize = 8;

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

/// How long a batch waits, and for how many.
#[derive(Debug)]
pub(crate) struct Gather {
    since: std::time::Instant,
    look: Duration,
    /// Groups that the batch may have: those that waited, and as many as were answered last.
    all: usize,
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
    /// Before it sleeps it looks for work for as long as the last sync took; `answered` groups shared that.
    #[expect(
        clippy::disallowed_methods,
        reason = "the look is bounded by real time, also where a test stops the clock"
    )]
    pub(crate) fn take(&self, look: Duration, answered: usize) -> Option<(Vec<Group>, Gather)> {
        let look = look.min(LOOK);
        let since = std::time::Instant::now();
        let all = answered + self.waiting.load(Ordering::Acquire);
        while self.waiting.load(Ordering::Acquire) == 0 && since.elapsed() < look {
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
        let groups = self.drain(&mut queue, BATCH_BYTES, true);
        let alone = groups.iter().any(|group| !matches!(group.work, Work::Append));
        let all = if alone { 0 } else { all };
        Some((groups, Gather { since, look, all }))
    }

    /// Returns further groups for a batch that holds `taken` groups and has `room` bytes left; nothing when it is to be
    /// written.
    ///
    /// The callers that the last sync answered are likely to come back, so it waits up to as long as that sync took for
    /// them to share this one with those that waited already. What comes is placed meanwhile.
    pub(crate) fn more(&self, gather: &Gather, taken: usize, room: usize) -> Option<Vec<Group>> {
        if taken >= gather.all {
            return None;
        }
        loop {
            let waiting = self.waiting.load(Ordering::Acquire);
            let is_over = gather.since.elapsed() >= gather.look;
            if waiting >= TOGETHER || taken + waiting >= gather.all || is_over {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                let groups = self.drain(&mut queue, room, false);
                return (!groups.is_empty()).then_some(groups);
            }
            std::thread::yield_now();
        }
    }

    /// Takes groups from the queue until they have so many bytes; one that has its own write only where it may be `alone`.
    fn drain(&self, queue: &mut Queue, room: usize, may_be_alone: bool) -> Vec<Group> {
        let mut groups = Vec::new();
        let mut bytes = 0;
        while let Some(group) = queue.groups.front() {
            bytes += group.events.iter().map(Prepared::cost).sum::<usize>();
            let alone = !matches!(group.work, Work::Append);
            let is_first = may_be_alone && groups.is_empty();
            if !is_first && (bytes > room || alone) {
                break;
            }
            groups.extend(queue.groups.pop_front());
            if alone {
                break;
            }
        }
        self.waiting.store(queue.groups.len(), Ordering::Release);
        groups
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mirror_types::Subject;

    use super::*;
    use crate::event::NewEvent;

    fn event() -> Prepared {
        let subject = Subject::parse("local.test").unwrap();
        Prepared::new(NewEvent::json(subject, Bytes::from_static(b"1")), "local").unwrap()
    }

    /// A writer with so many groups in its queue; nobody waits for their answers.
    fn waiting(groups: usize) -> Writer {
        let writer = Writer::new(Head::default());
        for _ in 0..groups {
            drop(writer.offer(vec![event()], Expect::Nothing, true).unwrap());
        }
        writer
    }

    #[test]
    fn a_batch_gathers_as_many_as_were_answered_and_no_longer_than_it_may() {
        let writer = waiting(2);
        let (groups, gather) = writer.take(LOOK, 3).unwrap();
        assert_eq!((groups.len(), gather.all), (2, 5));
        for _ in 0..3 {
            drop(writer.offer(vec![event()], Expect::Nothing, true).unwrap());
        }
        assert_eq!(writer.more(&gather, 2, usize::MAX).map(|g| g.len()), Some(3), "all are there");
        assert!(writer.more(&gather, 5, usize::MAX).is_none(), "it has all");
        assert!(writer.more(&gather, 2, usize::MAX).is_none(), "nobody came");
        assert!(gather.since.elapsed() >= gather.look);
    }

    #[test]
    fn one_caller_alone_is_never_held_up() {
        let (groups, gather) = waiting(1).take(Duration::from_secs(9), 0).unwrap();
        assert_eq!(groups.len(), 1);
        assert!(waiting(1).more(&gather, 1, usize::MAX).is_none());
    }

    #[test]
    fn what_has_its_own_write_is_not_gathered_and_gathers_nothing() {
        let writer = waiting(1);
        drop(writer.work(event(), Work::Seal));
        drop(writer.record(event()));
        let (groups, gather) = writer.take(LOOK, 9).unwrap();
        assert_eq!(groups.len(), 1);
        assert!(writer.more(&gather, 1, usize::MAX).is_none());
        let (groups, gather) = writer.take(LOOK, 9).unwrap();
        assert!(matches!(groups.as_slice(), [Group { work: Work::Seal, .. }]));
        assert!(writer.more(&gather, 1, usize::MAX).is_none());
        assert_eq!(writer.take(LOOK, 0).unwrap().0.len(), 1);
    }

    #[test]
    fn a_batch_grows_by_what_fits_and_the_rest_stays() {
        let writer = waiting(1);
        let (_, gather) = writer.take(LOOK, 3).unwrap();
        for _ in 0..3 {
            drop(writer.offer(vec![event()], Expect::Nothing, true).unwrap());
        }
        let room = 2 * event().cost();
        assert_eq!(writer.more(&gather, 1, room).map(|g| g.len()), Some(2));
        assert!(writer.more(&gather, 3, 1).is_none());
        assert_eq!(writer.take(LOOK, 0).unwrap().0.len(), 1);
    }
}
