//! launchd's rules for one agent, as a machine without clock and processes: time comes in, orders come out.
//!
//! Time is a [`Duration`] on a clock that counts sleep and never runs backwards. The rules, as launchd keeps them:
//!
//! - **Throttle.** A start is never sooner than the throttle interval after the last start, whatever asked for it and
//!   however the process ended. There is no back-off and no last attempt.
//! - **Keeping.** With `SuccessfulExit: false` exit code 0 is final until somebody starts the agent; anything else,
//!   a failure to start too, is followed by a start. `RunAtLoad`, or any rule of keeping, starts it when it is loaded.
//! - **Ending.** An end that is ordered is SIGTERM, then SIGKILL once the exit time-out has passed. A signal that is
//!   only sent ([`Event::Signal`]) is no order: what the process does about it is judged by the rules of keeping.
//! - **Calendar.** Whoever holds the machine says when an occurrence is due, once for any number that was slept
//!   through. One that falls into a run is made up for by a single run after it.
//! - **Interval.** An occurrence that falls into a run is missed, and so is one that was slept through.
//! - **Loading.** A disabled agent is not loaded; one that is being unloaded is not loaded again before its process
//!   is gone. To disable a loaded agent changes nothing until it is loaded again.
//!
//! What launchd does not have is [`Event::Stop`]: the process ends and nothing starts the agent before
//! [`Event::Start`] or [`Event::Kick`], not even a load. Under launchd a stopped service does that itself, by exiting
//! with 0 where its desired state is not running.
//!
//! The machine keeps the time of the last start when the agent is unloaded, so that loading it again is no way round
//! the throttle; a model of launchd, which forgets it, begins with a new machine after [`Output::Forget`].

use std::time::Duration;

/// How late an interval's occurrence may be noticed and still count; one later than that was slept through.
const INTERVAL_SLACK: Duration = Duration::from_secs(30);

/// After which ends an agent is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeepAlive {
    /// After none.
    Never,
    /// After every one.
    Always,
    /// After all but exit code 0.
    AfterFailure,
    /// After exit code 0 only.
    AfterSuccess,
}

/// What the machine needs to know of a property list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rules {
    /// Whether it is started when it is loaded.
    pub run_at_load: bool,
    /// After which ends it is started again; all but [`KeepAlive::Never`] also start it when it is loaded.
    pub keep_alive: KeepAlive,
    /// Shortest time between two starts.
    pub throttle: Duration,
    /// Time from SIGTERM to SIGKILL; absent means that it is never killed.
    pub exit_time_out: Option<Duration>,
    /// Time between two runs of an interval.
    pub interval: Option<Duration>,
}

impl Rules {
    /// What every service has: kept after failures, at most one start in 10 s, killed 15 s after SIGTERM.
    pub const SERVICE: Self = Self {
        run_at_load: true,
        keep_alive: KeepAlive::AfterFailure,
        throttle: Duration::from_secs(10),
        exit_time_out: Some(Duration::from_secs(15)),
        interval: None,
    };

    fn starts_at_load(&self) -> bool {
        self.run_at_load || self.keep_alive != KeepAlive::Never
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ended {
    /// With an exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It never began: its program is missing or cannot be run.
    Unstarted,
}

/// What happens after a process that was told to end has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum After {
    /// Nothing.
    Rest,
    /// It is started again.
    Restart,
    /// It is unloaded.
    Unload,
}

/// What the agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Unknown here: nothing will start it.
    NotLoaded,
    /// Loaded, without a process and without a start that is due.
    Idle,
    /// Loaded, without a process, to be started when the throttle allows it.
    Throttled {
        /// When that is.
        until: Duration,
    },
    /// It has a process.
    Running {
        /// Since when.
        since: Duration,
    },
    /// It has a process that was told to end.
    Draining {
        /// When it will be killed; absent when it has been, or never will be.
        kill_at: Option<Duration>,
        /// What comes next.
        after: After,
    },
}

