//! The few file operations that the log is made of, so that a test can fail, lose or tear each of them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// An open segment.
pub trait LogFile: Send + Sync + std::fmt::Debug {
    /// Writes all bytes at an offset.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes everything written so far durable; on macOS this is F_FULLFSYNC.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or extends the file, and makes its length and everything written so far durable.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// Where the log writes. Reading goes through the file system itself.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Opens a file for writing, and makes it if it does not exist.
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>>;
    /// Renames a file.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Returns the free and total bytes of the volume.
    fn space(&self, dir: &Path) -> io::Result<(u64, u64)>;
}

/// The machine's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl LogFile for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)?;
        self.sync_all()
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        mirror_paths::sync_dir(dir)
    }

    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        let stat = nix::sys::statvfs::statvfs(dir)?;
        // The fields are narrower on macOS.
        #[allow(clippy::useless_conversion, clippy::allow_attributes, reason = "the types differ by system")]
        let (free, total, unit) =
            (u64::from(stat.blocks_available()), u64::from(stat.blocks()), u64::from(stat.fragment_size()));
        Ok((free * unit, total * unit))
    }
}

/// Newlines, with which a segment is filled ahead of use.
static FILL: [u8; 1 << 16] = [b'\n'; 1 << 16];

/// Returns how many newlines bytes begin with. Most of an active segment is newlines, so they are compared in blocks.
pub(crate) fn leading_newlines(bytes: &[u8]) -> usize {
    let blank = bytes.chunks(FILL.len() >> 4).take_while(|block| *block == &FILL[..block.len()]);
    let skipped: usize = blank.map(<[u8]>::len).sum();
    skipped + bytes[skipped..].iter().take_while(|b| **b == b'\n').count()
}

/// Returns where the last byte that is no newline ends, 0 when there is none.
pub(crate) fn text_end(bytes: &[u8]) -> usize {
    let blank = bytes.rchunks(FILL.len() >> 4).take_while(|block| *block == &FILL[..block.len()]);
    let rest = bytes.len() - blank.map(<[u8]>::len).sum::<usize>();
    rest - bytes[..rest].iter().rev().take_while(|b| **b == b'\n').count()
}

/// Writes newlines from `from` to `to`.
pub(crate) fn fill(file: &dyn LogFile, mut from: u64, to: u64) -> io::Result<()> {
    while from < to {
        let len = FILL.len().min(usize::try_from(to - from).unwrap_or(usize::MAX));
        file.write_all_at(&FILL[..len], from)?;
        from += len as u64;
    }
    Ok(())
}

/// Replaces a small file, so that a crash leaves the old one or the new one, and makes it durable.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("the file has no folder"));
    };
    let mut temp = name.to_owned();
    temp.push(".tmp");
    let temp = dir.join(temp);
    let file = disk.open(&temp)?;
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_data()?;
    disk.rename(&temp, path)?;
    disk.sync_dir(dir)
}

/// Reads up to `buf.len()` bytes at an offset.
pub(crate) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, proptest};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn runs_of_newlines_are_counted(head in 0..9_000_usize, text in "[a\n]{0,3}", tail in 0..9_000_usize) {
            let bytes = ["\n".repeat(head), text, "\n".repeat(tail)].concat().into_bytes();
            let first = bytes.iter().position(|b| *b != b'\n').unwrap_or(bytes.len());
            assert_eq!(leading_newlines(&bytes), first);
            assert_eq!(text_end(&bytes), bytes.iter().rposition(|b| *b != b'\n').map_or(0, |at| at + 1));
        }
    }
}
