//! The checkpoints on disk: one signed note a file, named by its size, and the newest again as `latest`.
//!
//! It refuses a file that does not say what its name says; that one is set aside. They are no part of `state/`: a
//! checkpoint is evidence that nothing can make again. Invariant: a checkpoint is durable before anybody is told of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mirror_paths::{private_dir, sync_dir, write_atomic};

use crate::checkpoint;
use crate::store::read;
use crate::witness::Claim;

/// A signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// What it says.
    pub(crate) claim: Claim,
    /// The signed note.
    pub(crate) note: String,
    /// When it was made, in milliseconds since 1970.
    pub(crate) at_ms: u64,
}

/// The folder of one log's checkpoints.
#[derive(Debug, Clone)]
pub(crate) struct Notes {
    dir: PathBuf,
    origin: String,
}

impl Notes {
    /// Opens the folder of a log under the bus folder; makes it where there is none.
    pub(crate) fn open(bus: &Path, origin: &str) -> io::Result<Self> {
        let parent = bus.join("checkpoints");
        private_dir(&parent).map_err(io::Error::other)?;
        let dir = parent.join(origin);
        private_dir(&dir).map_err(io::Error::other)?;
        Ok(Self { dir, origin: origin.to_owned() })
    }

    /// Returns the folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, size: u64) -> PathBuf {
        self.dir.join(format!("{size:020}.note"))
    }

    /// Returns the sizes that there are checkpoints of, in order.
    pub(crate) fn sizes(&self) -> io::Result<Vec<u64>> {
        let mut sizes = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let size = name.to_str().and_then(|name| name.strip_suffix(".note")).and_then(|s| s.parse().ok());
            sizes.extend(size.filter(|size| *self.path(*size).file_name().unwrap_or_default() == *name));
        }
        sizes.sort_unstable();
        Ok(sizes)
    }

    /// Returns the checkpoint of a size; none when there is none, or one that does not say so, which is set aside.
    pub(crate) fn read(&self, size: u64) -> io::Result<Option<Checkpoint>> {
        let path = self.path(size);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let note = String::from_utf8(bytes).ok();
        let claim = note.as_deref().and_then(|note| checkpoint::peek(&self.origin, note));
        match (note, claim.filter(|claim| claim.size == size)) {
            (Some(note), Some(claim)) => {
                let made = fs::metadata(&path)?.modified()?;
                let at = made.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
                Ok(Some(Checkpoint { claim, note, at_ms }))
            }
            _ => {
                self.set_aside(size, "it is no checkpoint of this log and size")?;
                Ok(None)
            }
        }
    }

    /// Returns the newest checkpoint.
    pub(crate) fn newest(&self) -> io::Result<Option<Checkpoint>> {
        Ok(self.list(u64::MAX, 1)?.pop())
    }

    /// Returns at most `limit` checkpoints of fewer events than `before`, newest first.
    pub(crate) fn list(&self, before: u64, limit: usize) -> io::Result<Vec<Checkpoint>> {
        let mut found = Vec::new();
        for size in self.sizes()?.into_iter().rev().filter(|size| *size < before) {
            if found.len() == limit {
                break;
            }
            found.extend(self.read(size)?);
        }
        Ok(found)
    }

    /// Returns what all checkpoints say, in order of size.
    pub(crate) fn claims(&self) -> io::Result<Vec<Claim>> {
        let mut claims = Vec::new();
        for size in self.sizes()? {
            claims.extend(self.read(size)?.map(|checkpoint| checkpoint.claim));
        }
        Ok(claims)
    }

    /// Returns the size and time of each checkpoint, in order of size.
    pub(crate) fn times(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut times = Vec::new();
        for size in self.sizes()? {
            let made = fs::metadata(self.path(size))?.modified()?;
            let at = made.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            times.push((size, u64::try_from(at.as_millis()).unwrap_or(u64::MAX)));
        }
        Ok(times)
    }

    /// Writes a checkpoint.
    pub(crate) fn write(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let path = self.path(checkpoint.claim.size);
        write_atomic(&path, checkpoint.note.as_bytes())?;
        // The time of the file is the time of the checkpoint: the note has no room for it.
        let made = SystemTime::UNIX_EPOCH + Duration::from_millis(checkpoint.at_ms);
        fs::File::options().write(true).open(&path)?.set_modified(made)?;
        write_atomic(&self.dir.join("latest"), checkpoint.note.as_bytes())
    }

    /// Removes checkpoints that others supersede.
    pub(crate) fn remove(&self, sizes: &[u64]) -> io::Result<()> {
        for size in sizes {
            fs::remove_file(self.path(*size))?;
        }
        if sizes.is_empty() { Ok(()) } else { sync_dir(&self.dir) }
    }

    /// Moves a checkpoint that cannot be believed out of the way, to be looked at.
    pub(crate) fn set_aside(&self, size: u64, why: &str) -> io::Result<()> {
        let path = self.path(size);
        tracing::warn!(why, path = %path.display(), "a checkpoint is set aside");
        fs::rename(&path, path.with_extension("note.bad"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const ORIGIN: &str = "0123456789abcdef.1";

    fn fixture() -> (tempfile::TempDir, Notes) {
        let temp = tempfile::tempdir().unwrap();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let notes = Notes::open(temp.path(), ORIGIN).unwrap();
        (temp, notes)
    }

    fn made(size: u64) -> Checkpoint {
        let claim = Claim { size, root: [7; 32] };
        let note = format!("{}\n\u{2014} x AAAAAA==\n", checkpoint::text(ORIGIN, &claim));
        Checkpoint { claim, note, at_ms: 1_767_225_600_123 + size }
    }

    #[test]
    fn what_is_written_is_read_back_with_its_time() {
        let (_temp, notes) = fixture();
        assert_eq!(notes.newest().unwrap(), None);
        for size in [7, 40, 100] {
            notes.write(&made(size)).unwrap();
        }
        assert_eq!(notes.newest().unwrap(), Some(made(100)));
        assert_eq!(notes.list(100, 9).unwrap(), [made(40), made(7)]);
        assert_eq!(notes.list(u64::MAX, 2).unwrap(), [made(100), made(40)]);
        assert_eq!(notes.times().unwrap()[0], (7, made(7).at_ms));
        assert_eq!(fs::read_to_string(notes.dir().join("latest")).unwrap(), made(100).note);
        notes.remove(&[7, 100]).unwrap();
        assert_eq!(notes.sizes().unwrap(), [40]);
    }

    #[test]
    fn a_file_that_does_not_say_what_its_name_says_is_set_aside() {
        let (_temp, notes) = fixture();
        notes.write(&made(7)).unwrap();
        fs::copy(notes.path(7), notes.path(9)).unwrap();
        fs::write(notes.path(8), b"\xff").unwrap();
        fs::write(notes.dir().join("12.note"), made(12).note).unwrap();
        assert_eq!(notes.sizes().unwrap(), [7, 8, 9]);
        assert_eq!(notes.claims().unwrap(), [made(7).claim]);
        assert_eq!(notes.sizes().unwrap(), [7]);
        assert!(notes.path(9).with_extension("note.bad").is_file());
    }
}
