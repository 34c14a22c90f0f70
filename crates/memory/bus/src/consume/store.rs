//! Storing: the records of consumers, as events of the bus's own, and the fold over them.
//!
//! There is no timer: while one record of a consumer is written, what comes meanwhile gathers for the next. Records may
//! use the disk reserve, because they are small and what they settle is done.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use mirror_consumers::{Batch, Book, Record};
use mirror_types::{Cause, Subject};

use super::registry::Consumers;
use super::slot::Slot;
use super::snapshot::{self, Place};
use crate::bus::settle;
use crate::error::BusError;
use crate::event::{NewEvent, Prepared};

/// Records after which a snapshot is written, and events of the log after which one is as soon as there is a record.
const KEEP_RECORDS: u64 = 1_000;
const KEEP_EVENTS: u64 = 50_000;

/// The fold over the records, and up to where it is complete.
#[derive(Debug)]
pub(super) struct Shelf {
    book: Book,
    /// Where the log ended when each write began that is not taken in yet.
    under_way: BTreeMap<u64, Place>,
    writes: u64,
    records: u64,
    kept: u64,
    /// Whether all records could be read; if not, no snapshot may say so.
    whole: bool,
    keeping: Arc<AtomicBool>,
}

impl Shelf {
    pub(super) fn new(restored: snapshot::Restored) -> Self {
        let snapshot::Restored { book, place, whole } = restored;
        let (under_way, keeping) = (BTreeMap::new(), Arc::default());
        Self { book, under_way, writes: 0, records: 0, kept: place, whole, keeping }
    }

    pub(super) fn book(&self) -> &Book {
        &self.book
    }

    /// Returns the fold with a place up to which it holds every record, unless some could not be read.
    fn complete(&self, head: Place) -> Option<(Book, Place)> {
        let place = self.under_way.values().min_by_key(|p| p.seq).copied().unwrap_or(head);
        (self.whole && place.seq > 0).then(|| (self.book.clone(), place))
    }
}

impl Consumers {
    /// Sees to it that outcomes are stored.
    pub(super) fn store_some(self: &Arc<Self>, slot: &Arc<Slot>) {
        let store = {
            let mut inner = slot.lock();
            let store = !inner.storing && !inner.gone && inner.consumer.has_records();
            inner.storing |= store;
            store
        };
        if store {
            let (this, slot) = (Arc::clone(self), Arc::clone(slot));
            self.tasks.spawn(async move { this.store_all(slot).await });
        }
    }

    /// Sees to it that outcomes are stored, and that somebody delivers and watches the time where there is a need.
    pub(super) fn see_to(self: &Arc<Self>, slot: &Arc<Slot>) {
        self.store_some(slot);
        let drive = {
            let mut inner = slot.lock();
            let work = inner.consumer.has_pullers() || inner.consumer.has_deadlines();
            let drive = !inner.driving && !inner.gone && work;
            inner.driving |= drive;
            drive
        };
        if drive {
            let (this, slot) = (Arc::clone(self), Arc::clone(slot));
            self.tasks.spawn(async move {
                let shutdown = this.shutdown.clone();
                shutdown.or(this.drive(slot)).await;
            });
        } else {
            slot.wake.notify_one();
        }
    }

    /// Stores outcomes as long as there are some.
    async fn store_all(self: Arc<Self>, slot: Arc<Slot>) {
        loop {
            let _writing = slot.writing.lock().await;
            let batch = {
                let mut inner = slot.lock();
                let batch = if inner.gone { None } else { inner.consumer.batch() };
                if batch.is_none() {
                    inner.storing = false;
                }
                batch
            };
            let Some(batch) = batch else { return };
            let tickets = batch.tickets;
            let result = self.store_batch(batch).await;
            if let Err(e) = &result {
                tracing::debug!(consumer = slot.name, error = %e, "settlements were not recorded");
            }
            let mut inner = slot.lock();
            match result {
                Ok(()) => inner.consumer.recorded(),
                Err(_) => inner.consumer.failed(self.time.now()),
            }
            if let Some((first, last)) = tickets {
                inner.answer(first, last, &result);
            }
            drop(inner);
            slot.wake.notify_one();
        }
    }

    async fn store_batch(&self, batch: Batch) -> Result<(), BusError> {
        let mut records = Vec::with_capacity(batch.letters.len() + 1);
        for mut letter in batch.letters {
            let (bus, seq) = (Arc::clone(&self.bus), letter.seq);
            let read = tokio::task::spawn_blocking(move || bus.get(seq)).await;
            if let Ok(Ok(record)) = read {
                letter.subject = record.header.subject.to_string();
            }
            tracing::info!(consumer = letter.consumer, seq, reason = letter.reason, "an event is given up");
            records.push(Record::Dead(letter));
        }
        records.push(Record::Settled(batch.settled));
        self.store(records).await
    }

    /// Stores records in one write and takes them in.
    pub(super) async fn store(&self, records: Vec<Record>) -> Result<(), BusError> {
        let events = records.iter().map(|r| self.event(r)).collect::<Result<Vec<_>, _>>()?;
        let (write, answer) = {
            let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
            shelf.writes += 1;
            let write = shelf.writes;
            // Before the writer has it, so that it stands after this place.
            shelf.under_way.insert(write, self.bus.head().into());
            (write, self.bus.writer.record_all(events))
        };
        let result = settle(answer.await);
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(acks) = &result {
            for (ack, record) in acks.iter().zip(&records) {
                shelf.book.apply(ack.seq, record);
            }
            shelf.records += records.len() as u64;
        }
        shelf.under_way.remove(&write);
        let head = self.bus.head().seq;
        let far = shelf.records >= KEEP_RECORDS || head >= shelf.kept.saturating_add(KEEP_EVENTS);
        let keep = result.is_ok() && far && !shelf.keeping.swap(true, Ordering::AcqRel);
        if keep {
            (shelf.records, shelf.kept) = (0, head);
            let found = shelf.complete(self.bus.head().into());
            let (disk, path, origin) =
                (Arc::clone(&self.disk), self.path.clone(), self.bus.origin.to_string());
            let keeping = Arc::clone(&shelf.keeping);
            drop(shelf);
            tokio::task::spawn_blocking(move || {
                if let Some((book, place)) = found {
                    snapshot::keep(&*disk, &path, &origin, &book, place);
                }
                keeping.store(false, Ordering::Release);
            });
        }
        result.map(|_| ())
    }

    fn event(&self, record: &Record) -> Result<Prepared, BusError> {
        let failed = |e: &dyn std::fmt::Display| BusError::Read(format!("a record cannot be made: {e}"));
        let subject = Subject::parse(record.subject()).map_err(|e| failed(&e))?;
        let mut event = NewEvent::json(subject, record.payload().map_err(|e| failed(&e))?);
        if let Record::Dead(letter) = record {
            let cause = format!("{}/{}", self.bus.origin, letter.seq);
            event.causes.push(Cause::parse(&cause).map_err(|e| failed(&e))?);
        }
        Prepared::new(event, "svc:bus")
    }

    /// Writes the last snapshot. Blocks.
    pub(crate) fn close(&self) {
        let shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((book, place)) = shelf.complete(self.bus.head().into()) {
            snapshot::keep(&*self.disk, &self.path, self.bus.origin.as_str(), &book, place);
        }
    }
}
