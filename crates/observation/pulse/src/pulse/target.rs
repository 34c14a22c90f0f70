//! One agent: what is known of it, and what that means.
//!
//! Invariant: no answer is never taken for a good one, and a slow start never for a hang.

use std::collections::VecDeque;

use mirror_kit::Criticality;

use super::cause::Cause;
use super::history::History;
use super::input::{Answer, Desired, Now, Process, Row, Said};
use super::limits::Limits;

/// After so long an answer is too old to be believed, in milliseconds: three questions in a row were lost.
const STALE: u64 = 20_000;
/// How long a process may take to end before it counts as hung, in milliseconds; the supervisor kills after 15 s.
const DRAIN: u64 = 30_000;
/// How long a process may be missing before it counts as ended, in milliseconds: a supervisor may be between two steps.
const MISSING: u64 = 2_000;
/// Floor between two starts, in milliseconds, as launchd has it.
const FLOOR: u64 = 10_000;
/// Within so long, so many crashes are a loop.
const LOOP_WINDOW: u64 = 600_000;
const LOOP_CRASHES: usize = 5;

/// What is declared of an agent.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) job: bool,
    /// Whether it may have no process without anything being wrong.
    pub(crate) on_demand: bool,
    pub(crate) criticality: Criticality,
    /// Numbers of the agents it needs.
    pub(crate) needs: Vec<usize>,
    /// Longest start, in milliseconds.
    pub(crate) startup: u64,
    /// Memory it may use, in bytes; 0 where nothing is declared.
    pub(crate) memory: u64,
    /// Period of a job in milliseconds; 0 where there is none.
    pub(crate) every: u64,
}

/// What is seen of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It does its job; what is said of it.
    Fine(String),
    /// It does a part of its job.
    Partial(String),
    /// The owner stopped it.
    Off(String),
    /// It was taken out.
    Quarantined(String),
    /// It is within its time to start or to end.
    Starting(String),
    /// One bad answer.
    Suspect(String),
    /// It has failed; nothing is to be done before an instant on the boot clock.
    Failed { cause: Cause, detail: String, wait: u64 },
    /// Nothing that could be believed.
    Unknown(String),
}

impl Seen {
    pub(crate) fn is_failed(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    pub(crate) fn is_fine(&self) -> bool {
        matches!(self, Self::Fine(_) | Self::Partial(_))
    }

    /// Returns whether what needs it must do without.
    pub(crate) fn is_down(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Quarantined(_) | Self::Off(_))
    }

    pub(crate) fn detail(&self) -> &str {
        match self {
            Self::Fine(d)
            | Self::Partial(d)
            | Self::Off(d)
            | Self::Quarantined(d)
            | Self::Starting(d)
            | Self::Suspect(d)
            | Self::Unknown(d)
            | Self::Failed { detail: d, .. } => d,
        }
    }
}

fn failed(cause: Cause, detail: impl Into<String>) -> Seen {
    Seen::Failed { cause, detail: detail.into(), wait: 0 }
}

/// What is known of an agent; times are of the boot clock unless they say otherwise.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) spec: Spec,
    pub(crate) row: Option<Row>,
    /// Whether the row is older than the loss of the supervisor's stream.
    pub(crate) row_old: bool,
    /// When the row took its state.
    row_since: u64,
    /// When the process was started, or pulse where that is not known.
    started: u64,
    /// Whether it has been fine since it was started.
    served: bool,
    /// Whether it has been fine since pulse was started.
    pub(crate) ever_fine: bool,
    /// Since when it has been fine, without a break.
    pub(crate) fine_since: Option<u64>,
    /// The last answer of any kind, and when.
    pub(crate) answer: Option<(Answer, u64)>,
    /// When it answered last, in wall time.
    pub(crate) heard: Option<u64>,
    /// Bad answers in a row, and when the first came.
    misses: u32,
    first_miss: u64,
    /// Crashes within ten minutes.
    crashes: VecDeque<u64>,
    /// Whether the last end was a crash.
    crashed: bool,
    /// When it is asked next, and since when a question is open.
    pub(crate) next_probe: u64,
    pub(crate) probing: Option<u64>,
    /// Checks in a row that found it far beyond its memory.
    pub(crate) heavy: u32,
    /// Size of its logs at the last check, and when.
    pub(crate) logs: Option<(u64, u64)>,
    pub(crate) flood: bool,
    pub(crate) history: History,
    pub(crate) seen: Seen,
    /// Since when it has been suspect or failed, without a break.
    pub(crate) bad_since: Option<u64>,
    /// What it fails because of.
    pub(crate) shadow: Option<Shadow>,
    /// How much was done to it.
    pub(crate) limits: Limits,
}

