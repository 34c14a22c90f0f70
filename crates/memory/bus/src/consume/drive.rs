//! Delivering: reads what is wanted on a blocking thread and hands it to those who pull.

use std::collections::BTreeMap;
use std::sync::Arc;

use mirror_consumers::{DEAD, Demand, PullerId, Taken};
use mirror_contract::mirror::bus::v1 as pb;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::registry::Consumers;
use super::slot::{Inner, Slot};
use super::wire::{PAGE_EVENTS, delivery};
use crate::error::BusError;
use crate::line::Header;
use crate::reader::{Body, Cursor, Record};
use crate::wire::Filter;

/// Payload bytes after which a page ends.
const PAGE_BYTES: usize = 256 << 10;

/// Events that one page passes over at most, so that one consumer does not keep others from reading.
const PAGE_SPAN: u64 = 4_096;

/// Events that are read again in one go: each is sought by itself.
const AGAIN: usize = 64;

/// What was read.
struct Page {
    records: Vec<Record>,
    /// Everything up to here was looked at.
    upto: u64,
    failure: Option<BusError>,
}

/// What the task that delivers does next.
enum Next {
    End,
    Read { demand: Demand, from: u64 },
    Wait { until: Option<u64>, head: bool },
}

impl Consumers {
    /// Delivers as long as somebody pulls, and lets time pass as long as something is in hands.
    pub(super) async fn drive(self: Arc<Self>, slot: Arc<Slot>) {
        let mut head = self.bus.watch();
        let mut reader: Option<Cursor> = None;
        let mut kept: Option<OwnedSemaphorePermit> = None;
        loop {
            let upto = head.borrow_and_update().seq;
            let next = self.next(&slot, upto);
            // After time has passed, there may be something to store.
            self.store_some(&slot);
            match next {
                Next::End => return,
                Next::Read { demand, from } => {
                    let Ok(_turn) = self.readers.acquire().await else { return };
                    if !demand.again.is_empty() {
                        self.again(&slot, demand.again).await;
                        continue;
                    }
                    let mut cursor = reader
                        .take()
                        .filter(|c| c.next() == from)
                        .unwrap_or_else(|| Cursor::new(Arc::clone(&self.bus.segments), from));
                    let wanted = Arc::clone(&slot);
                    let last = upto.min(from.saturating_add(PAGE_SPAN - 1));
                    let read = tokio::task::spawn_blocking(move || {
                        let page = page(&mut cursor, last, &wanted.filter, demand.fresh);
                        (cursor, page)
                    });
                    let Ok((cursor, page)) = read.await else { return };
                    reader = Some(cursor);
                    self.fresh(&slot, page);
                }
                Next::Wait { until, head: wanted } => {
                    if kept.is_none() {
                        kept = Arc::clone(&self.kept_open).try_acquire_owned().ok();
                    }
                    if kept.is_none() {
                        reader = None;
                    }
                    tokio::select! {
                        () = slot.wake.notified() => {}
                        changed = head.changed(), if wanted => if changed.is_err() { return },
                        () = self.time.until(until.unwrap_or_default()), if until.is_some() => {}
                    }
                }
            }
        }
    }

    fn next(&self, slot: &Slot, head: u64) -> Next {
        let now = self.time.now();
        let mut inner = slot.lock();
        let Inner { consumer, doors, driving, gone, .. } = &mut *inner;
        for (puller, door) in doors.iter() {
            consumer.ready(*puller, door.sender.capacity() > 0 && !(door.fetch && door.sent));
        }
        consumer.tick(now);
        if *gone || !(consumer.has_pullers() || consumer.has_deadlines()) {
            *driving = false;
            return Next::End;
        }
        let mut demand = consumer.demand(now);
        demand.again.truncate(AGAIN);
        let from = consumer.next().max(self.bus.segments.oldest());
        if !demand.again.is_empty() || (demand.fresh > 0 && from <= head) {
            return Next::Read { demand, from };
        }
        for door in doors.values_mut().filter(|door| door.once && !door.sent) {
            door.sent = door.sender.try_send(Ok(Vec::new())).is_ok();
        }
        Next::Wait { until: consumer.wake(), head: demand.fresh > 0 }
    }

