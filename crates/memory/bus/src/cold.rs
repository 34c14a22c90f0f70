//! Sealed segments at rest: compressed, and changed where a payload is erased.
//!
//! A segment is compressed beside its plain file, read back and compared, and only then takes its place; whoever holds the
//! plain file goes on reading it. A crash at any step leaves a log that reads the same.

use std::fs::File;
use std::io;

use crate::disk::{Disk, read_at};
use crate::packed::{FRAME, Packed, Writer};
use crate::segments::{Segments, name, packed_name};
use crate::source::Source;

/// What became of a segment that was to be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// It is compressed: bytes before and after.
    Done { before: u64, after: u64 },
    /// It was compressed already, or is changed by somebody else.
    Left,
    /// Whoever asked wants no more.
    Stopped,
}

impl Segments {
    /// Overwrites places of a segment for good, in one change; its length stays.
    ///
    /// A compressed segment is written anew, and frames that are not touched are taken over as they are.
    pub(crate) fn overwrite_all(
        &self,
        disk: &dyn Disk,
        first: u64,
        changes: &[(u64, &[u8])],
    ) -> io::Result<()> {
        self.generations.change(first, || match self.source(first)? {
            Source::Plain(found) => {
                let size = found.metadata()?.len();
                within(changes, size)?;
                let file = disk.open(&self.dir.join(name(first)))?;
                for (offset, bytes) in changes {
                    file.write_all_at(bytes, *offset)?;
                }
                file.sync_data()
            }
            Source::Packed(mut packed) => {
                within(changes, packed.content())?;
                let temp = self.dir.join(packed_name(first) + ".tmp");
                let out = disk.open(&temp)?;
                out.set_len(0)?;
                packed.rewrite(changes, out.as_ref())?;
                disk.rename(&temp, &self.dir.join(packed_name(first)))?;
                disk.sync_dir(&self.dir)
            }
        })
    }

    /// Compresses a sealed segment. `go_on` is asked after each mebibyte.
    pub(crate) fn compress(
        &self,
        disk: &dyn Disk,
        first: u64,
        go_on: &mut dyn FnMut() -> bool,
    ) -> io::Result<Packing> {
        let seen = self.generations.get(first);
        let plain_path = self.dir.join(name(first));
        let plain = match File::open(&plain_path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Packing::Left),
            other => other?,
        };
        if !seen.is_multiple_of(2) {
            return Ok(Packing::Left);
        }
        let before = plain.metadata()?.len();
        let packed_path = self.dir.join(packed_name(first));
        let temp = self.dir.join(packed_name(first) + ".tmp");
        let packed = pack(disk, &plain, &temp, go_on);
        let after = match packed {
            Ok(Some(after)) => after,
            other => {
                disk.remove(&temp)?;
                // Bytes that were changed meanwhile cannot compare.
                let left = self.generations.get(first) != seen;
                return if left { Ok(Packing::Left) } else { other.map(|_| Packing::Stopped) };
            }
        };
        let switched = self.generations.change_from(first, seen, || {
            disk.rename(&temp, &packed_path)?;
            disk.sync_dir(&self.dir)?;
            disk.remove(&plain_path)?;
            disk.sync_dir(&self.dir)
        })?;
        if switched.is_none() {
            // What was compressed is not what stands there now.
            disk.remove(&temp)?;
            return Ok(Packing::Left);
        }
        Ok(Packing::Done { before, after })
    }
}

fn within(changes: &[(u64, &[u8])], size: u64) -> io::Result<()> {
    let fits = |(offset, bytes): &(u64, &[u8])| {
        offset.checked_add(bytes.len() as u64).is_some_and(|end| end <= size)
    };
    match changes.iter().all(fits) {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "the place is not within the segment")),
    }
}