/// What a target fails because of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shadow {
    pub(crate) by: String,
    /// Until when it may take to recover after that has recovered; nothing while that has not.
    pub(crate) until: Option<u64>,
}

impl Target {
    pub(crate) fn new(spec: Spec, now: Now, first_probe: u64) -> Self {
        Self {
            spec,
            row: None,
            row_old: false,
            row_since: now.boot,
            started: now.boot,
            served: false,
            ever_fine: false,
            fine_since: None,
            answer: None,
            heard: None,
            misses: 0,
            first_miss: 0,
            crashes: VecDeque::new(),
            crashed: false,
            next_probe: first_probe,
            probing: None,
            heavy: 0,
            logs: None,
            flood: false,
            history: History::default(),
            seen: Seen::Unknown("it was not asked yet".to_owned()),
            bad_since: None,
            shadow: None,
            limits: Limits::default(),
        }
    }

    /// Returns whether it is to be asked how it is.
    pub(crate) fn is_asked(&self) -> bool {
        !self.spec.job && self.row.as_ref().is_none_or(|r| self.row_old || r.desired == Desired::Running)
    }

    /// Takes a row; `ours` when an action of ours is under way on it, which may well end its process.
    pub(crate) fn take_row(&mut self, now: Now, row: Row, ours: bool) {
        let old = self.row.take();
        self.row_old = false;
        let first = old.is_none();
        let told_to_end = old.as_ref().is_some_and(|o| o.process == Process::Draining);
        let ended = old.as_ref().is_some_and(|o| o.last_ended != row.last_ended);
        let is_new = old.as_ref().is_none_or(|o| (o.pid, o.started) != (row.pid, row.started));
        if old.as_ref().is_none_or(|o| o.process != row.process || o.desired != row.desired) {
            self.row_since = now.boot;
        }
        if is_new {
            let age = row.started.map_or(0, |at| now.wall.saturating_sub(at));
            self.started = now.boot.saturating_sub(age);
            // At pulse's own start a process that has run for long is no slow starter.
            self.served = first && age > self.spec.startup;
            self.forget();
            self.heavy = 0;
            self.next_probe = now.boot;
        }
        if ended && !self.spec.job {
            self.crashed = is_crash(&row.last_exit) && !told_to_end && !ours;
            if self.crashed {
                self.crashes.push_back(now.boot);
                if self.crashes.len() > LOOP_CRASHES {
                    self.crashes.pop_front();
                }
            }
        }
        // Whoever starts it again begins a new count.
        if old.is_some_and(|o| o.desired != Desired::Running) && row.desired == Desired::Running {
            self.crashes.clear();
            self.crashed = false;
            self.limits.calm();
        }
        self.row = Some(row);
    }

    /// Forgets what it answered: it is another process, or the machine has slept.
    pub(crate) fn forget(&mut self) {
        self.answer = None;
        self.misses = 0;
    }

    /// Takes an answer.
    pub(crate) fn take_answer(&mut self, now: Now, answer: Answer) {
        self.probing = None;
        match &answer {
            Answer::Said(..) => {
                self.misses = 0;
                self.heard = Some(now.wall);
            }
            Answer::Silent { late: false } | Answer::Away { .. } => {
                if self.misses == 0 {
                    self.first_miss = now.boot;
                }
                self.misses += 1;
            }
            // Neither says anything about it, so neither ends or begins a row of misses.
            Answer::Silent { late: true } | Answer::Odd(_) => {}
        }
        self.answer = Some((answer, now.boot));
    }

    /// Returns whether an answer is missing that another question would settle.
    pub(crate) fn is_suspect(&self) -> bool {
        self.misses > 0
    }

    /// Returns since when it looks bad.
    pub(crate) fn onset(&self, now: u64) -> u64 {
        if self.misses > 0 { self.first_miss } else { now }
    }

    /// Drops what is too old to count.
    pub(crate) fn age(&mut self, now: u64) {
        while self.crashes.front().is_some_and(|at| now.saturating_sub(*at) > LOOP_WINDOW) {
            self.crashes.pop_front();
        }
        self.limits.age(now);
        if self.fine_since.is_some_and(|at| now.saturating_sub(at) >= LOOP_WINDOW) {
            self.limits.calm();
        }
    }

