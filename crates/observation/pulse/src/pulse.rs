//! The pulse: everything that can be decided, without a clock, a disk or a peer.
//!
//! It is told what was learnt and says what it wants done. It refuses to guess: no answer is unknown, never fine.
//! Invariants: at most one action is under way, none is asked for in maintenance, in a grace time, while halted or
//! while only observing; a limit is never exceeded; what fails because of something else is left alone.

mod act;
mod cause;
#[cfg(test)]
mod fuzz;
mod graph;
mod history;
mod incident;
mod input;
mod judge;
mod limits;
mod machine;
mod saved;
mod shadow;
mod target;
mod tell;
#[cfg(test)]
mod tests;
mod view;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, VecDeque};

pub(crate) use cause::Cause;
pub(crate) use incident::{Incident, Told};
pub(crate) use input::{
    Answer, Ask, Card, Check, CheckFault, Desired, Effect, Facts, Input, Now, Outcome, Process, Row, Said,
};
pub(crate) use machine::DiskBounds;
pub(crate) use saved::Saved;
pub(crate) use target::Spec;
pub(crate) use view::{Health, IncidentView, TargetView, View};

use graph::Graph;
use history::Beat;
use limits::Limits;
use machine::Machine;
use target::{Seen, Target};
use tell::Tell;

/// Grace after a start of pulse, for what was never fine, in milliseconds.
const BOOT_GRACE: u64 = 120_000;
/// Grace after the machine woke, in milliseconds.
const WAKE_GRACE: u64 = 60_000;
/// Lateness from which the machine counts as having slept, in milliseconds.
const SLEPT: u64 = 30_000;
/// Lateness from which it counts as starved, in milliseconds.
const LATE: u64 = 1_500;
/// Change of the wall clock against the boot clock that counts as a jump, in milliseconds.
const JUMP: i64 = 30_000;
/// After so long without an answer a question counts as lost, in milliseconds.
const LOST: u64 = 15_000;
/// Longest sweep, in milliseconds.
const SWEEP_LIMIT: u64 = 10_000;
/// Incidents that are over and still told.
pub(crate) const CLOSED: usize = 256;

/// What the owner may set; times in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Time between two questions to an agent.
    pub(crate) probe: u64,
    /// How long an answer may take.
    pub(crate) patience: u64,
    /// Time between two sweeps.
    pub(crate) sweep: u64,
    /// Whether no remedy is asked for, ever.
    pub(crate) observe_only: bool,
    /// Bounds of the disk.
    pub(crate) disk: DiskBounds,
    /// Where chance begins.
    pub(crate) seed: u64,
}

/// The sweep.
#[derive(Debug)]
struct Sweep {
    next: u64,
    running: Option<u64>,
    /// When the last ended, in wall time.
    ended: Option<u64>,
}

/// The state of everything.
#[derive(Debug)]
pub(crate) struct Core {
    set: Settings,
    graph: Graph,
    names: BTreeMap<String, usize>,
    targets: Vec<Target>,
    machine: Machine,
    /// Open incidents, oldest first.
    incidents: Vec<Incident>,
    /// Those that are over, newest first.
    closed: VecDeque<Told>,
    pending: judge::Pending,
    /// Limits of what is no agent.
    others: BTreeMap<String, Limits>,
    tell: Tell,
    sweep: Sweep,
    /// Sweeps that have ended, and times that maintenance was put.
    sweeps: u64,
    maintenances: u64,
    started: u64,
    supervisor: bool,
    wake_until: u64,
    maintenance_until: u64,
    /// Until when the service remedy only observes.
    held_until: u64,
    halted: Option<String>,
    last: Now,
    due: u64,
    serial: u64,
    random: u64,
    out: Vec<Effect>,
    dirty: bool,
}

impl Core {
    /// Returns the pulse of agents that nothing is known of, with what was saved.
    pub(crate) fn new(now: Now, set: Settings, specs: Vec<Spec>, saved: Saved) -> Self {
        let needs: Vec<Vec<usize>> = specs.iter().map(|s| s.needs.clone()).collect();
        let dead_man = specs.iter().find(|s| s.name == "job.dead-man").map_or(0, |s| s.every);
        let mut core = Self {
            graph: Graph::new(&needs),
            names: specs.iter().enumerate().map(|(n, s)| (s.name.clone(), n)).collect(),
            targets: specs.into_iter().map(|spec| Target::new(spec, now, now.boot)).collect(),
            machine: Machine::new(now, set.disk, dead_man),
            incidents: Vec::new(),
            closed: VecDeque::new(),
            pending: judge::Pending::default(),
            others: BTreeMap::new(),
            tell: Tell::default(),
            sweep: Sweep { next: now.boot + set.sweep, running: None, ended: None },
            sweeps: 0,
            maintenances: 0,
            started: now.boot,
            supervisor: false,
            wake_until: 0,
            maintenance_until: 0,
            held_until: 0,
            halted: None,
            last: now,
            due: now.boot,
            serial: 0,
            random: set.seed | 1,
            out: Vec::new(),
            dirty: false,
            set,
        };
        core.restore(now, saved);
        core
    }

