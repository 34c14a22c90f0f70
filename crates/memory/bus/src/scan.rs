//! Reading a segment from its bytes: bounds before the CRC, the CRC before the chain.

use std::io;

use mirror_seal::Hash;
use mirror_types::{Hlc, Origin};

use crate::disk::leading_newlines;
use crate::line::{D_LIMIT, E_LIMIT, Flaw, Header, Payload, read_d, read_e};
use crate::source::Source;

/// How much is read at once.
const CHUNK: usize = 256 << 10;

/// A window over a segment that gives out lines.
#[derive(Debug)]
pub(crate) struct Lines {
    source: Source,
    buf: Vec<u8>,
    start: usize,
    base: u64,
    end: bool,
    chunk: usize,
}

impl Lines {
    pub(crate) fn new(source: impl Into<Source>, offset: u64) -> Self {
        Self { source: source.into(), buf: Vec::new(), start: 0, base: offset, end: false, chunk: CHUNK }
    }

    /// Begins with small pieces, for the few events at the head of a live tail.
    pub(crate) fn small(mut self) -> Self {
        self.chunk = 16 << 10;
        self
    }

    /// Forgets what was read ahead: the newlines there may be events by now.
    pub(crate) fn refresh(&mut self) {
        self.base += self.start as u64;
        self.start = 0;
        self.buf.clear();
        self.end = false;
        self.chunk = 16 << 10;
    }

    /// Returns where the next line begins.
    pub(crate) fn offset(&self) -> u64 {
        self.base + self.start as u64
    }

    /// Returns what is wrong with the file under the next event, as far as it was read.
    pub(crate) fn flaw(&self) -> Option<Flaw> {
        self.source.flaw(self.offset(), self.offset() + (E_LIMIT + D_LIMIT) as u64)
    }

    fn more(&mut self) -> io::Result<bool> {
        if self.end {
            return Ok(false);
        }
        self.buf.drain(..self.start);
        self.base += self.start as u64;
        self.start = 0;
        let len = self.buf.len();
        self.buf.resize(len + self.chunk, 0);
        let n = self.source.read_at(&mut self.buf[len..], self.base + len as u64)?;
        self.buf.truncate(len + n);
        self.end = n < self.chunk;
        self.chunk = (self.chunk * 2).min(CHUNK);
        Ok(n > 0)
    }

    /// Returns the next line without its newline, or nothing at the end of the file or after `limit` bytes.
    fn peek(&mut self, skip: usize, limit: usize) -> io::Result<Option<(usize, usize)>> {
        let mut seen = skip;
        loop {
            let from = self.start + seen;
            if from <= self.buf.len()
                && let Some(at) = memchr::memchr(b'\n', &self.buf[from..])
            {
                return Ok(Some((self.start + skip, from + at)));
            }
            seen = self.buf.len() - self.start;
            if seen > skip + limit || !self.more()? {
                return Ok(None);
            }
        }
    }

    /// Reads the event that begins here; on success the window stands after it.
    pub(crate) fn event(&mut self, origin: &Origin) -> io::Result<Result<Event<'_>, Flaw>> {
        let Some((_, e_end)) = self.peek(0, E_LIMIT)? else { return Ok(Err("the line has no end")) };
        let e_len = e_end - self.start;
        let header = match read_e(&self.buf[self.start..e_end], origin) {
            Ok(header) => header,
            Err(flaw) => return Ok(Err(flaw)),
        };
        let Some((d_start, d_end)) = self.peek(e_len + 1, D_LIMIT)? else {
            return Ok(Err("the payload's line has no end"));
        };
        let payload = match read_d(&self.buf[d_start..d_end], &header) {
            Ok(payload) => payload,
            Err(flaw) => return Ok(Err(flaw)),
        };
        let offset = self.offset();
        let e_start = d_start - e_len - 1;
        self.start = d_end + 1;
        Ok(Ok(Event {
            offset,
            e_line: &self.buf[e_start..e_start + e_len],
            d_line: &self.buf[d_start..d_end],
            header,
            payload,
        }))
    }

    /// Returns the header of the next valid E line after here, and where it stands; for resynchronising.
    pub(crate) fn next_header(&mut self, origin: &Origin) -> io::Result<Option<(u64, Header)>> {
        loop {
            self.start += leading_newlines(&self.buf[self.start..]);
            let Some((start, end)) = self.peek(0, E_LIMIT.max(D_LIMIT))? else {
                if self.end {
                    return Ok(None);
                }
                // A stretch without a newline holds no whole line, but an E line may begin in its last bytes.
                self.start = self.buf.len().saturating_sub(E_LIMIT).max(self.start);
                continue;
            };
            let offset = self.offset();
            let line = &self.buf[start..end];
            // Damage may have eaten the newline before an E line, so it is sought within the line too.
            let found = memchr::memmem::find_iter(line, b"E ").find_map(|at| {
                let header = read_e(&line[at..], origin).ok()?;
                Some((offset + at as u64, header))
            });
            self.start = end + 1;
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Returns whether nothing but newlines follows.
    pub(crate) fn only_newlines(&mut self) -> io::Result<bool> {
        loop {
            self.start += leading_newlines(&self.buf[self.start..]);
            if self.start < self.buf.len() {
                return Ok(false);
            }
            if !self.more()? {
                return Ok(true);
            }
        }
    }
}

/// A valid event in the window.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    pub(crate) offset: u64,
    pub(crate) e_line: &'a [u8],
    pub(crate) d_line: &'a [u8],
    pub(crate) header: Header,
    pub(crate) payload: Payload,
}

/// What the next event must follow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain {
    /// Sequence of the last event; 0 before the first.
    pub(crate) seq: u64,
    /// Its leaf.
    pub(crate) leaf: Hash,
    /// Its time.
    pub(crate) hlc: Hlc,
}

impl Chain {
    pub(crate) const EMPTY: Self = Self { seq: 0, leaf: [0; 32], hlc: Hlc::zero() };

    /// Takes an event as the next, or says why it is not.
    pub(crate) fn follow(&mut self, header: &Header) -> Result<(), Flaw> {
        if header.seq != self.seq + 1 {
            return Err("the sequence jumps");
        }
        if header.prev != self.leaf {
            return Err("the chain is broken");
        }
        if header.hlc <= self.hlc && self.seq > 0 {
            return Err("the logical clock stands still");
        }
        *self = Self { seq: header.seq, leaf: header.leaf, hlc: header.hlc };
        Ok(())
    }
}
