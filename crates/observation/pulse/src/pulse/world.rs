//! A fleet in virtual time, for tests: agents that fail, a supervisor with launchd's semantics, a service remedy that
//! may refuse, lose answers or fail, and the invariants that must hold at every instant.

mod rules;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use mirror_kit::Criticality;

use super::{
    Answer, Ask, Cause, Check, CheckFault, Core, Desired, DiskBounds, Effect, Facts, Health, Input, Now,
    Outcome, Process, Row, Said, Saved, Settings, Spec, View,
};

pub(crate) const SEC: u64 = 1_000;
pub(crate) const WALL: u64 = 1_700_000_000_000;
const FLOOR: u64 = 10 * SEC;

/// How a process behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    Hung,
    Refusing,
    BadConfig,
    NoSocket,
    Mute,
}

#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) row: Row,
    pub(crate) mood: Mood,
    /// When it is ready, on the boot clock.
    ready: u64,
    started: u64,
    /// How long it takes to start.
    pub(crate) start_ms: u64,
    /// Ends so long after each start, by a crash.
    pub(crate) crashes_after: Option<u64>,
    /// Whether it does not serve at all while something it needs is down.
    pub(crate) strict: bool,
    needs: Vec<usize>,
    /// When anything was last wrong with it.
    pub(crate) faulted: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Answer(usize, u64),
    Start(usize, u64),
    Crash(usize, u64),
    Row(usize),
    Checked(Check),
    Acted(String),
    Appended,
    Carded(String),
}

/// The fleet and the pulse that watches it.
pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) now: Now,
    pub(crate) agents: Vec<Agent>,
    specs: Vec<Spec>,
    settings: Settings,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    serial: u64,
    steps: u64,
    pub(crate) random: u64,
    /// Everything that was asked for, with when.
    pub(crate) asks: Vec<(u64, Ask)>,
    /// Actions by id: what came of each, once.
    done: BTreeMap<String, Outcome>,
    open: BTreeMap<String, Ask>,
    pub(crate) events: Vec<String>,
    pub(crate) cards: BTreeMap<String, String>,
    pub(crate) run_dir: bool,
    pub(crate) free: u64,
    pub(crate) check_fails: bool,
    pub(crate) remedy_away: bool,
    pub(crate) bus_away: bool,
    pub(crate) supervisor_away: bool,
    pub(crate) halted: bool,
    /// Share of remedies, in percent, that fail in some way.
    pub(crate) trouble: u64,
    pub(crate) maintenance: u64,
    pub(crate) woke: u64,
    /// Until when the service remedy only observes, and until when pulse was told that it does.
    pub(crate) held: u64,
    told: u64,
    born: u64,
    fine: BTreeMap<String, u64>,
}

pub(crate) fn settings() -> Settings {
    Settings {
        probe: 6 * SEC,
        patience: 2 * SEC,
        sweep: 300 * SEC,
        observe_only: false,
        disk: DiskBounds { bytes: 1 << 30, percent: 2 },
        seed: 7,
    }
}

impl World {
    /// Returns a fleet of the four that pulse needs, so many leaves that need the bus, and a job.
    pub(crate) fn new(leaves: usize, settings: Settings) -> Self {
        let mut names =
            vec![("bus", vec![]), ("supervisor", vec![]), ("notify", vec![0]), ("remedy", vec![0, 1])];
        let leaf: Vec<String> = (0..leaves).map(|n| format!("leaf-{}", char::from(b'a' + n as u8))).collect();
        names.extend(leaf.iter().map(|name| (name.as_str(), vec![0])));
        let specs: Vec<Spec> = names
            .iter()
            .map(|(name, needs)| Spec {
                name: (*name).to_owned(),
                job: false,
                on_demand: false,
                criticality: Criticality::Useful,
                needs: needs.clone(),
                startup: 60 * SEC,
                memory: 4 << 20,
                every: 0,
            })
            .collect();
        let now = Now { boot: 1_000 * SEC, wall: WALL };
        let agents = names.iter().map(|(name, needs)| Agent::new(name, needs.clone(), now)).collect();
        let mut world = Self {
            core: Core::new(now, settings, specs.clone(), Saved::default()),
            now,
            agents,
            specs,
            settings,
            queue: BinaryHeap::new(),
            serial: 0,
            steps: 0,
            random: 1,
            asks: Vec::new(),
            done: BTreeMap::new(),
            open: BTreeMap::new(),
            events: Vec::new(),
            cards: BTreeMap::new(),
            run_dir: true,
            free: 20 << 30,
            check_fails: false,
            remedy_away: false,
            bus_away: false,
            supervisor_away: false,
            halted: false,
            trouble: 0,
            maintenance: 0,
            woke: 0,
            held: 0,
            told: 0,
            born: now.boot,
            fine: BTreeMap::new(),
        };
        world.tell_rows();
        world.run(15 * SEC);
        assert_eq!(world.view().verdict, Health::Ok, "{:#?}", world.view());
        world
    }

