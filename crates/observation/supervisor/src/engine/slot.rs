//! One agent in the engine: its property list as loaded, its machine, and what others see of it.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use mirror_agents::machine::{Event, Machine, Rules, State};
use mirror_agents::{Agent, Plist, calendar};
use mirror_kit::desired::{self, Wish};
use mirror_paths::Home;

use crate::backend::{AgentRow, AgentState};

/// Most bytes of a property list that are read.
const LIST_LIMIT: u64 = 64 << 10;

/// How far the wall clock may be set back without an occurrence of that time being due again, in milliseconds.
const SET_BACK_MS: u64 = 3_600_000;

/// An agent that the engine is to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managed {
    /// Name: `bus`, or `job.verify-log` for a job.
    pub name: String,
    /// Whether it is a job.
    pub job: bool,
    /// Tier; a drain ends the higher ones first.
    pub tier: u8,
    /// Its property list as the catalogue has it, with its places filled in.
    pub text: String,
    /// Whether it is this very process, which the engine neither starts nor stops.
    pub own: bool,
}

impl Managed {
    /// Returns an agent of the catalogue for a folder of links and a home.
    pub fn of(agent: &Agent, bin: &Path, home: &Home) -> Self {
        Self {
            name: agent.name.clone(),
            job: agent.is_job(),
            tier: agent.tier,
            text: agent.filled(bin, home.root()),
            own: false,
        }
    }

    /// Returns where its property list lies.
    pub fn path(&self, home: &Home) -> PathBuf {
        home.agents().join(self.file_name())
    }

    fn file_name(&self) -> String {
        format!("{}.plist", mirror_agents::label(&self.name))
    }
}

/// What tells one version of a file from another.
type Stamp = Option<(i64, i64, u64, u64)>;

/// One agent.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) managed: Managed,
    pub(super) machine: Machine,
    /// The list that it runs from, and its text; absent while it is not loaded.
    pub(super) loaded: Option<(Plist, String)>,
    /// Whether it is to be loaded again once it is unloaded.
    pub(super) reload: bool,
    /// Whether the fleet is being ended.
    pub(super) closing: bool,
    pub(super) row: AgentRow,
    seen: Option<Stamp>,
    /// Wall time up to which its calendar was looked at, in milliseconds.
    checked_ms: u64,
    /// When its calendar is due next, in milliseconds since 1970.
    calendar_ms: Option<u64>,
    /// The last next start by the boot clock and what it was by the wall clock, so that the latter stands still.
    next_start: Option<(Duration, u64)>,
}

impl Slot {
    pub(super) fn new(managed: Managed) -> Self {
        let row = AgentRow::new(&managed.name, managed.job);
        Self {
            managed,
            machine: Machine::new(Rules::SERVICE),
            loaded: None,
            reload: false,
            closing: false,
            row,
            seen: None,
            checked_ms: 0,
            calendar_ms: None,
            next_start: None,
        }
    }

    /// Reads what is wanted of the agent; unless that is to run, nothing will start it.
    pub(super) fn wish(&mut self, home: &Home) -> Wish {
        let (wish, reason) = desired::read(home, &self.managed.name);
        self.machine.hold(self.closing || wish != Wish::Running);
        self.row.reason = if wish == Wish::Running { String::new() } else { reason };
        self.row.wish = wish;
        wish
    }

    /// Reads its property list for the machine; the error is the problem, which the row has then.
    pub(super) fn read(&mut self, home: &Home, wall_ms: u64) -> Result<(), String> {
        self.seen = Some(stamp(&self.managed.path(home)));
        let read = self.text(home).and_then(|text| {
            let plist = Plist::parse(&self.managed.file_name(), &text)
                .map_err(|e| format!("its property list is refused: {e}; render it again"))?;
            Ok((plist, text))
        });
        match read {
            Ok((plist, text)) => {
                self.machine.set_rules(plist.rules());
                self.loaded = Some((plist, text));
                self.checked_ms = wall_ms;
                self.problem(home);
                Ok(())
            }
            Err(problem) => {
                self.row.problem.clone_from(&problem);
                Err(problem)
            }
        }
    }

