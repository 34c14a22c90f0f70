//! The checks of the machine: when they are due, and what their facts mean.
//!
//! Invariant: a check that failed, hung or is too old is unknown; one that this system cannot make is left out.

use super::cause::Cause;
use super::history::{Beat, History};
use super::input::{Check, CheckFault, Facts, Now};
use super::target::Seen;

/// Time between two of the same check, in milliseconds.
const QUICK: u64 = 30_000;
/// Time between two readings of the services' memory, in milliseconds.
const USAGE: u64 = 60_000;
/// After so long without an end a check counts as lost, in milliseconds.
const LOST: u64 = 10_000;
/// How long the machine counts as starved after the last sign of it, in milliseconds.
const STARVED: u64 = 45_000;
/// Load for each processor from which questions get more time.
const LOAD: f64 = 4.0;

/// Bounds of the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiskBounds {
    /// Fewest free bytes.
    pub(crate) bytes: u64,
    /// Fewest free percent.
    pub(crate) percent: u64,
}

/// One check.
#[derive(Debug)]
pub(crate) struct CheckState {
    pub(crate) check: Check,
    pub(crate) seen: Seen,
    /// Whether this system can make it.
    pub(crate) supported: bool,
    /// When it ended last.
    pub(crate) at: Option<u64>,
    /// When it ended last, in wall time.
    pub(crate) heard: Option<u64>,
    pub(crate) due: u64,
    pub(crate) running: Option<u64>,
    pub(crate) bad_since: Option<u64>,
    pub(crate) fine_since: Option<u64>,
    pub(crate) history: History,
    bad: u32,
    every: u64,
}

/// All checks.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) checks: Vec<CheckState>,
    disk: DiskBounds,
    /// Period of the dead-man job in milliseconds.
    dead_man: u64,
    started: u64,
    starved_until: u64,
    /// When the wall clock last jumped, and by how many milliseconds.
    pub(crate) jumped: Option<(u64, i64)>,
}

impl Machine {
    /// Returns all checks, none of them made; the dead-man's only where it has a period.
    pub(crate) fn new(now: Now, disk: DiskBounds, dead_man: u64) -> Self {
        let checks = Check::ALL
            .into_iter()
            .filter(|c| *c != Check::DeadMan || dead_man > 0)
            .map(|check| CheckState {
                check,
                seen: Seen::Unknown("it was not checked yet".to_owned()),
                supported: true,
                at: None,
                heard: None,
                due: now.boot,
                running: None,
                bad_since: None,
                fine_since: None,
                history: History::default(),
                bad: 0,
                every: if check == Check::Usage { USAGE } else { QUICK },
            })
            .collect();
        Self { checks, disk, dead_man, started: now.boot, starved_until: 0, jumped: None }
    }

    pub(crate) fn get(&self, check: Check) -> Option<&CheckState> {
        self.checks.iter().find(|c| c.check == check)
    }

    /// Returns the checks that are due and not under way, and notes that they begin.
    pub(crate) fn begin(&mut self, now: u64) -> Vec<Check> {
        let mut begun = Vec::new();
        for state in &mut self.checks {
            if state.supported && state.running.is_none() && state.due <= now {
                state.running = Some(now);
                state.due = now + state.every;
                begun.push(state.check);
            }
        }
        begun
    }

    /// Makes the facts that agents share due, unless they are of this very moment.
    pub(crate) fn hurry(&mut self, now: u64, newer_than: u64) {
        for state in &mut self.checks {
            let shared = matches!(state.check, Check::Disk | Check::Home | Check::Memory | Check::Cpu);
            if shared && state.at.is_none_or(|at| at <= newer_than) {
                state.due = state.due.min(now);
            }
        }
    }

    /// Has the logs measured again soon, because one of them was seen to flood.
    pub(crate) fn watch_logs(&mut self, at: u64) {
        for state in self.checks.iter_mut().filter(|state| state.check == Check::Logs) {
            state.due = state.due.min(at);
        }
    }

    /// Makes everything due.
    pub(crate) fn hurry_all(&mut self, now: u64) {
        for state in &mut self.checks {
            state.due = state.due.min(now);
        }
    }

    /// Returns whether the facts that agents share are newer than an instant, as far as this system has them.
    pub(crate) fn is_fresh(&self, than: u64) -> bool {
        let shared = [Check::Disk, Check::Home];
        let mut states = self.checks.iter().filter(|c| shared.contains(&c.check) && c.supported);
        states.all(|c| c.at.is_some_and(|at| at >= than))
    }

    /// Notes that this process did not get to run in time.
    pub(crate) fn starve(&mut self, now: u64) {
        self.starved_until = now + STARVED;
    }

    pub(crate) fn is_starved(&self, now: u64) -> bool {
        now < self.starved_until
    }

