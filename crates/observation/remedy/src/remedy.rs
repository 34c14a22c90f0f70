//! Actions and the ledger of them, as the journal's lines tell it.
//!
//! It knows neither the bus nor the disk nor a clock.
//! Invariant: the same lines give the same ledger, and an action that has begun is never begun again under its id.

use serde::{Deserialize, Serialize};

use crate::catalogue::Remedy;
use crate::limits::{DAY, Past};

/// Actions that are kept whatever their age.
const KEPT: usize = 256;
/// What was asked for and not done; of no use to the limits, but a repeated call gets the same answer.
const KEPT_UNDONE: usize = 128;
/// Actions that are kept at all; reached only when the bus takes no event for days.
pub(crate) const BOUND: usize = 4096;

/// What came of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Running,
    Healed,
    NotHealed,
    NotNeeded,
    HeldBack,
    Failed,
    Unknown,
}

impl Outcome {
    /// Returns whether something was done, or may have been.
    pub(crate) fn is_done(self) -> bool {
        !matches!(self, Self::NotNeeded | Self::HeldBack)
    }
}

/// A remedy that was asked for; also the payload of its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Action {
    pub(crate) id: String,
    pub(crate) remedy: Remedy,
    pub(crate) target: String,
    pub(crate) cause: String,
    pub(crate) by: String,
    pub(crate) outcome: Outcome,
    pub(crate) detail: String,
    /// Wall time in milliseconds since 1970.
    pub(crate) began_ms: u64,
    pub(crate) ended_ms: Option<u64>,
}

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) id: String,
    pub(crate) remedy: Remedy,
    pub(crate) target: String,
    pub(crate) cause: String,
}

impl Ask {
    /// Returns the action that this asks for, with what came of it.
    pub(crate) fn action(&self, by: &str, began_ms: u64) -> Action {
        Action {
            id: self.id.clone(),
            remedy: self.remedy,
            target: self.target.clone(),
            cause: self.cause.clone(),
            by: by.to_owned(),
            outcome: Outcome::Running,
            detail: String::new(),
            began_ms,
            ended_ms: None,
        }
    }
}

impl Action {
    /// Returns whether a request under the same id asks for the same; the cause is a remark and may be put otherwise.
    pub(crate) fn answers(&self, ask: &Ask) -> bool {
        self.remedy == ask.remedy && self.target == ask.target
    }

    /// Returns the action with its end.
    pub(crate) fn ended(mut self, outcome: Outcome, detail: String, at_ms: u64) -> Self {
        self.outcome = outcome;
        self.detail = detail;
        self.ended_ms = Some(at_ms);
        self
    }
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Line {
    /// The format; the first line.
    Journal(u32),
    /// The events of the log up to the start of this journal are in it.
    Rebuilt,
    /// An action is about to be done.
    Began(Action),
    /// An action has ended, or was not done.
    Ended(Action),
    /// The bus has so many events of an action.
    Sent { id: String, events: u8 },
}

/// Where the wall clock and the timeline of this process stand; the wall clock may jump, the timeline does not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) wall_ms: u64,
    pub(crate) at: i64,
}

impl Now {
    /// Returns where on the timeline a wall time lies; one in the future counts as now, so that a limit is never lost.
    fn place(self, wall_ms: u64) -> i64 {
        self.at.saturating_sub(i64::try_from(self.wall_ms.saturating_sub(wall_ms)).unwrap_or(i64::MAX))
    }

    /// Returns the wall time of a place on the timeline.
    pub(crate) fn wall(self, at: i64) -> u64 {
        self.wall_ms.saturating_add_signed(at.saturating_sub(self.at))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    action: Action,
    began: i64,
    ended: Option<i64>,
    sent: u8,
}

impl Record {
    /// Returns how many events the log should have of it.
    fn due(&self) -> u8 {
        match self.action.outcome {
            outcome if !outcome.is_done() => 0,
            Outcome::Running => 1,
            _ => 2,
        }
    }
}

/// An event that the bus does not have yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsent {
    pub(crate) subject: &'static str,
    /// Id of the event: the same whenever the same event is built.
    pub(crate) event_id: String,
    pub(crate) action: Action,
    pub(crate) sent: Line,
}

/// The fold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    records: Vec<Record>,
    rebuilt: bool,
}

impl Ledger {
    /// Takes a line.
    pub(crate) fn apply(&mut self, line: Line, now: Now) {
        match line {
            Line::Journal(_) => {}
            Line::Rebuilt => self.rebuilt = true,
            Line::Began(action) | Line::Ended(action) => self.put(action, now),
            Line::Sent { id, events } => {
                if let Some(record) = self.records.iter_mut().rev().find(|r| r.action.id == id) {
                    record.sent = record.sent.max(events);
                }
            }
        }
    }

