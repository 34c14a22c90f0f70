//! The bytes of a compressed segment: Zstandard frames of any kind, with or without a seek table after them.
//!
//! A frame that cannot be decompressed is a rift: up to the frame after it, which the seek table tells, the content reads
//! as a byte that stands in no line, so that the events in the rift are found missing and those behind it are still read.
//! Memory is a window of a frame, of at most 8 MiB, and eight bytes for each frame.

use std::cell::RefCell;
use std::io;

use zstd::stream::raw::{DParameter, Decoder, Operation as _};

use crate::source::{ReadAt, Rift};

/// The window that RFC 8878 asks every decoder to support, as a power of two.
const WINDOW_LOG: u32 = 23;

const INPUT: usize = 128 << 10;
const FRAME_MAGIC: u32 = 0xFD2F_B528;
const SEEK_FRAME_MAGIC: u32 = 0x184D_2A5E;
const SEEK_MAGIC: u32 = 0x8F92_EAB1;

/// Bytes of a seek table that are not entries: the head of the skippable frame, and its footer.
const TABLE_HEAD: u64 = 8;
const TABLE_FOOT: u64 = 9;

/// Most frames that are remembered.
const FRAMES: usize = 1 << 20;

const RIFTS: usize = 64;

const DAMAGED: &str = "is a seek table that is damaged";

/// What a rift reads as; no line begins with it.
const GONE: u8 = b'#';

/// Where something begins: in the file, and in the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Start {
    file: u64,
    content: u64,
}

/// The seek table: where each frame begins, and where the last one ends.
#[derive(Debug)]
struct Table {
    at: u64,
    starts: Vec<Start>,
}

/// A compressed segment.
pub(crate) struct Packed<'a>(RefCell<State<'a>>);

struct State<'a> {
    inner: Box<dyn ReadAt + 'a>,
    len: u64,
    decoder: Decoder<'static>,
    /// The bytes of the file from `input_at` on, of which `used` are decompressed.
    input: Vec<u8>,
    input_at: u64,
    used: usize,
    /// The frame being decompressed.
    frame: Option<Start>,
    /// Where the next byte stands in the content.
    out: u64,
    /// Where a rift being passed ends.
    gone_until: u64,
    ended: bool,
    frames: Vec<Start>,
    table: Result<Option<Table>, &'static str>,
    checked: bool,
    rifts: Vec<Rift>,
}

impl<'a> Packed<'a> {
    /// Opens the content of a file of `len` bytes.
    pub(crate) fn new(inner: Box<dyn ReadAt + 'a>, len: u64) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
        let table = table(inner.as_ref(), len)?;
        Ok(Self(RefCell::new(State {
            inner,
            len,
            decoder,
            input: Vec::with_capacity(INPUT),
            input_at: 0,
            used: 0,
            frame: None,
            out: 0,
            gone_until: 0,
            ended: false,
            frames: Vec::new(),
            table,
            checked: false,
            rifts: Vec::new(),
        })))
    }
}

impl ReadAt for Packed<'_> {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.0.borrow_mut();
        if offset < state.out {
            state.back_to(offset);
        }
        let mut skipped = Vec::new();
        while state.out < offset {
            skipped.resize(INPUT, 0);
            let len = usize::try_from(offset - state.out).unwrap_or(INPUT).min(INPUT);
            if state.read(&mut skipped[..len])? == 0 {
                return Ok(0);
            }
        }
        state.read(into)
    }

    fn rifts(&self) -> Vec<Rift> {
        self.0.borrow().rifts.clone()
    }
}

