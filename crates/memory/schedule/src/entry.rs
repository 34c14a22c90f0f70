//! A job with its occurrences: which one is open, and how each ends.
//!
//! At most one occurrence of a job is open. A newer one that falls due takes the place of one that nobody started, which
//! then ends as missed; while one runs, all that fall due end as skipped when it ends.
//! Invariant: every occurrence up to `mark.settled` has ended and is in the totals once, but for the open one.

use std::collections::VecDeque;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::job::{Job, Mark, Open, Outcome, Row, Started, Told};

/// Recorded occurrences of a job that are kept.
pub(crate) const ROWS: usize = 64;

/// A day, in milliseconds.
pub(crate) const DAY_MS: u64 = 86_400_000;

const MISSED: &str = "nobody started it in time";
const OVERRUN: &str = "the one before was still running";

/// The time, as one look at the clocks found it.
#[derive(Debug, Clone)]
pub(crate) struct Now {
    /// Wall clock, in milliseconds since 1970.
    pub(crate) wall: u64,
    /// Boot clock, in milliseconds.
    pub(crate) boot: u64,
    /// Time zone of the machine.
    pub(crate) tz: TimeZone,
}

impl Now {
    /// Returns the day, counted from 1970 in UTC.
    pub(crate) fn day(&self) -> u64 {
        self.wall / DAY_MS
    }
}

/// A job and its occurrences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) job: Job,
    pub(crate) mark: Mark,
    /// Recorded occurrences in order of due time, at most [`ROWS`].
    pub(crate) rows: VecDeque<Row>,
    /// When the open occurrence ends as failed, in milliseconds of the boot clock.
    #[serde(skip)]
    pub(crate) deadline: Option<u64>,
    /// The first time after `mark.settled`.
    #[serde(skip)]
    pub(crate) next: Option<u64>,
}

impl Entry {
    /// Returns a job without occurrences.
    pub(crate) fn new(job: Job, settled: u64) -> Self {
        let mark = Mark { settled, ..Mark::default() };
        Self { job, mark, rows: VecDeque::new(), deadline: None, next: None }
    }

    /// Returns the occurrence that was started and has not ended.
    pub(crate) fn running(&self) -> Option<(&Open, &Started)> {
        self.mark.open.as_ref().and_then(|open| Some((open, open.started.as_ref()?)))
    }

    /// Returns when the occurrence was due that may be started now.
    pub(crate) fn startable(&self, now: &Now) -> Option<u64> {
        let open = self.mark.open.as_ref().filter(|open| open.started.is_none())?;
        let superseded = self.next.is_some_and(|next| next <= now.wall);
        (open.due <= now.wall && !superseded && !self.is_too_late(open.due, now)).then_some(open.due)
    }

    fn is_too_late(&self, due: u64, now: &Now) -> bool {
        let patience = self.job.catch_up.patience_ms();
        patience.is_some_and(|patience| now.wall > due.saturating_add(patience))
    }

    /// Returns whether time has changed anything.
    pub(crate) fn is_ripe(&self, now: &Now) -> bool {
        if self.mark.settled > now.wall.saturating_add(DAY_MS) {
            return true;
        }
        match &self.mark.open {
            Some(open) if open.started.is_some() => self.deadline.is_none_or(|at| at <= now.boot),
            Some(open) if self.is_too_late(open.due, now) => true,
            _ => self.next.is_some_and(|next| next <= now.wall),
        }
    }

    /// Returns in how many milliseconds time will change something, unless a clock is set.
    pub(crate) fn ripe_in(&self, now: &Now) -> Option<u64> {
        let by_wall = |at: u64| at.saturating_sub(now.wall);
        match &self.mark.open {
            Some(open) if open.started.is_some() => self.deadline.map(|at| at.saturating_sub(now.boot)),
            open => {
                let patience = self.job.catch_up.patience_ms();
                let late = open.as_ref().and_then(|open| Some(open.due.saturating_add(patience?) + 1));
                // After the clock was set back, an open one waits for its time again.
                let again = open.as_ref().map(|open| open.due).filter(|due| *due > now.wall);
                late.into_iter().chain(again).chain(self.next).map(by_wall).min()
            }
        }
    }

    /// Moves the watermark.
    pub(crate) fn settle_to(&mut self, settled: u64, tz: &TimeZone) {
        self.mark.settled = settled;
        self.next = self.job.when.next(settled, tz);
    }

