//! The index: ids and subjects, derived from the log and off the path of acknowledgements.
//!
//! It holds nothing that the log does not; ahead of it, behind it, corrupt or panicking, it is set aside and rebuilt.
//! What the log has and the index not yet is kept in memory, so that ids and expectations are exact at all times.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use mirror_types::Subject;

/// Version of the index's form; another one is rebuilt.
const FOLD: u64 = 3;

/// Key of three numbers: the form, the event up to which the index is whole, and the highest of which it may hold something.
const META: &[u8] = b"m";

/// Rows that are stored in one batch: sled holds a copy of a page for each row of a batch until the batch ends, so that one
/// of thousands takes a gigabyte.
const ROWS: usize = 64;

/// Name of the file that says that the index is to be set aside.
const BROKEN: &str = "broken";

/// How long the index gathers events before it stores them, and how many it does not wait for.
const PAUSE: Duration = Duration::from_millis(50);
const GATHER: usize = 8_192;

/// What the index learns of one event.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) key: Option<[u8; 16]>,
    pub(crate) subject: Subject,
    /// The events that it erased, where it is a redaction.
    pub(crate) erased: Box<[u64]>,
}

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the index failed: {0}")]
    Sled(#[from] sled::Error),
    #[error("the index panicked when it was opened")]
    Panicked,
    #[error("the index is of another form")]
    Form,
    #[error("the index was found damaged while it was used")]
    Broken,
    #[error("the index could not be set aside: {0}")]
    Aside(#[from] std::io::Error),
}

#[derive(Debug)]
pub(crate) struct Store {
    db: sled::Db,
    dir: PathBuf,
    upto: u64,
    reach: u64,
}

impl Store {
    /// Opens the index, or sets it aside and begins a new one.
    pub(crate) fn open(dir: &Path, aside: &Path) -> Result<Self, StoreError> {
        let mut opened = Self::try_open(dir);
        for _ in 0..100 {
            // Its last user's threads let go of the lock a little after they are told to.
            let Err(StoreError::Sled(sled::Error::Io(e))) = &opened else { break };
            if !e.to_string().contains("lock") {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(20));
            opened = Self::try_open(dir);
        }
        match opened {
            Ok(store) => Ok(store),
            Err(e) => {
                tracing::info!(error = %e, "the index is set aside and will be rebuilt");
                let _ = std::fs::remove_dir_all(aside);
                std::fs::rename(dir, aside)?;
                Self::try_open(dir)
            }
        }
    }

    fn try_open(dir: &Path) -> Result<Self, StoreError> {
        if dir.join(BROKEN).exists() {
            return Err(StoreError::Broken);
        }
        let config = sled::Config::new().path(dir).cache_capacity(1 << 20).flush_every_ms(Some(1000));
        // sled may panic on damaged files.
        let opened =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| -> Result<Self, StoreError> {
                let db = config.open()?;
                let (upto, reach) = match db.get(META)? {
                    None if db.is_empty() => (0, 0),
                    None => return Err(StoreError::Form),
                    Some(meta) => {
                        let number = |at: usize| {
                            meta.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes)
                        };
                        match (number(0), number(8), number(16)) {
                            (Some(FOLD), Some(upto), Some(reach)) => (upto, reach),
                            _ => return Err(StoreError::Form),
                        }
                    }
                };
                Ok(Self { db, dir: dir.to_owned(), upto, reach })
            }));
        opened.unwrap_or(Err(StoreError::Panicked))
    }

    pub(crate) fn upto(&self) -> u64 {
        self.upto
    }

    /// Returns the highest event that the index may have seen, which was durable then.
    pub(crate) fn reach(&self) -> u64 {
        self.reach
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let Some(last) = entries.last() else { return Ok(()) };
        let mut rows: Vec<(Vec<u8>, u64)> = Vec::with_capacity(entries.len());
        let mut subjects: HashMap<&str, u64> = HashMap::new();
        for entry in entries {
            rows.extend(entry.key.iter().map(|key| (id_key(key).to_vec(), entry.seq)));
            rows.extend(entry.erased.iter().map(|erased| (erased_key(*erased).to_vec(), entry.seq)));
            subjects.insert(entry.subject.as_str(), entry.seq);
        }
        rows.extend(subjects.into_iter().map(|(subject, seq)| (subject_key(subject), seq)));
        // Neighbours share a page.
        rows.sort_unstable();
        self.note(self.upto, last.seq)?;
        for some in rows.chunks(ROWS) {
            let mut batch = sled::Batch::default();
            for (key, seq) in some {
                batch.insert(key.as_slice(), &seq.to_be_bytes());
            }
            self.db.apply_batch(batch)?;
        }
        self.note(last.seq, last.seq)
    }

    /// Stores how far the index is whole, and how far it may reach: between the two it is applied again.
    fn note(&mut self, upto: u64, reach: u64) -> Result<(), StoreError> {
        let meta: Vec<u8> = [FOLD, upto, reach].iter().flat_map(|n| n.to_be_bytes()).collect();
        self.db.insert(META, meta)?;
        (self.upto, self.reach) = (upto, reach);
        Ok(())
    }
}