    fn text(&self, home: &Home) -> Result<String, String> {
        let path = self.managed.path(home);
        let mut text = String::new();
        let read = fs::File::open(&path).and_then(|file| file.take(LIST_LIMIT).read_to_string(&mut text));
        match read {
            Ok(_) => Ok(text),
            Err(e) => {
                Err(format!("its property list {} cannot be read ({e}); render it again", path.display()))
            }
        }
    }

    /// Looks whether the property list is as the catalogue has it, if the file has changed since the last look.
    pub(super) fn look(&mut self, home: &Home) {
        let stamp = stamp(&self.managed.path(home));
        if self.seen != Some(stamp) {
            self.seen = Some(stamp);
            self.problem(home);
        }
    }

    fn problem(&mut self, home: &Home) {
        let loaded = self.loaded.as_ref().map(|(_, text)| text);
        self.row.problem = match self.text(home) {
            Err(problem) => problem,
            Ok(text) if text == self.managed.text => match loaded {
                Some(loaded) if *loaded != text => {
                    "it runs from a property list that was edited; render it again to undo that".to_owned()
                }
                _ => String::new(),
            },
            Ok(text) => match Plist::parse(&self.managed.file_name(), &text) {
                Err(e) => {
                    format!("its property list was edited and is refused: {e}; render it again to undo that")
                }
                Ok(_) if loaded == Some(&text) => {
                    "its property list was edited, and it runs from that; render it again to undo that"
                        .to_owned()
                }
                Ok(_) => "its property list was edited after it was loaded; render it again to undo that"
                    .to_owned(),
            },
        };
    }

    /// Returns whether an occurrence of the calendar is due, one for any number that passed.
    pub(super) fn calendar_due(&mut self, wall_ms: u64, zone: &TimeZone) -> bool {
        let Some((plist, _)) = self.loaded.as_ref().filter(|(plist, _)| !plist.calendar.is_empty()) else {
            self.calendar_ms = None;
            return false;
        };
        if wall_ms < self.checked_ms {
            if self.checked_ms - wall_ms > SET_BACK_MS {
                self.checked_ms = wall_ms;
            } else {
                return false;
            }
        }
        let next = |after| Some(next_ms(plist, after, zone)).flatten();
        let due = next(self.checked_ms).is_some_and(|at| at <= wall_ms);
        self.checked_ms = wall_ms;
        self.calendar_ms = next(wall_ms);
        due
    }

    /// Returns how long the calendar may be left alone.
    pub(super) fn calendar_wait(&self, wall_ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(self.calendar_ms?.saturating_sub(wall_ms)))
    }

    /// Makes the row say what the machine says.
    pub(super) fn show(&mut self, boot: Duration, wall_ms: u64) {
        if self.managed.own {
            return;
        }
        self.row.state = match self.machine.state() {
            State::NotLoaded => AgentState::NotLoaded,
            State::Idle => AgentState::Idle,
            State::Throttled { .. } => AgentState::Throttled,
            State::Running { .. } => AgentState::Running,
            State::Draining { .. } => AgentState::Draining,
        };
        let timed = self.machine.next_start();
        if self.next_start.map(|(at, _)| at) != timed {
            let ms = |at: Duration| u64::try_from(at.saturating_sub(boot).as_millis()).unwrap_or(u64::MAX);
            self.next_start = timed.map(|at| (at, wall_ms.saturating_add(ms(at))));
        }
        let calendar =
            self.calendar_ms.filter(|_| self.row.state == AgentState::Idle && !self.machine.is_held());
        self.row.next_start_ms =
            self.next_start.map(|(_, ms)| ms).into_iter().chain(calendar).min().unwrap_or_default();
    }

    /// Returns what happens when the machine looks at the clock, if anything can.
    pub(super) fn tick(&self, boot: Duration) -> Option<Event> {
        self.machine.next_tick().filter(|at| *at <= boot).map(|_| Event::Tick)
    }
}

fn next_ms(plist: &Plist, after_ms: u64, zone: &TimeZone) -> Option<u64> {
    let after = Timestamp::from_millisecond(i64::try_from(after_ms).ok()?).ok()?;
    u64::try_from(calendar::next(&plist.calendar, after, zone)?.as_millisecond()).ok()
}

fn stamp(path: &Path) -> Stamp {
    fs::metadata(path).ok().map(|m| (m.mtime(), m.mtime_nsec(), m.len(), m.ino()))
}
