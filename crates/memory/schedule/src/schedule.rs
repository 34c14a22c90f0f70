//! The schedule: all jobs, and what may be done to them.
//!
//! It knows neither the bus nor the disk nor a clock: the time is handed in, and what the log is to be told is in the
//! outbox. Every method leaves a state that may be saved, also when it refuses.
//! Invariant: what must not be forgotten has set `dirty`; whoever saves the schedule does so before it is acted on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::tz::TimeZone;
use mirror_client::follow::Place;

use crate::entry::{DAY_MS, Entry, Now};
use crate::error::Error;
use crate::job::{Job, Note, Open, Outcome, Posted, Row, Started, Told, Worker};
use crate::when::When;

/// Notes that wait for the log before changes are refused.
pub(crate) const OUTBOX: usize = 1024;

/// Jobs that one note tells of: with the longest rows of each, half of what an event may hold.
const TOLD: usize = 20;

/// Deleted jobs whose names are remembered.
const GONE: usize = 64;

const LOST: &str = "the state of the schedule was lost while it was open; the outcome is unknown";
const UNKNOWN: &str = "the state of the schedule was lost, and what ran since its last record is not known";

/// A worker's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) failed: bool,
    pub(crate) worked: bool,
    pub(crate) detail: String,
}

/// All jobs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Schedule {
    pub(crate) entries: BTreeMap<String, Arc<Entry>>,
    /// Deleted jobs, by name and how far they were settled, oldest first.
    pub(crate) gone: VecDeque<(String, u64)>,
    /// What the log is still to be told, oldest first.
    pub(crate) outbox: VecDeque<Arc<Posted>>,
    /// The last event that the log acknowledged.
    pub(crate) place: Place,
    /// Day on which the log was last told of quiet occurrences.
    pub(crate) told_day: u64,
    /// Notes of this process.
    pub(crate) posted: u64,
    /// Part of the notes' ids that no other process has.
    pub(crate) life: String,
    /// Whether there is something that must be saved.
    pub(crate) dirty: bool,
    /// Time zone for which the next times were found.
    pub(crate) tz: Option<TimeZone>,
}

impl Schedule {
    /// Lets time take its course.
    pub(crate) fn tick(&mut self, now: &Now) {
        if self.tz.as_ref() != Some(&now.tz) {
            self.tz = Some(now.tz.clone());
            for entry in self.entries.values_mut().map(Arc::make_mut) {
                entry.settle_to(entry.mark.settled, &now.tz);
            }
        }
        if self.outbox.len() >= OUTBOX {
            return;
        }
        let day_ends = self.told_day < now.day();
        let mut told = Vec::new();
        for entry in self.entries.values_mut() {
            let (ripe, ends_a_day) = (entry.is_ripe(now), day_ends && entry.mark.untold);
            if !ripe && !ends_a_day {
                continue;
            }
            let entry = Arc::make_mut(entry);
            let before = entry.mark.totals;
            let mut rows = if ripe { entry.pass(now) } else { Vec::new() };
            if day_ends && entry.mark.untold {
                rows.extend(entry.flush_tail());
                told.push(entry.tell(rows));
            } else if !rows.is_empty() {
                told.push(entry.tell(rows));
            }
            // That one is due is found again; that one has ended must not be forgotten.
            self.dirty |= entry.mark.totals != before;
        }
        if day_ends {
            self.told_day = now.day();
            self.dirty = true;
        }
        self.post_told(told);
    }

    /// Returns in how many milliseconds time will change something, unless a clock is set.
    pub(crate) fn ripe_in(&self, now: &Now) -> Option<u64> {
        let untold = self.entries.values().any(|entry| entry.mark.untold);
        let midnight = (self.told_day + 1).saturating_mul(DAY_MS).saturating_sub(now.wall);
        let jobs = self.entries.values().filter_map(|entry| entry.ripe_in(now)).min();
        jobs.into_iter().chain(untold.then_some(midnight)).min()
    }

