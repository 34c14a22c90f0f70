//! The bus as its callers see it: append, read, follow. Needs no network, so a benchmark can hold it too.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mirror_clock::Clock;
use mirror_types::{Origin, Subject};
use tokio::sync::{oneshot, watch};

use crate::config::Config;
use crate::disk::Disk;
use crate::engine::Engine;
use crate::error::BusError;
use crate::event::{NewEvent, Prepared, key_of};
use crate::log::{Log, Recovery, WriteError};
use crate::reader::{Body, Cursor, Record};
use crate::recent::Recent;
use crate::redact::{is_redaction, listed};
use crate::repair::record_pending;
use crate::segments::Segments;
use crate::store::{Entry, Fatal, Index, Store, StoreError, folders};
use crate::upkeep::Upkeep;
use crate::writer::{Ack, Expect, Head, Outcome, Writer};

/// Why the bus could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the log cannot be opened: {0}")]
    Log(#[from] std::io::Error),
    #[error(transparent)]
    Index(#[from] StoreError),
    #[error("the log cannot be read: {0}")]
    Read(#[from] BusError),
    #[error("{0:?} is locked: another process writes this log; stop it, or give it a home of its own")]
    Locked(PathBuf),
    #[error("what recovery found cannot be recorded: {0}")]
    Record(String),
}

/// An open bus.
#[derive(Debug)]
pub(crate) struct Bus {
    pub(crate) origin: Origin,
    pub(crate) segments: Arc<Segments>,
    pub(crate) index: Arc<Index>,
    pub(crate) writer: Arc<Writer>,
    pub(crate) lag_limit: u64,
    pub(crate) upkeep: Upkeep,
    /// One redaction at a time, so that each erases what those before it left.
    pub(crate) redacting: Mutex<()>,
    pub(crate) recent: Recent,
    running: Mutex<Running>,
}

/// What ends when the bus is closed.
#[derive(Debug)]
struct Running {
    threads: Vec<JoinHandle<()>>,
    lock: Option<File>,
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.close();
    }
}

impl Bus {
    /// Recovers the log, starts the writer and the index. Blocks.
    pub(crate) fn open(
        bus: &Path,
        origin: &Origin,
        config: &Config,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        fatal: impl Fn(String) + Send + Sync + 'static,
    ) -> Result<(Self, Recovery), OpenError> {
        let fatal: Fatal = Arc::new(fatal);
        let lock = lock(bus)?;
        let (dir, aside) = folders(bus);
        let mut store = Store::open(&dir, &aside)?;
        let (mut log, recovery) =
            Log::open(Arc::clone(&disk), bus, origin, config.clone(), store.reach(), clock.wall_ms())?;
        log.rest()?;
        if recovery.damage.is_empty() && !recovery.is_clean() && log.sealed().is_none() {
            // Before the index forgets what is lost, so that the loss is named whatever happens meanwhile.
            match record(&mut log, &recovery, clock.wall_ms()) {
                Err(OpenError::Record(why)) if recovery.lost == 0 => {
                    tracing::warn!(why, "what recovery found was not recorded");
                }
                other => other?,
            }
        }
        let damaged = !recovery.damage.is_empty();
        if !damaged {
            record_pending(&mut log, disk.as_ref(), bus, clock.wall_ms())?;
        }
        let head = log.head();
        if recovery.lost > 0 {
            // It has seen events that the log lost; what it says of later ones would be wrong.
            drop(store);
            let _ = std::fs::remove_dir_all(&aside);
            std::fs::rename(&dir, &aside)?;
            store = Store::open(&dir, &aside)?;
        }
        let segments = log.segments();
        let index = Arc::new(Index::new(&store, config.index_lag_limit, Arc::clone(&fatal)));
        let mut threads = Vec::new();
        let behind = store.upto() + 1;
        let follower = Arc::clone(&index);
        threads.push(mirror_kit::spawn_thread("bus-index", move || follower.follow(store))?);
        catch_up(&index, &segments, behind, head.seq)?;
        let writer = Arc::new(Writer::new(Head { seq: head.seq, leaf: head.leaf }));
        writer.gauges.sealed.store(log.sealed().unwrap_or(0), Relaxed);
        let reserve = config.clone();
        let upkeep =
            Upkeep::new(Arc::clone(&disk), Arc::clone(&clock), config.clone(), bus.to_owned(), damaged);
        let engine = Engine {
            log,
            index: Arc::clone(&index),
            writer: Arc::clone(&writer),
            disk,
            clock,
            reserve: Box::new(move |total| reserve.reserve(total)),
            poisoned: Box::new(move |why| fatal(format!("a write to the log failed: {why}"))),
        };
        threads.push(mirror_kit::spawn_thread("bus-writer", move || engine.run())?);
        let bus = Self {
            origin: origin.clone(),
            segments,
            index,
            writer,
            lag_limit: config.index_lag_limit,
            upkeep,
            redacting: Mutex::default(),
            recent: Recent::default(),
            running: Mutex::new(Running { threads, lock: Some(lock) }),
        };
        Ok((bus, recovery))
    }

    /// Writes what waits, then ends the threads. Blocks.
    pub(crate) fn close(&self) {
        self.upkeep.close();
        self.writer.stop();
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // The writer is the last thread and pushes to the index, so it ends first.
        if let Some(writer) = running.threads.pop() {
            let _ = writer.join();
        }
        self.index.stop();
        for thread in running.threads.drain(..) {
            let _ = thread.join();
        }
        running.lock = None;
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
        if let Some(damage) = self.segments.damage_at(seq) {
            // Said before the range is: damage at the end hides events that had been acknowledged.
            return Err(BusError::Damaged(damage.describe()));
        }
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

/// Makes sure that one process only writes the log.
fn lock(bus: &Path) -> Result<File, OpenError> {
    mirror_paths::private_dir(bus).map_err(std::io::Error::other)?;
    let path = bus.join("LOCK");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    for _ in 0..100 {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(e)) => return Err(e.into()),
            // Whoever was told to stop needs a moment.
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(Duration::from_millis(20)),
        }
    }
    Err(OpenError::Locked(path))
}

/// Appends what recovery found as the first event after it.
fn record(log: &mut Log, found: &Recovery, wall_ms: u64) -> Result<(), OpenError> {
    let (segment, offset, bytes) = found.torn.as_ref().map_or((0, 0, 0), |t| (t.segment, t.offset, t.bytes));
    let (after, lost) = (found.after, found.lost);
    let text = match (bytes, lost) {
        (_, 0) => {
            format!("cut a torn tail of {bytes} bytes after event {after}; nothing acknowledged is lost")
        }
        (0, _) => format!("the log ends at event {after}, and {lost} acknowledged events after it are gone"),
        _ => {
            format!("cut {bytes} bytes after event {after}, and {lost} acknowledged events after it are gone")
        }
    };
    let payload = serde_json::json!({
        "text": text, "bytes": bytes, "segment": segment, "offset": offset, "after": after,
        "lost_acknowledged": lost,
    });
    let subject = Subject::parse("bus.recovered").map_err(|e| OpenError::Record(e.to_string()))?;
    let event = Prepared::new(NewEvent::json(subject, payload.to_string()), "svc:bus")?;
    match log.room(event.cost()) {
        Ok(()) => {}
        Err(WriteError::NoRoom(e)) => return Err(OpenError::Record(e.to_string())),
        Err(WriteError::Failed(e)) => return Err(OpenError::Log(e)),
    }
    log.place(&event, wall_ms, wall_ms);
    log.commit().map_err(|e| match e {
        WriteError::NoRoom(e) | WriteError::Failed(e) => OpenError::Log(e),
    })
}

pub(crate) fn settle(outcome: Result<Outcome, oneshot::error::RecvError>) -> Result<Vec<Ack>, BusError> {
    // A writer that went away without an answer may have written.
    let outcome = outcome.map_err(|_| BusError::OutcomeUnknown)?;
    match outcome.error {
        Some(error) => Err(error),
        None => Ok(outcome.acks),
    }
}

/// Events that are handed to the index at once while it catches up, and how far it may be behind them: nobody appends yet,
/// so there is nothing to be won by holding more of them in memory.
const AT_ONCE: usize = 4096;
const LAG: u64 = 8192;

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
                subject: header.subject.clone(),
                erased: Box::default(),
            });
            // Other payloads are not needed; stepping over them keeps this at the speed of the disk.
            entries.len() >= AT_ONCE || is_redaction(header)
        };
        match cursor.read(head, &mut want) {
            Ok(record) => {
                if let (Some(Record { header, body: Body::Here { payload, .. }, .. }), Some(entry)) =
                    (record, entries.last_mut())
                    && is_redaction(&header)
                {
                    entry.erased = listed(&payload).into();
                }
            }
            Err(BusError::Damaged(_)) => {
                let Some(last) = segments.damage_at(cursor.next()).and_then(|d| d.last) else { break };
                cursor = Cursor::new(Arc::clone(segments), last + 1);
            }
            Err(e) => return Err(e),
        }
        if entries.len() >= AT_ONCE {
            index.push_within(std::mem::take(&mut entries), LAG);
        }
    }
    index.push(entries);
    Ok(())
}