/// What happens to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// It is loaded (`launchctl bootstrap`).
    Load,
    /// It is unloaded, and its process ended (`launchctl bootout`).
    Unload,
    /// It may be loaded (`launchctl enable`); so it is at first.
    Enable,
    /// It may not be loaded (`launchctl disable`).
    Disable,
    /// It is to run, unless it does (`launchctl kickstart`).
    Start,
    /// Its process is to end and another to start (`launchctl kickstart -k`).
    Kick {
        /// Whether the process is killed at once, without SIGTERM and time.
        kill: bool,
    },
    /// Its process is to end, and none is to start before a start or a kick.
    Stop,
    /// Its process is sent a signal, by number (`launchctl kill`).
    Signal(i32),
    /// What is draining is not waited for any longer.
    Kill,
    /// Its process has ended, or could not be started.
    Exit(Ended),
    /// One or more occurrences of its calendar are due.
    CalendarDue,
    /// Time has passed; to be given at [`Machine::next_tick`], and harmless at any other time.
    Tick,
}

/// What is to be done about an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Output {
    /// Start its process; how that went is told by [`Event::Exit`], at once where it could not be started.
    Spawn,
    /// Send its process SIGTERM.
    Term,
    /// Send its process, and all others of its group, SIGKILL.
    Kill,
    /// Send its process a signal, by number.
    Signal(i32),
    /// It is unloaded.
    Forget,
}

/// Why an event cannot happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// It is loaded already.
    #[error("it is loaded already")]
    Loaded,
    /// It is not loaded.
    #[error("it is not loaded")]
    NotLoaded,
    /// It is disabled.
    #[error("it is disabled")]
    Disabled,
    /// It is being unloaded, and its process has not ended.
    #[error("it is being unloaded")]
    Unloading,
    /// It has no process.
    #[error("it has no process")]
    NoProcess,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    rules: Rules,
    state: State,
    enabled: bool,
    /// Whether nothing starts it but a start or a kick.
    held: bool,
    /// Whether an occurrence of its calendar fell into a run.
    owed: bool,
    last_start: Option<Duration>,
    next_interval: Option<Duration>,
}

