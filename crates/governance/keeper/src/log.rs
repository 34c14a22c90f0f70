//! The keeper's own log: one line of JSON a record, each with the hash of the one before.
//!
//! `docs/FORMAT.md` has the form. A line without its end is what a power cut leaves; it was never acted on, and is set
//! aside. It refuses a log that is damaged anywhere else, because what was signed would be forgotten.
//! Invariant: a record is durable before anything is done because of it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use mirror_seal::{hex, sha256};
use serde::{Deserialize, Serialize};

/// Longest line in bytes, with its end.
const LINE: usize = 4096;
/// Records between two places that are remembered.
const STRIDE: u64 = 256;
/// What stands between a line's content and its hash.
const SEAM: &str = ",\"hash\":\"";
/// Length of the seam, the hash and the end of the object.
const TAIL: usize = SEAM.len() + 64 + 2;
/// What the first record names as the hash of the one before.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Act {
    /// Something was signed.
    Sign,
    /// Something was refused.
    Refuse,
    /// A key was made.
    Make,
    /// A key was retired.
    Retire,
    /// The log itself was repaired.
    Repair,
}

impl Act {
    /// Returns the name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sign => "sign",
            Self::Refuse => "refuse",
            Self::Make => "make",
            Self::Retire => "retire",
            Self::Repair => "repair",
        }
    }
}

/// What a record says, besides its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Wall time in milliseconds since 1970.
    pub(crate) at_ms: u64,
    pub(crate) act: Act,
    pub(crate) caller: String,
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub(crate) kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) key: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) digest: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    /// Size of a signed checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    /// Root of a signed checkpoint, 64 hex digits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) root: String,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) number: u64,
    pub(crate) entry: Entry,
    pub(crate) hash: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    v: u32,
    number: u64,
    prev: String,
    #[serde(flatten)]
    entry: Entry,
}

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// A line is not as it was written, or not the next one.
    #[error(
        "{path:?} is damaged at line {line}: {why}; restore it from a backup, nothing is signed until then"
    )]
    Broken { path: PathBuf, line: u64, why: &'static str },
    /// The file cannot be read or written.
    #[error("cannot use {path:?}: {source}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The end of a log that a power cut left behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Torn {
    /// Where its bytes are now.
    pub(crate) aside: PathBuf,
}

/// The log.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    len: u64,
    number: u64,
    hash: String,
    /// Where each [`STRIDE`]th record begins.
    places: Vec<u64>,
    /// A write whose outcome is not known; nothing may follow it.
    poisoned: bool,
}

impl Log {
    /// Opens the log, or begins it, and shows each record to `visit`.
    pub(crate) fn open(
        path: &Path,
        quarantine: &Path,
        now_ms: u64,
        mut visit: impl FnMut(&Record),
    ) -> Result<(Self, Option<Torn>), LogError> {
        let io = |source| LogError::Io { path: path.to_owned(), source };
        let begun = !path.exists();
        let file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(io)?;
        if begun {
            file.sync_all().and_then(|()| sync_parent(path)).map_err(io)?;
        }
        let mut log = Self {
            path: path.to_owned(),
            file,
            len: 0,
            number: 0,
            hash: NOTHING.to_owned(),
            places: Vec::new(),
            poisoned: false,
        };
        let mut reader = BufReader::new(File::open(path).map_err(io)?);
        let mut line = Vec::new();
        loop {
            read_line(&mut reader, &mut line).map_err(io)?;
            match line.as_slice() {
                [] => return Ok((log, None)),
                [.., b'\n'] => {
                    let record = parse(&line, log.number + 1, &log.hash).map_err(|why| log.broken(why))?;
                    visit(&record);
                    log.advance(&record, line.len() as u64);
                }
                // A record is far shorter, so no power cut leaves this behind.
                long if long.len() >= LINE => return Err(log.broken("the line is too long")),
                torn => {
                    let aside = quarantine.join(format!("keeper.log-{now_ms}"));
                    mirror_paths::write_atomic(&aside, torn).map_err(io)?;
                    log.file.set_len(log.len).and_then(|()| log.file.sync_all()).map_err(io)?;
                    return Ok((log, Some(Torn { aside })));
                }
            }
        }
    }

    /// Returns the number of the last record; 0 when there is none.
    pub(crate) fn head(&self) -> u64 {
        self.number
    }