    /// Delivers events whose next attempt is due.
    async fn again(&self, slot: &Arc<Slot>, seqs: Vec<u64>) {
        let bus = Arc::clone(&self.bus);
        let read = tokio::task::spawn_blocking(move || {
            let mut records = BTreeMap::new();
            let mut bytes = 0;
            for seq in seqs {
                match bus.get(seq) {
                    Ok(record) => {
                        bytes += size(&record);
                        records.insert(seq, record);
                    }
                    Err(e) => return (records, Some(e)),
                }
                if bytes >= PAGE_BYTES {
                    break;
                }
            }
            (records, None)
        });
        let Ok((mut records, failure)) = read.await else { return };
        let now = self.time.now();
        let mut inner = slot.lock();
        let seqs: Vec<u64> = records.keys().copied().collect();
        let taken = inner.consumer.redeliver(&seqs, now);
        self.send(&mut inner, &taken, &mut records, now);
        if let Some(why) = failure {
            inner.end(&why, now);
        }
    }

    /// Delivers what was read for the first time.
    fn fresh(&self, slot: &Arc<Slot>, page: Page) {
        let now = self.time.now();
        let mut inner = slot.lock();
        if inner.gone {
            return;
        }
        let seqs: Vec<u64> = page.records.iter().map(|r| r.header.seq).collect();
        let mut records = seqs.iter().copied().zip(page.records).collect();
        let taken = inner.consumer.offer(&seqs, page.upto, now);
        self.send(&mut inner, &taken, &mut records, now);
        // Only when it stands at the flaw: somebody may have gone away before all was delivered.
        if let Some(why) = page.failure.filter(|_| inner.consumer.next() > page.upto) {
            inner.end(&why, now);
        }
    }

    fn send(&self, inner: &mut Inner, taken: &[Taken], records: &mut BTreeMap<u64, Record>, now: u64) {
        let mut parcels: BTreeMap<PullerId, Vec<pb::Delivery>> = BTreeMap::new();
        for taken in taken {
            let (Some(record), Some(door)) = (records.remove(&taken.seq), inner.doors.get(&taken.puller))
            else {
                continue;
            };
            let event = delivery(taken, record, self.bus.origin.as_str(), door.private);
            parcels.entry(taken.puller).or_default().push(event);
        }
        for (puller, parcel) in parcels {
            let Some(door) = inner.doors.get_mut(&puller) else { continue };
            door.sent = true;
            if door.sender.try_send(Ok(parcel)).is_err() {
                // Whoever it was has hung up, and nothing of it has left this process.
                inner.doors.remove(&puller);
                inner.consumer.withdraw(puller, now);
            }
        }
    }
}

fn size(record: &Record) -> usize {
    match &record.body {
        Body::Here { payload, .. } => payload.len(),
        Body::Redacted { .. } => 0,
    }
}

/// Reads the next matching events up to `last`. Blocks.
fn page(cursor: &mut Cursor, last: u64, filter: &Filter, max: usize) -> Page {
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut failure = None;
    let mut want = |header: &Header| deliverable(header) && filter.wants(header);
    let max = max.min(usize::try_from(PAGE_EVENTS).unwrap_or(usize::MAX));
    while records.len() < max && bytes < PAGE_BYTES {
        match cursor.read(last, &mut want) {
            Ok(Some(record)) if is_echo(&record) => {}
            Ok(Some(record)) => {
                bytes += size(&record);
                records.push(record);
            }
            Ok(None) => break,
            Err(e) => {
                failure = Some(e);
                break;
            }
        }
    }
    Page { records, upto: cursor.next().saturating_sub(1), failure }
}

/// Returns whether consumers may have an event: they would never come to rest over the records of their own work.
fn deliverable(header: &Header) -> bool {
    !header.subject.as_str().starts_with("bus.consumer.")
}

/// Returns whether an event is a dead letter about a dead letter: one who cannot handle them would make more of them
/// for ever.
fn is_echo(record: &Record) -> bool {
    #[derive(Deserialize)]
    struct About {
        subject: String,
    }
    if record.header.subject.as_str() != DEAD {
        return false;
    }
    let Body::Here { payload, .. } = &record.body else { return false };
    serde_json::from_slice::<About>(payload).is_ok_and(|about| about.subject == DEAD)
}
