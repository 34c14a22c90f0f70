//! Jobs, their occurrences, and what the log is told of them: the nouns, without the rules.
//!
//! The shapes here are those of the events and of the files, so a change of them is a change of both.

use serde::{Deserialize, Serialize};

use crate::when::When;

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) summary: String,
    pub(crate) when: When,
    pub(crate) catch_up: CatchUp,
    pub(crate) limit_ms: u64,
    pub(crate) owner: String,
}

/// What happens to occurrences that fell due while nobody could run them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CatchUp {
    Once,
    Within { window_ms: u64 },
    Skip,
}

/// How late an occurrence may be started that is not to be caught up with: a worker needs time to take it.
pub(crate) const PROMPT_MS: u64 = 60_000;

impl CatchUp {
    /// Returns how late an occurrence may be started, if there is a limit.
    pub(crate) fn patience_ms(self) -> Option<u64> {
        match self {
            Self::Once => None,
            Self::Within { window_ms } => Some(window_ms),
            Self::Skip => Some(PROMPT_MS),
        }
    }
}

/// How an occurrence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Done,
    Failed,
    Missed,
    Skipped,
}

/// An occurrence that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) due: u64,
    pub(crate) state: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) started: Option<u64>,
    pub(crate) ended: u64,
    pub(crate) detail: String,
    /// Occurrences right before this one that ended in the same way and have no row of their own.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) more: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// How many occurrences ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Done without having done anything.
    pub(crate) quiet: u64,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) missed: u64,
    pub(crate) skipped: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, state: Outcome, count: u64) {
        let total = match state {
            Outcome::Done => &mut self.done,
            Outcome::Failed => &mut self.failed,
            Outcome::Missed => &mut self.missed,
            Outcome::Skipped => &mut self.skipped,
        };
        *total = total.saturating_add(count);
    }
}

/// A worker: the process that started an occurrence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Worker {
    pub(crate) pid: u32,
    /// When the process started, by which a later one with its id is told apart.
    pub(crate) born: String,
}

/// That an occurrence was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) at: u64,
    /// When it ends as failed, by the wall clock; the boot clock decides while the process lives.
    pub(crate) until: u64,
    /// Known for services, of which only one process runs at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) worker: Option<Worker>,
}

/// The one occurrence of a job that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) due: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) started: Option<Started>,
}

/// Where a job stands: what must survive the end of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Every occurrence up to this time has ended, but the open one.
    pub(crate) settled: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) open: Option<Open>,
    pub(crate) totals: Totals,
    /// The last occurrence that did nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) quiet: Option<Row>,
    /// Missed or skipped occurrences in a row that the log is still to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tail: Option<Row>,
    /// Day on which the log was last told of missed or skipped ones without delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lapse_day: Option<u64>,
    /// Whether the log knows less than this.
    pub(crate) untold: bool,
}

/// What the log is told of a job: where it stands, and the rows that are new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) job: String,
    pub(crate) settled: u64,
    /// The open occurrence, by its due time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) open: Option<u64>,
    pub(crate) totals: Totals,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rows: Vec<Row>,
}

/// The payload of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Note {
    /// `schedule.job`: a job is new or was replaced.
    Job {
        put: Job,
        settled: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        open: Option<u64>,
    },
    /// `schedule.deleted`: a job is gone; its name begins again after `settled`.
    Deleted { job: String, settled: u64 },
    /// `schedule.ended` when an occurrence is told, else `schedule.settled`.
    Told { jobs: Vec<Told> },
}

impl Note {
    /// Returns the subject of the event.
    pub(crate) fn subject(&self) -> &'static str {
        match self {
            Self::Job { .. } => "schedule.job",
            Self::Deleted { .. } => "schedule.deleted",
            Self::Told { jobs } if jobs.iter().any(|told| !told.rows.is_empty()) => "schedule.ended",
            Self::Told { .. } => "schedule.settled",
        }
    }
}

/// A note that the log is still to get, under the id that keeps it from being stored twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Posted {
    pub(crate) id: String,
    pub(crate) note: Note,
}
