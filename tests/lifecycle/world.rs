//! A Mac in virtual time: launchd as a model, processes that do as the kit does, binaries that are only a number.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mirror_agents::machine::{Ended, State};
use mirror_clock::{Clock, Sleep};
use mirror_drill::model::{Act, Fault, Model};
use mirror_kit::desired::{self, Wish};
use mirror_paths::Home;
use mirror_supervisor::install::{Health, Installer, Planned, Site};
use mirror_supervisor::launchd::Launchd;
use mirror_supervisor::managed::ManagerBackend;
use mirror_supervisor::manager::Definition;
use mirror_supervisor::tool::{Answer, Tool};

/// Time from a start to the first answer, and from SIGTERM to the end.
const START: Duration = Duration::from_millis(120);
const DRAIN: Duration = Duration::from_millis(300);

/// launchd's floor between two starts.
pub(crate) const FLOOR: Duration = Duration::from_secs(10);

/// A build that ends at once.
pub(crate) const BAD: u32 = 1000;

#[derive(Debug, Clone)]
struct Process {
    label: String,
    build: u32,
    started: Duration,
    hung: bool,
    ends: Option<(Duration, Ended)>,
    told: bool,
}

/// What can be copied of a world, so that one history can go on in several ways.
#[derive(Debug, Clone)]
pub(crate) struct Inner {
    pub(crate) now: Duration,
    pub(crate) model: Model,
    processes: BTreeMap<u32, Process>,
    next_pid: u32,
    /// The build of the binaries in place, and the one before.
    pub(crate) laid: (u32, u32),
    pub(crate) offered: u32,
    last_spawn: BTreeMap<String, Duration>,
    /// What must never happen, and did.
    pub(crate) broken: Vec<String>,
}

/// One Mac.
#[derive(Debug, Clone)]
pub(crate) struct World {
    inner: Arc<Mutex<Inner>>,
    pub(crate) home: Home,
    pub(crate) folder: PathBuf,
    pub(crate) agents: Vec<String>,
    _temp: Arc<tempfile::TempDir>,
}

impl World {
    pub(crate) fn new(agents: &[&str]) -> Self {
        // Where there is a folder in memory, a sync costs nothing.
        let memory = PathBuf::from("/dev/shm");
        let root = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let temp = tempfile::Builder::new().prefix("m").tempdir_in(root).unwrap();
        let home = Home::at(temp.path().join("h")).unwrap();
        home.prepare().unwrap();
        std::fs::write(home.bus().join("log"), "events").unwrap();
        let inner = Inner {
            now: Duration::from_secs(1_000),
            model: Model::new(nix::unistd::geteuid().as_raw()),
            processes: BTreeMap::new(),
            next_pid: 2_000_000_000,
            laid: (0, 0),
            offered: 1,
            last_spawn: BTreeMap::new(),
            broken: Vec::new(),
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            folder: temp.path().join("LaunchAgents"),
            home,
            agents: agents.iter().map(|a| (*a).to_owned()).collect(),
            _temp: Arc::new(temp),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn restore(&self, inner: &Inner) {
        *self.lock() = inner.clone();
    }

    pub(crate) fn plan(&self, edition: u32) -> Vec<Planned> {
        self.agents.iter().map(|name| self.planned(name, edition)).collect()
    }

    fn planned(&self, name: &str, edition: u32) -> Planned {
        let label = format!("dev.mirrordna.{name}");
        let text = format!(
            "<plist version=\"1.0\"><dict><key>Label</key><string>{label}</string><key>Program</key>\
             <string>/b/mirror-{name}</string><key>RunAtLoad</key><true/><key>KeepAlive</key><dict>\
             <key>SuccessfulExit</key><false/></dict><key>ThrottleInterval</key><integer>10</integer>\
             <key>ExitTimeOut</key><integer>15</integer><key>Nice</key><integer>{edition}</integer></dict></plist>\n"
        );
        let definition =
            Definition { unit: label.clone(), trigger: None, files: vec![(format!("{label}.plist"), text)] };
        Planned { name: name.to_owned(), job: false, definition }
    }

    pub(crate) fn manager(&self) -> Arc<Launchd> {
        Arc::new(Launchd::new(Arc::new(self.clone()), Arc::new(self.clone()), self.folder.clone()))
    }

    pub(crate) fn backend(&self, edition: u32) -> ManagerBackend {
        ManagerBackend::new(self.manager(), self.home.clone(), Arc::new(self.clone()), self.plan(edition))
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, by: Duration) {
        let mut inner = self.lock();
        let end = inner.now + by;
        loop {
            let exits = inner.processes.values().filter_map(|p| p.ends.map(|(at, _)| at)).min();
            let Some(next) = exits.into_iter().chain(inner.model.next_tick()).min().filter(|at| *at <= end)
            else {
                break;
            };
            inner.now = inner.now.max(next);
            self.step(&mut inner);
        }
        inner.now = end;
    }

    fn step(&self, inner: &mut Inner) {
        let now = inner.now;
        let mut acts = Vec::new();
        let over: Vec<u32> = inner
            .processes
            .iter()
            .filter(|(_, p)| p.ends.is_some_and(|(at, _)| at <= now))
            .map(|(pid, _)| *pid)
            .collect();
        for pid in over {
            let Some(process) = inner.processes.remove(&pid) else { continue };
            let ended = match process.ends {
                // The kit decides at its last moment.
                Some((_, Ended::Code(_))) => Ended::Code(self.exit_code(&process)),
                Some((_, ended)) => ended,
                None => continue,
            };
            inner.model.ended(now, &process.label, ended, &mut acts);
        }
        inner.model.tick(now, &mut acts);
        self.act(inner, acts);
    }

    fn exit_code(&self, process: &Process) -> i32 {
        match self.wish(&process.label) {
            Wish::Running if process.build == BAD => 74,
            Wish::Running => 75,
            _ => 0,
        }
    }

    fn act(&self, inner: &mut Inner, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Spawn(job) => self.spawn(inner, &job.label),
                Act::Signal(label, number) => signal(inner, &label, number),
            }
        }
    }