    /// Takes the result of a check.
    pub(crate) fn take(&mut self, now: Now, check: Check, result: Result<&Facts, CheckFault>) {
        if let Ok(Facts::Cpu(load)) = result
            && *load > LOAD
        {
            self.starve(now.boot);
        }
        let (disk, dead_man, up) = (self.disk, self.dead_man, now.boot.saturating_sub(self.started));
        let Some(state) = self.checks.iter_mut().find(|c| c.check == check) else { return };
        state.running = None;
        let seen = match result {
            Err(CheckFault::NotSupported) => {
                state.supported = false;
                return;
            }
            Err(CheckFault::Failed(why)) => Seen::Unknown(why),
            Ok(facts) => {
                state.at = Some(now.boot);
                state.heard = Some(now.wall);
                judge(facts, disk, dead_man, up)
            }
        };
        state.note(now.boot, seen);
    }

    /// Calls a check that never ended, or is too old, unknown.
    pub(crate) fn age(&mut self, now: u64) {
        for state in &mut self.checks {
            if state.running.is_some_and(|since| now.saturating_sub(since) > LOST) {
                state.running = None;
                state.note(now, Seen::Unknown("the check did not end".to_owned()));
            }
            if state.at.is_some_and(|at| now.saturating_sub(at) > 3 * state.every + LOST) {
                state.seen = Seen::Unknown("the last check is too old".to_owned());
            }
        }
        if self.jumped.is_some_and(|(at, _)| now.saturating_sub(at) > 60_000) {
            self.jumped = None;
        }
    }
}

impl CheckState {
    fn note(&mut self, now: u64, seen: Seen) {
        self.history.push(match &seen {
            Seen::Fine(_) => Beat::Fine,
            Seen::Unknown(_) => Beat::Unknown,
            _ => Beat::Failed,
        });
        // Memory and files come and go; one bad reading is not believed. The rest are facts.
        let soft = matches!(seen, Seen::Failed { cause: Cause::MemoryPressure | Cause::FilesExhausted, .. });
        self.bad = if seen.is_failed() { self.bad + 1 } else { 0 };
        match &seen {
            Seen::Fine(_) => {
                self.bad_since = None;
                self.fine_since.get_or_insert(now);
            }
            Seen::Failed { .. } => {
                self.bad_since.get_or_insert(now);
                self.fine_since = None;
            }
            _ => self.fine_since = None,
        }
        self.seen = if soft && self.bad < 2 { Seen::Suspect(seen.detail().to_owned()) } else { seen };
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1_u32 << 30)
}

