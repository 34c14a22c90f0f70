//! A window that slides over the bytes of a segment. Memory is the window, whatever the file says.

use std::fs::File;
use std::io;

use crate::line::{D_LIMIT, E_LIMIT};

/// The longest event with its two newlines: the most that must be in the window at once.
pub(crate) const EVENT_LIMIT: usize = E_LIMIT + D_LIMIT + 2;

/// Small enough to stay in the cache between being read and being looked at.
const CHUNK: usize = 256 << 10;
const WINDOW: usize = CHUNK + EVENT_LIMIT;
const FILL: [u8; 4096] = [b'\n'; 4096];

/// Bytes that can be read at an offset.
pub(crate) trait ReadAt {
    /// Reads into `into` and returns how many bytes, 0 only at the end.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Returns what was found wrong with how the bytes are stored, as far as they were read.
    fn rifts(&self) -> Vec<Rift> {
        Vec::new()
    }
}

/// A part of a compressed segment that cannot be decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rift {
    /// Where it begins in the file.
    pub(crate) at: u64,
    /// From where to where the content is in doubt.
    pub(crate) content: (u64, u64),
    pub(crate) why: String,
}

impl ReadAt for File {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, into, offset)
    }
}

pub(crate) struct Source<'a> {
    inner: Box<dyn ReadAt + 'a>,
    /// The window's memory; its first `len` bytes are those of the file from `start` on.
    window: Vec<u8>,
    len: usize,
    start: u64,
    ended: bool,
}

impl<'a> Source<'a> {
    pub(crate) fn new(inner: Box<dyn ReadAt + 'a>) -> Self {
        Self { inner, window: vec![0; WINDOW], len: 0, start: 0, ended: false }
    }

    /// Forgets what was read, so that the next view shows the bytes as they are then.
    pub(crate) fn forget(&mut self) {
        self.len = 0;
        self.ended = false;
    }

    /// Returns what was found wrong with how the bytes are stored.
    pub(crate) fn rifts(&self) -> Vec<Rift> {
        self.inner.rifts()
    }

    /// Returns the bytes from `at`: at least `want` of them, fewer only where the file ends.
    #[inline]
    pub(crate) fn view(&mut self, at: u64, want: usize) -> io::Result<&[u8]> {
        let inside = at.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        let skip = match inside {
            Some(skip) if skip <= self.len => skip,
            _ => {
                self.forget();
                self.start = at;
                0
            }
        };
        if self.len - skip >= want || self.ended {
            return Ok(&self.window[skip..self.len]);
        }
        self.window.copy_within(skip..self.len, 0);
        self.len -= skip;
        self.start = at;
        self.fill()?;
        Ok(&self.window[..self.len])
    }

    fn fill(&mut self) -> io::Result<()> {
        while self.len < self.window.len() && !self.ended {
            match self.inner.read_at(&mut self.window[self.len..], self.start + self.len as u64) {
                Ok(0) => self.ended = true,
                Ok(n) => self.len = (self.len + n).min(self.window.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns whether only newlines follow from `at` to the end of the file.
    pub(crate) fn is_fill(&mut self, at: u64) -> io::Result<bool> {
        let mut position = at;
        loop {
            let view = self.view(position, 1)?;
            if view.is_empty() {
                return Ok(true);
            }
            if view.chunks(FILL.len()).any(|block| *block != FILL[..block.len()]) {
                return Ok(false);
            }
            position += view.len() as u64;
        }
    }

    /// Returns where the last byte from `at` on that is not a newline ends, `at` when there is none.
    pub(crate) fn content_end(&mut self, at: u64) -> io::Result<u64> {
        let (mut position, mut end) = (at, at);
        loop {
            let view = self.view(position, 1)?;
            if view.is_empty() {
                return Ok(end);
            }
            if let Some(last) = view.iter().rposition(|byte| *byte != b'\n') {
                end = position + last as u64 + 1;
            }
            position += view.len() as u64;
        }
    }
}