    /// Takes what was learnt, and returns what is wanted.
    pub(crate) fn step(&mut self, now: Now, input: Input) -> Vec<Effect> {
        self.watch_clocks(now);
        let asked = self.take(now, input);
        self.timers(now);
        self.evaluate(now, asked);
        self.act(now);
        self.report(now);
        self.due = self.next_due(now);
        std::mem::take(&mut self.out)
    }

    /// Returns when time alone next changes something, on the boot clock.
    pub(crate) fn due(&self) -> u64 {
        self.due
    }

    /// Returns whether what must outlive the process has changed since the last call.
    pub(crate) fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// Returns an agent's number.
    pub(crate) fn agent(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// Returns the incidents that are over, newest first.
    pub(crate) fn closed(&self) -> impl Iterator<Item = &Told> {
        self.closed.iter()
    }

    /// Returns whether a sweep is under way.
    pub(crate) fn is_sweeping(&self) -> bool {
        self.sweep.running.is_some()
    }

    /// Returns how many sweeps have ended.
    pub(crate) fn sweeps(&self) -> u64 {
        self.sweeps
    }

    /// Returns how often maintenance was put.
    pub(crate) fn maintenances(&self) -> u64 {
        self.maintenances
    }

    /// Returns until when maintenance lasts, in wall time.
    pub(crate) fn maintenance(&self, now: Now) -> Option<u64> {
        (self.maintenance_until > now.boot).then(|| to_wall(now, self.maintenance_until))
    }

    fn watch_clocks(&mut self, now: Now) {
        let late = now.boot.saturating_sub(self.due.max(self.last.boot));
        if late > SLEPT {
            self.wake_until = now.boot + WAKE_GRACE;
            self.dirty = true;
            for target in &mut self.targets {
                target.forget();
                target.next_probe = now.boot;
            }
            self.machine.hurry_all(now.boot);
            // One that was slept through is skipped.
            self.sweep.next = self.sweep.next.max(self.wake_until);
        } else if late > LATE {
            self.machine.starve(now.boot);
        }
        let passed = i64::try_from(now.boot.saturating_sub(self.last.boot)).unwrap_or(i64::MAX);
        let shown = i64::try_from(now.wall).unwrap_or(i64::MAX) - i64::try_from(self.last.wall).unwrap_or(0);
        let jump = shown.saturating_sub(passed);
        if jump.abs() > JUMP {
            self.machine.jumped = Some((now.boot, jump));
        }
        self.last = now;
    }

    /// Takes an input; returns the agent that was asked, when it is an answer.
    fn take(&mut self, now: Now, input: Input) -> Option<usize> {
        match input {
            Input::Tick => {}
            Input::Agent(row) => {
                self.supervisor = true;
                let ours = self.is_acted_on(&row.name);
                if let Some(target) = self.names.get(&row.name).and_then(|n| self.targets.get_mut(*n)) {
                    target.take_row(now, *row, ours);
                }
            }
            Input::SupervisorAway => {
                self.supervisor = false;
                for target in &mut self.targets {
                    target.row_old = true;
                    if target.spec.name == "supervisor" {
                        target.next_probe = now.boot;
                    }
                }
            }
            Input::Signal(agent) => {
                if let Some(target) = self.targets.get_mut(agent) {
                    target.next_probe = now.boot;
                }
            }
            Input::Probe { agent, answer } => {
                if answer == (Answer::Silent { late: true }) {
                    self.machine.starve(now.boot);
                }
                let (probe, slower) = (self.set.probe, self.machine.is_starved(now.boot));
                let early = self.chance(probe / 6 + 1);
                if let Some(target) = self.targets.get_mut(agent) {
                    target.take_answer(now, answer);
                    let sooner = if slower { probe / 3 } else { probe / 6 };
                    target.next_probe = now.boot + if target.is_suspect() { sooner } else { probe - early };
                }
                return Some(agent);
            }
            Input::Check(check, result) => self.take_check(now, check, result),
            Input::Outcome { id, outcome, detail, observing_until } => {
                self.settle(now, &id, outcome, detail, observing_until);
            }
            Input::Appended { ok } => self.appended(now, ok),
            Input::Carded { subject, ok } => self.carded(now, &subject, ok),
            Input::Halt(reason) => self.halted = reason,
            Input::Maintenance(for_ms) => {
                self.maintenance_until = if for_ms == 0 { 0 } else { now.boot + for_ms };
                self.maintenances += 1;
                self.dirty = true;
            }
            Input::Sweep => self.begin_sweep(now),
        }
        None
    }

    fn take_check(&mut self, now: Now, check: Check, result: Result<Facts, CheckFault>) {
        match &result {
            Ok(Facts::Logs(sizes)) => self.take_logs(now.boot, sizes),
            Ok(Facts::Usage(rows)) => {
                for (agent, bytes) in rows {
                    if let Some(t) = self.targets.get_mut(*agent) {
                        let heavy = t.spec.memory > 0 && *bytes > t.spec.memory.saturating_mul(4);
                        t.heavy = if heavy { t.heavy + 1 } else { 0 };
                    }
                }
            }
            _ => {}
        }
        self.machine.take(now, check, result.as_ref().map_err(Clone::clone));
        if self.targets.iter().any(|target| target.flood) {
            self.machine.watch_logs(now.boot + 15_000);
        }
    }

    fn take_logs(&mut self, now: u64, sizes: &[(usize, u64)]) {
        for (agent, size) in sizes {
            let Some(target) = self.targets.get_mut(*agent) else { continue };
            // No verdict over less than ten seconds, and none that begins anew with each look.
            if target.logs.is_some_and(|(_, at)| now <= at + 10_000) {
                continue;
            }
            if let Some((before, at)) = target.logs.replace((*size, now)) {
                let grown = size.saturating_sub(before);
                // 50 MB a minute.
                target.flood = grown * 60_000 / (now - at) > 50_000_000;
            }
        }
    }

    fn timers(&mut self, now: Now) {
        if now.boot >= self.sweep.next {
            self.begin_sweep(now);
        }
        let starved = self.machine.is_starved(now.boot);
        let patience = if starved { self.set.patience * 3 } else { self.set.patience };
        for (agent, target) in self.targets.iter_mut().enumerate() {
            if target.probing.is_some_and(|since| now.boot.saturating_sub(since) > LOST) {
                target.probing = None;
            }
            if target.is_asked() && target.probing.is_none() && target.next_probe <= now.boot {
                target.probing = Some(now.boot);
                self.out.push(Effect::Probe { agent, patience });
            }
        }
        self.out.extend(self.machine.begin(now.boot).into_iter().map(Effect::Check));
        self.machine.age(now.boot);
        if let Some(since) = self.sweep.running {
            let asked = |t: &Target| !t.is_asked() || t.answer.as_ref().is_some_and(|(_, at)| *at >= since);
            let checks = self.machine.checks.iter().all(|c| c.running.is_none());
            let done = checks && self.targets.iter().all(|t| asked(t) && t.probing.is_none());
            if done || now.boot.saturating_sub(since) > SWEEP_LIMIT {
                self.sweep.running = None;
                self.sweep.ended = Some(now.wall);
                self.sweeps += 1;
            }
        }
    }

    fn begin_sweep(&mut self, now: Now) {
        let early = self.chance(self.set.sweep / 10 + 1);
        self.sweep.next = now.boot + self.set.sweep - early;
        if self.sweep.running.is_some() {
            return;
        }
        self.sweep.running = Some(now.boot);
        for target in &mut self.targets {
            target.next_probe = now.boot;
        }
        self.machine.hurry_all(now.boot);
        self.out.push(Effect::List);
    }

    fn next_due(&self, now: Now) -> u64 {
        let probes =
            self.targets.iter().filter(|t| t.is_asked() && t.probing.is_none()).map(|t| t.next_probe);
        let checks = self.machine.checks.iter().filter(|c| c.supported && c.running.is_none()).map(|c| c.due);
        let next = probes.chain(checks).min().unwrap_or(u64::MAX).min(self.sweep.next);
        let quiet = self.incidents.is_empty() && self.pending.is_empty() && self.tell.is_quiet();
        let steady = |t: &Target| matches!(t.seen, Seen::Fine(_) | Seen::Partial(_) | Seen::Off(_));
        let quiet = quiet && self.sweep.running.is_none() && self.targets.iter().all(steady);
        next.min(now.boot + if quiet { 5_000 } else { 1_000 }).max(now.boot + 1)
    }

    /// Returns a number below a bound; it need only differ, not surprise.
    fn chance(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }

    fn push_beat(&mut self, agent: usize) {
        let Some(target) = self.targets.get_mut(agent) else { return };
        let beat = match &target.seen {
            Seen::Fine(_) | Seen::Partial(_) => Beat::Fine,
            Seen::Failed { .. } | Seen::Suspect(_) => Beat::Failed,
            _ => Beat::Unknown,
        };
        target.history.push(beat);
    }
}

/// Returns an instant of the boot clock as wall time.
fn to_wall(now: Now, boot: u64) -> u64 {
    now.wall.saturating_add(boot).saturating_sub(now.boot)
}