    /// Returns whether the outcome of a write is not known; the process must start again.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Adds a record; it is durable when this returns.
    pub(crate) fn append(&mut self, entry: Entry) -> io::Result<Record> {
        if self.poisoned {
            return Err(io::Error::other("the outcome of an earlier write is not known"));
        }
        let (line, record) = render(self.number + 1, &self.hash, entry)?;
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // Nothing was synced, so what is cut off was never acted on.
            self.poisoned = self.file.set_len(self.len).is_err();
            return Err(error);
        }
        if let Err(error) = self.file.sync_data() {
            self.poisoned = true;
            return Err(error);
        }
        self.advance(&record, line.len() as u64);
        Ok(record)
    }

    /// Returns at most `limit` records from a number on.
    pub(crate) fn list(&self, from: u64, limit: usize) -> Result<Vec<Record>, LogError> {
        let from = from.max(1);
        let io = |source| LogError::Io { path: self.path.clone(), source };
        if from > self.number {
            return Ok(Vec::new());
        }
        let slot = (from - 1) / STRIDE;
        let at = usize::try_from(slot).ok().and_then(|slot| self.places.get(slot)).copied().unwrap_or(0);
        let mut file = File::open(&self.path).map_err(io)?;
        file.seek(SeekFrom::Start(at)).map_err(io)?;
        let mut reader = BufReader::new(file.take(self.len - at));
        let (mut line, mut found) = (Vec::new(), Vec::new());
        let mut number = slot * STRIDE;
        while found.len() < limit && number < self.number {
            read_line(&mut reader, &mut line).map_err(io)?;
            number += 1;
            if number >= from {
                let broken = |why| LogError::Broken { path: self.path.clone(), line: number, why };
                found.push(read(&line, number).map_err(broken)?.1);
            }
        }
        Ok(found)
    }

    fn advance(&mut self, record: &Record, bytes: u64) {
        if (record.number - 1).is_multiple_of(STRIDE) {
            self.places.push(self.len);
        }
        self.len += bytes;
        self.number = record.number;
        self.hash.clone_from(&record.hash);
    }

    fn broken(&self, why: &'static str) -> LogError {
        LogError::Broken { path: self.path.clone(), line: self.number + 1, why }
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), mirror_paths::sync_dir)
}

/// Reads up to and with the next newline, at most one line's worth.
fn read_line(reader: &mut impl io::BufRead, line: &mut Vec<u8>) -> io::Result<()> {
    line.clear();
    reader.take(LINE as u64).read_until(b'\n', line).map(|_| ())
}

fn render(number: u64, prev: &str, entry: Entry) -> io::Result<(String, Record)> {
    let line = Line { v: 1, number, prev: prev.to_owned(), entry };
    let mut text = serde_json::to_string(&line)?;
    text.pop();
    let hash = hex(&sha256(text.as_bytes()));
    text.push_str(SEAM);
    text.push_str(&hash);
    text.push_str("\"}\n");
    if text.len() > LINE {
        return Err(io::Error::other("the record is too long"));
    }
    Ok((text, Record { number, entry: line.entry, hash }))
}

/// Reads a line that must be the next one after a hash.
fn parse(line: &[u8], number: u64, prev: &str) -> Result<Record, &'static str> {
    let (named, record) = read(line, number)?;
    if named == prev { Ok(record) } else { Err("it does not name the hash of the line before") }
}

/// Reads a line by itself; returns the hash that it names as that of the one before.
fn read(line: &[u8], number: u64) -> Result<(String, Record), &'static str> {
    const FORM: &str = "it is not a record";
    let text = std::str::from_utf8(line).ok().and_then(|line| line.strip_suffix('\n')).ok_or(FORM)?;
    let (content, tail) =
        text.len().checked_sub(TAIL).and_then(|at| text.split_at_checked(at)).ok_or(FORM)?;
    let hash = tail.strip_prefix(SEAM).and_then(|tail| tail.strip_suffix("\"}")).ok_or(FORM)?;
    if hash != hex(&sha256(content.as_bytes())) {
        return Err("its hash does not fit");
    }
    let whole = format!("{content}}}");
    let line: Line = serde_json::from_str(&whole).map_err(|_| FORM)?;
    if serde_json::to_string(&line).ok().as_deref() != Some(&whole) {
        return Err("it is not written as this build writes it");
    }
    if line.v != 1 || line.number != number {
        return Err("it has another version or number than the next line must have");
    }
    Ok((line.prev, Record { number, entry: line.entry, hash: hash.to_owned() }))
}

/// Returns an entry without the fields that only some acts have.
pub(crate) fn entry(at_ms: u64, act: Act, caller: &str, kind: &str) -> Entry {
    Entry {
        at_ms,
        act,
        caller: caller.to_owned(),
        kind: kind.to_owned(),
        key: String::new(),
        digest: String::new(),
        reason: String::new(),
        size: None,
        root: String::new(),
    }
}

/// Reads lines that nobody wrote, each as the next after the one before, for fuzzing.
#[doc(hidden)]
pub fn fuzz_log(bytes: &[u8]) {
    let (mut number, mut prev) = (1, NOTHING.to_owned());
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        if let Ok(record) = parse(line, number, &prev) {
            (number, prev) = (record.number + 1, record.hash);
        }
    }
}

#[cfg(test)]
mod tests;