    /// Returns whether it crashes again and again.
    pub(crate) fn is_looping(&self) -> bool {
        self.crashes.len() >= LOOP_CRASHES
    }

    /// Says what is known of it; `needed` misses in a row are believed.
    pub(crate) fn look(&self, now: Now, needed: u32) -> Seen {
        match self.row.as_ref().filter(|_| !self.row_old) {
            Some(row) if self.spec.job => Self::look_at_job(row),
            None if self.spec.job => Seen::Unknown("the supervisor does not say".to_owned()),
            Some(row) => self.look_at_row(now, needed, row),
            None => self.look_at_answers(now, needed, None),
        }
    }

    fn look_at_job(row: &Row) -> Seen {
        match (row.desired, row.process) {
            (Desired::Stopped, _) => Seen::Off(because("stopped", &row.reason)),
            (Desired::Quarantined, _) => Seen::Quarantined(because("quarantined", &row.reason)),
            (_, Process::NotLoaded) => failed(Cause::NotLoaded, "the supervisor does not have it"),
            _ if !row.problem.is_empty() => failed(Cause::PlistDrift, &row.problem),
            (_, Process::Running | Process::Draining) => Seen::Fine("it runs".to_owned()),
            _ if !matches!(row.last_exit.as_str(), "" | "exit code 0") => {
                failed(Cause::JobFailed, format!("its last run ended with {}", row.last_exit))
            }
            _ => Seen::Fine("it waits for its time".to_owned()),
        }
    }

    fn look_at_row(&self, now: Now, needed: u32, row: &Row) -> Seen {
        match row.desired {
            Desired::Stopped => return Seen::Off(because("stopped", &row.reason)),
            Desired::Quarantined => return Seen::Quarantined(because("quarantined", &row.reason)),
            Desired::Running => {}
        }
        let for_ms = now.boot.saturating_sub(self.row_since);
        match row.process {
            Process::NotLoaded => failed(Cause::NotLoaded, "the supervisor does not have it"),
            Process::Idle if self.spec.on_demand => Seen::Fine("it waits to be called".to_owned()),
            Process::Idle if self.crashed && self.is_looping() => self.looping(row),
            Process::Idle if for_ms < MISSING => Seen::Starting("it has no process".to_owned()),
            Process::Idle if row.last_exit.is_empty() => failed(Cause::Exited, "it was never started"),
            Process::Idle => {
                failed(Cause::Exited, format!("its process ended with {} and none is to come", row.last_exit))
            }
            Process::Throttled if row.last_exit == "exit code 73" => {
                failed(Cause::TwoInstances, "its start ended with exit code 73: another process serves")
            }
            Process::Throttled if self.is_looping() => self.looping(row),
            Process::Throttled if self.crashed => self.crash(row, self.next_start(now, row)),
            Process::Throttled if for_ms > FLOOR + self.spec.startup => {
                failed(Cause::Exited, "it is to be started and is not")
            }
            Process::Throttled => Seen::Starting("it is to be started".to_owned()),
            Process::Draining if for_ms <= DRAIN => Seen::Starting("it was told to end".to_owned()),
            Process::Draining => failed(Cause::Hung, "it was told to end and does not"),
            Process::Running => self.look_at_answers(now, needed, Some(row)),
        }
    }

    fn looping(&self, row: &Row) -> Seen {
        let (n, minutes) = (self.crashes.len(), LOOP_WINDOW / 60_000);
        failed(Cause::CrashLoop, format!("{n} crashes within {minutes} min, the last: {}", row.last_exit))
    }

    fn crash(&self, row: &Row, start: u64) -> Seen {
        let detail = format!("its process ended with {}; the supervisor starts it again", row.last_exit);
        Seen::Failed { cause: Cause::Crashed, detail, wait: start + self.spec.startup }
    }

    /// Returns when the supervisor starts it again, on the boot clock.
    fn next_start(&self, now: Now, row: &Row) -> u64 {
        match row.next_start {
            // A time that lies further away than any floor is of a clock that has jumped.
            Some(at) if at.saturating_sub(now.wall) <= 6 * FLOOR => now.boot + at.saturating_sub(now.wall),
            _ => self.row_since + FLOOR,
        }
        .min(self.row_since + 6 * FLOOR)
    }

