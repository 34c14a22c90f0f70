//! The snapshot of a fold: one JSON file, replaced as a whole, so that a start need not read the whole log.
//!
//! It refuses a file that is damaged, too large, of another log, or of another version of the fold: that one is set
//! aside under the same name with `.bad`, and the fold is made again from the log.
//! Invariant: what is loaded is what was saved, which a digest shows; and after [`SnapshotFile::forget`] no copy is left.
//!
//! The form is `{"fold":…,"origin":…,"upto":…,"seq":…,"leaf":…,"digest":…,"content":…}`. The digest is the SHA-256 of the
//! first five values, each ended by a newline, and of the bytes of the content as they stand.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_client::follow::Place;
use mirror_paths::{absent_is_fine, sync_dir, write_atomic};
use mirror_seal::{hex, sha256};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const DAMAGED: &str = "it is damaged";
const OTHER_VERSION: &str = "it was made by another version";

/// What a fold declares of its snapshot.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotForm {
    /// Name of the file in the folder of the service's state.
    pub name: &'static str,
    /// Version of the fold, at least 1; raised when the same events give another state.
    pub fold: u32,
    /// Most bytes of the file that are read; a few times what the largest state takes.
    pub limit: u64,
}

/// What was found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Snapshot<T> {
    /// Nothing.
    Missing,
    /// What was saved last, and where in the log it stands.
    Loaded(T, Place),
    /// A file that cannot be used, and why; it was set aside and logged.
    Aside(String),
}

impl<T> Snapshot<T> {
    /// Returns what was saved last, if it can be used.
    pub fn loaded(self) -> Option<(T, Place)> {
        match self {
            Self::Loaded(content, place) => Some((content, place)),
            Self::Missing | Self::Aside(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct Version {
    /// Files of before this form have it under other names, or not at all.
    #[serde(default)]
    fold: u32,
}

#[derive(Serialize, Deserialize)]
struct Form<'a> {
    fold: u32,
    origin: String,
    upto: u64,
    seq: u64,
    leaf: String,
    digest: String,
    #[serde(borrow)]
    content: &'a RawValue,
}

impl Form<'_> {
    fn digest(&self) -> String {
        let Self { fold, origin, upto, seq, leaf, content, .. } = self;
        hex(&sha256(format!("{fold}\n{origin}\n{upto}\n{seq}\n{leaf}\n{}", content.get()).as_bytes()))
    }
}

/// Where the snapshot of a fold is kept; clones are the same file.
#[derive(Debug, Clone)]
pub struct SnapshotFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    origin: String,
    form: SnapshotForm,
    /// Held while the file is replaced or removed, so that an older state never replaces a newer one.
    turn: Mutex<()>,
    /// Position of the file; 0 when there is none.
    upto: AtomicU64,
}

impl SnapshotFile {
    /// Returns the snapshot in a folder, of a log; what is not of a log has an empty origin and no place.
    pub fn new(dir: &Path, origin: &str, form: SnapshotForm) -> Self {
        let (dir, origin) = (dir.to_owned(), origin.to_owned());
        Self(Arc::new(Inner { dir, origin, form, turn: Mutex::new(()), upto: AtomicU64::new(0) }))
    }

    /// Returns the file.
    pub fn path(&self) -> PathBuf {
        self.0.dir.join(self.0.form.name)
    }

    /// Returns the file that could not be used last.
    pub fn aside(&self) -> PathBuf {
        self.0.dir.join(format!("{}.bad", self.0.form.name))
    }