    fn put(&mut self, action: Action, now: Now) {
        let ended = action.ended_ms.map(|ms| now.place(ms));
        let same = |r: &&mut Record| r.action.id == action.id && r.action.began_ms == action.began_ms;
        match self.records.iter_mut().rev().find(same) {
            Some(record) => {
                record.action = action;
                record.ended = ended;
            }
            None => {
                let began = now.place(action.began_ms);
                self.records.push(Record { action, began, ended, sent: 0 });
            }
        }
    }

    /// Takes actions that the log tells of and this ledger does not, before all that it has.
    pub(crate) fn merge(&mut self, told: Vec<Action>, now: Now) {
        let mut records: Vec<Record> = Vec::new();
        for action in told.into_iter().filter(|action| self.find(&action.id).is_none()) {
            let sent = if action.ended_ms.is_some() { 2 } else { 1 };
            let (began, ended) = (now.place(action.began_ms), action.ended_ms.map(|ms| now.place(ms)));
            records.push(Record { action, began, ended, sent });
        }
        records.append(&mut self.records);
        self.records = records;
    }

    /// Returns whether the events of the log are in here.
    pub(crate) fn is_rebuilt(&self) -> bool {
        self.rebuilt
    }

    /// Returns the action with an id.
    pub(crate) fn find(&self, id: &str) -> Option<&Action> {
        self.records.iter().rev().find(|r| r.action.id == id).map(|r| &r.action)
    }

    /// Returns the newest actions, newest first.
    pub(crate) fn newest(&self, limit: usize, target: &str) -> Vec<Action> {
        let matching = self.records.iter().rev().filter(|r| target.is_empty() || r.action.target == target);
        matching.take(limit).map(|r| r.action.clone()).collect()
    }

    /// Returns what was done, or may have been, in order.
    pub(crate) fn past(&self) -> Vec<Past<'_>> {
        let done = self.records.iter().filter(|r| r.action.outcome.is_done());
        done.map(|r| Past {
            remedy: r.action.remedy,
            target: &r.action.target,
            began: r.began,
            ended: r.ended,
            outcome: r.action.outcome,
        })
        .collect()
    }

    /// Returns the actions that have begun and not ended.
    pub(crate) fn running(&self) -> Vec<Action> {
        let running = self.records.iter().filter(|r| r.action.outcome == Outcome::Running);
        running.map(|r| r.action.clone()).collect()
    }

    /// Returns the next event for the bus, in the order in which things happened.
    pub(crate) fn unsent(&self) -> Option<Unsent> {
        let record = self.records.iter().find(|r| r.sent < r.due())?;
        let events = record.sent + 1;
        let mut action = record.action.clone();
        let (subject, word) = if events == 1 { ("remedy.began", "began") } else { ("remedy.ended", "ended") };
        if events == 1 {
            // What came of it is another event, so this one is the same before and after.
            (action.outcome, action.detail, action.ended_ms) = (Outcome::Running, String::new(), None);
        }
        let sent = Line::Sent { id: action.id.clone(), events };
        // An id may come again when its first action is long forgotten.
        let event_id = format!("remedy.{word}:{}:{}", action.id, action.began_ms);
        Some(Unsent { subject, event_id, action, sent })
    }

    /// Returns how many events the bus does not have yet.
    pub(crate) fn unsent_count(&self) -> usize {
        self.records.iter().map(|r| usize::from(r.due().saturating_sub(r.sent))).sum()
    }

    /// Forgets what neither the limits nor the bus need; returns how many actions went whose events the bus never got.
    pub(crate) fn prune(&mut self, now: Now) -> usize {
        let total = self.records.len();
        let undone = self.records.iter().filter(|r| !r.action.outcome.is_done()).count();
        let (mut done_left, mut undone_left, mut left) = (total - undone, undone, total);
        let mut lost = 0;
        self.records.retain(|r| {
            let is_done = r.action.outcome.is_done();
            let group = if is_done { &mut done_left } else { &mut undone_left };
            let settled = r.sent >= r.due() && r.action.outcome != Outcome::Running;
            let needed =
                if is_done { *group <= KEPT || r.began > now.at - DAY } else { *group <= KEPT_UNDONE };
            let keep = (needed || !settled) && left <= BOUND;
            *group -= 1;
            left -= 1;
            lost += usize::from(!keep && !settled);
            keep
        });
        lost
    }

    /// Returns the lines that give this ledger.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let mut lines = vec![Line::Journal(crate::store::FORMAT)];
        lines.extend(self.rebuilt.then_some(Line::Rebuilt));
        for record in &self.records {
            let action = record.action.clone();
            let id = action.id.clone();
            lines.push(if action.outcome == Outcome::Running {
                Line::Began(action)
            } else {
                Line::Ended(action)
            });
            if record.sent > 0 {
                lines.push(Line::Sent { id, events: record.sent });
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests;
