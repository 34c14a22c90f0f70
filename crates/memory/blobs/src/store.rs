//! The files: `blobs/<first two digits>/<digest>`, read-only, and uploads in progress under names of their own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use mirror_paths::{Home, absent_is_fine, private_dir, sync_dir};

use crate::blob::{Content, Digest, Intake, is_temporary, temporary_name};
use crate::error::BlobsError;

/// Largest part of a blob that is in memory at once while it is read.
const READ_BYTES: u64 = 256 << 10;

/// How often an upload looks again when the file with its name changes under it.
const PLACE_ATTEMPTS: u32 = 4;

/// What became of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// What was taken in.
    pub(crate) content: Content,
    /// Whether it was stored before.
    pub(crate) duplicate: bool,
    /// Whether a damaged file had its name and is in quarantine now.
    pub(crate) replaced: bool,
}

/// The store of a home.
#[derive(Debug, Clone)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blobs: PathBuf,
    quarantine: PathBuf,
    limit: u64,
    reserve: u64,
    /// Held while a blob's name appears or goes, so that a good file is never taken for the damaged one before it.
    naming: Mutex<()>,
}

impl Store {
    /// Opens the store of a home, and returns how many interrupted uploads it removed.
    pub(crate) fn open(home: &Home, limit: u64, reserve: u64) -> Result<(Self, usize), BlobsError> {
        let blobs = home.blobs();
        let storage = BlobsError::storage("open the folder of blobs");
        let mut leftovers = 0;
        for entry in fs::read_dir(&blobs).map_err(&storage)? {
            let entry = entry.map_err(&storage)?;
            let own = entry.file_name().to_str().is_some_and(is_temporary);
            if own && entry.file_type().map_err(&storage)?.is_file() {
                fs::remove_file(entry.path()).map_err(&storage)?;
                leftovers += 1;
            }
        }
        // A folder made just before a crash may not be durable yet, and no later upload would sync its name.
        sync_dir(&blobs).map_err(&storage)?;
        let quarantine = home.quarantine().join("blobs");
        Ok((Self(Arc::new(Inner { blobs, quarantine, limit, reserve, naming: Mutex::new(()) })), leftovers))
    }

    /// Begins an upload.
    pub(crate) fn begin(&self, expected: Option<Digest>) -> Result<Upload, BlobsError> {
        self.check_reserve(0)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|e| BlobsError::storage("make a temporary name")(io::Error::other(e.to_string())))?;
        let path = self.0.blobs.join(temporary_name(random));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(&path)
            .map_err(BlobsError::storage("make a file"))?;
        let intake = Intake::new(self.0.limit, expected);
        Ok(Upload { store: self.clone(), intake, file, temporary: Temporary(path) })
    }

    /// Returns what is known of a blob without reading it.
    pub(crate) fn info(&self, digest: Digest) -> Result<Content, BlobsError> {
        let meta = self.meta(digest)?.ok_or(BlobsError::Missing(digest))?;
        Ok(Content { digest, size: meta.len() })
    }

    /// Opens a blob, to be verified while it is read.
    pub(crate) fn read(&self, digest: Digest) -> Result<Reading, BlobsError> {
        let size = self.info(digest)?.size;
        let file = File::open(self.path(digest)).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => BlobsError::Missing(digest),
            _ => BlobsError::storage("open a blob")(e),
        })?;
        Ok(Reading { store: self.clone(), digest, file, hasher: blake3::Hasher::new(), done: 0, size })
    }

    /// Reads a blob whole and verifies it.
    pub(crate) fn check(&self, digest: Digest) -> Result<Content, BlobsError> {
        let mut reading = self.read(digest)?;
        let mut part = Vec::new();
        while reading.fill(&mut part)? {}
        Ok(Content { digest, size: reading.done })
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.0.blobs.join(digest.shard()).join(digest.to_string())
    }

    fn meta(&self, digest: Digest) -> Result<Option<fs::Metadata>, BlobsError> {
        let storage = BlobsError::storage("look up a blob");
        match fs::symlink_metadata(self.path(digest)) {
            Ok(meta) if meta.is_file() => Ok(Some(meta)),
            Ok(_) => Err(storage(io::Error::other(format!("{digest} is not a file")))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(storage(e)),
        }
    }

    fn check_reserve(&self, more: usize) -> Result<(), BlobsError> {
        let disk = nix::sys::statvfs::statvfs(&self.0.blobs)
            .map_err(|e| BlobsError::storage("ask how full the disk is")(e.into()))?;
        #[expect(clippy::useless_conversion, reason = "the widths of these fields differ between systems")]
        let available = u64::from(disk.blocks_available()).saturating_mul(u64::from(disk.fragment_size()));
        let needed = self.0.reserve.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
        if available < needed {
            return Err(BlobsError::DiskReserve { available, reserve: self.0.reserve });
        }
        Ok(())
    }

    /// Makes the folder of a digest, durably, and returns it.
    fn shard(&self, digest: Digest) -> Result<PathBuf, BlobsError> {
        let dir = self.0.blobs.join(digest.shard());
        let _naming = self.0.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let storage = BlobsError::storage("make a folder");
        if !dir.is_dir() {
            private_dir(&dir).map_err(|e| storage(io::Error::other(e)))?;
            sync_dir(&self.0.blobs).map_err(storage)?;
        }
        Ok(dir)
    }

    /// Gives synced content its name, unless good content has it already.
    fn place(&self, content: Content, temporary: Temporary) -> Result<Receipt, BlobsError> {
        let digest = content.digest;
        let mut replaced = false;
        for _ in 0..PLACE_ATTEMPTS {
            // What lies there may be damaged; an answer that says "stored" must hold for it too.
            match self.check(digest) {
                Ok(_) => return Ok(Receipt { content, duplicate: true, replaced }),
                Err(BlobsError::Missing(_)) => {}
                Err(BlobsError::Corrupt { unmoved: None, .. }) => replaced = true,
                Err(BlobsError::Corrupt { unmoved: Some(e), .. }) => {
                    return Err(BlobsError::storage("move a damaged blob to quarantine")(e));
                }
                Err(e) => return Err(e),
            }
            let _naming = self.0.naming.lock().unwrap_or_else(PoisonError::into_inner);
            if self.meta(digest)?.is_none() {
                fs::rename(&temporary.0, self.path(digest)).map_err(BlobsError::storage("name a blob"))?;
                temporary.keep();
                return Ok(Receipt { content, duplicate: false, replaced });
            }
        }
        let changed = io::Error::other(format!("the file of {digest} keeps changing"));
        Err(BlobsError::storage("name a blob")(changed))
    }

    /// Deletes the bytes of a blob, and what was moved to quarantine of it; who reads it now reads it to its end.
    pub(crate) fn erase(&self, digest: Digest) -> Result<(), BlobsError> {
        let storage = BlobsError::storage("delete a blob");
        let _naming = self.0.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let remove = |path: &Path| -> io::Result<()> {
            absent_is_fine(fs::remove_file(path))?;
            absent_is_fine(path.parent().map_or(Ok(()), sync_dir))
        };
        remove(&self.path(digest)).map_err(&storage)?;
        let entries = match fs::read_dir(&self.0.quarantine) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(storage(e)),
        };
        let name = digest.to_string();
        for entry in entries {
            let entry = entry.map_err(&storage)?;
            // The names that `unused` gives.
            if entry.file_name().to_str().is_some_and(|n| n.split('.').next() == Some(&name)) {
                remove(&entry.path()).map_err(&storage)?;
            }
        }
        Ok(())
    }

    /// Moves the file of a digest away if it still is `file`.
    fn quarantine(&self, digest: Digest, file: &File) -> io::Result<()> {
        let _naming = self.0.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path(digest);
        let now = match fs::symlink_metadata(&path) {
            Ok(now) => now,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        let read = file.metadata()?;
        if (read.dev(), read.ino()) != (now.dev(), now.ino()) {
            return Ok(());
        }
        private_dir(&self.0.quarantine).map_err(io::Error::other)?;
        let target = unused(&self.0.quarantine, &digest.to_string())?;
        fs::rename(&path, target)?;
        sync_dir(&self.0.quarantine)?;
        path.parent().map_or(Ok(()), sync_dir)
    }
}