    /// Makes or replaces a job; returns whether anything changed.
    pub(crate) fn put(&mut self, job: Job, limit: usize, now: &Now) -> Result<bool, Error> {
        let found = self.entries.get(&job.name);
        let is_new_rule = found.is_none_or(|entry| entry.job.when != job.when);
        match found {
            Some(entry) if entry.job.owner != job.owner => return Err(owned(&entry.job)),
            Some(entry) if entry.job == job => return Ok(false),
            None if self.entries.len() >= limit => return Err(Error::Full(limit)),
            _ => {}
        }
        if is_new_rule && matches!(job.when, When::At { at_ms } if at_ms <= now.wall) {
            return Err(Error::Job { field: "job.at", why: "must lie in the future" });
        }
        self.has_room()?;
        let mut told = Vec::new();
        match self.entries.get_mut(&job.name) {
            Some(entry) => {
                let entry = Arc::make_mut(entry);
                let mut rows = if entry.running().is_some() { entry.skip_overrun(now) } else { Vec::new() };
                rows.extend(entry.flush_tail());
                if !rows.is_empty() {
                    told.push(entry.tell(rows));
                }
                entry.job = job.clone();
                // The times that the new rule would have had before it was made are none of its occurrences.
                entry.settle_to(entry.mark.settled.max(now.wall), &now.tz);
            }
            None => {
                let settled = self.first_settled(&job.name, now);
                let mut entry = Entry::new(job.clone(), settled);
                entry.settle_to(settled, &now.tz);
                self.entries.insert(job.name.clone(), Arc::new(entry));
            }
        }
        self.post_told(told);
        let mark = self.entries.get(&job.name).map(|entry| entry.mark.clone()).unwrap_or_default();
        self.post(Note::Job { put: job, settled: mark.settled, open: mark.open.map(|open| open.due) });
        Ok(true)
    }

    /// Returns from when on a job has occurrences: a name that is used again must not repeat those that it had, unless
    /// a wrong clock put them far ahead.
    fn first_settled(&self, name: &str, now: &Now) -> u64 {
        let gone = self.gone.iter().rev().find(|(gone, _)| gone == name).map_or(0, |(_, settled)| *settled);
        if gone > now.wall.saturating_add(DAY_MS) { now.wall } else { gone.max(now.wall) }
    }

    /// Deletes a job; returns whether there was one.
    pub(crate) fn delete(&mut self, name: &str, caller: &str, now: &Now) -> Result<bool, Error> {
        let Some(entry) = self.entries.get_mut(name) else { return Ok(false) };
        if entry.job.owner != caller {
            return Err(owned(&entry.job));
        }
        if self.outbox.len() >= OUTBOX {
            return Err(full_outbox());
        }
        let entry = Arc::make_mut(entry);
        let why = if entry.running().is_some() {
            "the job was deleted while it ran"
        } else {
            "the job was deleted"
        };
        let was_running = entry.running().is_some();
        let mut rows = entry.end(Outcome::Skipped, why, now);
        if was_running {
            rows.extend(entry.skip_overrun(now));
            rows.extend(entry.flush_tail());
        }
        let told = entry.tell(rows);
        let settled = entry.mark.settled.max(now.wall);
        self.forget(name, settled);
        self.post_told(vec![told].into_iter().filter(|told| !told.rows.is_empty()).collect());
        self.post(Note::Deleted { job: name.to_owned(), settled });
        Ok(true)
    }

    fn forget(&mut self, name: &str, settled: u64) {
        self.entries.remove(name);
        self.gone.retain(|(gone, _)| gone != name);
        if self.gone.len() >= GONE {
            self.gone.pop_front();
        }
        self.gone.push_back((name.to_owned(), settled));
    }