    fn look_at_answers(&self, now: Now, needed: u32, row: Option<&Row>) -> Seen {
        let starting = !self.served && now.boot < self.started + self.spec.startup;
        let start = |detail: &str| match row {
            Some(row) if self.crashed => self.crash(row, self.started),
            _ => Seen::Starting(detail.to_owned()),
        };
        let Some((answer, at)) = &self.answer else {
            return if starting && row.is_some() {
                start("it starts")
            } else {
                unknown("it was not asked yet")
            };
        };
        if now.boot.saturating_sub(*at) > STALE {
            return unknown("its last answer is too old");
        }
        match answer {
            Answer::Said(Said::Serving, _) => self.fine(row, String::new(), false),
            Answer::Said(Said::Degraded, detail) => self.fine(row, detail.clone(), true),
            Answer::Said(Said::Starting, _) if starting => start("it says that it starts"),
            Answer::Said(Said::Starting, detail) => failed(
                Cause::SlowStart,
                format!("it still starts after {} s: {detail}", self.spec.startup / 1000),
            ),
            Answer::Said(Said::NotServing, detail) if detail.contains("mirror.toml") => {
                failed(Cause::Config, detail)
            }
            Answer::Said(Said::NotServing, detail) => failed(Cause::NotServing, detail),
            Answer::Said(Said::Draining, _) => Seen::Starting("it finishes calls before it ends".to_owned()),
            Answer::Odd(why) => unknown(format!("its answer says nothing: {why}")),
            Answer::Silent { late: true } => unknown("pulse itself did not get to run"),
            Answer::Silent { .. } | Answer::Away { .. } if starting && row.is_some() => {
                start("it does not answer yet")
            }
            Answer::Silent { .. } | Answer::Away { .. } if self.misses < needed => {
                Seen::Suspect("one question was not answered".to_owned())
            }
            Answer::Silent { .. } => failed(Cause::Hung, "it was asked again and did not answer"),
            Answer::Away { socket, lease } => self.look_at_door(row, *socket, *lease),
        }
    }

    fn look_at_door(&self, row: Option<&Row>, socket: bool, lease: bool) -> Seen {
        match (row.is_some(), socket, lease) {
            (true, false, true) => failed(Cause::SocketMissing, "it runs, and its socket is gone"),
            (true, true, true) => failed(Cause::StaleSocket, "it runs, and nobody listens on its socket"),
            (true, _, false) => failed(Cause::Unreachable, "it runs, and does not hold its lease"),
            (false, ..) if self.spec.name == "supervisor" => {
                failed(Cause::SupervisorAway, "nobody answers on its socket")
            }
            (false, ..) => failed(Cause::Unreachable, "nobody answers, and the supervisor does not say why"),
        }
    }

    fn fine(&self, row: Option<&Row>, detail: String, partial: bool) -> Seen {
        if let Some(row) = row.filter(|r| !r.problem.is_empty()) {
            return failed(Cause::PlistDrift, &row.problem);
        }
        if self.heavy >= 3 {
            let mib = self.spec.memory >> 20;
            return failed(Cause::Memory, format!("it uses more than four times its {mib} MiB"));
        }
        if self.flood {
            return failed(Cause::LogFlood, "its logs grow by more than 50 MB a minute");
        }
        if partial { Seen::Partial(detail) } else { Seen::Fine(detail) }
    }

    /// Notes what it was seen as.
    pub(crate) fn note(&mut self, now: Now, seen: Seen) {
        if seen.is_fine() {
            self.served = true;
            self.ever_fine = true;
            self.crashed = false;
            self.fine_since.get_or_insert(now.boot);
        } else {
            self.fine_since = None;
        }
        match &seen {
            Seen::Suspect(_) | Seen::Failed { .. } => {
                let onset = self.onset(now.boot);
                self.bad_since.get_or_insert(onset);
            }
            // An unknown says neither that it is over nor that it goes on.
            Seen::Unknown(_) | Seen::Starting(_) if self.bad_since.is_some() => {}
            _ => self.bad_since = None,
        }
        self.seen = seen;
    }
}

fn unknown(why: impl Into<String>) -> Seen {
    Seen::Unknown(why.into())
}

fn because(what: &str, reason: &str) -> String {
    if reason.is_empty() { format!("it is {what}") } else { format!("it is {what}: {reason}") }
}

/// Returns whether an end was a failure: 0 is done, 75 an orderly restart, 73 another process in its place.
fn is_crash(exit: &str) -> bool {
    !matches!(exit, "" | "exit code 0" | "exit code 75" | "exit code 73" | "SIGTERM")
}

#[cfg(test)]
mod tests;
