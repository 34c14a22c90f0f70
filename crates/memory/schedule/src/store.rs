//! The files: `marks.json`, which is written before anything is acted on, and `snapshot.json`, which saves reading the log.
//!
//! The marks are small: where each job stands, and the outbox. The snapshot is what the log tells up to a place.
//! Invariant: a file that is damaged, of another log, or of another version is set aside and never half believed.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mirror_client::follow::Place;
use mirror_paths::absent_is_fine;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::job::{Mark, Posted};
use crate::schedule::Schedule;

/// Version of the files; raised when the same events give another schedule.
const FOLD: u32 = 1;

const MARKS: &str = "marks.json";
const SNAPSHOT: &str = "snapshot.json";

/// Largest file that is read; the largest state takes half of it.
const FILE_LIMIT: u64 = 64 << 20;

/// Where the files lie, and of which log they are.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
    origin: String,
}

/// What must not be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marks {
    place: Stood,
    pub(crate) told_day: u64,
    pub(crate) gone: VecDeque<(String, u64)>,
    pub(crate) marks: BTreeMap<String, Mark>,
    pub(crate) outbox: VecDeque<Posted>,
}

/// What the log tells up to a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Snapshot {
    place: Stood,
    gone: VecDeque<(String, u64)>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stood {
    seq: u64,
    leaf: String,
}

impl Stood {
    fn of(place: &Place) -> Self {
        Self { seq: place.seq, leaf: place.leaf.clone() }
    }

    fn place(self) -> Place {
        Place { upto: self.seq, seq: self.seq, leaf: self.leaf }
    }
}

#[derive(Serialize, Deserialize)]
struct File<T> {
    fold: u32,
    origin: String,
    #[serde(flatten)]
    body: T,
}

#[derive(Deserialize)]
struct Version {
    fold: u32,
}

impl Marks {
    /// Returns what must not be forgotten of a schedule.
    pub(crate) fn of(schedule: &Schedule) -> Self {
        Self {
            place: Stood::of(&schedule.place),
            told_day: schedule.told_day,
            gone: schedule.gone.clone(),
            marks: schedule.entries.iter().map(|(name, e)| (name.clone(), e.mark.clone())).collect(),
            outbox: schedule.outbox.iter().map(|posted| posted.as_ref().clone()).collect(),
        }
    }

    /// Returns the last event that the log had acknowledged.
    pub(crate) fn place(&self) -> Place {
        self.place.clone().place()
    }

    /// Lays the marks over what the log tells; returns whether both are of the same jobs.
    ///
    /// The events after the marks' place must be notes of their outbox; else the marks are older than the log.
    pub(crate) fn lay_over(&self, schedule: &mut Schedule, later: &[String]) -> bool {
        if !later.iter().all(|id| self.outbox.iter().any(|posted| posted.id == *id)) {
            return false;
        }
        // The log has those of which only the answer was lost.
        let under_way = self.outbox.iter().filter(|posted| !later.contains(&posted.id));
        schedule.outbox = under_way.cloned().map(Arc::new).collect();
        for posted in schedule.outbox.clone() {
            schedule.apply(posted.note.clone());
        }
        if !schedule.entries.keys().eq(self.marks.keys()) {
            return false;
        }
        for (name, mark) in &self.marks {
            if let Some(entry) = schedule.entries.get_mut(name) {
                Arc::make_mut(entry).mark = mark.clone();
            }
        }
        schedule.gone = self.gone.clone();
        schedule.told_day = self.told_day;
        schedule.posted = u64::try_from(schedule.outbox.len()).unwrap_or(u64::MAX);
        true
    }
}

impl Store {
    pub(crate) fn new(dir: PathBuf, origin: &str) -> Self {
        Self { dir, origin: origin.to_owned() }
    }

    /// Returns the marks that were saved last, unless there are none that can be used.
    pub(crate) fn load_marks(&self) -> io::Result<Option<Marks>> {
        self.load(MARKS)
    }

    /// Returns what the log told when the snapshot was saved, or an empty schedule.
    pub(crate) fn load_snapshot(&self) -> io::Result<Schedule> {
        let Some(snapshot) = self.load::<Snapshot>(SNAPSHOT)? else { return Ok(Schedule::default()) };
        let entries = snapshot.entries.into_iter().map(|e| (e.job.name.clone(), Arc::new(e))).collect();
        let place = snapshot.place.place();
        Ok(Schedule { entries, gone: snapshot.gone, place, ..Schedule::default() })
    }

    /// Saves what must not be forgotten; it is on the disk when this returns.
    pub(crate) fn save_marks(&self, schedule: &Schedule) -> io::Result<()> {
        self.save(MARKS, Marks::of(schedule))
    }

    /// Saves what the log tells. While notes are under way to it the last snapshot stays: their rows would come twice.
    pub(crate) fn save_snapshot(&self, schedule: &Schedule) -> io::Result<()> {
        if !schedule.outbox.is_empty() {
            return Ok(());
        }
        let entries = schedule.entries.values().map(|entry| entry.as_ref().clone()).collect();
        let (place, gone) = (Stood::of(&schedule.place), schedule.gone.clone());
        self.save(SNAPSHOT, Snapshot { place, gone, entries })
    }