    /// Returns the occurrences that an owner may start now, by job and due time.
    pub(crate) fn due<'a>(&'a self, owner: &'a str, now: &'a Now) -> impl Iterator<Item = (&'a str, u64)> {
        let own = self.entries.values().filter(move |entry| entry.job.owner == owner);
        own.filter_map(|entry| Some((entry.job.name.as_str(), entry.startable(now)?)))
    }

    /// Starts an occurrence; returns until when it may run, by the wall clock.
    pub(crate) fn start(
        &mut self,
        (name, due): (&str, u64),
        caller: &str,
        worker: Option<Worker>,
        now: &Now,
    ) -> Result<u64, Error> {
        let entry = own(&mut self.entries, name, caller)?;
        if entry.startable(now) != Some(due) {
            let why = match &entry.mark.open {
                Some(open) if open.due == due && open.started.is_some() => "it was started before",
                Some(open) if open.due > due => "a newer one is open",
                _ if due > now.wall => "it is not due yet",
                _ if due <= entry.mark.settled => "it has ended",
                _ => "the job has no occurrence then",
            };
            return Err(Error::NotDue { job: name.to_owned(), why });
        }
        let entry = Arc::make_mut(entry);
        let until = now.wall.saturating_add(entry.job.limit_ms);
        entry.deadline = Some(now.boot.saturating_add(entry.job.limit_ms));
        entry.mark.open = Some(Open { due, started: Some(Started { at: now.wall, until, worker }) });
        self.dirty = true;
        Ok(until)
    }

    /// Ends an occurrence as its worker reports; returns it.
    pub(crate) fn finish(
        &mut self,
        (name, due): (&str, u64),
        caller: &str,
        report: &Report,
        now: &Now,
    ) -> Result<Row, Error> {
        let room = self.outbox.len() < OUTBOX;
        let entry = own(&mut self.entries, name, caller)?;
        if entry.running().is_none_or(|(open, _)| open.due != due) {
            return repeated(entry, due, report);
        }
        let quiet = !report.failed && !report.worked;
        if !room && !quiet {
            return Err(full_outbox());
        }
        let entry = Arc::make_mut(entry);
        let mut rows = if quiet {
            entry.end_quietly(&report.detail, now);
            Vec::new()
        } else {
            let state = if report.failed { Outcome::Failed } else { Outcome::Done };
            entry.end(state, &report.detail, now)
        };
        let ended = if quiet { entry.mark.quiet.clone() } else { rows.last().cloned() };
        rows.extend(entry.skip_overrun(now));
        let told = (!rows.is_empty()).then(|| entry.tell(rows));
        self.dirty = true;
        self.post_told(told.into_iter().collect());
        ended.ok_or_else(|| Error::NotStarted(name.to_owned()))
    }

    /// Ends what another process of a service had started: a service has one process, so that one is gone.
    pub(crate) fn takes_over(&mut self, owner: &str, worker: &Worker, now: &Now) {
        self.lose_where(now, |entry, started| {
            entry.job.owner == owner && started.worker.as_ref().is_some_and(|other| other != worker)
        });
    }

    /// Goes on after the process was started: what runs has the rest of its time, if its worker still lives.
    pub(crate) fn resume(&mut self, now: &Now, alive: impl Fn(&Worker) -> bool) {
        for entry in self.entries.values_mut() {
            if let Some((_, started)) = entry.running() {
                let left = started.until.saturating_sub(now.wall).min(entry.job.limit_ms);
                Arc::make_mut(entry).deadline = Some(now.boot.saturating_add(left));
            }
        }
        self.tz = None;
        self.tick(now);
        self.lose_where(now, |_, started| started.worker.as_ref().is_some_and(|worker| !alive(worker)));
    }

    fn lose_where(&mut self, now: &Now, is_lost: impl Fn(&Entry, &Started) -> bool) {
        let mut told = Vec::new();
        for entry in self.entries.values_mut() {
            if entry.running().is_some_and(|(_, started)| is_lost(entry, started)) {
                let entry = Arc::make_mut(entry);
                let rows = entry.lose("its worker ended without a report; the outcome is unknown", now);
                told.push(entry.tell(rows));
            }
        }
        self.dirty |= !told.is_empty();
        self.post_told(told);
    }

    /// Goes on with what the log alone tells: nothing that may have run since then is run again.
    pub(crate) fn resume_from_log(&mut self, now: &Now) {
        let mut told = Vec::new();
        for entry in self.entries.values_mut().map(Arc::make_mut) {
            let mut rows = entry.end(Outcome::Failed, LOST, now);
            if let Some(span) = entry.job.when.span(entry.mark.settled, now.wall, &now.tz) {
                rows.extend(entry.lapse(Outcome::Missed, span.last, span.count, UNKNOWN, now));
                rows.extend(entry.flush_tail());
            }
            entry.settle_to(entry.mark.settled.max(now.wall), &now.tz);
            if !rows.is_empty() {
                told.push(entry.tell(rows));
            }
        }
        self.dirty = true;
        self.post_told(told);
        self.told_day = now.day();
        self.tick(now);
    }

    /// Takes what the log tells.
    pub(crate) fn apply(&mut self, note: Note) {
        match note {
            Note::Job { put, settled, open } => {
                self.gone.retain(|(gone, _)| *gone != put.name);
                let entry = self.entries.entry(put.name.clone());
                let entry = entry.or_insert_with(|| Arc::new(Entry::new(put.clone(), settled)));
                let entry = Arc::make_mut(entry);
                entry.job = put;
                entry.mark.settled = settled;
                entry.mark.open = open.map(|due| Open { due, started: None });
            }
            Note::Deleted { job, settled } => self.forget(&job, settled),
            Note::Told { jobs } => {
                for told in jobs {
                    let Some(entry) = self.entries.get_mut(&told.job) else { continue };
                    let entry = Arc::make_mut(entry);
                    entry.mark.settled = told.settled;
                    entry.mark.open = told.open.map(|due| Open { due, started: None });
                    entry.mark.totals = told.totals;
                    for row in told.rows {
                        entry.push(row);
                    }
                }
            }
        }
    }

    /// Returns how many notes of this process the log has.
    pub(crate) fn flushed(&self) -> u64 {
        self.posted.saturating_sub(u64::try_from(self.outbox.len()).unwrap_or(u64::MAX))
    }

    /// Takes the oldest note out, which the log has acknowledged.
    pub(crate) fn acknowledge(&mut self, id: &str, place: Option<Place>) {
        if self.outbox.front().is_some_and(|posted| posted.id == id) {
            self.outbox.pop_front();
            self.place = place.unwrap_or_else(|| self.place.clone());
        }
    }

    fn has_room(&self) -> Result<(), Error> {
        if self.outbox.len() < OUTBOX { Ok(()) } else { Err(full_outbox()) }
    }

    fn post_told(&mut self, told: Vec<Told>) {
        for jobs in told.chunks(TOLD) {
            self.post(Note::Told { jobs: jobs.to_vec() });
        }
    }

    fn post(&mut self, note: Note) {
        self.posted += 1;
        let id = format!("schedule-{}-{}", self.life, self.posted);
        self.outbox.push_back(Arc::new(Posted { id, note }));
        self.dirty = true;
    }
}

