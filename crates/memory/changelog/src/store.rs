//! The snapshot of the fold: one JSON file, replaced as a whole.
//!
//! It refuses a snapshot that is damaged, of another log, or of another version of the fold: that one is set aside, and
//! the pages are made again from the log. The invariant: what is loaded is what was saved, which a digest shows.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mirror_paths::{absent_is_fine, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::fold::{FOLD, Fold};
use crate::page::Day;

const FILE: &str = "snapshot.json";
/// The last snapshot that could not be used.
const ASIDE: &str = "snapshot.json.bad";
/// Largest file that is read; the largest state takes a quarter of it.
const FILE_LIMIT: u64 = 64 << 20;

/// Where the snapshot is kept.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
    origin: String,
}

#[derive(Serialize, Deserialize)]
struct File<'a> {
    fold: u32,
    origin: String,
    upto: u64,
    leaf: String,
    clean_to: u64,
    digest: String,
    #[serde(borrow)]
    days: &'a RawValue,
}

impl File<'_> {
    fn digest(&self) -> String {
        let mut hash = blake3::Hasher::new();
        hash.update(format!("{}\n{}\n{}\n{}\n", self.origin, self.upto, self.leaf, self.clean_to).as_bytes());
        hash.update(self.days.get().as_bytes());
        hash.finalize().to_hex().to_string()
    }
}

/// What was found on disk.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// Nothing.
    Missing,
    /// A snapshot.
    Fold(Box<Fold>),
    /// One that cannot be used, and why; it was set aside.
    Aside(&'static str),
}

impl Store {
    pub(crate) fn new(dir: PathBuf, origin: &str) -> Self {
        Self { dir, origin: origin.to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Returns the snapshot.
    pub(crate) fn load(&self) -> io::Result<Loaded> {
        match fs::metadata(self.path()) {
            Ok(meta) if meta.len() > FILE_LIMIT => return self.aside("it is too large"),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Missing),
            Err(e) => return Err(e),
        }
        match parse(&fs::read(self.path())?, &self.origin) {
            Ok(fold) => Ok(Loaded::Fold(Box::new(fold))),
            Err(why) => self.aside(why),
        }
    }

    fn aside(&self, why: &'static str) -> io::Result<Loaded> {
        self.set_aside()?;
        Ok(Loaded::Aside(why))
    }

    /// Moves the snapshot out of the way, to be looked at.
    pub(crate) fn set_aside(&self) -> io::Result<()> {
        absent_is_fine(fs::rename(self.path(), self.dir.join(ASIDE)))
    }

    /// Removes every copy of the state, since it may hold text that was erased.
    pub(crate) fn forget(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_file(self.path()))?;
        absent_is_fine(fs::remove_file(self.dir.join(ASIDE)))?;
        mirror_paths::sync_dir(Path::new(&self.dir))
    }

    /// Replaces the snapshot.
    pub(crate) fn save(&self, fold: &Fold) -> io::Result<()> {
        let days: Vec<&Day> = fold.days().map(Arc::as_ref).collect();
        let days = serde_json::value::to_raw_value(&days)?;
        let mut file = File {
            fold: FOLD,
            origin: self.origin.clone(),
            upto: fold.upto(),
            leaf: fold.leaf().to_owned(),
            clean_to: fold.clean_to(),
            digest: String::new(),
            days: &days,
        };
        file.digest = file.digest();
        write_atomic(&self.path(), &serde_json::to_vec(&file)?)
    }
}

fn parse(bytes: &[u8], origin: &str) -> Result<Fold, &'static str> {
    #[derive(Deserialize)]
    struct Version {
        fold: u32,
    }
    const DAMAGED: &str = "it is damaged";
    let version: Version = serde_json::from_slice(bytes).map_err(|_| DAMAGED)?;
    if version.fold != FOLD {
        return Err("it was made by another version");
    }
    let file: File<'_> = serde_json::from_slice(bytes).map_err(|_| DAMAGED)?;
    if file.digest != file.digest() {
        return Err(DAMAGED);
    }
    if file.origin != origin {
        return Err("it was made from another log");
    }
    let days: Vec<Day> = serde_json::from_str(file.days.get()).map_err(|_| DAMAGED)?;
    Ok(Fold::restore(file.upto, file.leaf, file.clean_to, days))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::event;

    fn made() -> (tempfile::TempDir, Store, Fold) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned(), "0123456789abcdef.1");
        let mut fold = Fold::new(3);
        for seq in 1..=5 {
            fold.apply(&event(seq, "local.note", r#"{"text":"hi \u0022 there"}"#));
        }
        store.save(&fold).unwrap();
        (dir, store, fold)
    }

    #[track_caller]
    fn check_aside(store: &Store, dir: &Path, why: &str) {
        match store.load().unwrap() {
            Loaded::Aside(found) => assert_eq!(found, why),
            other => panic!("{other:?}"),
        }
        assert!(dir.join(ASIDE).exists());
        assert!(matches!(store.load().unwrap(), Loaded::Missing));
    }

    #[test]
    fn a_snapshot_is_loaded_as_it_was_saved() {
        let (_dir, store, fold) = made();
        assert!(matches!(store.load().unwrap(), Loaded::Fold(found) if *found == fold));
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let (dir, store, fold) = made();
        let good = fs::read(store.path()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(store.path(), &bad).unwrap();
            match store.load().unwrap() {
                Loaded::Aside(_) => {}
                other => panic!("byte {at}: {other:?}"),
            }
        }
        fs::write(store.path(), &good[..good.len() / 2]).unwrap();
        check_aside(&store, dir.path(), "it is damaged");
        fs::write(store.path(), "").unwrap();
        check_aside(&store, dir.path(), "it is damaged");
        store.save(&fold).unwrap();
        assert!(matches!(store.load().unwrap(), Loaded::Fold(_)));
    }

    #[test]
    fn another_version_or_log_is_set_aside() {
        let (dir, store, fold) = made();
        let other = Store { origin: "fedcba9876543210.1".into(), ..store.clone() };
        check_aside(&other, dir.path(), "it was made from another log");
        store.save(&fold).unwrap();
        let text = fs::read_to_string(store.path()).unwrap().replace("{\"fold\":1,", "{\"fold\":999,");
        fs::write(store.path(), text).unwrap();
        check_aside(&store, dir.path(), "it was made by another version");
    }

    #[test]
    fn forgetting_leaves_no_copy() {
        let (dir, store, fold) = made();
        store.set_aside().unwrap();
        store.save(&fold).unwrap();
        store.forget().unwrap();
        store.forget().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
