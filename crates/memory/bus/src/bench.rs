//! The bus without its network, for benchmarks and crash harnesses; no part of the service's surface.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mirror_clock::SystemClock;
use mirror_kit::{Built, Context, StartError};
use mirror_types::{EventId, Origin, Subject};

use crate::bus::Bus;
use crate::config::Config;
use crate::disk::Disk;
use crate::error::BusError;
use crate::event::{NewEvent, Prepared};
use crate::reader::{Body, Record};
use crate::writer::Expect;

/// Builds the service on another disk than the machine's.
pub async fn build_on(cx: Context, disk: Arc<dyn Disk>) -> Result<Built, StartError> {
    crate::build_on(cx, disk).await
}

/// What opening a log's files found, without an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Last event.
    pub head: u64,
    /// Bytes of a torn tail that was cut.
    pub torn: u64,
    /// Damaged ranges, with the last event of each where one is known.
    pub damage: Vec<(u64, Option<u64>)>,
}

/// Opens the files of a log and leaves them recovered; `seen` is the highest sequence that an index would have.
pub fn recover(bus: &Path, origin: &Origin, config: &Config, seen: u64) -> std::io::Result<Found> {
    let disk = Arc::new(crate::disk::RealDisk);
    let (_, found) = crate::log::Log::open(disk, bus, origin, config.clone(), seen, 0)?;
    let damage = found.damage.iter().map(|d| (d.first, d.last)).collect();
    Ok(Found { head: found.after, torn: found.torn.map_or(0, |t| t.bytes), damage })
}

/// An open bus in this process.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Bus>);

impl Engine {
    /// Opens a bus folder; returns what recovery found as text, empty when nothing.
    pub fn open(
        bus: &Path,
        origin: &Origin,
        config: &Config,
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, String), Box<dyn std::error::Error + Send + Sync>> {
        let (bus, recovery) = Bus::open(bus, origin, config, disk, Arc::new(SystemClock), |_| {})?;
        let found = if recovery.is_clean() { String::new() } else { format!("{recovery:?}") };
        Ok((Self(Arc::new(bus)), found))
    }

    /// Appends one event and waits until it is synced. Returns its sequence.
    pub async fn append(&self, subject: &Subject, id: Option<&str>, payload: Bytes) -> Result<u64, BusError> {
        let mut event = NewEvent::json(subject.clone(), payload);
        if let Some(id) = id {
            event = event.with_id(EventId::parse(id).map_err(crate::event::named("id"))?);
        }
        let acks = self.0.append(vec![Prepared::new(event, "local")?], Expect::Nothing).await?;
        Ok(acks.first().map_or(0, |ack| ack.seq))
    }

    /// Appends one event from a plain thread: looks for the answer for a moment, as the writer looks for work, then sleeps.
    #[expect(clippy::disallowed_methods, reason = "the look is bounded by real time")]
    pub fn append_blocking(&self, subject: &Subject, payload: Bytes) -> Result<u64, BusError> {
        const LOOK: std::time::Duration = std::time::Duration::from_millis(1);
        let event = Prepared::new(NewEvent::json(subject.clone(), payload), "local")?;
        let mut answer = self.0.writer.offer(vec![event], Expect::Nothing, true)?;
        let start = std::time::Instant::now();
        let acks = loop {
            match answer.try_recv() {
                Ok(outcome) => break crate::bus::settle(Ok(outcome))?,
                Err(_) if start.elapsed() < LOOK => std::thread::yield_now(),
                Err(_) => break crate::bus::settle(answer.blocking_recv())?,
            }
        };
        Ok(acks.first().map_or(0, |ack| ack.seq))
    }

    /// Appends a record of the bus's own, which may use the disk reserve. Returns its sequence.
    pub async fn record(&self, subject: &Subject, payload: Bytes) -> Result<u64, BusError> {
        let acks = self.0.record(NewEvent::json(subject.clone(), payload)).await?;
        Ok(acks.first().map_or(0, |ack| ack.seq))
    }

    /// Returns an event's id and payload by position.
    pub fn get(&self, seq: u64) -> Result<(String, Vec<u8>), BusError> {
        self.0.get(seq).map(plain)
    }

    /// Returns id and payload of all events, in order.
    pub fn all(&self) -> Result<Vec<(String, Vec<u8>)>, BusError> {
        let (head, segments) = (self.0.head().seq, Arc::clone(&self.0.segments));
        let mut cursor = crate::reader::Cursor::new(segments, self.0.segments.oldest());
        let mut all = Vec::new();
        while let Some(record) = cursor.read(head, &mut |_| true)? {
            all.push(plain(record));
        }
        Ok(all)
    }

    /// Returns the head, the index's position, and how many syncs there were.
    pub fn state(&self) -> (u64, u64, u64) {
        let status = self.0.status();
        (status.head, status.index_upto, status.syncs)
    }

    /// Returns what is damaged; empty when nothing is.
    pub fn damage(&self) -> String {
        self.0.status().damage
    }

    /// Writes what waits and ends the threads.
    pub fn close(&self) {
        self.0.close();
    }
}

fn plain(record: Record) -> (String, Vec<u8>) {
    let payload = match record.body {
        Body::Here { payload, .. } => payload,
        Body::Redacted { .. } => Vec::new(),
    };
    (record.header.id.to_string(), payload)
}
