//! Reads the rows of one file.
//!
//! It refuses nothing that it can keep: a line that is no row is handed out with its bytes and why. It holds at most
//! one line, or one document, of at most the bound; the rest of the file stays on disk.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::OFlag;

use crate::detect::{self, Form, HEAD, Probe};
use crate::frames::{Frames, MAGIC};
use crate::json::Fields;
use crate::kind::Vendor;
use crate::lines::{Line, Lines};
use crate::row::{Facts, ImportedRow, Maker};
use crate::{claude, codex, gemini};

/// Which files to take for transcripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Those of any known program.
    Any,
    /// Those that are recognised as this vendor's.
    Only(Vendor),
    /// This vendor's, even if it is not recognised.
    Insist(Vendor),
}

/// Bounds of a reading.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest line, and largest document, in bytes.
    pub row: usize,
    /// Largest payload in bytes; larger rows become blobs.
    pub payload: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { row: 64 << 20, payload: mirror_types::PAYLOAD_LIMIT }
    }
}

/// What stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A row.
    Row(Box<ImportedRow>),
    /// Something that could not be read as a row.
    Bad(BadRow),
}

/// A piece of a file that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Line, from 1.
    pub line: u64,
    /// Why, one sentence without a full stop.
    pub why: String,
    /// Its bytes; the first 64 KiB when it is over the bound.
    pub bytes: Vec<u8>,
    /// How many bytes it has in all.
    pub length: u64,
}

/// The rows of one file, in order.
///
/// An error ends it: the file could not be read on.
pub struct Transcript {
    vendor: Vendor,
    rules: Rules,
    maker: Maker,
    body: Body,
    limits: Limits,
    read: Arc<AtomicU64>,
    line: Vec<u8>,
}

enum Rules {
    Claude,
    Codex(codex::State),
    Gemini(gemini::State),
}

type Input = Box<dyn BufRead + Send>;

enum Body {
    Lines(Lines<Input>),
    Unread(Input),
    Document(String, VecDeque<Piece>),
    Ended,
}

enum Piece {
    Made(String),
    Part(u64, Range<usize>),
}

impl Transcript {
    /// Opens a file; `None` when it is not a wanted transcript, or no regular file. It never follows a symbolic link.
    pub fn open(path: &Path, want: Want, limits: Limits) -> io::Result<Option<Self>> {
        // Without O_NONBLOCK, opening a pipe that nobody writes would wait for ever.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let read = Arc::new(AtomicU64::new(0));
        let mut input = unpacked(Counted { file, read: Arc::clone(&read) })?;
        let head = head(&mut input)?;
        let Some(probe) = wanted(&head, path, want) else { return Ok(None) };
        let input: Input = Box::new(Cursor::new(head).chain(input));
        Ok(Some(Self::new(probe, input, limits, read)))
    }

    fn new(probe: Probe, input: Input, limits: Limits, read: Arc<AtomicU64>) -> Self {
        let rules = match probe.vendor {
            Vendor::Claude => Rules::Claude,
            Vendor::Codex => Rules::Codex(codex::State::default()),
            Vendor::Gemini => Rules::Gemini(gemini::State::default()),
        };
        let body = match probe.form {
            Form::Lines => Body::Lines(Lines::new(input, limits.row)),
            Form::Document => Body::Unread(input),
        };
        let maker = Maker::new(probe.vendor, probe.session, limits.payload);
        Self { vendor: probe.vendor, rules, maker, body, limits, read, line: Vec::new() }
    }

    /// Returns whose transcript it is.
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// Returns how many bytes of the file were read so far.
    pub fn bytes_done(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    fn next_line(&mut self) -> io::Result<Option<Item>> {
        loop {
            let Body::Lines(lines) = &mut self.body else { return Ok(None) };
            let Some(line) = lines.next(&mut self.line)? else { return Ok(None) };
            let mut bytes = std::mem::take(&mut self.line);
            let item = self.item(line, &bytes);
            bytes.clear();
            self.line = bytes;
            if item.is_some() {
                return Ok(item);
            }
        }
    }

    /// Returns what a line is; `None` for an empty one.
    fn item(&mut self, line: Line, bytes: &[u8]) -> Option<Item> {
        let bad = |why: String| {
            Some(Item::Bad(BadRow { line: line.number, why, bytes: bytes.to_vec(), length: line.bytes }))
        };
        if line.bytes > self.limits.row as u64 {
            return bad(format!(
                "the line has {} bytes, and at most {} are read",
                line.bytes, self.limits.row
            ));
        }
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => return bad(format!("the line is not UTF-8 at byte {}", error.valid_up_to() + 1)),
        };
        let text = if line.number == 1 { text.trim_start_matches('\u{feff}') } else { text };
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        if text.is_empty() {
            return None;
        }
        match self.row(text, line.number) {
            Ok(row) => Some(Item::Row(row)),
            Err(error) if error.is_eof() && !line.ended => {
                bad("the last line is cut off; it is imported once the file has grown".into())
            }
            Err(error) => bad(format!("the line is not one JSON object, at byte {}", error.column().max(1))),
        }
    }

    fn row(&mut self, text: &str, line: u64) -> Result<Box<ImportedRow>, serde_json::Error> {
        let fields = Fields::parse(text)?;
        let facts: Facts = match &mut self.rules {
            Rules::Claude => claude::facts(&fields),
            Rules::Codex(state) => state.facts(&fields),
            Rules::Gemini(state) => state.facts(&fields),
        };
        self.maker.make(facts, text, line).map(Box::new)
    }