fn own<'a>(
    entries: &'a mut BTreeMap<String, Arc<Entry>>,
    name: &str,
    caller: &str,
) -> Result<&'a mut Arc<Entry>, Error> {
    let entry = entries.get_mut(name).ok_or_else(|| Error::Missing(name.to_owned()))?;
    if entry.job.owner == caller { Ok(entry) } else { Err(owned(&entry.job)) }
}

fn owned(job: &Job) -> Error {
    Error::Owned { job: job.name.clone(), owner: job.owner.clone() }
}

fn full_outbox() -> Error {
    Error::NotRecorded(format!("the bus is away, and {OUTBOX} records wait for it"))
}

/// Answers a report on an occurrence that does not run: the same one again is acknowledged.
fn repeated(entry: &Entry, due: u64, report: &Report) -> Result<Row, Error> {
    let name = || entry.job.name.clone();
    let state = if report.failed { Outcome::Failed } else { Outcome::Done };
    let is_same = |row: &&Row| row.due == due && row.state == state && row.detail == report.detail;
    let recorded = entry.rows.iter().rev().filter(|row| row.started.is_some());
    let quiet = entry.mark.quiet.iter().filter(|_| !report.failed && !report.worked);
    let found = if report.failed || report.worked {
        recorded.into_iter().find(is_same)
    } else {
        quiet.into_iter().find(is_same)
    };
    match found {
        Some(row) => Ok(row.clone()),
        None if due > entry.mark.settled || entry.mark.open.as_ref().is_some_and(|open| open.due == due) => {
            Err(Error::NotStarted(name()))
        }
        None => Err(Error::Ended(name())),
    }
}
