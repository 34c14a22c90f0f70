//! The snapshot of the fold over the records, so that a start does not read the whole log; deleting it changes nothing.

use std::io;
use std::path::Path;
use std::sync::Arc;

use mirror_consumers::{Book, CREATED, DEAD, DELETED, Record, SETTLED};
use mirror_seal::Hash;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::bus::Bus;
use crate::disk::Disk;
use crate::error::BusError;
use crate::line::Header;
use crate::reader::{Body, Cursor};
use crate::writer::Head;

/// Name of the file in the bus's folder.
pub(super) const NAME: &str = "consumers.json";

/// Version of the fold; a snapshot of another one is not read.
const FOLD: u32 = 1;

/// Largest file that is read: far more than the most consumers with the longest filters and all hands full.
const SIZE_LIMIT: u64 = 256 << 20;

/// A place in the log: an event, and the leaf that commits to all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) leaf: Hash,
}

impl From<Head> for Place {
    fn from(head: Head) -> Self {
        Self { seq: head.seq, leaf: head.leaf }
    }
}

/// The fold as it is at the start.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) book: Book,
    /// Position up to which the snapshot held it; 0 for none.
    pub(super) place: u64,
    /// Whether every record could be read.
    pub(super) whole: bool,
}

#[derive(Serialize, Deserialize)]
struct File<'a> {
    /// SHA-256 of the body, hex.
    digest: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
struct Content {
    fold: u32,
    origin: String,
    seq: u64,
    leaf: String,
    consumers: Book,
}

/// Returns the fold over all records of a log: the snapshot, and what came after it. Blocks.
pub(super) fn restore(bus: &Bus, path: &Path) -> Result<Restored, BusError> {
    let kept = match read(path, bus) {
        Ok(found) => found,
        Err(why) => {
            tracing::info!(file = %path.display(), why, "the snapshot is not used, the log is read instead");
            None
        }
    };
    let (mut book, place) = kept.unwrap_or_default();
    let head = bus.head().seq;
    // The index knows the last record; only when it fails the log is read to its end.
    let last = [CREATED, DELETED, SETTLED, DEAD]
        .into_iter()
        .map(|subject| bus.index.last_of(subject))
        .try_fold(0, |most, found| found.map(|seq| most.max(seq)))
        .unwrap_or(head);
    let whole = follow(bus, &mut book, place + 1, last.min(head))?;
    Ok(Restored { book, place, whole })
}

/// Takes in the records of a range of the log; says whether all of it could be read.
fn follow(bus: &Bus, book: &mut Book, from: u64, last: u64) -> Result<bool, BusError> {
    let mut cursor = Cursor::new(Arc::clone(&bus.segments), from.max(bus.segments.oldest()));
    let mut whole = true;
    let mut want = |header: &Header| is_record(header.subject.as_str());
    while cursor.next() <= last {
        let record = match cursor.read(last, &mut want) {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(BusError::Damaged(why)) => {
                whole = false;
                tracing::warn!(
                    why,
                    "records of consumers may be damaged; repair the log, then restart the bus"
                );
                let Some(last) = bus.segments.damage_at(cursor.next()).and_then(|d| d.last) else { break };
                cursor = Cursor::new(Arc::clone(&bus.segments), last + 1);
                continue;
            }
            Err(e) => return Err(e),
        };
        let (seq, subject) = (record.header.seq, record.header.subject.as_str());
        // What was erased of a dead letter is also said by the record after it.
        let Body::Here { payload, .. } = &record.body else { continue };
        match Record::parse(subject, payload) {
            Ok(Some(record)) => book.apply(seq, &record),
            Ok(None) => {}
            Err(e) => tracing::warn!(seq, subject, error = %e, "a record about consumers is not understood"),
        }
    }
    Ok(whole)
}

fn is_record(subject: &str) -> bool {
    matches!(subject, CREATED | DELETED | SETTLED | DEAD)
}

/// Reads the snapshot; nothing when there is none.
fn read(path: &Path, bus: &Bus) -> Result<Option<(Book, u64)>, String> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
        Ok(meta) if meta.len() > SIZE_LIMIT => return Err("it is too large".to_owned()),
        Ok(_) => {}
    }
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let file: File<'_> = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if mirror_seal::hex(&mirror_seal::sha256(file.body.get().as_bytes())) != file.digest {
        return Err("its digest is another".to_owned());
    }
    let content: Content = serde_json::from_str(file.body.get()).map_err(|e| e.to_string())?;
    if content.fold != FOLD {
        return Err(format!("it is of version {} of the fold", content.fold));
    }
    if content.origin != bus.origin.as_str() {
        return Err(format!("it is of the log {}", content.origin));
    }
    // The leaf says that this is the log, and that it has all that the snapshot has seen.
    let record = bus.get(content.seq).map_err(|e| e.to_string())?;
    if mirror_seal::hex(&record.header.leaf) != content.leaf {
        return Err(format!("event {} is another one", content.seq));
    }
    Ok(Some((content.consumers, content.seq)))
}

/// Writes the snapshot; what went wrong is only said, since the log has it all.
pub(super) fn keep(disk: &dyn Disk, path: &Path, origin: &str, book: &Book, place: Place) {
    let content = Content {
        fold: FOLD,
        origin: origin.to_owned(),
        seq: place.seq,
        leaf: mirror_seal::hex(&place.leaf),
        consumers: book.clone(),
    };
    if let Err(e) = encode(&content).and_then(|bytes| write(disk, path, &bytes)) {
        tracing::warn!(file = %path.display(), error = %e, "the snapshot of the consumers was not written");
    }
}

fn encode(content: &Content) -> io::Result<Vec<u8>> {
    let body = serde_json::value::to_raw_value(content)?;
    let digest = mirror_seal::hex(&mirror_seal::sha256(body.get().as_bytes()));
    Ok(serde_json::to_vec(&File { digest, body: &body })?)
}

/// Replaces a file so that a reader sees the old one or the new one.
fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("the file has no folder"))?;
    let temp = path.with_extension("json.tmp");
    let file = disk.open(&temp)?;
    file.set_len(0)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()?;
    drop(file);
    disk.rename(&temp, path)?;
    disk.sync_dir(dir)
}