    /// Returns the position of the stored snapshot; 0 when there is none.
    pub fn upto(&self) -> u64 {
        self.0.upto.load(Ordering::Relaxed)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what was saved last; a file that cannot be read is set aside as one that is damaged.
    pub fn load<T: DeserializeOwned>(&self) -> Snapshot<T> {
        self.read().unwrap_or_else(|error| self.refuse(error.to_string()))
    }

    /// Returns what was saved last, for a state that the log alone does not give back.
    ///
    /// # Errors
    ///
    /// When the file cannot be read; it stays where it is.
    pub fn read<T: DeserializeOwned>(&self) -> io::Result<Snapshot<T>> {
        let file = match File::open(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Snapshot::Missing),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(self.0.form.limit.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(match self.parse(&bytes) {
            Ok((content, place)) => {
                self.0.upto.store(place.upto, Ordering::Relaxed);
                Snapshot::Loaded(content, place)
            }
            Err(why) => self.refuse(why.to_owned()),
        })
    }

    fn parse<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<(T, Place), &'static str> {
        if bytes.len() as u64 > self.0.form.limit {
            return Err("it is too large");
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|_| DAMAGED)?;
        if version.fold != self.0.form.fold {
            return Err(OTHER_VERSION);
        }
        let form: Form<'_> = serde_json::from_slice(bytes).map_err(|_| DAMAGED)?;
        if form.digest != form.digest() {
            return Err(DAMAGED);
        }
        if form.origin != self.0.origin {
            return Err("it was made from another log");
        }
        let content = serde_json::from_str(form.content.get()).map_err(|_| DAMAGED)?;
        Ok((content, Place { upto: form.upto, seq: form.seq, leaf: form.leaf }))
    }

    fn refuse<T>(&self, why: String) -> Snapshot<T> {
        let path = self.path();
        let path = path.display();
        if why == OTHER_VERSION {
            tracing::info!(why, %path, "the snapshot is set aside and made again");
        } else {
            tracing::warn!(why, %path, "the snapshot is set aside and made again");
        }
        // Whether it moves or not: the next save replaces it.
        if let Err(error) = self.set_aside() {
            tracing::warn!(%error, %path, "the snapshot that is not used could not be moved away");
        }
        Snapshot::Aside(why)
    }

    /// Moves the snapshot out of the way, to be looked at.
    ///
    /// # Errors
    ///
    /// When it cannot be moved.
    pub fn set_aside(&self) -> io::Result<()> {
        let _turn = self.turn();
        self.0.upto.store(0, Ordering::Relaxed);
        absent_is_fine(fs::rename(self.path(), self.aside()))
    }

    /// Replaces the snapshot by the state as it is once nobody else replaces it; it is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// When it cannot be written; then the one before is still there.
    pub fn save<T: Serialize>(&self, state: impl FnOnce() -> (Place, T)) -> io::Result<()> {
        let _turn = self.turn();
        let (place, content) = state();
        let content = serde_json::value::to_raw_value(&content)?;
        let Place { upto, seq, leaf } = place;
        let (fold, origin) = (self.0.form.fold, self.0.origin.clone());
        let mut form = Form { fold, origin, upto, seq, leaf, digest: String::new(), content: &content };
        form.digest = form.digest();
        write_atomic(&self.path(), &serde_json::to_vec(&form)?)?;
        self.0.upto.store(upto, Ordering::Relaxed);
        Ok(())
    }

    /// Replaces the snapshot as [`Self::save`] does; a failure is logged, since it only makes the next start read more.
    pub fn keep<T: Serialize>(&self, state: impl FnOnce() -> (Place, T)) {
        if let Err(error) = self.save(state) {
            let path = self.path();
            let path = path.display();
            tracing::warn!(%error, %path, "the snapshot was not saved; the next start reads more of the log");
        }
    }

    /// Does the same on a thread that may wait for the disk.
    pub async fn keep_apart<T: Serialize>(&self, state: impl FnOnce() -> (Place, T) + Send + 'static) {
        let file = self.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || file.keep(state)).await
            && let Ok(panic) = error.try_into_panic()
        {
            // One that the end of the service cut off is made again by the drain; a panic is a bug and goes on.
            std::panic::resume_unwind(panic);
        }
    }