    pub(crate) fn leaf(&self, n: usize) -> usize {
        4 + n
    }

    pub(crate) fn view(&self) -> View {
        self.core.view(self.now)
    }

    pub(crate) fn health(&self, name: &str) -> Health {
        let view = self.view();
        view.targets.iter().find(|t| t.name == name).map_or(Health::Unknown, |t| t.health)
    }

    pub(crate) fn chance(&mut self, below: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below.max(1)
    }

    fn at(&mut self, after: u64, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse((self.now.boot + after, self.serial, event)));
    }

    pub(crate) fn tell_rows(&mut self) {
        for n in 0..self.agents.len() {
            self.at(n as u64, Event::Row(n));
        }
    }

    /// Gives the pulse an input, and does what it wants.
    pub(crate) fn step(&mut self, input: Input) {
        let effects = self.core.step(self.now, input);
        for effect in effects {
            self.serve(effect);
        }
        self.steps += 1;
        if self.steps.is_multiple_of(8) {
            self.check_invariants();
        }
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, for_ms: u64) {
        let end = self.now.boot + for_ms;
        loop {
            let event = self.queue.peek().map(|Reverse((at, ..))| *at);
            let next = event.unwrap_or(u64::MAX).min(self.core.due());
            if next > end {
                self.advance(end);
                return;
            }
            self.advance(next);
            if event.is_some_and(|at| at <= self.now.boot)
                && let Some(Reverse((.., event))) = self.queue.pop()
            {
                self.happen(event);
            } else {
                self.step(Input::Tick);
            }
        }
    }

    /// Lets time pass until something holds, and says how long that took.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, limit: u64, holds: impl Fn(&Self) -> bool) -> u64 {
        let began = self.now.boot;
        while !holds(self) {
            assert!(self.now.boot - began <= limit, "not {what} after {limit} ms: {:#?}", self.view());
            self.run(100);
        }
        self.now.boot - began
    }

    fn advance(&mut self, boot: u64) {
        let passed = boot.saturating_sub(self.now.boot);
        self.now = Now { boot: self.now.boot + passed, wall: self.now.wall + passed };
    }

    /// The machine sleeps: both clocks go on, and nothing else.
    pub(crate) fn sleep(&mut self, for_ms: u64) {
        self.advance(self.now.boot + for_ms);
        self.woke = self.now.boot;
        let late: Vec<_> = self.queue.drain().collect();
        for Reverse((at, serial, event)) in late {
            self.queue.push(Reverse((at + for_ms, serial, event)));
        }
        self.step(Input::Tick);
    }

    /// Pulse ends and starts again with what it had saved.
    pub(crate) fn restart_pulse(&mut self) {
        let text = serde_json::to_string(&self.core.saved(self.now)).unwrap();
        let saved = serde_json::from_str(&text).unwrap();
        self.core = Core::new(self.now, self.settings, self.specs.clone(), saved);
        self.born = self.now.boot;
        self.fine.clear();
        // Nobody waits for what was under way; what was done stays done.
        self.queue = self
            .queue
            .drain()
            .filter(|Reverse((.., e))| matches!(e, Event::Start(..) | Event::Crash(..)))
            .collect();
        self.open.clear();
        self.tell_rows();
        // The engine looks at the halt before it looks at anything else.
        self.step(Input::Halt(self.halted.then(|| "by the owner".to_owned())));
    }

    fn down(&self, n: usize) -> bool {
        let agent = &self.agents[n];
        agent.row.process != Process::Running
            || matches!(agent.mood, Mood::Hung | Mood::NoSocket)
            || !self.run_dir
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Answer(n, asked) => {
                let answer = self.answer(n, asked);
                if matches!(answer, Answer::Said(Said::Serving | Said::Degraded, _)) {
                    self.fine.insert(self.agents[n].row.name.clone(), self.now.boot);
                }
                self.step(Input::Probe { agent: n, answer });
            }
            Event::Start(n, at) if self.agents[n].row.next_start == Some(at) => self.start(n),
            Event::Crash(n, started) if self.agents[n].started == started => self.end(n, "exit code 74"),
            Event::Start(..) | Event::Crash(..) => {}
            Event::Row(n) => {
                if !self.supervisor_away && self.agents[1].mood == Mood::Well {
                    self.step(Input::Agent(Box::new(self.agents[n].row.clone())));
                }
            }
            Event::Checked(check) => {
                let result = self.facts(check);
                self.step(Input::Check(check, result));
            }
            Event::Acted(id) => {
                self.open.remove(&id);
                let answered = self.done.get(&id).copied().filter(|_| !self.remedy_away);
                let outcome = answered.unwrap_or(Outcome::Away);
                self.told = self.held;
                let until = (self.held > self.now.boot).then(|| self.now.wall + self.held - self.now.boot);
                self.step(Input::Outcome { id, outcome, detail: String::new(), observing_until: until });
            }
            Event::Appended => self.step(Input::Appended { ok: !self.bus_away }),
            Event::Carded(subject) => self.step(Input::Carded { subject, ok: true }),
        }
    }

    fn facts(&self, check: Check) -> Result<Facts, CheckFault> {
        if self.check_fails {
            return Err(CheckFault::Failed("it panicked".to_owned()));
        }
        Ok(match check {
            Check::Disk => Facts::Disk { free: self.free, total: 40 << 30 },
            Check::Home if self.run_dir => Facts::Home(None),
            Check::Home => Facts::Home(Some((Cause::RunDirGone, "run is gone".to_owned()))),
            Check::Memory => Facts::Memory { available: 50.0, stalled: 0.0 },
            Check::Cpu => Facts::Cpu(0.5),
            Check::Files => Facts::Files { open: 10, limit: 100 },
            Check::Logs => Facts::Logs(Vec::new()),
            Check::DeadMan => Facts::DeadMan(Some(0)),
            Check::Usage => Facts::Usage(Vec::new()),
        })
    }

    fn answer(&self, n: usize, asked: u64) -> Answer {
        let agent = &self.agents[n];
        let running = agent.row.process == Process::Running;
        if !running || !self.run_dir {
            return Answer::Away { socket: self.run_dir, lease: running };
        }
        match agent.mood {
            Mood::Hung if self.now.boot - asked >= 2 * SEC => Answer::Silent { late: false },
            Mood::NoSocket => Answer::Away { socket: false, lease: true },
            Mood::Mute => Answer::Odd("what?".to_owned()),
            Mood::BadConfig => Answer::Said(Said::NotServing, "mend mirror.toml".to_owned()),
            Mood::Refusing => Answer::Said(Said::NotServing, "its log is damaged".to_owned()),
            _ if self.now.boot < agent.ready => Answer::Said(Said::Starting, String::new()),
            _ if agent.needs.iter().any(|need| self.down(*need)) => {
                let said = if agent.strict { Said::NotServing } else { Said::Degraded };
                Answer::Said(said, "what it needs is away".to_owned())
            }
            _ => Answer::Said(Said::Serving, String::new()),
        }
    }

    /// Starts an agent's process.
    pub(crate) fn start(&mut self, n: usize) {
        let now = self.now;
        let agent = &mut self.agents[n];
        agent.started = now.boot;
        agent.ready = now.boot + agent.start_ms;
        agent.row.process = Process::Running;
        agent.row.desired = Desired::Running;
        agent.row.pid += 1;
        agent.row.started = Some(now.wall);
        agent.row.next_start = None;
        if matches!(agent.mood, Mood::Hung | Mood::NoSocket) {
            agent.mood = Mood::Well;
        }
        let crash = agent.crashes_after;
        self.at(10, Event::Row(n));
        if let Some(after) = crash {
            self.at(after, Event::Crash(n, now.boot));
        }
    }

    /// Ends an agent's process; by anything but 0 it is started again, at launchd's floor.
    pub(crate) fn end(&mut self, n: usize, exit: &str) {
        let now = self.now;
        let agent = &mut self.agents[n];
        if agent.row.process != Process::Running {
            return;
        }
        agent.faulted = Some(now.boot);
        agent.row.last_exit = exit.to_owned();
        agent.row.last_ended = Some(now.wall);
        (agent.row.pid, agent.row.started) = (0, None);
        if exit == "exit code 0" {
            agent.row.process = Process::Idle;
        } else {
            agent.row.process = Process::Throttled;
            let wait = (agent.started + FLOOR).saturating_sub(now.boot);
            let at = now.wall + wait;
            agent.row.next_start = Some(at);
            self.at(wait, Event::Start(n, at));
        }
        self.at(5, Event::Row(n));
        self.step(Input::Signal(n));
    }

    /// Changes how an agent behaves.
    pub(crate) fn turn(&mut self, n: usize, mood: Mood) {
        self.agents[n].mood = mood;
        self.agents[n].faulted = Some(self.now.boot);
    }
}

impl Agent {
    fn new(name: &str, needs: Vec<usize>, now: Now) -> Self {
        let row = Row {
            name: name.to_owned(),
            desired: Desired::Running,
            reason: String::new(),
            process: Process::Running,
            pid: 100,
            started: Some(now.wall - 500 * SEC),
            next_start: None,
            last_exit: String::new(),
            last_ended: None,
            problem: String::new(),
        };
        Self {
            row,
            mood: Mood::Well,
            ready: 0,
            started: now.boot - 500 * SEC,
            start_ms: 300,
            crashes_after: None,
            strict: false,
            needs,
            faulted: None,
        }
    }
}
