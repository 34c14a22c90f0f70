//! The snapshot: the fold on disk, so that a start need not read the whole log.
//!
//! Invariant: a snapshot that cannot be trusted is set aside, and the fold rebuilt from the log.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::schedule::Entries;

/// Version of the fold; raised when the same events give other entries.
const FOLD: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Snapshot {
    fold: u32,
    #[serde(flatten)]
    entries: Entries,
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
    pub(crate) fn load(&self) -> Entries {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Entries::default(),
            Err(error) => return self.set_aside(&error.to_string()),
        };
        match serde_json::from_slice::<Snapshot>(&bytes) {
            Ok(snapshot) if snapshot.fold == FOLD => snapshot.entries,
            Ok(snapshot) => self.set_aside(&format!("fold {} and not {FOLD}", snapshot.fold)),
            Err(error) => self.set_aside(&error.to_string()),
        }
    }

    /// Saves the fold.
    pub(crate) fn save(&self, entries: &Entries) -> io::Result<()> {
        let snapshot = Snapshot { fold: FOLD, entries: entries.clone() };
        mirror_paths::write_atomic(&self.path, &serde_json::to_vec(&snapshot)?)
    }

    fn set_aside(&self, why: &str) -> Entries {
        tracing::warn!(why, path = %self.path.display(), "the snapshot is set aside and rebuilt from the log");
        // Whether it moves or not: the next save replaces it.
        let _ = fs::rename(&self.path, self.path.with_extension("json.bad"));
        Entries::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Put;

    fn fixture() -> (tempfile::TempDir, Store, Entries) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::at(temp.path());
        let mut entries = Entries::default();
        entries.apply(7, Put { name: "a".to_owned(), text: "one".to_owned() });
        (temp, store, entries)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (_temp, store, entries) = fixture();
        assert_eq!(store.load(), Entries::default());
        store.save(&entries).unwrap();
        assert_eq!(store.load(), entries);
    }

    #[test]
    fn a_snapshot_that_cannot_be_trusted_is_set_aside() {
        let (_temp, store, entries) = fixture();
        store.save(&entries).unwrap();
        let good = fs::read_to_string(&store.path).unwrap();
        let aside = store.path.with_extension("json.bad");
        for bad in ["", "[]", &good[..good.len() - 1], &good.replace("\"fold\":1", "\"fold\":2")] {
            fs::write(&store.path, bad).unwrap();
            assert_eq!(store.load(), Entries::default(), "{bad:?}");
            assert_eq!(fs::read_to_string(&aside).unwrap(), bad);
            assert!(!store.path.exists());
        }
    }
}
