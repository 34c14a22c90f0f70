//! Where the bytes of a segment come from: a plain file, or a compressed one.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::disk::read_at;
use crate::line::Flaw;
use crate::packed::Packed;

/// The content of a segment, read by place; a compressed one keeps one frame in memory.
#[derive(Debug)]
pub(crate) enum Source {
    Plain(File),
    Packed(Box<Packed>),
}

impl Source {
    /// Opens a plain segment.
    pub(crate) fn plain(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self::Plain)
    }

    /// Opens a compressed segment.
    pub(crate) fn packed(path: &Path) -> io::Result<Self> {
        Ok(Self::Packed(Box::new(Packed::open(File::open(path)?)?)))
    }

    /// Returns the bytes of the content.
    pub(crate) fn len(&self) -> io::Result<u64> {
        match self {
            Self::Plain(file) => Ok(file.metadata()?.len()),
            Self::Packed(packed) => Ok(packed.content()),
        }
    }

    /// Reads content; less than asked for at the end only. What cannot be decompressed reads as zeros.
    pub(crate) fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Plain(file) => read_at(file, buf, offset),
            Self::Packed(packed) => packed.read_at(buf, offset),
        }
    }

    /// Returns what is wrong with the file itself from one place to another, as far as it was read.
    pub(crate) fn flaw(&self, from: u64, to: u64) -> Option<Flaw> {
        match self {
            Self::Plain(_) => None,
            Self::Packed(packed) => packed.flaw(from, to),
        }
    }
}

impl From<File> for Source {
    fn from(file: File) -> Self {
        Self::Plain(file)
    }
}