    /// Lets time take its course; returns the rows that the log is to be told of.
    pub(crate) fn pass(&mut self, now: &Now) -> Vec<Row> {
        if self.mark.settled > now.wall.saturating_add(DAY_MS) {
            self.take_back(now);
        }
        if let Some((_, started)) = self.running() {
            if self.deadline.is_some_and(|at| at > now.boot) {
                return Vec::new();
            }
            let limit = started.until.saturating_sub(started.at) / 1000;
            return self
                .lose(&format!("no report within its limit of {limit} s; the outcome is unknown"), now);
        }
        let mut missed: Option<(u64, u64)> = None;
        let mut miss = |due: u64, count: u64| missed = Some((due, missed.map_or(0, |(_, n)| n) + count));
        if let Some(span) = self.job.when.span(self.mark.settled, now.wall, &now.tz) {
            if let Some(open) = self.mark.open.take() {
                miss(open.due, 1);
            }
            if let Some(before) = span.before {
                miss(before, span.count - 1);
            }
            self.mark.open = Some(Open { due: span.last, started: None });
            self.settle_to(span.last, &now.tz);
        }
        if let Some(due) =
            self.mark.open.as_ref().map(|open| open.due).filter(|due| self.is_too_late(*due, now))
        {
            miss(due, 1);
            self.mark.open = None;
        }
        missed.map_or_else(Vec::new, |(due, count)| self.lapse(Outcome::Missed, due, count, MISSED, now))
    }

    /// Takes back what a clock has settled that was more than a day ahead; else the job would wait for that time.
    fn take_back(&mut self, now: &Now) {
        if self.running().is_none() {
            self.mark.open = self.mark.open.take().filter(|open| open.due <= now.wall);
        }
        self.settle_to(now.wall, &now.tz);
    }

    /// Ends what fell due while one ran; returns the rows that the log is to be told of.
    pub(crate) fn skip_overrun(&mut self, now: &Now) -> Vec<Row> {
        let Some(span) = self.job.when.span(self.mark.settled, now.wall, &now.tz) else { return Vec::new() };
        self.settle_to(span.last, &now.tz);
        self.lapse(Outcome::Skipped, span.last, span.count, OVERRUN, now)
    }

    /// Ends the running occurrence as failed, because nobody will say how it ended.
    pub(crate) fn lose(&mut self, why: &str, now: &Now) -> Vec<Row> {
        let mut rows = self.end(Outcome::Failed, why, now);
        rows.extend(self.skip_overrun(now));
        rows
    }

    /// Ends the open occurrence with a row of its own; returns the rows that the log is to be told of.
    pub(crate) fn end(&mut self, state: Outcome, detail: &str, now: &Now) -> Vec<Row> {
        let mut rows = self.flush_tail();
        self.deadline = None;
        if let Some(open) = self.mark.open.take() {
            let started = open.started.map(|started| started.at);
            let detail = detail.to_owned();
            let row = Row { due: open.due, state, started, ended: now.wall, detail, more: 0 };
            self.mark.totals.add(state, 1);
            self.push(row.clone());
            rows.push(row);
        }
        rows
    }

    /// Ends the running occurrence as done without a row.
    pub(crate) fn end_quietly(&mut self, detail: &str, now: &Now) {
        self.deadline = None;
        if let Some(open) = self.mark.open.take() {
            let started = open.started.map(|started| started.at);
            let (state, detail) = (Outcome::Done, detail.to_owned());
            self.mark.quiet = Some(Row { due: open.due, state, started, ended: now.wall, detail, more: 0 });
            self.mark.totals.quiet = self.mark.totals.quiet.saturating_add(1);
            self.mark.untold = true;
        }
    }

    /// Ends occurrences that nobody ran. The log is told of the first of a day at once, of others with the next row or
    /// at the end of the day: a service that is away for long must not fill the log.
    pub(crate) fn lapse(
        &mut self,
        state: Outcome,
        due: u64,
        count: u64,
        detail: &str,
        now: &Now,
    ) -> Vec<Row> {
        self.mark.totals.add(state, count);
        self.mark.untold = true;
        let ended = now.wall;
        let mut rows = Vec::new();
        match &mut self.mark.tail {
            Some(tail) if tail.state == state && tail.detail == detail => {
                (tail.due, tail.ended) = (due, ended);
                tail.more = tail.more.saturating_add(count);
            }
            _ => {
                rows = self.flush_tail();
                let detail = detail.to_owned();
                self.mark.tail = Some(Row { due, state, started: None, ended, detail, more: count - 1 });
            }
        }
        if self.mark.lapse_day != Some(now.day()) {
            self.mark.lapse_day = Some(now.day());
            rows.extend(self.flush_tail());
        }
        rows
    }

    /// Makes rows of what was held back.
    pub(crate) fn flush_tail(&mut self) -> Vec<Row> {
        let Some(row) = self.mark.tail.take() else { return Vec::new() };
        self.push(row.clone());
        vec![row]
    }

    /// Returns what the log is told, together with rows.
    pub(crate) fn tell(&mut self, rows: Vec<Row>) -> Told {
        self.mark.untold = self.mark.tail.is_some();
        let Mark { settled, totals, .. } = self.mark;
        let open = self.mark.open.as_ref().map(|open| open.due);
        Told { job: self.job.name.clone(), settled, open, totals, rows }
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: Row) {
        if self.rows.len() >= ROWS {
            self.rows.pop_front();
        }
        self.rows.push_back(row);
    }
}
