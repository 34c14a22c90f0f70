//! The snapshot: the fold on disk, so that a start need not read the whole log.
//!
//! It refuses a snapshot that is damaged, of another log, or of another version of the fold: that one is set aside, and
//! the fold rebuilt from the log. Invariant: what is loaded is what was saved, which a digest shows.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use mirror_client::follow::Place;
use mirror_kit::{SnapshotFile, SnapshotForm};
use mirror_paths::write_atomic;
use mirror_seal::{Frontier, hex, unhex};
use serde::{Deserialize, Serialize};

use crate::scrub::Verified;
use crate::witness::{Claim, Cursor, Fold};

/// Largest file that is read; the largest state takes a quarter of it.
const LIMIT: u64 = 256 << 10;

const FORM: SnapshotForm = SnapshotForm { name: "snapshot.json", fold: 2, limit: LIMIT };

#[derive(Serialize, Deserialize)]
struct Content {
    tree: Frontier,
    foreign: u64,
    keeper: Cursor,
    agreed: Option<(u64, String)>,
}

/// Where the state lies.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
    snapshot: SnapshotFile,
}

impl Store {
    /// Returns the store in a folder, for a log.
    pub(crate) fn at(dir: &Path, origin: &str) -> Self {
        Self { dir: dir.to_owned(), snapshot: SnapshotFile::new(dir, origin, FORM) }
    }

    /// Returns the fold that was saved last, or the empty one.
    pub(crate) fn load(&self) -> Fold {
        let Some((content, place)) = self.snapshot.load().loaded() else { return Fold::default() };
        let Content { tree, foreign, keeper, agreed } = content;
        let agreed = agreed.and_then(|(size, root)| Some(Claim { size, root: unhex(&root)? }));
        Fold::restored(tree, unhex(&place.leaf), foreign, keeper, agreed)
    }

    /// Saves the fold as it is once nobody else saves one, so that an older never replaces a newer.
    pub(crate) fn save(&self, fold: impl FnOnce() -> Fold) -> io::Result<()> {
        self.snapshot.save(|| {
            let fold = fold();
            let leaf = fold.leaf().map(|leaf| hex(&leaf)).unwrap_or_default();
            let content = Content {
                tree: fold.frontier().clone(),
                foreign: fold.foreign(),
                keeper: fold.keeper().clone(),
                agreed: fold.agreed().map(|claim| (claim.size, hex(&claim.root))),
            };
            (Place { upto: fold.size(), seq: fold.size(), leaf }, content)
        })
    }

    /// Moves the snapshot out of the way, to be looked at.
    pub(crate) fn set_aside(&self) {
        // Whether it moves or not: the next save replaces it.
        let _ = self.snapshot.set_aside();
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
    fn a_snapshot_that_cannot_be_used_is_set_aside() {
        let (temp, store, fold) = fixture();
        store.save(|| fold.clone()).unwrap();
        assert_eq!(Store::at(temp.path(), "0123456789abcdef.2").load(), Fold::default());
        assert!(store.snapshot.aside().exists());
        fs::write(store.snapshot.path(), "{").unwrap();
        assert_eq!(store.load(), Fold::default());
    }
}