fn id_key(key: &[u8; 16]) -> [u8; 17] {
    let mut full = [b'i'; 17];
    full[1..].copy_from_slice(key);
    full
}

fn erased_key(seq: u64) -> [u8; 9] {
    let mut full = [b'r'; 9];
    full[1..].copy_from_slice(&seq.to_be_bytes());
    full
}

fn subject_key(subject: &str) -> Vec<u8> {
    [b"s", subject.as_bytes()].concat()
}

fn sequence(value: Option<sled::IVec>) -> Option<u64> {
    value.and_then(|v| v.as_ref().try_into().ok()).map(u64::from_be_bytes)
}

#[derive(Debug, Default)]
struct Pending {
    queue: Vec<Entry>,
    ids: HashMap<[u8; 16], u64>,
    subjects: HashMap<Box<str>, u64>,
    upto: u64,
    head: u64,
    failed: bool,
    stop: bool,
}

/// The index with its tail in memory; shared by the writer, the thread that follows, and readers.
pub(crate) struct Index {
    db: sled::Db,
    pending: Mutex<Pending>,
    changed: Condvar,
    limit: u64,
    dir: PathBuf,
    /// Payloads that were erased.
    erased: AtomicU64,
    /// Ends the process.
    fatal: Fatal,
}

/// Ends the process, and says why.
pub(crate) type Fatal = Arc<dyn Fn(String) + Send + Sync>;

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Index {
    pub(crate) fn new(store: &Store, limit: u64, fatal: Fatal) -> Self {
        let pending = Pending { upto: store.upto, head: store.upto, ..Pending::default() };
        // It was opened a moment ago; what it cannot count now it cannot answer later, and is rebuilt then.
        let erased = store.db.range(&b"r"[..]..&b"s"[..]).flatten();
        // Those after are counted when they are handed over once more.
        let erased = erased
            .filter(|(_, by)| sequence(Some(by.clone())).is_some_and(|by| by <= store.upto))
            .count() as u64;
        Self {
            db: store.db.clone(),
            pending: Mutex::new(pending),
            changed: Condvar::new(),
            limit: limit.max(1),
            dir: store.dir.clone(),
            erased: AtomicU64::new(erased),
            fatal,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the index, which may find only now that its files are damaged, or panic over them.
    fn ask<T>(&self, run: impl FnOnce(&sled::Db) -> Result<T, sled::Error>) -> Result<T, StoreError> {
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&self.db)));
        let error = match asked {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(e)) => StoreError::Sled(e),
            Err(_) => StoreError::Panicked,
        };
        self.give_up(&error);
        Err(error)
    }

    /// Ends the process when the index is damaged; the next one rebuilds it.
    fn give_up(&self, error: &StoreError) {
        if matches!(error, StoreError::Sled(sled::Error::Io(_))) {
            // A full or failing disk is no better after a start.
            return;
        }
        if let Err(e) = std::fs::write(self.dir.join(BROKEN), b"") {
            tracing::warn!(error = %e, "the damaged index could not be marked");
        }
        (self.fatal)(format!("the index is damaged and will be rebuilt: {error}"));
    }

    /// Marks the index as one to be built anew and ends the process, which answers first.
    pub(crate) fn rebuild(&self) -> std::io::Result<()> {
        mirror_paths::write_atomic(&self.dir.join(BROKEN), b"")?;
        self.end("the index is to be built anew");
        Ok(())
    }

    /// Ends the process after its answers are sent; it starts again into recovery.
    pub(crate) fn end(&self, why: &str) {
        (self.fatal)(why.to_owned());
    }

    /// Learns of events that could not be read when the index came by; what it knows of later ones stays.
    pub(crate) fn fill(&self, entries: &[Entry]) -> Result<(), StoreError> {
        self.ask(|db| {
            for entry in entries {
                if let Some(key) = &entry.key {
                    db.insert(id_key(key), &entry.seq.to_be_bytes())?;
                }
                for erased in &entry.erased {
                    if db.insert(erased_key(*erased), &entry.seq.to_be_bytes())?.is_none() {
                        self.erased.fetch_add(1, Relaxed);
                    }
                }
                db.fetch_and_update(subject_key(entry.subject.as_str()), |old| {
                    let old = old.and_then(|v| v.try_into().ok()).map_or(0, u64::from_be_bytes);
                    Some(old.max(entry.seq).to_be_bytes().to_vec())
                })?;
            }
            db.flush().map(drop)
        })
    }

    /// Returns the event with an id. A key is a hash, so the caller compares the ids.
    pub(crate) fn seq_of_id(&self, key: &[u8; 16]) -> Result<Option<u64>, StoreError> {
        if let Some(seq) = self.lock().ids.get(key) {
            return Ok(Some(*seq));
        }
        Ok(sequence(self.ask(|db| db.get(id_key(key)))?))
    }

    /// Returns how many payloads were erased.
    pub(crate) fn erased(&self) -> u64 {
        self.erased.load(Relaxed)
    }

    /// Returns the last event of a subject, 0 when there is none.
    pub(crate) fn last_of(&self, subject: &str) -> Result<u64, StoreError> {
        if let Some(seq) = self.lock().subjects.get(subject) {
            return Ok(*seq);
        }
        Ok(sequence(self.ask(|db| db.get(subject_key(subject)))?).unwrap_or(0))
    }

    /// Returns subjects after a name, in order.
    pub(crate) fn subjects(
        &self,
        after: &str,
        limit: usize,
        want: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        let tail: HashMap<Box<str>, u64> = self.lock().subjects.clone();
        let mut found: std::collections::BTreeMap<String, u64> = tail
            .iter()
            .filter(|(s, _)| s.as_ref() > after && want(s))
            .map(|(s, seq)| (s.to_string(), *seq))
            .collect();
        let mut stored = 0;
        let mut start = subject_key(after);
        start.push(0);
        self.ask(|db| {
            for row in db.range(start..b"t".to_vec()) {
                let (key, value) = row?;
                let Ok(name) = std::str::from_utf8(&key[1..]) else { continue };
                if !want(name) {
                    continue;
                }
                found.entry(name.to_owned()).or_insert(sequence(Some(value)).unwrap_or(0));
                stored += 1;
                if stored > limit {
                    break;
                }
            }
            Ok(())
        })?;
        Ok(found.into_iter().take(limit).collect())
    }

    /// Returns the position that the index reflects, and whether it has failed.
    pub(crate) fn state(&self) -> (u64, bool) {
        let pending = self.lock();
        (pending.upto, pending.failed)
    }

    /// Hands over durable events; waits while the index is too far behind.
    pub(crate) fn push(&self, entries: Vec<Entry>) {
        self.push_within(entries, self.limit);
    }

    /// As [`Self::push`], with a limit of the caller's.
    pub(crate) fn push_within(&self, entries: Vec<Entry>, limit: u64) {
        let Some(last) = entries.last().map(|e| e.seq) else { return };
        let mut pending = self.lock();
        while !pending.failed && pending.head - pending.upto > limit {
            pending = self.changed.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
        for entry in &entries {
            self.erased.fetch_add(entry.erased.len() as u64, Relaxed);
            if let Some(key) = entry.key {
                pending.ids.insert(key, entry.seq);
            }
            match pending.subjects.get_mut(entry.subject.as_str()) {
                Some(seq) => *seq = entry.seq,
                None => {
                    pending.subjects.insert(entry.subject.as_str().into(), entry.seq);
                }
            }
        }
        pending.head = last;
        let was_empty = pending.queue.is_empty();
        pending.queue.extend(entries);
        if was_empty || pending.queue.len() >= GATHER {
            self.changed.notify_all();
        }
    }

    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    /// Follows the log until it is stopped. Runs on a thread of its own.
    pub(crate) fn follow(self: Arc<Self>, mut store: Store) {
        loop {
            let batch = {
                let mut pending = self.lock();
                while pending.queue.is_empty() && !pending.stop {
                    pending = self.changed.wait(pending).unwrap_or_else(PoisonError::into_inner);
                }
                if pending.queue.len() < GATHER && !pending.stop {
                    // The memory answers meanwhile; many events in one batch cost little more than one.
                    let enough = |p: &mut Pending| p.queue.len() < GATHER && !p.stop;
                    let waited = self.changed.wait_timeout_while(pending, PAUSE, enough);
                    (pending, _) = waited.unwrap_or_else(PoisonError::into_inner);
                }
                if pending.queue.is_empty() {
                    break;
                }
                std::mem::take(&mut pending.queue)
            };
            let applied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                batch.chunks(16_384).try_for_each(|chunk| store.apply(chunk))
            }));
            let applied = applied.unwrap_or(Err(StoreError::Panicked));
            let mut pending = self.lock();
            if let Err(e) = applied {
                tracing::error!(error = %e, "the index stopped; ids and expectations stay exact from memory");
                pending.failed = true;
                self.changed.notify_all();
                drop(pending);
                self.give_up(&e);
                break;
            }
            let upto = store.upto;
            pending.upto = upto;
            pending.ids.retain(|_, seq| *seq > upto);
            pending.subjects.retain(|_, seq| *seq > upto);
            self.changed.notify_all();
        }
        // A hint only: whatever did not reach the disk is folded again.
        let _ = store.db.flush();
    }

    /// Waits until the index reflects a position, or the time is up; returns whether it does.
    #[cfg(test)]
    fn wait_for(&self, upto: u64, limit: Duration) -> bool {
        let pending = self.lock();
        let (pending, _) = self
            .changed
            .wait_timeout_while(pending, limit, |p| p.upto < upto && !p.failed)
            .unwrap_or_else(PoisonError::into_inner);
        pending.upto >= upto
    }
}

