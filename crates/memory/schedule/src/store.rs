//! The files: `marks.json`, which is written before anything is acted on, and `snapshot.json`, which saves reading the log.
//!
//! The marks are small: where each job stands, and the outbox. The snapshot is what the log tells up to a place.
//! Invariant: a file that is damaged, of another log, or of another version is set aside and never half believed.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use mirror_client::follow::Place;
use mirror_kit::{SnapshotFile, SnapshotForm};
use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::job::{Mark, Posted};
use crate::schedule::Schedule;

/// The largest state takes half of the limit.
const MARKS: SnapshotForm = SnapshotForm { name: "marks.json", fold: 2, limit: 64 << 20 };
const SNAPSHOT: SnapshotForm = SnapshotForm { name: "snapshot.json", ..MARKS };

/// Where the files lie, and of which log they are.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    marks: SnapshotFile,
    snapshot: SnapshotFile,
}

/// What must not be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marks {
    /// The last event that the log had acknowledged.
    #[serde(skip)]
    place: Place,
    pub(crate) told_day: u64,
    pub(crate) gone: VecDeque<(String, u64)>,
    pub(crate) marks: BTreeMap<String, Mark>,
    pub(crate) outbox: VecDeque<Posted>,
}

/// What the log tells up to a place.
#[derive(Serialize, Deserialize)]
struct Told {
    gone: VecDeque<(String, u64)>,
    entries: Vec<Entry>,
}

/// Returns a place as the files keep it: that of an event.
fn stood(place: &Place) -> Place {
    Place { upto: place.seq, ..place.clone() }
}

impl Marks {
    /// Returns what must not be forgotten of a schedule.
    pub(crate) fn of(schedule: &Schedule) -> Self {
        Self {
            place: stood(&schedule.place),
            told_day: schedule.told_day,
            gone: schedule.gone.clone(),
            marks: schedule.entries.iter().map(|(name, e)| (name.clone(), e.mark.clone())).collect(),
            outbox: schedule.outbox.iter().map(|posted| posted.as_ref().clone()).collect(),
        }
    }

    /// Returns the marks as they stand at a place, which the file keeps beside them.
    pub(crate) fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// Returns the last event that the log had acknowledged.
    pub(crate) fn place(&self) -> Place {
        self.place.clone()
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
    pub(crate) fn new(dir: &Path, origin: &str) -> Self {
        let file = |form| SnapshotFile::new(dir, origin, form);
        Self { marks: file(MARKS), snapshot: file(SNAPSHOT) }
    }

    /// Returns the marks that were saved last, unless there are none that can be used.
    pub(crate) fn load_marks(&self) -> io::Result<Option<Marks>> {
        let loaded = self.marks.read::<Marks>()?.loaded();
        Ok(loaded.map(|(marks, place)| marks.at(place)))
    }

    /// Returns what the log told when the snapshot was saved, or an empty schedule.
    pub(crate) fn load_snapshot(&self) -> Schedule {
        let Some((told, place)) = self.snapshot.load::<Told>().loaded() else { return Schedule::default() };
        let entries = told.entries.into_iter().map(|e| (e.job.name.clone(), Arc::new(e))).collect();
        Schedule { entries, gone: told.gone, place, ..Schedule::default() }
    }

    /// Saves what must not be forgotten; it is on the disk when this returns.
    pub(crate) fn save_marks(&self, schedule: &Schedule) -> io::Result<()> {
        let marks = Marks::of(schedule);
        self.marks.save(|| (marks.place.clone(), marks))
    }

    /// Saves what the log tells. While notes are under way to it the last snapshot stays: their rows would come twice.
    pub(crate) fn save_snapshot(&self, schedule: &Schedule) -> io::Result<()> {
        if !schedule.outbox.is_empty() {
            return Ok(());
        }
        let entries = schedule.entries.values().map(|entry| entry.as_ref().clone()).collect();
        let told = Told { gone: schedule.gone.clone(), entries };
        self.snapshot.save(|| (stood(&schedule.place), told))
    }

    /// Moves both files out of the way, to be looked at.
    pub(crate) fn set_aside(&self, why: &str) -> io::Result<()> {
        tracing::warn!(why, "the state is set aside, and made again from the log");
        self.marks.set_aside()?;
        self.snapshot.set_aside()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{job, now};

    fn fixture() -> (tempfile::TempDir, Store, Schedule) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "0123456789abcdef.1");
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
        assert_eq!(store.load_snapshot(), Schedule::default(), "a note is under way");
        let mut again = Schedule::default();
        assert!(store.load_marks().unwrap().unwrap().lay_over(&mut again, &[]));
        assert_eq!(Marks::of(&again), Marks::of(&schedule));
        assert_eq!(again.entries["a"].job, schedule.entries["a"].job);

        let mut flushed = schedule;
        let id = flushed.outbox[0].id.clone();
        flushed.acknowledge(&id, Some(Place { upto: 7, seq: 7, leaf: "ab".into() }));
        store.save_snapshot(&flushed).unwrap();
        let loaded = store.load_snapshot();
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
    fn marks_of_another_log_are_set_aside_and_those_that_cannot_be_read_stay() {
        let (dir, store, schedule) = fixture();
        store.save_marks(&schedule).unwrap();
        let other = Store::new(dir.path(), "fedcba9876543210.1");
        assert_eq!(other.load_marks().unwrap(), None);
        assert!(store.marks.aside().exists());
        std::fs::create_dir(store.marks.path()).unwrap();
        assert!(store.load_marks().is_err() && store.marks.path().exists());
    }
}