    /// Removes every copy: the file, the one set aside, and what writes that were cut off have left.
    ///
    /// # Errors
    ///
    /// When a copy may be left; the caller must not go on as if there were none.
    pub fn forget(&self) -> io::Result<()> {
        let _turn = self.turn();
        self.0.upto.store(0, Ordering::Relaxed);
        let unfinished = format!(".{}.", self.0.form.name);
        for entry in fs::read_dir(&self.0.dir)? {
            let entry = entry?;
            let is_unfinished = entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(&unfinished) && name.ends_with(".tmp"));
            if is_unfinished {
                absent_is_fine(fs::remove_file(entry.path()))?;
            }
        }
        absent_is_fine(fs::remove_file(self.path()))?;
        absent_is_fine(fs::remove_file(self.aside()))?;
        sync_dir(&self.0.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: SnapshotForm = SnapshotForm { name: "snapshot.json", fold: 3, limit: 4 << 10 };
    const ORIGIN: &str = "0123456789abcdef.1";

    /// What a fold holds; a text with escapes shows that the digest is over bytes and not over values.
    fn content() -> Vec<String> {
        vec!["hi \" there".to_owned(), "\u{e9}\u{7}".to_owned()]
    }

    fn place() -> Place {
        Place { upto: 9, seq: 7, leaf: "ab".to_owned() }
    }

    fn saved() -> (tempfile::TempDir, SnapshotFile) {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(dir.path(), ORIGIN, FORM);
        assert_eq!((file.load::<Vec<String>>(), file.upto()), (Snapshot::Missing, 0));
        file.save(|| (place(), content())).unwrap();
        (dir, file)
    }

    fn load(file: &SnapshotFile) -> Snapshot<Vec<String>> {
        file.load()
    }

    #[track_caller]
    fn check_aside(file: &SnapshotFile, why: &str) {
        let bad = fs::read(file.path()).unwrap();
        assert_eq!(load(file), Snapshot::Aside(why.to_owned()));
        assert_eq!(fs::read(file.aside()).unwrap(), bad);
        assert_eq!((load(file), file.upto()), (Snapshot::Missing, 0));
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (dir, file) = saved();
        assert_eq!((load(&file), file.upto()), (Snapshot::Loaded(content(), place()), 9));
        let again = SnapshotFile::new(dir.path(), ORIGIN, FORM);
        assert_eq!(load(&again).loaded(), Some((content(), place())));
        assert_eq!(again.upto(), 9);
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let (_dir, file) = saved();
        let good = fs::read(file.path()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(file.path(), &bad).unwrap();
            assert!(matches!(load(&file), Snapshot::Aside(_)), "byte {at}");
            assert_eq!(fs::read(file.aside()).unwrap(), bad);
        }
        for bad in [&good[..good.len() / 2], b"", b"{\"fold\":3}"] {
            fs::write(file.path(), bad).unwrap();
            check_aside(&file, DAMAGED);
        }
        fs::write(file.path(), &good).unwrap();
        assert_eq!(load(&file), Snapshot::Loaded(content(), place()));
    }

    #[test]
    fn another_version_another_log_and_too_many_bytes_are_set_aside() {
        let (dir, file) = saved();
        let good = fs::read_to_string(file.path()).unwrap();
        for older in [good.replace("{\"fold\":3,", "{\"fold\":2,"), good.replace("{\"fold\":3,", "{")] {
            fs::write(file.path(), older).unwrap();
            check_aside(&file, OTHER_VERSION);
        }
        fs::write(file.path(), &good).unwrap();
        let other = SnapshotFile::new(dir.path(), "fedcba9876543210.1", FORM);
        check_aside(&other, "it was made from another log");
        file.save(|| (place(), vec!["x".repeat(4 << 10)])).unwrap();
        check_aside(&file, "it is too large");
    }

    #[test]
    fn an_upgrade_is_no_warning_and_damage_is_one() {
        let (_dir, file) = saved();
        let (_guard, warnings) = crate::capture_for_tests();
        let good = fs::read_to_string(file.path()).unwrap();
        fs::write(file.path(), good.replace("{\"fold\":3,", "{\"fold\":2,")).unwrap();
        load(&file);
        assert!(warnings.lock().unwrap().is_empty());
        fs::write(file.path(), "{").unwrap();
        load(&file);
        let warnings = warnings.lock().unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("snapshot.json"), "{warnings:?}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_set_aside_or_told() {
        let (_dir, file) = saved();
        fs::remove_file(file.path()).unwrap();
        fs::create_dir(file.path()).unwrap();
        assert!(file.read::<Vec<String>>().is_err() && file.path().is_dir());
        assert!(matches!(load(&file), Snapshot::Aside(_)));
        assert_eq!(load(&file), Snapshot::Missing);
    }

    #[test]
    fn forgetting_leaves_no_copy_and_nothing_else_goes() {
        let (dir, file) = saved();
        file.set_aside().unwrap();
        file.save(|| (place(), content())).unwrap();
        fs::write(dir.path().join(".snapshot.json.41.0.tmp"), "half of one").unwrap();
        fs::write(dir.path().join("other.json"), "").unwrap();
        file.forget().unwrap();
        file.forget().unwrap();
        assert_eq!(file.upto(), 0);
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["other.json"]);
    }
}
