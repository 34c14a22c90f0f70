//! What outlives the process, on disk. It is no fold: the log does not give it back.
//!
//! Invariant: a file that cannot be trusted is set aside, and pulse begins with nothing: it watches and heals without.

use std::io;
use std::path::Path;

use mirror_client::follow::Place;
use mirror_kit::{SnapshotFile, SnapshotForm};

use crate::pulse::Saved;

/// The largest state takes a tenth of the limit.
const FORM: SnapshotForm = SnapshotForm { name: "snapshot.json", fold: 2, limit: 16 << 20 };

/// Where the file lies.
#[derive(Debug, Clone)]
pub(crate) struct Store(SnapshotFile);

impl Store {
    /// Returns the store in a folder.
    pub(crate) fn at(dir: &Path) -> Self {
        Self(SnapshotFile::new(dir, "", FORM))
    }

    /// Returns what was saved last; nothing when there is nothing that can be trusted.
    pub(crate) fn load(&self) -> Option<Saved> {
        self.0.load().loaded().map(|(saved, _)| saved)
    }

    /// Saves it, durably.
    pub(crate) fn save(&self, saved: Saved) -> io::Result<()> {
        self.0.save(|| (Place::default(), saved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_what_cannot_be_trusted_is_set_aside() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::at(temp.path());
        assert_eq!(store.load(), None);
        store.save(Saved::default()).unwrap();
        assert_eq!(store.load(), Some(Saved::default()));
        std::fs::write(store.0.path(), r#"{"form":1,"boot":0}"#).unwrap();
        assert_eq!(store.load(), None);
        assert!(store.0.aside().exists() && !store.0.path().exists());
    }
}
