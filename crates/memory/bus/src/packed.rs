//! Compressed segments: independent Zstandard frames of one mebibyte of content each, then their table.
//!
//! The format is that of facebook/zstd, `contrib/seekable_format/zstd_seekable_compression_format.md`, without the optional
//! checksums of its table, since each frame has its own. `zstdcat` reads it. Lengths are checked before anything is
//! allocated, and a frame that is not whole reads as zeros, so that the events in it are found missing and others are read.

use std::fs::File;
use std::io;

use zstd::bulk::{Compressor, decompress_to_buffer};
use zstd::zstd_safe::{CParameter, find_frame_compressed_size};

use crate::disk::{LogFile, read_at};
use crate::line::Flaw;

/// Content of every frame but the last, which may have less.
pub(crate) const FRAME: usize = 1 << 20;

/// Largest frame in the file: what Zstandard needs for content that cannot be compressed, and a little more.
const PACKED_LIMIT: usize = FRAME + (FRAME >> 7);

const LEVEL: i32 = 3;

const FRAME_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
const TABLE_MAGIC: u32 = 0x184D_2A5E;
const FOOTER_MAGIC: u32 = 0x8F92_EAB1;

/// Bytes of the table before and after its entries, and of an entry.
const HEAD: u64 = 8;
const FOOTER: u64 = 9;
const ENTRY: u64 = 8;

/// Where a frame stands in the file, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    at: u64,
    packed: u32,
    plain: u32,
}

/// The frames of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Table(Vec<Frame>);

impl Table {
    fn content(&self) -> u64 {
        self.0.iter().map(|frame| u64::from(frame.plain)).sum()
    }

    /// Reads the table at the end of a file of `size` bytes.
    fn read(file: &File, size: u64) -> io::Result<Result<Self, Flaw>> {
        if size < HEAD + FOOTER {
            return Ok(Err("the compressed segment has no table"));
        }
        let mut footer = [0; FOOTER as usize];
        read_at(file, &mut footer, size - FOOTER)?;
        let count = u64::from(number(&footer, 0));
        if number(&footer, 5) != FOOTER_MAGIC || footer[4] != 0 {
            return Ok(Err("the compressed segment's table has a wrong end"));
        }
        let len = HEAD + count * ENTRY + FOOTER;
        if len > size {
            return Ok(Err("the compressed segment's table is longer than the file"));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        read_at(file, &mut bytes, size - len)?;
        if number(&bytes, 0) != TABLE_MAGIC || u64::from(number(&bytes, 4)) != len - HEAD {
            return Ok(Err("the compressed segment's table has a wrong beginning"));
        }
        let mut frames = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        let mut at = 0;
        for i in 0..usize::try_from(count).unwrap_or(0) {
            let entry = HEAD as usize + i * ENTRY as usize;
            let frame = Frame { at, packed: number(&bytes, entry), plain: number(&bytes, entry + 4) };
            let last = i as u64 + 1 == count;
            if frame.packed as usize > PACKED_LIMIT || frame.plain as usize > FRAME {
                return Ok(Err("the compressed segment's table names a frame that is too large"));
            }
            if frame.plain == 0 || !last && frame.plain as usize != FRAME {
                return Ok(Err("the compressed segment's table names a frame that is too small"));
            }
            at += u64::from(frame.packed);
            frames.push(frame);
        }
        match at == size - len {
            true => Ok(Ok(Self(frames))),
            false => Ok(Err("the compressed segment's table does not add up")),
        }
    }

    /// Finds the frames by themselves, up to the first that is not whole: for a file whose table is damaged.
    fn walk(file: &File) -> io::Result<Self> {
        let mut frames: Vec<Frame> = Vec::new();
        let mut window = vec![0; PACKED_LIMIT];
        let mut at = 0;
        loop {
            let n = read_at(file, &mut window, at)?;
            let bytes = &window[..n];
            let (Some(plain), Ok(packed)) = (content_size(bytes), find_frame_compressed_size(bytes)) else {
                return Ok(Self(frames));
            };
            let (Ok(packed), true) = (u32::try_from(packed), plain as usize <= FRAME) else {
                return Ok(Self(frames));
            };
            frames.push(Frame { at, packed, plain });
            at += u64::from(packed);
            if plain as usize != FRAME {
                return Ok(Self(frames));
            }
        }
    }

    fn render(&self) -> Option<Vec<u8>> {
        let count = u32::try_from(self.0.len()).ok()?;
        let len = u32::try_from(self.0.len() as u64 * ENTRY + FOOTER).ok()?;
        let mut bytes = Vec::with_capacity(len as usize + HEAD as usize);
        bytes.extend_from_slice(&TABLE_MAGIC.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        for frame in &self.0 {
            bytes.extend_from_slice(&frame.packed.to_le_bytes());
            bytes.extend_from_slice(&frame.plain.to_le_bytes());
        }
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&FOOTER_MAGIC.to_le_bytes());
        Some(bytes)
    }
}

/// Reads four bytes, least significant first; zero outside of the bytes.
fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Returns the content size of a frame with exactly the header that ours have: one segment, with its size and a checksum.
fn content_size(frame: &[u8]) -> Option<u32> {
    let rest = frame.strip_prefix(&FRAME_MAGIC)?;
    let (kind, rest) = rest.split_first()?;
    let two = |rest: &[u8]| Some(u16::from_le_bytes([*rest.first()?, *rest.get(1)?]));
    match kind {
        0x24 => rest.first().map(|b| u32::from(*b)),
        0x64 => two(rest).map(|n| u32::from(n) + 256),
        0xA4 if rest.len() >= 4 => Some(number(rest, 0)),
        _ => None,
    }
}

/// A compressed segment as a reader sees it: its content, by place.
pub(crate) struct Packed {
    file: File,
    table: Table,
    size: u64,
    content: u64,
    /// The frame in memory; on damage it reads as zeros.
    held: Option<usize>,
    bytes: Vec<u8>,
    /// The places of the last frame that was not whole.
    hole: Option<(u64, u64)>,
    /// What is wrong with the file as a whole; then it has no content.
    flaw: Option<Flaw>,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packed").field("frames", &self.table.0.len()).finish_non_exhaustive()
    }
}

