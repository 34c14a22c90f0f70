//! The files: the statement, the highest epoch, what waits for the log, and the snapshot of what the log proves.
//!
//! Invariant: a file that cannot be trusted is set aside and made again, never guessed at.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mirror_client::follow::Place;
use mirror_kit::{SnapshotFile, SnapshotForm};
use mirror_paths::write_atomic;
use mirror_seal::Envelope;
use serde::{Deserialize, Serialize};

use crate::halt::Recorded;

/// Version of the file of what waits.
const FORMAT: u32 = 1;

const FORM: SnapshotForm = SnapshotForm { name: "snapshot.json", fold: 2, limit: 4 << 10 };

/// What the log proves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fold {
    /// Highest epoch that a verified event holds.
    pub(crate) proven: u64,
    /// How far the log was read.
    pub(crate) place: Place,
}

#[derive(Serialize, Deserialize)]
struct Content {
    proven: u64,
}

/// A statement on its way to the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// Idempotency id of the event, made of the envelope.
    pub(crate) id: String,
    pub(crate) subject: String,
    pub(crate) recorded: Recorded,
}

#[derive(Serialize, Deserialize)]
struct PendingFile {
    format: u32,
    events: Vec<Pending>,
}

/// Where the files lie.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    halt: PathBuf,
    snapshot: SnapshotFile,
}

impl Store {
    /// Returns the store over the home's folder `halt/` and the service's own folder, for a log.
    pub(crate) fn at(halt: &Path, state: &Path, origin: &str) -> Self {
        Self { halt: halt.to_owned(), snapshot: SnapshotFile::new(state, origin, FORM) }
    }

    /// Returns the file that every service reads.
    pub(crate) fn state(&self) -> PathBuf {
        self.halt.join("state")
    }

    /// Returns the file of the highest epoch.
    pub(crate) fn seen(&self) -> PathBuf {
        self.halt.join("seen")
    }

    fn pending(&self) -> PathBuf {
        self.halt.join("pending")
    }

    /// Puts a statement in force.
    pub(crate) fn put_state(&self, envelope: &Envelope) -> io::Result<()> {
        write_atomic(&self.state(), envelope.to_json().as_bytes())
    }

    /// Sets the highest epoch.
    pub(crate) fn put_seen(&self, epoch: u64) -> io::Result<()> {
        write_atomic(&self.seen(), format!("{epoch}\n").as_bytes())
    }

    /// Returns what waits for the log.
    pub(crate) fn load_pending(&self) -> Vec<Pending> {
        let path = self.pending();
        let why = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(e) => e.to_string(),
            Ok(bytes) => match serde_json::from_slice::<PendingFile>(&bytes) {
                Ok(file) if file.format == FORMAT => return file.events,
                Ok(_) => "it was made by another version".to_owned(),
                Err(e) => e.to_string(),
            },
        };
        tracing::warn!(why, path = %path.display(), "a file is set aside and made again");
        // Whether it moves or not: the next save replaces it.
        let _ = fs::rename(&path, path.with_added_extension("bad"));
        Vec::new()
    }

    /// Keeps what waits for the log.
    pub(crate) fn save_pending(&self, events: &[Pending]) -> io::Result<()> {
        write_atomic(
            &self.pending(),
            &serde_json::to_vec(&PendingFile { format: FORMAT, events: events.to_vec() })?,
        )
    }

    /// Returns what the log proved when the snapshot was made.
    pub(crate) fn load_fold(&self) -> Fold {
        let loaded = self.snapshot.load().loaded();
        loaded.map(|(Content { proven }, place)| Fold { proven, place }).unwrap_or_default()
    }

    /// Keeps what the log proves, so that a start need not read the whole of it.
    pub(crate) fn save_fold(&self, fold: &Fold) {
        self.snapshot.keep(|| (fold.place.clone(), Content { proven: fold.proven }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::halt::claim;
    use mirror_kit::{HALT_TYPE, HaltStatement};
    use mirror_seal::NodeKey;

    #[test]
    fn what_is_saved_is_loaded_and_what_is_of_no_use_is_set_aside() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::at(temp.path(), temp.path(), "0123456789abcdef.1");
        assert_eq!((store.load_fold(), store.load_pending()), (Fold::default(), Vec::new()));
        let fold = Fold { proven: 7, place: Place { upto: 9, seq: 8, leaf: "x".into() } };
        let key = NodeKey::generate().unwrap();
        let statement = HaltStatement { epoch: 7, engaged: true, reason: "stop".into(), since_ms: 1 };
        let envelope = Envelope::sign(&key, HALT_TYPE, &serde_json::to_vec(&statement).unwrap());
        let recorded = Recorded::new(&statement, false, &envelope, None);
        let pending = vec![Pending { id: "halt-1".into(), subject: "halt.engaged".into(), recorded }];
        store.save_fold(&fold);
        store.save_pending(&pending).unwrap();
        assert_eq!((store.load_fold(), store.load_pending()), (fold, pending));
        assert_eq!(claim(&store.load_pending()[0].recorded.envelope), Some(statement));
        let path = store.pending();
        let good = fs::read_to_string(&path).unwrap();
        for bad in ["", "[]", &good[..good.len() - 1], &good.replace("\"format\":1", "\"format\":2")] {
            fs::write(&path, bad).unwrap();
            assert!(store.load_pending().is_empty(), "{bad:?}");
            assert!(!path.exists());
        }
        fs::write(store.snapshot.path(), r#"{"format":1,"proven":7,"upto":9,"seq":8,"leaf":"x"}"#).unwrap();
        assert_eq!(store.load_fold(), Fold::default());
    }
}
