//! The actor: takes orders, ends and the time, asks the machines, and does what they say.

use std::fmt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::tz::TimeZone;
use mirror_agents::machine::{Ended, Event, Output, State};
use mirror_clock::Clock;
use mirror_kit::desired::{self, Wish};
use mirror_paths::{Home, write_atomic};
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use super::process;
use super::slot::{Managed, Slot};
use super::{Answer, Command, Order, Say};
use crate::backend::{AgentState, Rows};
use crate::error::Error;
use crate::rows;

/// Longest time between two looks at the calendar, at what is wanted, and at the lists: the timers of the executor
/// stand still while the machine sleeps, and wake this late at most.
const LOOK: Duration = Duration::from_secs(60);

type End = BoxFuture<'static, (usize, u32, std::io::Result<ExitStatus>)>;

/// The engine.
pub struct Engine {
    home: Home,
    clock: Arc<dyn Clock>,
    slots: Vec<Slot>,
    rows: watch::Sender<Rows>,
    orders: mpsc::Receiver<Command>,
    /// Whether nobody is left who could give orders.
    alone: bool,
    ends: FuturesUnordered<End>,
    say: Say,
    /// Whether nothing is started any more.
    closing: bool,
    finishing: bool,
    looked: Duration,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("slots", &self.slots)
            .field("closing", &self.closing)
            .finish_non_exhaustive()
    }
}

impl Engine {
    pub(super) fn new(
        home: Home,
        clock: Arc<dyn Clock>,
        mut agents: Vec<Managed>,
        say: Say,
        orders: mpsc::Receiver<Command>,
    ) -> Self {
        agents.sort_by(|a, b| a.name.cmp(&b.name));
        let slots = agents.into_iter().map(Slot::new).collect();
        let looked = clock.boot();
        let mut engine = Self {
            home,
            clock,
            slots,
            rows: watch::channel(Rows::default()).0,
            orders,
            alone: false,
            ends: FuturesUnordered::new(),
            say,
            closing: false,
            finishing: false,
            looked,
        };
        engine.publish();
        engine
    }

    pub(super) fn rows(&self) -> watch::Receiver<Rows> {
        self.rows.subscribe()
    }

    /// Runs until it is told to finish, or nobody is left who could tell it; then until its last process is gone.
    pub async fn run(mut self) {
        while !(self.finishing && self.ends.is_empty()) {
            let wait = self.wait();
            let clock = Arc::clone(&self.clock);
            tokio::select! {
                command = self.orders.recv(), if !self.alone => match command {
                    Some((order, answer)) => self.take(order, answer),
                    None => {
                        self.alone = true;
                        self.close(None);
                        self.finishing = true;
                    }
                },
                Some((index, pid, status)) = self.ends.next() => self.ended(index, pid, status),
                () = clock.sleep(wait) => {}
            }
            self.tick();
            self.publish();
        }
    }

    /// Returns how long nothing happens by itself.
    fn wait(&self) -> Duration {
        let (boot, wall) = (self.clock.boot(), self.clock.wall_ms());
        let ticks = self.slots.iter().filter_map(|s| s.machine.next_tick()).map(|at| at.saturating_sub(boot));
        let times = self.slots.iter().filter_map(|s| s.calendar_wait(wall));
        ticks.chain(times).fold(LOOK, Duration::min)
    }

    fn take(&mut self, order: Order, answer: oneshot::Sender<Answer>) {
        // What is due comes before what is ordered.
        self.tick();
        let result = match order {
            Order::Begin => {
                for index in 0..self.slots.len() {
                    if self.load(index).is_err() {
                        let row = &self.slots[index].row;
                        (self.say)(&format!("{} is not loaded: {}", row.name, row.problem));
                    }
                }
                Ok(true)
            }
            Order::Look => {
                self.look();
                Ok(true)
            }
            Order::Start(agent) => self.start(&agent),
            Order::Stop(agent, wish, reason) => self.stop(&agent, wish, &reason),
            Order::Restart(agent, kill) => self.restart(&agent, kill),
            Order::Render(agent) => self.render(&agent),
            Order::Drain(tier) => {
                self.close(tier);
                Ok(true)
            }
            Order::Kill => {
                self.close(None);
                for index in 0..self.slots.len() {
                    // What has no process needs no end.
                    let _ = self.apply(index, Event::Kill);
                }
                Ok(true)
            }
            Order::Finish => {
                self.close(None);
                self.finishing = true;
                Ok(true)
            }
        };
        // Whoever gave the order reads the rows when it is answered.
        self.publish();
        let _ = answer.send(result);
    }