impl Machine {
    /// Returns an agent that is not loaded, enabled, and was never started.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            state: State::NotLoaded,
            enabled: true,
            held: false,
            owed: false,
            last_start: None,
            next_interval: None,
        }
    }

    /// Returns what the agent does.
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns the rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Sets the rules; those of a loaded agent stand until it is unloaded, and false is returned.
    pub fn set_rules(&mut self, rules: Rules) -> bool {
        let free = self.state == State::NotLoaded;
        if free {
            self.rules = rules;
        }
        free
    }

    /// Returns whether the agent may be loaded.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Returns whether nothing but a start or a kick will start the agent.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Says whether the agent is not wanted to run, as its desired state has it; a process that it has stays.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Returns whether the agent has a process, as far as the machine was told.
    pub fn has_process(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Draining { .. })
    }

    /// Returns when the next [`Event::Tick`] can change something; nothing when only other events can.
    pub fn next_tick(&self) -> Option<Duration> {
        match self.state {
            State::Throttled { until } => Some(until),
            State::Draining { kill_at, .. } => kill_at,
            State::Idle if !self.held => self.next_interval,
            State::NotLoaded | State::Idle | State::Running { .. } => None,
        }
    }

    /// Returns when the agent will be started next by itself, as far as is known without a calendar.
    pub fn next_start(&self) -> Option<Duration> {
        match self.state {
            State::Throttled { until } => Some(until),
            State::Idle if !self.held => self.next_interval,
            _ => None,
        }
    }

    /// Takes an event at a time, and returns what is to be done.
    ///
    /// # Errors
    ///
    /// Says why an order cannot be followed; nothing has changed then.
    pub fn apply(&mut self, now: Duration, event: Event) -> Result<Option<Output>, Refusal> {
        match event {
            Event::Enable => self.enabled = true,
            Event::Disable => self.enabled = false,
            Event::Load => return self.load(now),
            // What comes late, for what is gone, is no error.
            Event::Exit(ended) => return Ok(self.exit(now, ended)),
            Event::CalendarDue => return Ok(self.calendar_due(now)),
            Event::Tick => return Ok(self.tick(now)),
            Event::Stop if self.state == State::NotLoaded => self.held = true,
            Event::Unload
            | Event::Start
            | Event::Kick { .. }
            | Event::Stop
            | Event::Signal(_)
            | Event::Kill => {
                return self.order(now, event);
            }
        }
        Ok(None)
    }

    fn load(&mut self, now: Duration) -> Result<Option<Output>, Refusal> {
        match self.state {
            State::Draining { after: After::Unload, .. } => Err(Refusal::Unloading),
            State::NotLoaded if !self.enabled => Err(Refusal::Disabled),
            State::NotLoaded => {
                self.state = State::Idle;
                self.owed = false;
                self.next_interval = self.rules.interval.map(|every| now + every);
                Ok(if self.rules.starts_at_load() { self.begin(now) } else { None })
            }
            _ => Err(Refusal::Loaded),
        }
    }

    /// Follows an order to a loaded agent.
    fn order(&mut self, now: Duration, event: Event) -> Result<Option<Output>, Refusal> {
        match (event, self.state) {
            (_, State::NotLoaded) => Err(Refusal::NotLoaded),
            (Event::Start | Event::Kick { kill: false }, State::Draining { after: After::Unload, .. }) => {
                Err(Refusal::Unloading)
            }
            (Event::Start, State::Draining { kill_at, .. }) => {
                self.held = false;
                self.state = State::Draining { kill_at, after: After::Restart };
                Ok(None)
            }
            (Event::Start, State::Running { .. }) => {
                self.held = false;
                Ok(None)
            }
            (Event::Start | Event::Kick { .. }, State::Idle | State::Throttled { .. }) => {
                self.held = false;
                Ok(self.begin(now))
            }
            (Event::Kick { kill }, State::Running { .. } | State::Draining { .. }) => self.kick(now, kill),
            (Event::Stop, State::Idle | State::Throttled { .. }) => {
                self.held = true;
                self.owed = false;
                self.rest(now);
                Ok(None)
            }
            (Event::Stop, State::Draining { kill_at, after }) => {
                self.held = true;
                let after = if after == After::Restart { After::Rest } else { after };
                self.state = State::Draining { kill_at, after };
                Ok(None)
            }
            (Event::Stop, State::Running { .. }) => {
                self.held = true;
                Ok(self.drain(now, After::Rest))
            }
            (Event::Unload, State::Idle | State::Throttled { .. }) => Ok(self.forget()),
            (Event::Unload, State::Draining { after: After::Unload, .. }) => Err(Refusal::Unloading),
            (Event::Unload, State::Draining { kill_at, .. }) => {
                self.state = State::Draining { kill_at, after: After::Unload };
                Ok(None)
            }
            (Event::Unload, State::Running { .. }) => Ok(self.drain(now, After::Unload)),
            (Event::Signal(_) | Event::Kill, State::Idle | State::Throttled { .. }) => {
                Err(Refusal::NoProcess)
            }
            (Event::Signal(signal), _) => Ok(Some(Output::Signal(signal))),
            (Event::Kill, State::Draining { after, .. }) => {
                self.state = State::Draining { kill_at: None, after };
                Ok(Some(Output::Kill))
            }
            (Event::Kill, State::Running { .. }) => Ok(Some(Output::Kill)),
            _ => Ok(None),
        }
    }

    fn kick(&mut self, now: Duration, kill: bool) -> Result<Option<Output>, Refusal> {
        let kill_at = match self.state {
            State::Draining { after: After::Unload, .. } => return Err(Refusal::Unloading),
            State::Draining { kill_at, .. } => Some(kill_at),
            _ => None,
        };
        self.held = false;
        if kill {
            self.state = State::Draining { kill_at: None, after: After::Restart };
            return Ok(Some(Output::Kill));
        }
        let Some(kill_at) = kill_at else { return Ok(self.drain(now, After::Restart)) };
        self.state = State::Draining { kill_at, after: After::Restart };
        Ok(None)
    }

    fn exit(&mut self, now: Duration, ended: Ended) -> Option<Output> {
        let success = ended == Ended::Code(0);
        let again = match (self.state, self.rules.keep_alive) {
            (State::Draining { after: After::Unload, .. }, _) => return self.forget(),
            (State::Draining { after, .. }, _) => after == After::Restart,
            (State::Running { .. }, KeepAlive::Always) => true,
            (State::Running { .. }, KeepAlive::Never) => false,
            (State::Running { .. }, KeepAlive::AfterFailure) => !success,
            (State::Running { .. }, KeepAlive::AfterSuccess) => success,
            (State::NotLoaded | State::Idle | State::Throttled { .. }, _) => return None,
        };
        self.rest(now);
        let owed = std::mem::take(&mut self.owed);
        if again || owed { self.begin(now) } else { None }
    }

    fn calendar_due(&mut self, now: Duration) -> Option<Output> {
        match self.state {
            _ if self.held => None,
            State::Idle => self.begin(now),
            State::Running { .. } | State::Draining { .. } => {
                self.owed = true;
                None
            }
            State::Throttled { .. } | State::NotLoaded => None,
        }
    }

    fn tick(&mut self, now: Duration) -> Option<Output> {
        match self.state {
            State::Throttled { until } if now >= until => self.begin(now),
            State::Draining { kill_at: Some(kill_at), after } if now >= kill_at => {
                self.state = State::Draining { kill_at: None, after };
                Some(Output::Kill)
            }
            State::Idle if !self.held => {
                if self.interval_due(now) {
                    self.begin(now)
                } else {
                    None
                }
            }
            _ => None,
        }
    }

    /// Is without a process and without a start that is due; what an interval brought meanwhile was missed.
    fn rest(&mut self, now: Duration) {
        self.state = State::Idle;
        if let (Some(every), Some(due)) = (self.rules.interval, self.next_interval)
            && now >= due
        {
            let into = (now - due).as_nanos() % every.as_nanos().max(1);
            let into = Duration::from_nanos(u64::try_from(into).unwrap_or_default());
            self.next_interval = Some(now - into + every);
        }
    }

    /// Returns whether an occurrence of the interval is due that was not slept through, and moves on to the next.
    fn interval_due(&mut self, now: Duration) -> bool {
        let (Some(every), Some(due)) = (self.rules.interval, self.next_interval) else { return false };
        if now < due {
            return false;
        }
        let late = now - due;
        self.next_interval = Some(if late < every { due + every } else { now + every });
        late <= INTERVAL_SLACK
    }

    /// Starts the process, or waits until the throttle allows it; does nothing for an agent that is held.
    fn begin(&mut self, now: Duration) -> Option<Output> {
        if self.held {
            self.rest(now);
            return None;
        }
        let earliest = self.last_start.map_or(now, |last| last + self.rules.throttle);
        if now < earliest {
            self.state = State::Throttled { until: earliest };
            return None;
        }
        self.last_start = Some(now);
        self.state = State::Running { since: now };
        Some(Output::Spawn)
    }

    fn drain(&mut self, now: Duration, after: After) -> Option<Output> {
        let kill_at = self.rules.exit_time_out.map(|limit| now + limit);
        self.state = State::Draining { kill_at, after };
        Some(Output::Term)
    }

    fn forget(&mut self) -> Option<Output> {
        self.state = State::NotLoaded;
        self.owed = false;
        self.next_interval = None;
        Some(Output::Forget)
    }
}

#[cfg(test)]
mod tests;