impl State<'_> {
    fn position(&self) -> u64 {
        self.input_at + self.used as u64
    }

    fn jump(&mut self, file: u64) {
        self.input.clear();
        self.used = 0;
        self.input_at = file;
    }

    /// Goes back to the start of the frame that holds an offset.
    fn back_to(&mut self, offset: u64) {
        let after = self.frames.partition_point(|frame| frame.content <= offset);
        let start = after.checked_sub(1).and_then(|at| self.frames.get(at)).copied();
        let start = start.unwrap_or(Start { file: 0, content: 0 });
        self.jump(start.file);
        self.out = start.content;
        self.gone_until = start.content;
        self.frame = None;
        self.ended = false;
    }

    /// Returns the bytes of the file from the position on: at least `want`, fewer only at its end.
    fn input(&mut self, want: usize) -> io::Result<&[u8]> {
        if self.input.len() - self.used < want {
            self.input.drain(..self.used);
            self.input_at += self.used as u64;
            self.used = 0;
            let mut len = self.input.len();
            self.input.resize(INPUT, 0);
            while len < INPUT {
                match self.inner.read_at(&mut self.input[len..], self.input_at + len as u64) {
                    Ok(0) => break,
                    Ok(n) => len = (len + n).min(INPUT),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        self.input.truncate(len);
                        return Err(error);
                    }
                }
            }
            self.input.truncate(len);
        }
        Ok(&self.input[self.used..])
    }

    /// Reads the next bytes of the content; none at its end.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.out < self.gone_until {
                let left = usize::try_from(self.gone_until - self.out).unwrap_or(usize::MAX);
                let len = into.len().min(left);
                into[..len].fill(GONE);
                self.out += len as u64;
                return Ok(len);
            }
            if self.ended || into.is_empty() {
                return Ok(0);
            }
            match self.frame {
                None => self.begin()?,
                Some(frame) => {
                    let n = self.decode(frame, into)?;
                    if n > 0 {
                        return Ok(n);
                    }
                }
            }
        }
    }

    /// Reads what stands between frames, up to the next frame or the end.
    fn begin(&mut self) -> io::Result<()> {
        let at = Start { file: self.position(), content: self.out };
        let head = self.input(TABLE_HEAD as usize)?;
        if head.is_empty() {
            self.end(at);
            return Ok(());
        }
        match (number(head, 0), number(head, 4)) {
            (Some(FRAME_MAGIC), second) => {
                // An encoder must leave this bit alone, and a decoder does not look at it.
                if second.is_some_and(|second| second & 0x10 != 0) {
                    self.rift(at, at.content, "has a set bit in its header that no encoder sets");
                }
                if self.frames.last().is_none_or(|last| last.file < at.file) && self.frames.len() < FRAMES {
                    self.frames.push(at);
                }
                self.decoder.reinit()?;
                self.frame = Some(at);
            }
            (Some(magic @ 0x184D_2A50..=0x184D_2A5F), Some(size)) => {
                let known = matches!(&self.table, Ok(Some(table)) if table.at == at.file);
                if magic == SEEK_FRAME_MAGIC && !known {
                    self.table = Err(DAMAGED);
                }
                let next = at.file + TABLE_HEAD + u64::from(size);
                if next > self.len {
                    self.lose(at, "is a skippable frame that is cut off");
                } else {
                    self.jump(next);
                }
            }
            _ => self.lose(at, "is no Zstandard frame"),
        }
        Ok(())
    }

    fn decode(&mut self, frame: Start, into: &mut [u8]) -> io::Result<usize> {
        self.input(1)?;
        match self.decoder.run_on_buffers(&self.input[self.used..], into) {
            Ok(status) => {
                self.used += status.bytes_read;
                self.out += status.bytes_written as u64;
                if status.remaining == 0 {
                    self.frame = None;
                } else if status.bytes_read == 0 && status.bytes_written == 0 {
                    self.lose(frame, "is a Zstandard frame that is cut off");
                }
                Ok(status.bytes_written)
            }
            Err(error) => {
                self.lose(frame, &format!("is a Zstandard frame that cannot be decompressed ({error})"));
                Ok(0)
            }
        }
    }

    /// Gives a frame up, and goes on at the next that the seek table names.
    fn lose(&mut self, frame: Start, why: &str) {
        self.frame = None;
        let starts = match &self.table {
            Ok(Some(table)) => table.starts.as_slice(),
            _ => &[],
        };
        let at = starts.iter().position(|start| *start == frame);
        let next = at.and_then(|at| starts.get(at + 1)).copied().filter(|next| next.content >= self.out);
        match next {
            Some(next) => {
                self.rift(frame, next.content, why);
                self.gone_until = next.content;
                self.jump(next.file);
            }
            None => {
                self.rift(frame, self.out, why);
                self.ended = true;
            }
        }
    }

    fn rift(&mut self, frame: Start, until: u64, why: &str) {
        if self.rifts.len() < RIFTS && self.rifts.iter().all(|rift| rift.at != frame.file) {
            // What was decompressed before the flaw showed may be wrong too.
            let content = (frame.content, until.max(self.out));
            self.rifts.push(Rift { at: frame.file, content, why: format!("what stands here {why}") });
        }
    }

    /// Compares the seek table with the frames: whoever reads by it must come to the right places.
    fn end(&mut self, at: Start) {
        self.ended = true;
        if std::mem::replace(&mut self.checked, true) {
            return;
        }
        let (place, why) = match &self.table {
            Ok(None) => return,
            Err(why) => (self.len, *why),
            Ok(Some(table)) => {
                let end = Start { file: table.at, content: at.content };
                let whole = self.frames.len() == FRAMES
                    || table.starts.iter().eq(self.frames.iter().chain(std::iter::once(&end)));
                if whole {
                    return;
                }
                (table.at, "is a seek table that is not that of the frames before it")
            }
        };
        self.rift(Start { file: place, content: at.content }, at.content, why);
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Reads the seek table at the end of a file; none when there is none, or why it cannot be used.
fn table(inner: &dyn ReadAt, len: u64) -> io::Result<Result<Option<Table>, &'static str>> {
    let Some(foot_at) = len.checked_sub(TABLE_FOOT) else { return Ok(Ok(None)) };
    let foot = exactly(inner, foot_at, TABLE_FOOT as usize)?;
    if number(&foot, 5) != Some(SEEK_MAGIC) {
        return Ok(Ok(None));
    }
    let frames = number(&foot, 0).unwrap_or_default();
    let flags = foot.get(4).copied().unwrap_or_default();
    let entry = if flags & 0x80 == 0 { 8_u64 } else { 12 };
    let size = u64::from(frames) * entry;
    let at =
        foot_at.checked_sub(size + TABLE_HEAD).filter(|_| flags & 0x7f == 0 && frames as usize <= FRAMES);
    let (Some(at), Ok(size)) = (at, usize::try_from(size)) else { return Ok(Err(DAMAGED)) };
    let bytes = exactly(inner, at, TABLE_HEAD as usize + size)?;
    if number(&bytes, 0) != Some(SEEK_FRAME_MAGIC)
        || number(&bytes, 4).map(u64::from) != Some(size as u64 + TABLE_FOOT)
    {
        return Ok(Err(DAMAGED));
    }
    let mut next = Start { file: 0, content: 0 };
    let mut starts = vec![next];
    for entry in bytes[TABLE_HEAD as usize..].chunks_exact(entry as usize) {
        next.file += number(entry, 0).map(u64::from).unwrap_or_default();
        next.content += number(entry, 4).map(u64::from).unwrap_or_default();
        starts.push(next);
    }
    Ok(Ok(Some(Table { at, starts })))
}

fn exactly(inner: &dyn ReadAt, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut have = 0;
    while have < len {
        match inner.read_at(&mut bytes[have..], at + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
