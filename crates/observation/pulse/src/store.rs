//! What outlives the process, on disk.
//!
//! Invariant: a file that cannot be trusted is set aside, and pulse begins with nothing: it watches and heals without.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::pulse::Saved;

/// Version of the form.
const FORM: u32 = 1;

#[derive(Serialize, Deserialize)]
struct File {
    form: u32,
    #[serde(flatten)]
    saved: Saved,
}

/// Where the file lies.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    path: PathBuf,
}

impl Store {
    /// Returns the store in a folder.
    pub(crate) fn at(dir: &Path) -> Self {
        Self { path: dir.join("snapshot.json") }
    }

    /// Returns what was saved last; nothing when there is nothing that can be trusted.
    pub(crate) fn load(&self) -> Option<Saved> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return self.set_aside(&error.to_string()),
        };
        match serde_json::from_slice::<File>(&bytes) {
            Ok(file) if file.form == FORM => Some(file.saved),
            Ok(file) => self.set_aside(&format!("form {} and not {FORM}", file.form)),
            Err(error) => self.set_aside(&error.to_string()),
        }
    }

    /// Saves it, durably.
    pub(crate) fn save(&self, saved: Saved) -> io::Result<()> {
        mirror_paths::write_atomic(&self.path, &serde_json::to_vec(&File { form: FORM, saved })?)
    }

    fn set_aside(&self, why: &str) -> Option<Saved> {
        tracing::warn!(why, path = %self.path.display(), "the snapshot is set aside; pulse begins with nothing");
        // Whether it moves or not: the next save replaces it.
        let _ = fs::rename(&self.path, self.path.with_extension("json.bad"));
        None
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

        let good = fs::read_to_string(&store.path).unwrap();
        let aside = store.path.with_extension("json.bad");
        for bad in ["", "[]", &good[..good.len() - 1], &good.replace("\"form\":1", "\"form\":2")] {
            fs::write(&store.path, bad).unwrap();
            assert_eq!(store.load(), None, "{bad:?}");
            assert_eq!(fs::read_to_string(&aside).unwrap(), bad);
            assert!(!store.path.exists());
        }
    }
}
