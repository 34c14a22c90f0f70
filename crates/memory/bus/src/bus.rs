//! The bus as its callers see it: append, read, follow. Needs no network, so a benchmark can hold it too.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use mirror_clock::Clock;
use mirror_types::Origin;
use tokio::sync::{oneshot, watch};

use crate::config::Config;
use crate::disk::Disk;
use crate::error::BusError;
use crate::event::{NewEvent, Prepared, key_of};
use crate::log::{Log, Recovery};
use crate::reader::{Cursor, Record};
use crate::segments::Segments;
use crate::store::{Entry, Index, Store, StoreError, folders};
use crate::writer::{Ack, Engine, Expect, Head, Outcome, Writer};

/// Why the bus could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the log cannot be opened: {0}")]
    Log(#[from] std::io::Error),
    #[error(transparent)]
    Index(#[from] StoreError),
    #[error("the log cannot be read: {0}")]
    Read(#[from] BusError),
}

/// An open bus.
#[derive(Debug)]
pub(crate) struct Bus {
    pub(crate) origin: Origin,
    pub(crate) segments: Arc<Segments>,
    pub(crate) index: Arc<Index>,
    pub(crate) writer: Arc<Writer>,
    pub(crate) lag_limit: u64,
    threads: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

impl Bus {
    /// Recovers the log, starts the writer and the index. Blocks.
    pub(crate) fn open(
        bus: &Path,
        origin: &Origin,
        config: &Config,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        poisoned: impl Fn(String) + Send + 'static,
    ) -> Result<(Self, Recovery), OpenError> {
        let (dir, aside) = folders(bus);
        let mut store = Store::open(&dir, &aside)?;
        let (log, recovery) =
            Log::open(Arc::clone(&disk), bus, origin, config.clone(), store.upto(), clock.wall_ms())?;
        let head = log.head();
        if store.upto() > head.seq {
            // It has seen events that the log lost; what it says of later ones would be wrong.
            drop(store);
            let _ = std::fs::remove_dir_all(&aside);
            std::fs::rename(&dir, &aside)?;
            store = Store::open(&dir, &aside)?;
        }
        let segments = log.segments();
        let index = Arc::new(Index::new(&store, config.index_lag_limit));
        let mut threads = Vec::new();
        let behind = store.upto() + 1;
        let follower = Arc::clone(&index);
        threads.push(mirror_kit::spawn_thread("bus-index", move || follower.follow(store))?);
        catch_up(&index, &segments, behind, head.seq)?;
        let writer = Arc::new(Writer::new(Head { seq: head.seq, leaf: head.leaf }));
        let reserve = config.clone();
        let engine = Engine {
            log,
            index: Arc::clone(&index),
            writer: Arc::clone(&writer),
            disk,
            clock,
            reserve: Box::new(move |total| reserve.reserve(total)),
            poisoned: Box::new(poisoned),
        };
        threads.push(mirror_kit::spawn_thread("bus-writer", move || engine.run())?);
        let bus = Self {
            origin: origin.clone(),
            segments,
            index,
            writer,
            lag_limit: config.index_lag_limit,
            threads: std::sync::Mutex::new(threads),
        };
        Ok((bus, recovery))
    }

    /// Writes what waits, then ends the threads. Blocks.
    pub(crate) fn close(&self) {
        self.writer.stop();
        let mut threads = std::mem::take(
            &mut *self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        // The writer is the last thread and pushes to the index, so it ends first.
        if let Some(writer) = threads.pop() {
            let _ = writer.join();
        }
        self.index.stop();
        for thread in threads {
            let _ = thread.join();
        }
    }

    pub(crate) fn head(&self) -> Head {
        *self.writer.head.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Head> {
        self.writer.head.subscribe()
    }

    /// Appends a group that is stored as a whole.
    pub(crate) async fn append(&self, events: Vec<Prepared>, expect: Expect) -> Result<Vec<Ack>, BusError> {
        settle(self.writer.offer(events, expect, true)?.await)
    }

    /// Appends a record of the bus's own.
    pub(crate) async fn record(&self, event: NewEvent) -> Result<Vec<Ack>, BusError> {
        settle(self.writer.record(Prepared::new(event, "svc:bus")?).await)
    }

    /// Returns one event by position. Blocks.
    pub(crate) fn get(&self, seq: u64) -> Result<Record, BusError> {
        let (head, oldest) = (self.head().seq, self.segments.oldest());
        if seq < oldest || seq > head {
            return Err(BusError::Position { field: "seq", asked: seq, oldest, head });
        }
        let mut cursor = Cursor::new(Arc::clone(&self.segments), seq);
        cursor.read(seq, &mut |_| true)?.ok_or_else(|| BusError::Missing(seq.to_string()))
    }

    /// Returns one event by id. Blocks.
    pub(crate) fn find(&self, id: &str) -> Result<Record, BusError> {
        let missing = || BusError::Missing(format!("with the id {id:?}"));
        let seq = match id.strip_prefix(crate::event::OWN_ID) {
            Some(seq) => seq.parse().map_err(|_| missing())?,
            None => self
                .index
                .seq_of_id(&key_of(id))
                .map_err(|e| BusError::Read(e.to_string()))?
                .ok_or_else(missing)?,
        };
        let record = self.get(seq).map_err(|e| match e {
            BusError::Position { .. } => missing(),
            other => other,
        })?;
        if record.header.id.as_str() == id { Ok(record) } else { Err(missing()) }
    }
}

fn settle(outcome: Result<Outcome, oneshot::error::RecvError>) -> Result<Vec<Ack>, BusError> {
    // A writer that went away without an answer may have written.
    let outcome = outcome.map_err(|_| BusError::OutcomeUnknown)?;
    match outcome.error {
        Some(error) => Err(error),
        None => Ok(outcome.acks),
    }
}

/// Feeds the index what the log has and it has not; damaged ranges are left out.
fn catch_up(index: &Index, segments: &Arc<Segments>, from: u64, head: u64) -> Result<(), BusError> {
    let mut cursor = Cursor::new(Arc::clone(segments), from.max(segments.oldest()));
    let mut entries = Vec::new();
    while cursor.next() <= head {
        let mut want = |header: &crate::line::Header| {
            let own = header.id.as_str().starts_with(crate::event::OWN_ID);
            entries.push(Entry {
                seq: header.seq,
                key: (!own).then(|| key_of(header.id.as_str())),
                subject: header.subject.as_str().into(),
            });
            // The payload is not needed; stepping over it keeps this at the speed of the disk.
            entries.len() >= 4096
        };
        match cursor.read(head, &mut want) {
            Ok(_) => {}
            Err(BusError::Damaged(_)) => {
                let Some(last) = segments.damage_at(cursor.next()).and_then(|d| d.last) else { break };
                cursor = Cursor::new(Arc::clone(segments), last + 1);
            }
            Err(e) => return Err(e),
        }
        index.push(std::mem::take(&mut entries));
    }
    index.push(entries);
    Ok(())
}