    fn find(&self, agent: &str) -> Result<usize, Error> {
        self.slots.iter().position(|s| s.managed.name == agent).ok_or_else(|| Error::unknown(agent))
    }

    /// Finds an agent that can be told something now.
    fn addressed(&self, doing: &str, agent: &str) -> Result<usize, Error> {
        let index = self.find(agent)?;
        if self.closing {
            return Err(Error::backend(format!("{doing} {agent}"), "the fleet is being ended"));
        }
        Ok(index)
    }

    fn write_wish(&mut self, index: usize, wish: Wish, reason: &str) -> Result<(), Error> {
        let name = &self.slots[index].managed.name;
        desired::write(&self.home, name, wish, reason)
            .map_err(|e| Error::backend(format!("write down what is wanted of {name}"), e))?;
        self.slots[index].wish(&self.home);
        Ok(())
    }

    fn own(doing: &str, agent: &str) -> Error {
        Error::backend(format!("{doing} {agent}"), "it is the process of `mirror up`; end that with Ctrl-C")
    }

    fn start(&mut self, agent: &str) -> Answer {
        let index = self.addressed("start", agent)?;
        self.write_wish(index, Wish::Running, "")?;
        if self.slots[index].managed.own {
            return Ok(false);
        }
        self.load_if_needed("start", index)?;
        self.apply(index, Event::Start).map_err(|e| Error::backend(format!("start {agent}"), e))?;
        Ok(true)
    }

    fn stop(&mut self, agent: &str, wish: Wish, reason: &str) -> Answer {
        let index = self.addressed("stop", agent)?;
        if self.slots[index].managed.own {
            return Err(Self::own("stop", agent));
        }
        self.write_wish(index, wish, reason)?;
        self.apply(index, Event::Stop).map_err(|e| Error::backend(format!("stop {agent}"), e))?;
        Ok(true)
    }

    fn restart(&mut self, agent: &str, kill: bool) -> Answer {
        let index = self.addressed("restart", agent)?;
        if self.slots[index].managed.own {
            return Err(Self::own("restart", agent));
        }
        let wish = self.slots[index].wish(&self.home);
        if wish != Wish::Running {
            return Err(Error::Stopped { agent: agent.to_owned(), wish: wish.name() });
        }
        self.load_if_needed("restart", index)?;
        let kick = Event::Kick { kill };
        self.apply(index, kick).map_err(|e| Error::backend(format!("restart {agent}"), e))?;
        Ok(true)
    }

    fn render(&mut self, agent: &str) -> Answer {
        let index = self.addressed("render", agent)?;
        let slot = &mut self.slots[index];
        let path = slot.managed.path(&self.home);
        let same = |text: &str| text == slot.managed.text;
        let on_disk = std::fs::read_to_string(&path).is_ok_and(|text| same(&text));
        let loaded = slot.loaded.as_ref().is_some_and(|(_, text)| same(text));
        if !on_disk {
            let written = write_atomic(&path, slot.managed.text.as_bytes());
            written.map_err(|e| Error::backend(format!("write {}", path.display()), e))?;
        }
        slot.look(&self.home);
        if !loaded && !slot.managed.own {
            slot.reload = true;
            if self.apply(index, Event::Unload).is_err() {
                self.slots[index].reload = false;
                self.load_if_needed("render", index)?;
            }
        }
        Ok(!on_disk || !(loaded || self.slots[index].managed.own))
    }