/// Returns the index's folder and the one to which a broken index is moved.
pub(crate) fn folders(bus: &Path) -> (PathBuf, PathBuf) {
    (bus.join("index"), bus.join("index.bad"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64, id: Option<u8>, subject: &str) -> Entry {
        let subject = Subject::parse(subject).unwrap();
        Entry { seq, key: id.map(|b| [b; 16]), subject, erased: Box::default() }
    }

    #[test]
    fn what_is_not_yet_stored_is_answered_from_memory() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, aside) = folders(temp.path());
        let store = Store::open(&dir, &aside).unwrap();
        let index = Arc::new(Index::new(&store, 10, Arc::new(|_| {})));
        index.push(vec![entry(1, Some(1), "a.b"), entry(2, None, "a.c")]);
        assert_eq!(index.seq_of_id(&[1; 16]).unwrap(), Some(1));
        assert_eq!(index.state().0, 0);
        let follower = Arc::clone(&index);
        let thread = mirror_kit::spawn_thread("index", move || follower.follow(store)).unwrap();
        assert!(index.wait_for(2, Duration::from_secs(5)));
        assert_eq!(index.lock().ids.len(), 0);
        assert_eq!(index.seq_of_id(&[1; 16]).unwrap(), Some(1));
        assert_eq!(index.last_of("a.c").unwrap(), 2);
        assert_eq!(index.last_of("a").unwrap(), 0);
        index.push(vec![entry(3, None, "a.b"), entry(4, None, "b")]);
        let all = index.subjects("", 10, &|_| true).unwrap();
        assert_eq!(all, [("a.b".to_owned(), 3), ("a.c".to_owned(), 2), ("b".to_owned(), 4)]);
        assert_eq!(index.subjects("a.b", 1, &|_| true).unwrap(), [("a.c".to_owned(), 2)]);
        index.stop();
        thread.join().unwrap();
        drop(index);
        assert_eq!(Store::open(&dir, &aside).unwrap().upto(), 4);
    }

    #[test]
    fn a_broken_index_is_set_aside() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, aside) = folders(temp.path());
        {
            let mut store = Store::open(&dir, &aside).unwrap();
            store.apply(&[entry(1, Some(1), "a")]).unwrap();
            store.db.insert(META, b"other".to_vec()).unwrap();
            store.db.flush().unwrap();
        }
        let store = Store::open(&dir, &aside).unwrap();
        assert_eq!(store.upto(), 0);
        assert!(aside.is_dir());
    }
}