    /// Moves both files out of the way, to be looked at.
    pub(crate) fn set_aside(&self, why: &str) -> io::Result<()> {
        tracing::warn!(why, "the state is set aside, and made again from the log");
        for name in [MARKS, SNAPSHOT] {
            absent_is_fine(fs::rename(self.dir.join(name), aside(&self.dir, name)))?;
        }
        Ok(())
    }

    fn save<T: Serialize>(&self, name: &str, body: T) -> io::Result<()> {
        let text = serde_json::to_string(&File { fold: FOLD, origin: self.origin.clone(), body })?;
        let digest = blake3::hash(text.as_bytes()).to_hex();
        mirror_paths::write_atomic(&self.dir.join(name), format!("{digest}\n{text}\n").as_bytes())
    }

    fn load<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let path = self.dir.join(name);
        let found = match fs::metadata(&path) {
            Ok(meta) if meta.len() > FILE_LIMIT => Err("it is too large"),
            Ok(_) => parse(&fs::read(&path)?, &self.origin),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        match found {
            Ok(body) => Ok(Some(body)),
            Err(why) => {
                tracing::warn!(why, name, "a file of the state is set aside, and made again from the log");
                fs::rename(&path, aside(&self.dir, name))?;
                Ok(None)
            }
        }
    }
}

fn aside(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.bad"))
}

fn parse<T: DeserializeOwned>(bytes: &[u8], origin: &str) -> Result<T, &'static str> {
    const DAMAGED: &str = "it is damaged";
    let text = std::str::from_utf8(bytes).map_err(|_| DAMAGED)?;
    let (digest, text) = text.trim_end_matches('\n').split_once('\n').ok_or(DAMAGED)?;
    if blake3::hash(text.as_bytes()).to_hex().as_str() != digest {
        return Err(DAMAGED);
    }
    let version: Version = serde_json::from_str(text).map_err(|_| DAMAGED)?;
    if version.fold != FOLD {
        return Err("it was made by another version");
    }
    let file: File<T> = serde_json::from_str(text).map_err(|_| DAMAGED)?;
    if file.origin == origin { Ok(file.body) } else { Err("it was made from another log") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{job, now};

    fn fixture() -> (tempfile::TempDir, Store, Schedule) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned(), "0123456789abcdef.1");
        let mut schedule = Schedule::default();
        schedule.put(job("a", 60_000), 10, &now(30_000)).unwrap();
        schedule.tick(&now(60_000));
        schedule.start(("a", 60_000), "svc:x", None, &now(60_001)).unwrap();
        (dir, store, schedule)
    }

    #[test]
    fn what_is_saved_is_loaded_and_laid_over_what_the_log_tells() {
        let (_dir, store, schedule) = fixture();
        assert_eq!(store.load_marks().unwrap(), None);
        store.save_marks(&schedule).unwrap();
        store.save_snapshot(&schedule).unwrap();
        assert_eq!(store.load_snapshot().unwrap(), Schedule::default(), "a note is under way");
        let mut again = Schedule::default();
        assert!(store.load_marks().unwrap().unwrap().lay_over(&mut again, &[]));
        assert_eq!(Marks::of(&again), Marks::of(&schedule));
        assert_eq!(again.entries["a"].job, schedule.entries["a"].job);

        let mut flushed = schedule;
        let id = flushed.outbox[0].id.clone();
        flushed.acknowledge(&id, Some(Place { upto: 7, seq: 7, leaf: "ab".into() }));
        store.save_snapshot(&flushed).unwrap();
        let loaded = store.load_snapshot().unwrap();
        assert_eq!(loaded.place.seq, 7);
        assert_eq!(loaded.entries["a"].mark, flushed.entries["a"].mark);
    }

    #[test]
    fn marks_that_the_log_has_left_behind_are_refused() {
        let (_dir, _store, schedule) = fixture();
        let marks = Marks::of(&schedule);
        let id = schedule.outbox[0].id.clone();
        let folded = || {
            let mut folded = Schedule::default();
            folded.apply(schedule.outbox[0].note.clone());
            folded
        };
        assert!(marks.lay_over(&mut folded(), std::slice::from_ref(&id)), "the answer was lost");
        assert!(!marks.lay_over(&mut folded(), &[id, "schedule-other-1".into()]));
        let mut more = Schedule::default();
        more.put(job("b", 60_000), 10, &now(0)).unwrap();
        assert!(!marks.lay_over(&mut more, &[]), "the log knows a job that the marks do not");
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let (dir, store, schedule) = fixture();
        store.save_marks(&schedule).unwrap();
        let good = fs::read(dir.path().join(MARKS)).unwrap();
        for at in (0..good.len() - 1).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(dir.path().join(MARKS), &bad).unwrap();
            assert_eq!(store.load_marks().unwrap(), None, "byte {at}");
            assert_eq!(fs::read(aside(dir.path(), MARKS)).unwrap(), bad);
            assert!(!dir.path().join(MARKS).exists());
        }
        fs::write(dir.path().join(MARKS), &good).unwrap();
        let other = Store::new(dir.path().to_owned(), "fedcba9876543210.1");
        assert_eq!(other.load_marks().unwrap(), None);
    }
}