    fn load_if_needed(&mut self, doing: &str, index: usize) -> Result<(), Error> {
        if self.slots[index].machine.state() != State::NotLoaded {
            return Ok(());
        }
        let name = self.slots[index].managed.name.clone();
        self.load(index).map_err(|problem| Error::backend(format!("{doing} {name}"), problem))
    }

    /// Loads an agent from its file; the error is the problem with that.
    fn load(&mut self, index: usize) -> Result<(), String> {
        let slot = &mut self.slots[index];
        slot.wish(&self.home);
        if slot.managed.own {
            slot.look(&self.home);
            slot.row.state = AgentState::Running;
            slot.row.pid = std::process::id();
            slot.row.since = Some(self.clock.boot());
            slot.row.started_ms = self.clock.wall_ms();
            slot.row.starts = 1;
            return Ok(());
        }
        slot.read(&self.home, self.clock.wall_ms())?;
        self.apply(index, Event::Load).map_err(|e| e.to_string())
    }

    /// Ends the processes of a tier, or of all.
    fn close(&mut self, tier: Option<u8>) {
        self.closing = true;
        for index in 0..self.slots.len() {
            self.slots[index].closing = true;
            self.slots[index].wish(&self.home);
            if tier.is_none_or(|tier| tier == self.slots[index].managed.tier) {
                self.slots[index].reload = false;
                // What is not loaded needs no end.
                let _ = self.apply(index, Event::Unload);
            }
        }
    }

    /// Gives an event to a machine, and does what it says.
    fn apply(&mut self, index: usize, event: Event) -> Result<(), mirror_agents::machine::Refusal> {
        let mut output = self.slots[index].machine.apply(self.clock.boot(), event)?;
        while let Some(now) = output {
            output = self.follow(index, now);
        }
        Ok(())
    }

    fn follow(&mut self, index: usize, output: Output) -> Option<Output> {
        let slot = &mut self.slots[index];
        let pid = slot.row.pid;
        match output {
            Output::Spawn => return self.spawn(index),
            Output::Term => process::signal(pid, Signal::SIGTERM as i32),
            Output::Signal(number) => process::signal(pid, number),
            Output::Kill => {
                tracing::info!(agent = slot.row.name, pid, "killed");
                process::kill_group(pid);
            }
            Output::Forget => {
                slot.loaded = None;
                if std::mem::take(&mut slot.reload) && self.load(index).is_err() {
                    let row = &self.slots[index].row;
                    (self.say)(&format!("{} is not loaded: {}", row.name, row.problem));
                }
            }
        }
        None
    }

    fn spawn(&mut self, index: usize) -> Option<Output> {
        let (boot, wall_ms) = (self.clock.boot(), self.clock.wall_ms());
        let slot = &mut self.slots[index];
        let name = slot.managed.name.clone();
        let Some((plist, _)) = &slot.loaded else {
            return slot.machine.apply(boot, Event::Exit(Ended::Unstarted)).unwrap_or_default();
        };
        slot.row.starts += 1;
        let begun = rows::intend(&self.home, &name, wall_ms).and_then(|()| process::spawn(&self.home, plist));
        let begun = begun.and_then(|child| {
            child.id().map(|pid| (child, pid)).ok_or_else(|| std::io::Error::other("it ended at once"))
        });
        match begun {
            Ok((mut child, pid)) => {
                if let Err(e) = rows::write(&self.home, &name, pid) {
                    (self.say)(&format!(
                        "{name}: its fleet row cannot be written ({e}); peers take it for a local caller"
                    ));
                }
                rows::settle(&self.home, &name);
                slot.row.pid = pid;
                slot.row.since = Some(boot);
                slot.row.started_ms = wall_ms;
                self.ends.push(Box::pin(async move { (index, pid, child.wait().await) }));
                None
            }
            Err(e) => {
                rows::settle(&self.home, &name);
                slot.row.last_exit = format!("not started: {e}");
                slot.row.last_ended_ms = wall_ms;
                let next = slot.machine.apply(boot, Event::Exit(Ended::Unstarted)).unwrap_or_default();
                let again = again(slot.machine.state(), boot);
                (self.say)(&format!("{name} cannot be started ({e}); {again}"));
                next
            }
        }
    }

