//! The snapshot of the pages.
//!
//! Invariant: a text that is erased is in no file once [`Store::forget`] has returned.

use std::io;
use std::path::Path;
use std::sync::Arc;

use mirror_client::follow::Place;
use mirror_kit::fold::Erased;
use mirror_kit::{Snapshot, SnapshotFile, SnapshotForm};
use serde::{Deserialize, Serialize};

use crate::fold::{FOLD, Fold};
use crate::page::Day;

/// The largest state takes a quarter of the limit.
const FORM: SnapshotForm = SnapshotForm { name: "snapshot.json", fold: FOLD, limit: 64 << 20 };

/// Where the snapshot is kept.
#[derive(Debug, Clone)]
pub(crate) struct Store(SnapshotFile);

#[derive(Serialize)]
struct Content<'a> {
    erased: &'a Erased,
    days: Vec<&'a Day>,
}

#[derive(Deserialize)]
struct Found {
    erased: Erased,
    days: Vec<Day>,
}

impl Store {
    pub(crate) fn new(dir: &Path, origin: &str) -> Self {
        Self(SnapshotFile::new(dir, origin, FORM))
    }

    /// Returns the pages that were saved last, or none.
    pub(crate) fn load(&self) -> Fold {
        match self.0.load() {
            Snapshot::Loaded(Found { erased, days }, place) => Fold::restore(place, erased, days),
            Snapshot::Missing | Snapshot::Aside(_) => Fold::default(),
        }
    }

    /// Returns the position of the stored snapshot.
    pub(crate) fn upto(&self) -> u64 {
        self.0.upto()
    }

    /// Moves the snapshot out of the way, to be looked at.
    pub(crate) fn set_aside(&self) -> io::Result<()> {
        self.0.set_aside()
    }

    /// Removes every copy of the state, since it may hold text that was erased.
    pub(crate) fn forget(&self) -> io::Result<()> {
        self.0.forget()
    }

    /// Replaces the snapshot.
    pub(crate) fn save(&self, fold: &Fold) {
        let place = Place { upto: fold.upto(), seq: fold.upto(), leaf: fold.leaf().to_owned() };
        let days = fold.days().map(Arc::as_ref).collect();
        self.0.keep(|| (place, Content { erased: fold.erased(), days }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{erasure, event};

    #[test]
    fn the_pages_are_loaded_as_they_were_saved() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "0123456789abcdef.1");
        assert_eq!(store.load(), Fold::default());
        let mut fold = Fold::new(Erased::default());
        assert!(!fold.apply(&erasure(1, &[2])), "a new beginning is due");
        let mut fold = Fold::new(fold.erased().clone());
        for seq in 1..=5 {
            fold.apply(&event(seq, "local.note", r#"{"text":"hi \u0022 there"}"#));
        }
        store.save(&fold);
        assert_eq!((store.load(), store.upto()), (fold.clone(), 5));
        assert!(fold.erased().contains(2));
        std::fs::write(store.0.path(), "{").unwrap();
        assert_eq!(store.load(), Fold::default());
    }
}