    fn spawn(&self, inner: &mut Inner, label: &str) {
        let now = inner.now;
        if inner.processes.values().any(|p| p.label == label) {
            inner.broken.push(format!("a second process of {label} at {now:?}"));
        }
        if let Some(last) = inner.last_spawn.insert(label.to_owned(), now)
            && now < last + FLOOR
        {
            inner.broken.push(format!("{label} started at {last:?} and at {now:?}"));
        }
        inner.next_pid += 1;
        let pid = inner.next_pid;
        let build = inner.laid.0;
        // What is not to run, or cannot, ends at once.
        let ends = match self.wish(label) {
            Wish::Running if build != BAD => None,
            _ => Some((now + Duration::from_millis(40), Ended::Code(0))),
        };
        let process =
            Process { label: label.to_owned(), build, started: now, hung: false, ends, told: false };
        inner.processes.insert(pid, process);
        inner.model.spawned(label, pid);
    }

    pub(crate) fn wish(&self, label: &str) -> Wish {
        desired::read(&self.home, label.trim_start_matches("dev.mirrordna.")).0
    }

    /// Kills every process, as a bug in each would.
    pub(crate) fn crash(&self) {
        let mut inner = self.lock();
        let now = inner.now;
        for process in inner.processes.values_mut() {
            process.ends = Some((now, Ended::Signal(6)));
        }
        self.step(&mut inner);
    }

    /// Ends every process with exit code 0, which a supervisor takes for final.
    pub(crate) fn quit(&self) {
        let mut inner = self.lock();
        let (now, mut acts) = (inner.now, Vec::new());
        for (_, process) in std::mem::take(&mut inner.processes) {
            inner.model.ended(now, &process.label, Ended::Code(0), &mut acts);
        }
        self.act(&mut inner, acts);
    }

    /// Stops every process from answering and from ending on SIGTERM.
    pub(crate) fn hang(&self) {
        for process in self.lock().processes.values_mut() {
            process.hung = true;
        }
    }

    pub(crate) fn reboot(&self) {
        let mut inner = self.lock();
        inner.processes.clear();
        inner.last_spawn.clear();
        inner.now += Duration::from_secs(60);
        let (now, mut acts) = (inner.now, Vec::new());
        inner.model.reboot(now, &self.folder, &mut acts);
        self.act(&mut inner, acts);
    }

    pub(crate) fn fault(&self, verb: &str, code: i32, works: bool) {
        self.lock().model.faults.push_back(Fault { verb: verb.to_owned(), code, works });
    }

    /// Returns the builds of the processes of an agent.
    pub(crate) fn running(&self, agent: &str) -> Vec<u32> {
        let label = format!("dev.mirrordna.{agent}");
        self.lock().processes.values().filter(|p| p.label == label).map(|p| p.build).collect()
    }

    pub(crate) fn loaded(&self, agent: &str) -> bool {
        self.lock().model.agents.contains_key(&format!("dev.mirrordna.{agent}"))
    }

    pub(crate) fn calls(&self) -> usize {
        self.lock().model.calls.len()
    }

    pub(crate) fn called(&self, from: usize, verb: &str) -> bool {
        self.lock().model.calls[from..].iter().any(|c| c.split(' ').next() == Some(verb))
    }

