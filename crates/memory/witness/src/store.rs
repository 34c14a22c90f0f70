//! The snapshot: the fold on disk, so that a start need not read the whole log.
//!
//! It refuses a snapshot that is damaged, of another log, or of another version of the fold: that one is set aside, and
//! the fold rebuilt from the log. Invariant: what is loaded is what was saved, which a digest shows.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use mirror_paths::write_atomic;
use mirror_seal::{Frontier, hex, sha256, unhex};
use serde::{Deserialize, Serialize};

use crate::scrub::Verified;
use crate::witness::{Claim, Cursor, Fold};

/// Version of the fold; raised when the same events give another one.
const FOLD: u32 = 1;

/// Largest file that is read; the largest state takes a quarter of it.
const LIMIT: u64 = 256 << 10;

#[derive(Serialize, Deserialize)]
struct Snapshot {
    fold: u32,
    origin: String,
    tree: Frontier,
    leaf: String,
    foreign: u64,
    keeper: Cursor,
    agreed: Option<(u64, String)>,
    digest: String,
}

impl Snapshot {
    /// Returns the digest of all other fields.
    fn digest(&self) -> io::Result<String> {
        let fields =
            (self.fold, &self.origin, &self.tree, &self.leaf, self.foreign, &self.keeper, &self.agreed);
        Ok(hex(&sha256(&serde_json::to_vec(&fields)?)))
    }
}

/// Where the state lies.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
    origin: String,
    /// Held while a snapshot is written: by the reader, the notary and the drain.
    saving: Arc<Mutex<()>>,
}

impl Store {
    /// Returns the store in a folder, for a log.
    pub(crate) fn at(dir: &Path, origin: &str) -> Self {
        Self { dir: dir.to_owned(), origin: origin.to_owned(), saving: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("snapshot.json")
    }

    /// Returns the fold that was saved last, or the empty one.
    pub(crate) fn load(&self) -> Fold {
        let bytes = match read(&self.path()) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Fold::default(),
            Err(error) => return self.refused(&error.to_string()),
        };
        self.parse(&bytes).unwrap_or_else(|why| self.refused(&why))
    }

    fn parse(&self, bytes: &[u8]) -> Result<Fold, String> {
        let snapshot: Snapshot = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if snapshot.fold != FOLD {
            return Err(format!("fold {} and not {FOLD}", snapshot.fold));
        }
        if snapshot.digest().ok().as_deref() != Some(&snapshot.digest) {
            return Err("its digest is wrong".to_owned());
        }
        if snapshot.origin != self.origin {
            return Err("it was made from another log".to_owned());
        }
        let agreed = snapshot.agreed.and_then(|(size, root)| Some(Claim { size, root: unhex(&root)? }));
        let Snapshot { tree, leaf, foreign, keeper, .. } = snapshot;
        Ok(Fold::restored(tree, unhex(&leaf), foreign, keeper, agreed))
    }

    /// Saves the fold as it is once nobody else saves one, so that an older never replaces a newer.
    pub(crate) fn save(&self, fold: impl FnOnce() -> Fold) -> io::Result<()> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let fold = fold();
        let mut snapshot = Snapshot {
            fold: FOLD,
            origin: self.origin.clone(),
            tree: fold.frontier().clone(),
            leaf: fold.leaf().map(|leaf| hex(&leaf)).unwrap_or_default(),
            foreign: fold.foreign(),
            keeper: fold.keeper().clone(),
            agreed: fold.agreed().map(|claim| (claim.size, hex(&claim.root))),
            digest: String::new(),
        };
        snapshot.digest = snapshot.digest()?;
        write_atomic(&self.path(), &serde_json::to_vec(&snapshot)?)
    }

    fn refused(&self, why: &str) -> Fold {
        tracing::warn!(why, path = %self.path().display(), "the snapshot is set aside and rebuilt from the log");
        self.set_aside();
        Fold::default()
    }

    /// Moves the snapshot out of the way, to be looked at.
    pub(crate) fn set_aside(&self) {
        // Whether it moves or not: the next save replaces it.
        let _ = fs::rename(self.path(), self.path().with_extension("json.bad"));
    }

    /// Returns what the last whole verification found.
    pub(crate) fn verified(&self) -> Option<Verified> {
        let bytes = read(&self.dir.join("verified.json")).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    /// Saves what a whole verification found.
    pub(crate) fn save_verified(&self, verified: &Verified) -> io::Result<()> {
        write_atomic(&self.dir.join("verified.json"), &serde_json::to_vec(verified)?)
    }
}

/// Returns the bytes of a file; none when there is no file.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        return Err(io::Error::other("it is too large"));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::witness::Seen;

    const ORIGIN: &str = "0123456789abcdef.1";

    fn fixture() -> (tempfile::TempDir, Store, Fold) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::at(temp.path(), ORIGIN);
        let mut fold = Fold::default();
        for n in 1..=11_u8 {
            let keeper = (n == 9).then(|| Cursor { number: 3, hash: "ab".repeat(32) });
            fold.take(Seen { leaf: [n; 32], own: n > 9, keeper });
        }
        fold.agree(fold.claim());
        (temp, store, fold)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (_temp, store, fold) = fixture();
        assert_eq!(store.load(), Fold::default());
        store.save(|| fold.clone()).unwrap();
        assert_eq!(store.load(), fold);
    }

    #[test]
    fn every_damaged_byte_is_noticed_and_the_file_set_aside() {
        let (_temp, store, fold) = fixture();
        store.save(|| fold.clone()).unwrap();
        let good = fs::read(store.path()).unwrap();
        let aside = store.path().with_extension("json.bad");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(store.path(), &bad).unwrap();
            assert_eq!(store.load(), Fold::default(), "byte {at}");
            assert_eq!(fs::read(&aside).unwrap(), bad);
            assert!(!store.path().exists());
        }
    }

    #[test]
    fn a_snapshot_of_another_log_is_set_aside() {
        let (temp, store, fold) = fixture();
        store.save(|| fold.clone()).unwrap();
        assert_eq!(Store::at(temp.path(), "0123456789abcdef.2").load(), Fold::default());
    }
}