    fn ended(&mut self, index: usize, pid: u32, status: std::io::Result<ExitStatus>) {
        // What it started and left behind must not outlive it.
        process::kill_group(pid);
        let boot = self.clock.boot();
        let slot = &mut self.slots[index];
        let name = slot.managed.name.clone();
        rows::remove(&self.home, &name, pid);
        let ended = status.map_or(Ended::Unstarted, process::ended);
        let ordered = matches!(slot.machine.state(), State::Draining { .. });
        let ran = boot.saturating_sub(slot.row.since.unwrap_or(boot));
        slot.row.pid = 0;
        slot.row.since = None;
        slot.row.started_ms = 0;
        slot.row.last_exit = process::in_words(ended);
        slot.row.last_ended_ms = self.clock.wall_ms();
        let wish = slot.wish(&self.home);
        if !ordered {
            let how = &slot.row.last_exit;
            let text = match (wish, ended) {
                (Wish::Running, Ended::Code(0)) if slot.managed.job => None,
                (Wish::Running, Ended::Code(0)) => {
                    Some(format!("{name} ended by itself and stays down until it is started"))
                }
                (Wish::Running, _) if slot.managed.job => {
                    Some(format!("{name} ended with {how} after {}", seconds(ran)))
                }
                (Wish::Running, _) => {
                    let rest = slot.machine.rules().throttle.saturating_sub(ran);
                    let when =
                        if rest.is_zero() { "now".to_owned() } else { format!("in {}", seconds(rest)) };
                    Some(format!("{name} ended with {how} after {}; it starts again {when}", seconds(ran)))
                }
                (wish, _) => Some(format!("{name} is {}: {}", wish.name(), slot.row.reason)),
            };
            if let Some(text) = text {
                tracing::info!(agent = name, how, "ended");
                (self.say)(&text);
            }
        }
        // An end is never refused.
        let _ = self.apply(index, Event::Exit(ended));
    }

    /// Gives the time to whoever waits for it.
    fn tick(&mut self) {
        let (boot, wall_ms) = (self.clock.boot(), self.clock.wall_ms());
        if boot.saturating_sub(self.looked) >= LOOK {
            self.look();
        }
        let timed = self.slots.iter().any(|s| s.loaded.as_ref().is_some_and(|(p, _)| !p.calendar.is_empty()));
        let zone = timed.then(TimeZone::system);
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let due = zone.as_ref().is_some_and(|zone| slot.calendar_due(wall_ms, zone));
            let ticked = slot.tick(boot);
            for event in due.then_some(Event::CalendarDue).into_iter().chain(ticked) {
                self.slots[index].wish(&self.home);
                if event == Event::Tick && matches!(self.slots[index].machine.state(), State::Draining { .. })
                {
                    let name = &self.slots[index].managed.name;
                    let limit = self.slots[index].machine.rules().exit_time_out.unwrap_or_default();
                    (self.say)(&format!("{name} did not end within {} s; it is killed", limit.as_secs()));
                }
                // Time is never refused.
                let _ = self.apply(index, event);
            }
        }
    }

    /// Reads what is wanted of each agent and whether its list was edited.
    fn look(&mut self) {
        self.looked = self.clock.boot();
        for slot in &mut self.slots {
            slot.wish(&self.home);
            slot.look(&self.home);
        }
    }

    fn publish(&mut self) {
        let (boot, wall_ms) = (self.clock.boot(), self.clock.wall_ms());
        for slot in &mut self.slots {
            slot.show(boot, wall_ms);
        }
        self.rows.send_if_modified(|rows| {
            let same =
                rows.len() == self.slots.len() && rows.iter().zip(&self.slots).all(|(r, s)| *r == s.row);
            if !same {
                *rows = Arc::new(self.slots.iter().map(|s| s.row.clone()).collect());
            }
            !same
        });
    }
}

fn again(state: State, boot: Duration) -> String {
    match state {
        State::Throttled { until } => format!("it is tried again in {}", seconds(until.saturating_sub(boot))),
        _ => "it is not tried again by itself".to_owned(),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