    /// Reads a document whole; returns what is wrong with it, if it cannot be taken apart.
    fn read_document(&mut self, input: Input) -> io::Result<Option<Item>> {
        let mut bytes = Vec::new();
        let mut limited = input.take(self.limits.row as u64 + 1);
        limited.read_to_end(&mut bytes)?;
        let bad = |line: usize, why: String, mut bytes: Vec<u8>| {
            let length = bytes.len() as u64;
            bytes.truncate(if length > self.limits.row as u64 { 65_536 } else { bytes.len() });
            Ok(Some(Item::Bad(BadRow { line: line as u64, why, bytes, length })))
        };
        if bytes.len() > self.limits.row {
            return bad(1, format!("the document has over {} bytes", self.limits.row), bytes);
        }
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let at = error.utf8_error().valid_up_to() + 1;
                return bad(1, format!("the document is not UTF-8 at byte {at}"), error.into_bytes());
            }
        };
        let start = text.strip_prefix('\u{feff}').map_or(0, |_| '\u{feff}'.len_utf8());
        let pieces = match Fields::parse(&text[start..]) {
            Ok(document) => pieces(&document, &text),
            Err(error) if error.is_eof() => {
                let why = "the document is cut off; it is imported once it has been written whole";
                return bad(error.line(), why.into(), text.into_bytes());
            }
            Err(error) => {
                let why = format!("the document is not JSON, at column {}", error.column());
                return bad(error.line(), why, text.into_bytes());
            }
        };
        self.body = Body::Document(text, pieces);
        Ok(None)
    }

    fn next_piece(&mut self) -> Option<Item> {
        let Body::Document(text, pieces) = &mut self.body else { return None };
        let piece = pieces.pop_front()?;
        let text = std::mem::take(text);
        let (line, part) = match &piece {
            Piece::Made(row) => (1, row.as_str()),
            Piece::Part(line, range) => (*line, text.get(range.clone()).unwrap_or_default()),
        };
        let item = match self.row(part, line) {
            Ok(row) => Item::Row(row),
            Err(_) => Item::Bad(BadRow {
                line,
                why: "the message is not a JSON object".into(),
                bytes: part.as_bytes().to_vec(),
                length: part.len() as u64,
            }),
        };
        if let Body::Document(place, _) = &mut self.body {
            *place = text;
        }
        Some(item)
    }

    fn step(&mut self) -> io::Result<Option<Item>> {
        match std::mem::replace(&mut self.body, Body::Ended) {
            Body::Unread(input) => {
                if let Some(bad) = self.read_document(input)? {
                    return Ok(Some(bad));
                }
                Ok(self.next_piece())
            }
            body @ Body::Document(..) => {
                self.body = body;
                Ok(self.next_piece())
            }
            body @ Body::Lines(_) => {
                self.body = body;
                self.next_line()
            }
            Body::Ended => Ok(None),
        }
    }

    /// Returns the line that a failure stands in.
    fn place(&self) -> u64 {
        match &self.body {
            Body::Lines(lines) => lines.number() + 1,
            _ => 1,
        }
    }
}

impl Iterator for Transcript {
    type Item = io::Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.step() {
            Ok(Some(item)) => Some(Ok(item)),
            Ok(None) => {
                self.body = Body::Ended;
                None
            }
            Err(error) => {
                let line = self.place();
                self.body = Body::Ended;
                if error.kind() != io::ErrorKind::InvalidData {
                    return Some(Err(error));
                }
                let why = "the compressed data is damaged from here on".into();
                Some(Ok(Item::Bad(BadRow { line, why, bytes: Vec::new(), length: 0 })))
            }
        }
    }
}

/// Takes a document apart: header, patch, messages.
fn pieces(document: &Fields<'_>, text: &str) -> VecDeque<Piece> {
    let mut pieces: VecDeque<Piece> = gemini::head_rows(document).into_iter().map(Piece::Made).collect();
    let (mut line, mut counted) = (1_u64, 0);
    for message in document.list("messages") {
        let start = message.as_ptr() as usize - text.as_ptr() as usize;
        line += text[counted..start].bytes().filter(|byte| *byte == b'\n').count() as u64;
        counted = start;
        pieces.push_back(Piece::Part(line, start..start + message.len()));
    }
    pieces
}

fn wanted(head: &[u8], path: &Path, want: Want) -> Option<Probe> {
    let found = detect::probe(head, path);
    match want {
        Want::Any => found,
        Want::Only(vendor) => found.filter(|probe| probe.vendor == vendor),
        Want::Insist(vendor) => Some(
            found
                .filter(|probe| probe.vendor == vendor)
                .unwrap_or_else(|| detect::assume(vendor, head, path)),
        ),
    }
}

/// Reads the beginning of a file; less, when it is short or damaged.
fn head(input: &mut Input) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    match input.take(HEAD as u64).read_to_end(&mut head) {
        Err(error) if error.kind() != io::ErrorKind::InvalidData => Err(error),
        _ => Ok(head),
    }
}

/// Returns a reader of a file's content, whether it is compressed or not.
fn unpacked(file: Counted) -> io::Result<Input> {
    let mut input = BufReader::with_capacity(1 << 16, file);
    let packed = input.fill_buf()?.starts_with(&MAGIC);
    Ok(if packed { Box::new(BufReader::new(Frames::new(input))) } else { Box::new(input) })
}

/// A file that counts what was read of it.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
