//! Carrying out a redaction: the copies beside the log first, then the event, then the log.
//!
//! Beside the log only the quarantine holds payloads: the index, checkpoints and tiles are made of headers. It is cleaned
//! before the event is stored, so whenever the event is there, what is left is in the log alone and recovery finds it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use mirror_types::{Origin, Subject};

use crate::bus::{Bus, settle};
use crate::disk::Disk;
use crate::error::BusError;
use crate::event::{NewEvent, OWN_ID, Prepared, named};
use crate::line::{Payload, read_d, read_e};
use crate::payload;
use crate::reader::{Body, Cursor};
use crate::redact::{Order, SUBJECT, fits};
use crate::writer::Work;

/// Shortest payload that is sought by its bytes alone; shorter ones stand in the payloads of others.
const SOUGHT: usize = 12;

/// What a redaction has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    /// Position of the event that proves it; of the first one when all was erased before.
    pub(crate) redaction: u64,
    pub(crate) erased: Vec<u64>,
    pub(crate) already: Vec<u64>,
}

/// A payload that is to go.
struct Gone {
    seq: u64,
    id: String,
    stored: Vec<u8>,
}

impl Bus {
    /// Carries out an order. Blocks.
    pub(crate) fn redact(&self, order: &Order) -> Result<Done, BusError> {
        let _one = self.redacting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(damage) = self.segments.damage().first() {
            return Err(BusError::Damaged(damage.describe()));
        }
        if let Some(seq) = self.sealed() {
            return Err(BusError::Sealed { seq });
        }
        let head = self.head().seq;
        let (mut left, mut gone, mut already, mut first) = (Vec::new(), Vec::new(), Vec::new(), u64::MAX);
        let from = order.targets.first().map_or(1, |(seq, _)| *seq);
        let mut cursor = Cursor::new(Arc::clone(&self.segments), from);
        for (seq, leaf) in &order.targets {
            let missing = || BusError::Missing(seq.to_string());
            if *seq > head || *seq < self.segments.oldest() {
                return Err(missing());
            }
            if seq.saturating_sub(cursor.next()) > crate::segments::STRIDE {
                cursor = Cursor::new(Arc::clone(&self.segments), *seq);
            }
            let record = cursor.read(*seq, &mut |header| header.seq == *seq)?.ok_or_else(missing)?;
            fits(&record.header, leaf)?;
            match record.body {
                Body::Redacted { by } => {
                    first = first.min(by);
                    already.push(*seq);
                }
                Body::Here { payload, .. } => {
                    let stored = payload::encode(record.header.stored, payload)?.to_vec();
                    gone.push(Gone { seq: *seq, id: record.header.id.to_string(), stored });
                    left.push((*seq, *leaf));
                }
            }
        }
        let failed = |e: io::Error| BusError::Read(e.to_string());
        let spots = self.segments.spots(&left).map_err(failed)?;
        if spots.len() != left.len() {
            return Err(BusError::Read("an event is not where the log says".to_owned()));
        }
        let erased: Vec<u64> = left.iter().map(|(seq, _)| *seq).collect();
        if erased.is_empty() {
            return Ok(Done { redaction: first, erased, already });
        }
        let quarantine = self.upkeep.bus.join("quarantine");
        clean(self.upkeep.disk.as_ref(), &quarantine, &self.origin, &gone).map_err(failed)?;
        drop(gone);
        let subject = Subject::parse(SUBJECT).map_err(named("subject"))?;
        let event = Prepared::new(NewEvent::json(subject, order.record(&erased)), "svc:bus")?;
        let acks = settle(self.writer.work(event, Work::Erase(spots)).blocking_recv())?;
        Ok(Done { redaction: acks.first().map_or(0, |ack| ack.seq), erased, already })
    }
}

/// Blanks payloads in every file of the quarantine.
fn clean(disk: &dyn Disk, quarantine: &Path, origin: &Origin, gone: &[Gone]) -> io::Result<()> {
    let mut folders = vec![quarantine.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.path().extension().is_some_and(|end| end == "zst") {
                // Within a compressed segment nothing can be blanked, and what is erased outranks evidence.
                tracing::info!(file = %entry.path().display(), "removed, since payloads are erased");
                disk.remove(&entry.path())?;
                disk.sync_dir(&folder)?;
            } else if kind.is_file() {
                clean_file(disk, &entry.path(), origin, gone)?;
            }
        }
    }
    Ok(())
}