/// Returns a path in `dir` that nothing has: `name`, else `name.2` and so on.
fn unused(dir: &Path, name: &str) -> io::Result<PathBuf> {
    for n in 1_u32.. {
        let path = if n == 1 { dir.join(name) } else { dir.join(format!("{name}.{n}")) };
        match fs::symlink_metadata(&path) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The file of an upload in progress; it goes when this is dropped.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Temporary {
    /// Lets the file be, since it has another name now.
    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // One that cannot be removed now is removed at the next start.
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// An upload in progress; nothing is kept of one that is dropped.
#[derive(Debug)]
pub(crate) struct Upload {
    store: Store,
    intake: Intake,
    file: File,
    temporary: Temporary,
}

impl Upload {
    /// Takes the next bytes.
    pub(crate) fn write(&mut self, chunk: &[u8]) -> Result<(), BlobsError> {
        self.intake.take(chunk)?;
        self.store.check_reserve(chunk.len())?;
        self.file.write_all(chunk).map_err(BlobsError::storage("write to the disk"))
    }

    /// Stores what was taken; when this returns, it survives a power cut.
    pub(crate) fn commit(self) -> Result<Receipt, BlobsError> {
        let content = self.intake.finish()?;
        self.file.sync_all().map_err(BlobsError::storage("sync a file"))?;
        let shard = self.store.shard(content.digest)?;
        let receipt = self.store.place(content, self.temporary)?;
        // For a duplicate too: whoever named it may not have synced the name yet.
        sync_dir(&shard).map_err(BlobsError::storage("sync a folder"))?;
        Ok(receipt)
    }
}

/// A blob that is being read.
#[derive(Debug)]
pub(crate) struct Reading {
    store: Store,
    digest: Digest,
    file: File,
    hasher: blake3::Hasher,
    done: u64,
    size: u64,
}

impl Reading {
    /// Returns the next bytes, or nothing after the last when all of them together have the digest.
    ///
    /// A blob that does not is moved to quarantine before the error is returned.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, BlobsError> {
        let mut part = Vec::new();
        Ok(self.fill(&mut part)?.then(|| part.into()))
    }

    fn fill(&mut self, part: &mut Vec<u8>) -> Result<bool, BlobsError> {
        part.clear();
        let ahead = self.size.saturating_sub(self.done).min(READ_BYTES);
        part.reserve(usize::try_from(ahead).unwrap_or_default());
        let read =
            (&self.file).take(READ_BYTES).read_to_end(part).map_err(BlobsError::storage("read a blob"))?;
        self.done = self.done.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        if read > 0 {
            self.hasher.update(part);
            return Ok(true);
        }
        if Digest::of(&self.hasher) == self.digest {
            return Ok(false);
        }
        let unmoved = self.store.quarantine(self.digest, &self.file).err();
        Err(BlobsError::Corrupt { digest: self.digest, unmoved })
    }
}

#[cfg(test)]
mod tests;
