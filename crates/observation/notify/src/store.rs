//! The snapshot: the fold on disk, so that a start need not read the whole log.
//!
//! Invariant: a snapshot that cannot be trusted is set aside, and the fold rebuilt from the log.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mirror_client::follow::Place;
use serde::{Deserialize, Serialize};

use crate::notify::Cards;

/// Version of the fold; raised when the same events give other cards.
const FOLD: u32 = 1;

/// The cards, and where in the log they stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Fold {
    pub(crate) cards: Cards,
    pub(crate) place: Place,
    /// Erasures up to here are reflected.
    pub(crate) erased: u64,
    /// Whether the fold has reached what was the head of the log when the bus was found; no part of the snapshot.
    pub(crate) caught_up: bool,
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    fold: u32,
    upto: u64,
    seq: u64,
    leaf: String,
    erased: u64,
    cards: Cards,
}

/// Where the snapshot lies.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    path: PathBuf,
}

impl Store {
    /// Returns the store in a folder.
    pub(crate) fn at(dir: &Path) -> Self {
        Self { path: dir.join("snapshot.json") }
    }

    /// Returns the fold that was saved last, or the empty one.
    pub(crate) fn load(&self) -> Fold {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Fold::default(),
            Err(error) => return self.set_aside(&error.to_string()),
        };
        match serde_json::from_slice::<Snapshot>(&bytes) {
            Ok(Snapshot { fold: FOLD, upto, seq, leaf, erased, cards }) => {
                Fold { cards, place: Place { upto, seq, leaf }, erased, caught_up: false }
            }
            Ok(snapshot) => self.set_aside(&format!("fold {} and not {FOLD}", snapshot.fold)),
            Err(error) => self.set_aside(&error.to_string()),
        }
    }

    /// Saves the fold.
    pub(crate) fn save(&self, fold: &Fold) -> io::Result<()> {
        let Place { upto, seq, leaf } = fold.place.clone();
        let snapshot =
            Snapshot { fold: FOLD, upto, seq, leaf, erased: fold.erased, cards: fold.cards.clone() };
        mirror_paths::write_atomic(&self.path, &serde_json::to_vec(&snapshot)?)
    }

    /// Removes the snapshot, since it may hold text that was erased.
    pub(crate) fn forget(&self) -> io::Result<()> {
        for path in [self.path.clone(), self.aside()] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.path.parent().map_or(Ok(()), mirror_paths::sync_dir)
    }

    fn aside(&self) -> PathBuf {
        self.path.with_extension("json.bad")
    }

    fn set_aside(&self, why: &str) -> Fold {
        tracing::warn!(why, path = %self.path.display(), "the snapshot is set aside and rebuilt from the log");
        // Whether it moves or not: the next save replaces it.
        let _ = fs::rename(&self.path, self.aside());
        Fold::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::tests::{delivered, folded, put};

    fn fixture() -> (tempfile::TempDir, Store, Fold) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::at(temp.path());
        let cards = folded([put("a", "one"), delivered("a", 1, true)]);
        let place = Place { upto: 9, seq: 2, leaf: "ab".to_owned() };
        (temp, store, Fold { cards, place, erased: 4, caught_up: false })
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (_temp, store, fold) = fixture();
        assert_eq!(store.load(), Fold::default());
        store.save(&fold).unwrap();
        assert_eq!(store.load(), fold);
        store.forget().unwrap();
        store.forget().unwrap();
        assert_eq!(store.load(), Fold::default());
    }

    #[test]
    fn a_snapshot_that_cannot_be_trusted_is_set_aside() {
        let (_temp, store, fold) = fixture();
        store.save(&fold).unwrap();
        let good = fs::read_to_string(&store.path).unwrap();
        for bad in ["", "[]", &good[..good.len() - 1], &good.replace("\"fold\":1", "\"fold\":2")] {
            fs::write(&store.path, bad).unwrap();
            assert_eq!(store.load(), Fold::default(), "{bad:?}");
            assert_eq!(fs::read_to_string(store.aside()).unwrap(), bad);
            assert!(!store.path.exists());
        }
    }
}