fn clean_file(disk: &dyn Disk, path: &PathBuf, origin: &Origin, gone: &[Gone]) -> io::Result<()> {
    let bytes = fs::read(path)?;
    let torn = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let torn = torn.is_some_and(|name| name.ends_with("-torn-tail"));
    let mut clean = bytes.clone();
    blank(&mut clean, origin, gone, torn);
    // What a process before this one blanked may not have reached the disk.
    let before = memchr::memmem::find(&bytes, &[b'.'; SOUGHT]).is_some();
    if clean == bytes && !before {
        return Ok(());
    }
    tracing::info!(file = %path.display(), "payloads that are erased are blanked in the quarantine too");
    let file = disk.open(path)?;
    file.write_all_at(&clean, 0)?;
    file.sync_data()
}

/// Blanks payloads in a copy of log bytes.
///
/// A torn tail holds nothing that was acknowledged, but maybe the first try of what was stored later: of it only whole
/// events of others are kept, because nobody can say whose the pieces are.
fn blank(bytes: &mut [u8], origin: &Origin, gone: &[Gone], torn: bool) {
    for Gone { stored, .. } in gone.iter().filter(|gone| gone.stored.len() >= SOUGHT) {
        let found: Vec<usize> = memchr::memmem::find_iter(bytes, stored).collect();
        for at in found {
            bytes[at..at + stored.len()].fill(b'.');
        }
    }
    let is_gone =
        |id: &str, seq: u64| gone.iter().any(|g| g.seq == seq || (g.id == id && !id.starts_with(OWN_ID)));
    let mut at = 0;
    let mut header = None;
    while at < bytes.len() {
        let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n);
        let line = &mut bytes[at..end];
        at = end + 1;
        if let Ok(found) = read_e(line, origin) {
            header = Some(found);
            continue;
        }
        let whole = |h: &crate::line::Header| matches!(read_d(line, h), Ok(Payload::Here { .. }));
        let blank = match header.take() {
            Some(h) if is_gone(h.id.as_str(), h.seq) => true,
            Some(h) => torn && !whole(&h),
            None => torn,
        };
        if blank {
            line.fill(b'.');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::{Content, Place, Stored, d_line, provenance, write_e};
    use mirror_types::Hlc;

    fn origin() -> Origin {
        Origin::parse("0123456789abcdef.1").unwrap()
    }

    fn event(seq: u64, id: &str, payload: &str) -> Vec<u8> {
        let (origin, mut out) = (origin(), Vec::new());
        let digest = mirror_seal::salted(&[7; 16], payload.as_bytes());
        let place =
            Place { origin: &origin, seq, batch: 1, hlc: Hlc::new(1_000, 3), wall_ms: 1_001, prev: &[9; 32] };
        let content = Content {
            subject: "local.note",
            id,
            stored: Stored::Json,
            len: payload.len(),
            digest: &digest,
            provenance: &provenance("local", None, &[], &[]),
        };
        write_e(&mut out, &place, &content);
        out.extend_from_slice(&d_line(&[7; 16], payload.as_bytes()));
        out
    }

    fn gone(seq: u64, id: &str, stored: &str) -> Gone {
        Gone { seq, id: id.to_owned(), stored: stored.as_bytes().to_vec() }
    }

    fn cleaned(bytes: &[u8], gone: &[Gone], torn: bool) -> String {
        let mut bytes = bytes.to_vec();
        let len = bytes.len();
        blank(&mut bytes, &origin(), gone, torn);
        assert_eq!(bytes.len(), len);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn the_first_try_of_an_erased_event_is_blanked_and_whole_others_stay() {
        let (a, b, c) =
            (event(4, "a", "\"ours\""), event(5, "b", "\"a secret\""), event(6, "c", "\"other\""));
        let mut torn = [a, b, c.clone()].concat();
        torn.truncate(torn.len() - 4);
        torn.extend_from_slice(b"xx a piece of something\n\nE 1234");
        // It was stored later at another place, under its id.
        let text = cleaned(&torn, &[gone(9, "b", "\"a secret\"")], true);
        assert!(text.contains("\"ours\"") && text.contains("\"id\":\"b\""), "{text}");
        for piece in ["secret", "\"oth", "piece", "E 1234"] {
            assert!(!text.contains(piece), "{piece}: {text}");
        }
        assert!(cleaned(&c, &[gone(9, "b", "\"a secret\"")], true).contains("\"other\""));
    }

    #[test]
    fn evidence_of_damage_keeps_all_but_the_payload() {
        let secret = "\"a longer secret\"";
        let copy = [&event(4, "a", "\"ours\"")[..], b"damaged bytes\n", &event(5, "bus:5", secret)].concat();
        let elsewhere = [&copy[..], format!("D 0 {secret} in a damaged line\n").as_bytes()].concat();
        let text = cleaned(&elsewhere, &[gone(5, "bus:5", secret)], false);
        assert!(
            text.contains("ours") && text.contains("damaged bytes") && !text.contains("secret"),
            "{text}"
        );
        let short = cleaned(&copy, &[gone(77, "bus:77", "\"ours\"")], false);
        assert!(short.contains("ours"), "a short payload is not sought in those of others");
    }
}