impl Packed {
    /// Opens a compressed segment. With a damaged table it has no content.
    pub(crate) fn open(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let (table, flaw) = match Table::read(&file, size)? {
            Ok(table) => (table, None),
            Err(flaw) => (Table::default(), Some(flaw)),
        };
        Ok(Self {
            content: table.content(),
            file,
            table,
            size,
            held: None,
            bytes: Vec::new(),
            hole: None,
            flaw,
        })
    }

    /// Finds the frames without the table if that is damaged, for whoever wants as much as possible.
    pub(crate) fn salvage(mut self) -> io::Result<Self> {
        if self.flaw.take().is_some() {
            self.table = Table::walk(&self.file)?;
            self.content = self.table.content();
        }
        Ok(self)
    }

    /// Returns whether the table is damaged.
    pub(crate) fn is_lost(&self) -> bool {
        self.flaw.is_some()
    }

    /// Returns the bytes of the content.
    pub(crate) fn content(&self) -> u64 {
        self.content
    }

    /// Returns what is wrong with the bytes from `from` to `to`, as far as they were read.
    pub(crate) fn flaw(&self, from: u64, to: u64) -> Option<Flaw> {
        let hit = self.hole.is_some_and(|(start, end)| start < to && from < end);
        self.flaw.or(hit.then_some("a frame of the compressed segment is damaged"))
    }