/// Writes the compressed form of a file, durable and compared with it; returns its size, or nothing when told to stop.
pub(crate) fn pack(
    disk: &dyn Disk,
    plain: &File,
    temp: &std::path::Path,
    go_on: &mut dyn FnMut() -> bool,
) -> io::Result<Option<u64>> {
    let out = disk.open(temp)?;
    out.set_len(0)?;
    let mut writer = Writer::new(out.as_ref())?;
    let mut content = vec![0; FRAME];
    let mut at = 0;
    loop {
        let n = read_at(plain, &mut content, at)?;
        if n > 0 {
            writer.frame(&content[..n])?;
        }
        at += n as u64;
        if n < FRAME {
            break;
        }
        if !go_on() {
            return Ok(None);
        }
    }
    let size = writer.end()?;
    let mut packed = Packed::open(File::open(temp)?)?;
    let whole = packed.content() == at && packed.size() == size && packed.flaw(0, 0).is_none();
    let mut back = vec![0; FRAME];
    let mut from = 0;
    while whole && from < at {
        let n = read_at(plain, &mut content, from)?;
        if packed.read_at(&mut back, from)? != n || back[..n] != content[..n] {
            break;
        }
        from += n as u64;
        if !go_on() {
            return Ok(None);
        }
    }
    match from == at && whole {
        true => Ok(Some(size)),
        false => Err(io::Error::other("what was compressed does not read back as it was written")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use mirror_types::Origin;

    use super::*;
    use crate::disk::RealDisk;

    fn segments(dir: &std::path::Path, content: &[u8]) -> Segments {
        let origin = Origin::parse("0123456789abcdef.1").unwrap();
        let segments = Segments::new(dir.to_owned(), origin, Arc::new(RealDisk)).unwrap();
        segments.add(1);
        fs::write(dir.join(name(1)), content).unwrap();
        segments
    }

    fn content(segments: &Segments) -> Vec<u8> {
        let mut source = segments.source(1).unwrap();
        let mut bytes = vec![0; usize::try_from(source.len().unwrap()).unwrap() + 1];
        let n = source.read_at(&mut bytes, 0).unwrap();
        bytes.truncate(n);
        bytes
    }

    fn some(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(i * i % 251).unwrap()).collect()
    }

    /// Overwrites within a frame, across two, and at the end, in both forms: with the same result, and once.
    #[test]
    fn bytes_are_overwritten_in_both_forms() {
        let plain = some(2 * FRAME + 100);
        let changes: Vec<(u64, &[u8])> =
            vec![(5, b"one"), (FRAME as u64 - 2, b"across"), (2 * FRAME as u64 + 97, b"end")];
        let mut expected = plain.clone();
        for (at, bytes) in &changes {
            let at = usize::try_from(*at).unwrap();
            expected[at..at + bytes.len()].copy_from_slice(bytes);
        }
        for packed in [false, true] {
            let temp = tempfile::tempdir().unwrap();
            let segments = segments(temp.path(), &plain);
            if packed {
                let done = segments.compress(&RealDisk, 1, &mut || true).unwrap();
                assert!(matches!(done, Packing::Done { before, .. } if before == plain.len() as u64));
            }
            let before = segments.generations.get(1);
            segments.overwrite_all(&RealDisk, 1, &changes).unwrap();
            assert!(content(&segments) == expected, "packed: {packed}");
            assert_eq!(segments.generations.get(1), before + 2);
            let outside = segments.overwrite_all(&RealDisk, 1, &[(plain.len() as u64 - 1, b"xx")]);
            assert_eq!(outside.unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert!(content(&segments) == expected);
            assert_eq!(temp.path().join(name(1)).exists(), !packed);
        }
    }

    #[test]
    fn a_segment_that_changes_meanwhile_stays_plain() {
        let temp = tempfile::tempdir().unwrap();
        let segments = segments(temp.path(), &some(2 * FRAME));
        let mut changed = false;
        let left = segments.compress(&RealDisk, 1, &mut || {
            if !changed {
                segments.overwrite_all(&RealDisk, 1, &[(3, b"erased")]).unwrap();
                changed = true;
            }
            true
        });
        assert_eq!(left.unwrap(), Packing::Left);
        assert_eq!(&content(&segments)[3..9], b"erased", "what was erased does not come back");
        let files = fs::read_dir(temp.path()).unwrap().count();
        assert_eq!(files, 2, "the segment and the generations");
        assert_eq!(segments.compress(&RealDisk, 1, &mut || false).unwrap(), Packing::Stopped);
        assert!(matches!(segments.compress(&RealDisk, 1, &mut || true).unwrap(), Packing::Done { .. }));
        assert_eq!(&content(&segments)[3..9], b"erased");
        assert_eq!(segments.compress(&RealDisk, 1, &mut || true).unwrap(), Packing::Left);
    }
}
