//! The bus without its network, for benchmarks and crash harnesses; no part of the service's surface.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mirror_clock::SystemClock;
use mirror_kit::{
    Built, Context, REDACTION_TYPE, RedactionStatement, RedactionTarget, ReleaseKey, ReleaseKeys, StartError,
};
use mirror_seal::Envelope;
use mirror_types::{EventId, Origin, Subject};

use crate::bus::Bus;
use crate::config::Config;
use crate::disk::Disk;
use crate::error::BusError;
use crate::event::{NewEvent, Prepared};
use crate::reader::{Body, Record};
use crate::redact::Order;
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
        self.append_as("local", subject, id, payload).await
    }

    /// Appends one event of an actor and waits until it is synced. Returns its sequence.
    pub async fn append_as(
        &self,
        actor: &str,
        subject: &Subject,
        id: Option<&str>,
        payload: Bytes,
    ) -> Result<u64, BusError> {
        let acks = self.0.append(vec![prepare(actor, subject, id, payload)?], Expect::Nothing).await?;
        Ok(acks.first().map_or(0, |ack| ack.seq))
    }

    /// Appends one event from a plain thread: looks for the answer for a moment, as the writer looks for work, then sleeps.
    #[expect(clippy::disallowed_methods, reason = "the look is bounded by real time")]
    pub fn append_blocking(
        &self,
        subject: &Subject,
        id: Option<&str>,
        payload: Bytes,
    ) -> Result<u64, BusError> {
        const LOOK: std::time::Duration = std::time::Duration::from_millis(1);
        let event = prepare("local", subject, id, payload)?;
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

    /// Erases payloads by the word of an owner who is made up here. Blocks. Returns the redaction, and what it erased.
    pub fn redact(&self, seqs: &[u64]) -> Result<(u64, Vec<u64>), BusError> {
        let failed = |e: &dyn std::fmt::Display| BusError::Read(e.to_string());
        let owner = mirror_seal::NodeKey::generate().map_err(|e| failed(&e))?;
        let row = ReleaseKey { kind: "recovery".to_owned(), public_key: owner.public().to_hex() };
        let target = |seq: &u64| {
            let leaf = mirror_seal::hex(&self.0.get(*seq)?.header.leaf);
            Ok(RedactionTarget { seq: *seq, leaf })
        };
        let events = seqs.iter().map(target).collect::<Result<_, BusError>>()?;
        let origin = self.0.origin.to_string();
        let statement = RedactionStatement { v: 1, origin, events, reason: String::new(), at_ms: 0 };
        let payload = serde_json::to_vec(&statement).map_err(|e| failed(&e))?;
        let envelope = Envelope::sign(&owner, REDACTION_TYPE, &payload).to_json();
        let keys = ReleaseKeys { keys: vec![row] };
        let order = Order::open(&envelope, self.0.origin.as_str(), &keys, None)?;
        self.0.redact(&order).map(|done| (done.redaction, done.erased))
    }

    /// Returns the redaction that erased an event's payload.
    pub fn redacted_by(&self, seq: u64) -> Result<Option<u64>, BusError> {
        Ok(match self.0.get(seq)?.body {
            Body::Redacted { by } => Some(by),
            Body::Here { .. } => None,
        })
    }

    /// Ends the log. Returns the position of its last event.
    pub async fn seal(&self) -> Result<u64, BusError> {
        self.0.seal(self.0.origin.as_str(), "a test").await
    }

    /// Repairs from the copy in a folder. Blocks. Returns the ranges, each with the reason why it stays damaged.
    pub fn repair(&self, from: &Path) -> Result<Vec<(u64, u64, String)>, BusError> {
        let ranges = self.0.repair(from)?;
        Ok(ranges.into_iter().map(|range| (range.first, range.last, range.why)).collect())
    }

    /// Compresses all sealed segments. Blocks. Returns how many.
    pub fn compress(&self) -> Result<u32, BusError> {
        self.0.compress(0, crate::upkeep::Pace::Full).map(|done| done.segments)
    }

    /// Writes what waits and ends the threads.
    pub fn close(&self) {
        self.0.close();
    }
}

fn prepare(actor: &str, subject: &Subject, id: Option<&str>, payload: Bytes) -> Result<Prepared, BusError> {
    let mut event = NewEvent::json(subject.clone(), payload);
    if let Some(id) = id {
        event = event.with_id(EventId::parse(id).map_err(crate::event::named("id"))?);
    }
    Prepared::new(event, actor)
}

fn plain(record: Record) -> (String, Vec<u8>) {
    let payload = match record.body {
        Body::Here { payload, .. } => payload.to_vec(),
        Body::Redacted { .. } => Vec::new(),
    };
    (record.header.id.to_string(), payload)
}