/// Says what facts mean.
fn judge(facts: &Facts, disk: DiskBounds, dead_man: u64, up: u64) -> Seen {
    let failed = |cause, detail: String| Seen::Failed { cause, detail, wait: 0 };
    match facts {
        Facts::Disk { free, total } => {
            let percent = free.saturating_mul(100) / (*total).max(1);
            let detail = format!("{:.1} of {:.1} GiB are free ({percent} %)", gib(*free), gib(*total));
            let low = *free < disk.bytes || percent < disk.percent;
            if low { failed(Cause::DiskFull, detail) } else { Seen::Fine(detail) }
        }
        Facts::Home(None) => Seen::Fine("it is there, private and writable".to_owned()),
        Facts::Home(Some((cause, detail))) => failed(*cause, detail.clone()),
        Facts::Memory { available, stalled } => {
            let detail =
                format!("{available:.0} % are available, everything waited for {stalled:.0} % of the time");
            let low = *available < 2.0 || (*available < 8.0 && *stalled > 10.0);
            if low { failed(Cause::MemoryPressure, detail) } else { Seen::Fine(detail) }
        }
        Facts::Cpu(load) if *load > LOAD => {
            Seen::Fine(format!("the load is {load:.1} for each processor; questions get more time"))
        }
        Facts::Cpu(load) => Seen::Fine(format!("the load is {load:.1} for each processor")),
        Facts::Files { open, limit } => {
            let detail = format!("pulse has {open} of {limit} files open");
            if open * 10 > limit * 9 { failed(Cause::FilesExhausted, detail) } else { Seen::Fine(detail) }
        }
        Facts::Logs(sizes) => {
            let sum: u64 = sizes.iter().map(|(_, size)| size).sum();
            Seen::Fine(format!("the logs have {:.1} MiB", sum as f64 / f64::from(1_u32 << 20)))
        }
        Facts::Usage(rows) => Seen::Fine(format!("the memory of {} agents was read", rows.len())),
        Facts::DeadMan(age) => {
            let age_ms = age.unwrap_or(up);
            let late = age_ms > dead_man.saturating_mul(5) / 2;
            match age {
                None if !late => Seen::Fine("the job has not run yet".to_owned()),
                Some(ms) if !late => Seen::Fine(format!("the job ran {} s ago", ms / 1000)),
                Some(ms) => failed(Cause::DeadManSilent, format!("the job ran {} s ago", ms / 1000)),
                None => failed(Cause::DeadManSilent, format!("the job has not run for {} s", up / 1000)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn machine() -> Machine {
        let disk = DiskBounds { bytes: GIB, percent: 2 };
        Machine::new(Now { boot: 0, wall: 0 }, disk, 300_000)
    }

    fn after(machine: &mut Machine, boot: u64, check: Check, facts: &Facts) -> Seen {
        machine.take(Now { boot, wall: boot }, check, Ok(facts));
        machine.get(check).unwrap().seen.clone()
    }

    #[track_caller]
    fn check(facts: &Facts, of: Check, cause: Option<Cause>) {
        let mut machine = machine();
        after(&mut machine, 1, of, facts);
        match after(&mut machine, 2, of, facts) {
            Seen::Failed { cause: found, .. } => assert_eq!(Some(found), cause, "{facts:?}"),
            Seen::Fine(_) => assert_eq!(cause, None, "{facts:?}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn facts_are_judged_at_their_bounds() {
        let disk = |free, total| Facts::Disk { free, total };
        check(&disk(GIB, 40 * GIB), Check::Disk, None);
        check(&disk(GIB - 1, 40 * GIB), Check::Disk, Some(Cause::DiskFull));
        check(&disk(2 * GIB, 101 * GIB), Check::Disk, Some(Cause::DiskFull));
        check(&disk(0, 0), Check::Disk, Some(Cause::DiskFull));
        let memory = |available, stalled| Facts::Memory { available, stalled };
        check(&memory(7.0, 0.0), Check::Memory, None);
        check(&memory(7.0, 11.0), Check::Memory, Some(Cause::MemoryPressure));
        check(&memory(1.0, 0.0), Check::Memory, Some(Cause::MemoryPressure));
        check(&Facts::Files { open: 90, limit: 100 }, Check::Files, None);
        check(&Facts::Files { open: 91, limit: 100 }, Check::Files, Some(Cause::FilesExhausted));
        check(&Facts::DeadMan(Some(750_000)), Check::DeadMan, None);
        check(&Facts::DeadMan(Some(750_001)), Check::DeadMan, Some(Cause::DeadManSilent));
        check(&Facts::DeadMan(None), Check::DeadMan, None);
        check(&Facts::Home(Some((Cause::RunDirGone, "gone".into()))), Check::Home, Some(Cause::RunDirGone));
    }

    #[test]
    fn a_dead_man_that_never_ran_is_silent_only_after_its_time() {
        let mut machine = machine();
        assert!(after(&mut machine, 750_000, Check::DeadMan, &Facts::DeadMan(None)).is_fine());
        assert!(after(&mut machine, 750_001, Check::DeadMan, &Facts::DeadMan(None)).is_failed());
    }

    #[test]
    fn one_bad_reading_of_memory_is_not_believed() {
        let mut machine = machine();
        let low = Facts::Memory { available: 1.0, stalled: 50.0 };
        assert!(matches!(after(&mut machine, 1, Check::Memory, &low), Seen::Suspect(_)));
        assert!(after(&mut machine, 2, Check::Memory, &low).is_failed());
    }

    #[test]
    fn a_check_that_failed_hung_or_is_old_is_unknown_and_one_that_cannot_be_made_is_left_out() {
        let mut machine = machine();
        let unknown = |m: &Machine, c| matches!(m.get(c).unwrap().seen, Seen::Unknown(_));
        assert!(machine.checks.iter().all(|c| matches!(c.seen, Seen::Unknown(_))));
        let now = Now { boot: 5, wall: 5 };
        machine.take(now, Check::Disk, Err(CheckFault::Failed("it panicked".into())));
        assert!(unknown(&machine, Check::Disk));
        machine.take(now, Check::Memory, Err(CheckFault::NotSupported));
        assert!(!machine.get(Check::Memory).unwrap().supported);

        assert!(!machine.begin(5).contains(&Check::Memory));
        assert!(machine.begin(5).is_empty(), "none is begun while it runs");
        after(&mut machine, 5, Check::Home, &Facts::Home(None));
        machine.age(5 + LOST + 1);
        assert!(unknown(&machine, Check::Files));
        assert!(!unknown(&machine, Check::Home));
        machine.age(5 + 3 * QUICK + LOST + 1);
        assert!(unknown(&machine, Check::Home));
    }

    #[test]
    fn load_makes_it_patient_for_a_while() {
        let mut machine = machine();
        after(&mut machine, 1, Check::Cpu, &Facts::Cpu(4.0));
        assert!(!machine.is_starved(2));
        after(&mut machine, 1, Check::Cpu, &Facts::Cpu(10.0));
        assert!(machine.is_starved(2) && !machine.is_starved(2 + STARVED));
    }
}