    /// Installs a build in the way of `mirror install`.
    pub(crate) async fn install(&self, build: u32, edition: u32) -> Result<(), String> {
        self.lock().offered = build;
        let manager = self.manager();
        let installer = Installer { manager: manager.as_ref(), site: self, home: &self.home, clock: self };
        let done = installer.install(&self.plan(edition), &build.to_string()).await;
        done.map(|_| ()).map_err(|failed| failed.to_string())
    }

    pub(crate) async fn uninstall(&self) -> Result<(), String> {
        let manager = self.manager();
        let installer = Installer { manager: manager.as_ref(), site: self, home: &self.home, clock: self };
        installer.uninstall(&self.plan(0)).await.map(|_| ()).map_err(|left| left.join("; "))
    }

    /// Returns all that decides about the future, with times as ages.
    pub(crate) fn key(&self) -> String {
        let inner = self.lock();
        let now = inner.now;
        let agents: Vec<String> = inner
            .model
            .agents
            .iter()
            .map(|(label, a)| {
                let state = match a.machine.state() {
                    State::Throttled { until } => format!("throttled {:?}", until - now),
                    State::Running { .. } => "running".to_owned(),
                    State::Draining { kill_at, after } => {
                        format!("draining {:?} {after:?}", kill_at.map(|at| at.saturating_sub(now)))
                    }
                    other => format!("{other:?}"),
                };
                let age = inner.last_spawn.get(label).map(|at| (now - *at).min(FLOOR));
                format!("{label} {state} {age:?} {:?} {}", a.last, a.job.text.len())
            })
            .collect();
        let processes: Vec<String> = inner
            .processes
            .values()
            .map(|p| {
                let ends = p.ends.map(|(at, how)| (at.saturating_sub(now), how));
                let age = (now - p.started).min(FLOOR);
                format!(
                    "{} {} {age:?} {} {ends:?} {}",
                    p.label,
                    inner.laid.0.wrapping_sub(p.build),
                    p.hung,
                    p.told
                )
            })
            .collect();
        format!("{agents:?} {processes:?} {}", inner.laid.0 == inner.offered)
    }
}

fn signal(inner: &mut Inner, label: &str, number: i32) {
    let now = inner.now;
    let Some(process) = inner.processes.values_mut().find(|p| p.label == label) else { return };
    match number {
        9 => process.ends = Some((now + Duration::from_millis(1), Ended::Signal(9))),
        15 if !process.hung && process.ends.is_none() => {
            process.told = true;
            process.ends = Some((now + DRAIN, Ended::Code(75)));
        }
        _ => {}
    }
}

impl Clock for World {
    fn wall_ms(&self) -> u64 {
        1_767_225_600_000 + u64::try_from(self.lock().now.as_millis()).unwrap()
    }

    fn boot(&self) -> Duration {
        self.lock().now
    }

    /// To wait is to let time pass.
    fn sleep(&self, duration: Duration) -> Sleep {
        self.pass(duration);
        Box::pin(std::future::ready(()))
    }
}

#[tonic::async_trait]
impl Tool for World {
    async fn ask(&self, args: &[&str]) -> io::Result<Answer> {
        self.pass(Duration::from_millis(5));
        let mut inner = self.lock();
        let (now, mut acts) = (inner.now, Vec::new());
        // launchd forgets the last start with the label, and so may the judge.
        if args.first() == Some(&"bootstrap")
            && let Some(label) = args.last().and_then(|p| p.rsplit('/').next()?.strip_suffix(".plist"))
            && !inner.model.agents.contains_key(label)
        {
            inner.last_spawn.remove(label);
        }
        let answer = inner.model.ask(now, args, &mut acts);
        self.act(&mut inner, acts);
        Ok(Answer { code: answer.code, out: answer.out, err: answer.err })
    }
}

#[tonic::async_trait]
impl Site for World {
    fn lay(&self) -> Result<bool, String> {
        let mut inner = self.lock();
        let differs = inner.laid.0 != inner.offered;
        inner.laid = (inner.offered, inner.laid.0);
        Ok(differs)
    }

    fn put_back(&self) -> Result<(), String> {
        let mut inner = self.lock();
        inner.laid = (inner.laid.1, inner.laid.1);
        Ok(())
    }

    async fn health(&self, service: &str) -> Option<Health> {
        let label = format!("dev.mirrordna.{service}");
        let inner = self.lock();
        let mut live = inner.processes.iter().filter(|(_, p)| p.label == label && !p.hung && p.build != BAD);
        let (pid, process) = live.next()?;
        let settled = inner.now >= process.started + START && process.ends.is_none();
        Some(Health { build: process.build.to_string(), pid: *pid, settled, serves: settled })
    }
}
