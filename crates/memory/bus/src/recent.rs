//! The newest events in memory: read once from the log, and handed to everybody who follows its head.

use std::sync::{Arc, PoisonError, RwLock};

use crate::reader::{Cursor, Record};
use crate::segments::Segments;

/// Events that are kept, and their bytes.
const EVENTS: u64 = 256;
const BYTES: usize = 256 << 10;

/// Events in a row, as they were read.
#[derive(Debug)]
pub(crate) struct Stretch {
    /// State of all segments before they were read: a payload that is erased since must not be handed out.
    version: u64,
    first: u64,
    records: Vec<Record>,
}

impl Stretch {
    /// Returns the events from a position on.
    pub(crate) fn from(&self, seq: u64) -> &[Record] {
        let skip = usize::try_from(seq - self.first).unwrap_or(usize::MAX);
        self.records.get(skip..).unwrap_or_default()
    }
}

/// The newest events that somebody has read.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    newest: RwLock<Option<Arc<Stretch>>>,
    /// Where reading goes on; one reads for all.
    reading: Arc<tokio::sync::Mutex<Option<Cursor>>>,
}

impl Recent {
    fn known(&self, segments: &Segments, seq: u64) -> Option<Arc<Stretch>> {
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let holds = newest.first <= seq && seq < newest.first + newest.records.len() as u64;
        (holds && newest.version == segments.generations.version()).then_some(newest)
    }

    /// Returns a stretch that holds an event near the durable head `upto`.
    ///
    /// Nothing when the event is not near the head, or cannot be read; the caller reads the log then, and learns why.
    pub(crate) async fn at(&self, segments: &Arc<Segments>, seq: u64, upto: u64) -> Option<Arc<Stretch>> {
        if let Some(known) = self.known(segments, seq) {
            return Some(known);
        }
        if upto - seq >= EVENTS {
            return None;
        }
        let mut turn = Arc::clone(&self.reading).lock_owned().await;
        // Whoever had the turn before may have read it.
        if let Some(known) = self.known(segments, seq) {
            return Some(known);
        }
        let segments = Arc::clone(segments);
        let read = tokio::task::spawn_blocking(move || {
            let version = segments.generations.version();
            let cursor = turn.take().filter(|cursor| cursor.next() == seq);
            let mut cursor = cursor.unwrap_or_else(|| Cursor::new(segments, seq));
            let (mut records, mut bytes) = (Vec::new(), 0);
            while bytes < BYTES {
                let Ok(Some(record)) = cursor.read(upto, &mut |_| true) else { break };
                bytes += record.bytes();
                records.push(record);
            }
            *turn = Some(cursor);
            (turn, Stretch { version, first: seq, records })
        });
        let (turn, stretch) = read.await.ok()?;
        if stretch.records.is_empty() {
            return None;
        }
        let stretch = Arc::new(stretch);
        *self.newest.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&stretch));
        // Only now, so that the next one to have the turn finds what was read.
        drop(turn);
        Some(stretch)
    }
}