    /// Reads content; less than asked for at the end only.
    pub(crate) fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let Ok(index) = usize::try_from(at / FRAME as u64) else { break };
            if index >= self.table.0.len() {
                break;
            }
            self.hold(index)?;
            let within = usize::try_from(at % FRAME as u64).unwrap_or(FRAME);
            let Some(rest) = self.bytes.get(within..).filter(|rest| !rest.is_empty()) else { break };
            let n = rest.len().min(buf.len() - done);
            buf[done..done + n].copy_from_slice(&rest[..n]);
            done += n;
        }
        Ok(done)
    }

    /// Decompresses a frame, and keeps it.
    fn hold(&mut self, index: usize) -> io::Result<()> {
        if self.held == Some(index) {
            return Ok(());
        }
        let Some(frame) = self.table.0.get(index).copied() else { return Ok(()) };
        self.held = None;
        let packed = self.raw(frame)?;
        self.bytes.resize(frame.plain as usize, 0);
        if !unpack(&packed, frame, &mut self.bytes) {
            self.bytes.fill(0);
            let start = index as u64 * FRAME as u64;
            self.hole = Some((start, start + u64::from(frame.plain)));
        }
        self.held = Some(index);
        Ok(())
    }

    /// Reads a frame as it stands in the file.
    fn raw(&self, frame: Frame) -> io::Result<Vec<u8>> {
        let mut packed = vec![0; frame.packed as usize];
        let n = read_at(&self.file, &mut packed, frame.at)?;
        packed.truncate(n);
        Ok(packed)
    }

    /// Writes the file anew with some of its content changed; frames that are not touched stay as they are.
    pub(crate) fn rewrite(&mut self, changes: &[(u64, &[u8])], out: &dyn LogFile) -> io::Result<()> {
        if let Some(flaw) = self.flaw {
            return Err(io::Error::other(flaw));
        }
        let mut writer = Writer::new(out)?;
        for index in 0..self.table.0.len() {
            let start = index as u64 * FRAME as u64;
            let frame = self.table.0[index];
            let end = start + u64::from(frame.plain);
            let touching = changes.iter().filter(|(at, b)| *at < end && at + b.len() as u64 > start);
            let touching: Vec<_> = touching.collect();
            if touching.is_empty() {
                let raw = self.raw(frame)?;
                writer.put(&raw, frame.plain)?;
                continue;
            }
            self.hold(index)?;
            if let Some(flaw) = self.flaw(start, end) {
                return Err(io::Error::other(flaw));
            }
            for (at, bytes) in touching {
                let (from, to) = ((*at).max(start), (at + bytes.len() as u64).min(end));
                let place = |n: u64, base: u64| usize::try_from(n - base).unwrap_or(0);
                self.bytes[place(from, start)..place(to, start)]
                    .copy_from_slice(&bytes[place(from, *at)..place(to, *at)]);
            }
            writer.frame(&self.bytes)?;
        }
        // What was changed in memory is not what the file has.
        self.held = None;
        writer.end().map(|_| ())
    }

    /// Returns the size of the file.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

/// Decompresses a frame; returns whether it is whole.
fn unpack(packed: &[u8], frame: Frame, into: &mut [u8]) -> bool {
    packed.len() == frame.packed as usize
        && content_size(packed) == Some(frame.plain)
        && find_frame_compressed_size(packed) == Ok(packed.len())
        && decompress_to_buffer(packed, into).is_ok_and(|n| n == into.len())
}

/// Writes a compressed segment.
pub(crate) struct Writer<'a> {
    out: &'a dyn LogFile,
    at: u64,
    table: Table,
    packer: Compressor<'static>,
    buf: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a dyn LogFile) -> io::Result<Self> {
        let mut packer = Compressor::new(LEVEL)?;
        packer.set_parameter(CParameter::ChecksumFlag(true))?;
        packer.set_parameter(CParameter::ContentSizeFlag(true))?;
        Ok(Self { out, at: 0, table: Table::default(), packer, buf: vec![0; PACKED_LIMIT] })
    }

    /// Adds a frame of content: a mebibyte, or the rest.
    pub(crate) fn frame(&mut self, content: &[u8]) -> io::Result<()> {
        let plain = u32::try_from(content.len()).map_err(io::Error::other)?;
        let mut buf = std::mem::take(&mut self.buf);
        let n = self.packer.compress_to_buffer(content, &mut buf[..])?;
        let result = self.put(&buf[..n], plain);
        self.buf = buf;
        result
    }

    fn put(&mut self, packed: &[u8], plain: u32) -> io::Result<()> {
        self.out.write_all_at(packed, self.at)?;
        let len = u32::try_from(packed.len()).map_err(io::Error::other)?;
        self.table.0.push(Frame { at: self.at, packed: len, plain });
        self.at += packed.len() as u64;
        Ok(())
    }

    /// Writes the table and makes all durable; returns the size of the file.
    pub(crate) fn end(self) -> io::Result<u64> {
        let table = self.table.render().ok_or_else(|| io::Error::other("the segment is too large"))?;
        self.out.write_all_at(&table, self.at)?;
        let size = self.at + table.len() as u64;
        self.out.set_len(size)?;
        self.out.sync_data()?;
        Ok(size)
    }
}

#[cfg(test)]
#[path = "packed_tests.rs"]
mod tests;
