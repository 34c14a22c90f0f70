//! launchd as a model: what `launchctl` answers, and what becomes of the agents' processes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use mirror_agents::machine::{Ended, Event, Machine, Output, Refusal, State};
use serde::{Deserialize, Serialize};

use crate::job::Job;

/// What the model wants done to processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Start the process of an agent; tell by [`Model::spawned`] or [`Model::ended`].
    Spawn(Box<Job>),
    /// Send the process of an agent a signal, by number.
    Signal(String, i32),
}

/// A failure that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The verb that fails, once.
    pub verb: String,
    /// Its exit code.
    pub code: i32,
    /// Whether it does its work all the same.
    #[serde(default)]
    pub works: bool,
}

/// An answer of `launchctl`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// An agent that is loaded, or whose process still ends.
#[derive(Debug, Clone)]
pub struct Agent {
    /// What its property list said when it was loaded.
    pub job: Job,
    /// Its life.
    pub machine: Machine,
    /// Its process.
    pub pid: Option<u32>,
    /// How its last process ended.
    pub last: Option<Ended>,
    /// How often it was started since it was loaded.
    pub runs: u32,
}

/// launchd, for the agents of one user.
#[derive(Debug, Clone)]
pub struct Model {
    uid: u32,
    /// Whether there is a desktop session, and with it the domain `gui/<uid>`.
    pub session: bool,
    /// The agents by label.
    pub agents: BTreeMap<String, Agent>,
    disabled: BTreeSet<String>,
    /// Failures to come, each for the next call of its verb.
    pub faults: VecDeque<Fault>,
    /// Every call so far, words joined by spaces.
    pub calls: Vec<String>,
}

impl Model {
    /// Returns a launchd without agents.
    pub fn new(uid: u32) -> Self {
        Self {
            uid,
            session: true,
            agents: BTreeMap::new(),
            disabled: BTreeSet::new(),
            faults: VecDeque::new(),
            calls: Vec::new(),
        }
    }

    /// Answers one call.
    pub fn ask(&mut self, now: Duration, args: &[&str], acts: &mut Vec<Act>) -> Answer {
        self.calls.push(args.join(" "));
        let verb = args.first().copied().unwrap_or_default();
        let fault = self.faults.iter().position(|f| f.verb == verb).and_then(|i| self.faults.remove(i));
        if let Some(fault) = &fault
            && !fault.works
        {
            return failed(fault.code, "scripted");
        }
        let answer = self.follow(now, args, acts);
        fault.map_or(answer, |fault| failed(fault.code, "scripted, though it was done"))
    }

    fn follow(&mut self, now: Duration, args: &[&str], acts: &mut Vec<Act>) -> Answer {
        match args {
            ["print-disabled", domain] => self.within(domain, |m| m.print_disabled()),
            ["print", target] if target.matches('/').count() == 1 => {
                self.within(target, |_| Answer { out: "domain = {\n}\n".to_owned(), ..Answer::default() })
            }
            ["print", target] => self.on(target, |m, label| m.print(label)),
            ["list"] => self.list(),
            ["bootstrap", domain, path] => self.within(domain, |m| m.bootstrap(now, Path::new(path), acts)),
            ["bootout", target] => self.on(target, |m, label| m.bootout(now, label, acts)),
            ["enable", target] => self.on(target, |m, label| {
                m.disabled.remove(label);
                Answer::default()
            }),
            ["disable", target] => self.on(target, |m, label| {
                m.disabled.insert(label.to_owned());
                Answer::default()
            }),
            ["kickstart", options @ .., target]
                if options.iter().all(|o| matches!(*o, "-k" | "-p" | "-kp")) =>
            {
                let kill = options.iter().any(|o| o.contains('k'));
                let event = if kill { Event::Kick { kill: false } } else { Event::Start };
                self.on(target, |m, label| {
                    let answer = m.order(now, label, event, acts);
                    match m
                        .agents
                        .get(label)
                        .and_then(|a| a.pid)
                        .filter(|_| options.iter().any(|o| o.contains('p')))
                    {
                        Some(pid) if answer.code == 0 => Answer { out: format!("{pid}\n"), ..answer },
                        _ => answer,
                    }
                })
            }
            ["kill", signal, target] => match number(signal) {
                Some(n) => self.on(target, |m, label| m.order(now, label, Event::Signal(n), acts)),
                None => failed(64, "unknown signal"),
            },
            _ => failed(64, "Unrecognized subcommand or its arguments"),
        }
    }

    /// Checks a domain, `gui/501`.
    fn within(&mut self, domain: &str, then: impl FnOnce(&mut Self) -> Answer) -> Answer {
        let gui = format!("gui/{}", self.uid);
        if domain == gui && !self.session {
            return failed(125, "Domain does not support specified action");
        }
        let ours = if self.session { gui } else { format!("user/{}", self.uid) };
        if domain == ours { then(self) } else { failed(112, "Could not find specified domain") }
    }

    /// Checks the domain of a target, `gui/501/label`.
    fn on(&mut self, target: &str, then: impl FnOnce(&mut Self, &str) -> Answer) -> Answer {
        let Some((domain, label)) = target.rsplit_once('/') else { return failed(64, "bad target") };
        self.within(domain, |m| then(m, label))
    }

    fn bootstrap(&mut self, now: Duration, path: &Path, acts: &mut Vec<Act>) -> Answer {
        let job = match Job::read(path) {
            Ok(job) => job,
            Err(why) => return failed(5, &format!("Bootstrap failed: 5: Input/output error: {why}")),
        };
        if self.disabled.contains(&job.label) {
            return failed(119, "Service is disabled");
        }
        if let Some(agent) = self.agents.get(&job.label) {
            return match agent.machine.state() {
                State::Draining { after: mirror_agents::machine::After::Unload, .. } => {
                    failed(37, "Operation already in progress")
                }
                _ => failed(5, "Bootstrap failed: 5: Input/output error"),
            };
        }
        let label = job.label.clone();
        // launchd forgets what it unloads, and with it the time of the last start.
        let agent = Agent { machine: Machine::new(job.rules), job, pid: None, last: None, runs: 0 };
        self.agents.insert(label.clone(), agent);
        self.order(now, &label, Event::Load, acts)
    }

    fn bootout(&mut self, now: Duration, label: &str, acts: &mut Vec<Act>) -> Answer {
        if !self.agents.contains_key(label) {
            return failed(3, "Boot-out failed: 3: No such process");
        }
        let answer = self.order(now, label, Event::Unload, acts);
        // It goes on behind the caller's back while there is a process.
        if answer.code == 0 && self.agents.contains_key(label) {
            return failed(36, "Boot-out failed: 36: Operation now in progress");
        }
        answer
    }

    fn order(&mut self, now: Duration, label: &str, event: Event, acts: &mut Vec<Act>) -> Answer {
        let Some(agent) = self.agents.get_mut(label) else {
            return failed(113, &format!("Could not find service \"{label}\" in domain"));
        };
        match agent.machine.apply(now, event) {
            Ok(output) => {
                self.act(label, output, acts);
                Answer::default()
            }
            Err(Refusal::NoProcess) => failed(3, "No such process"),
            Err(Refusal::Unloading) => failed(37, "Operation already in progress"),
            Err(Refusal::NotLoaded) => failed(113, "Could not find service"),
            Err(Refusal::Disabled) => failed(119, "Service is disabled"),
            Err(Refusal::Loaded) => failed(5, "Input/output error"),
        }
    }

    fn act(&mut self, label: &str, output: Option<Output>, acts: &mut Vec<Act>) {
        let Some(agent) = self.agents.get_mut(label) else { return };
        match output {
            None => {}
            Some(Output::Spawn) => {
                agent.runs += 1;
                acts.push(Act::Spawn(Box::new(agent.job.clone())));
            }
            Some(Output::Term) => acts.push(Act::Signal(label.to_owned(), 15)),
            Some(Output::Kill) => acts.push(Act::Signal(label.to_owned(), 9)),
            Some(Output::Signal(n)) => acts.push(Act::Signal(label.to_owned(), n)),
            Some(Output::Forget) => {
                self.agents.remove(label);
            }
        }
    }

    /// Notes the process of an agent.
    pub fn spawned(&mut self, label: &str, pid: u32) {
        if let Some(agent) = self.agents.get_mut(label) {
            agent.pid = Some(pid);
        }
    }

    /// Notes that the process of an agent has ended, or never began.
    pub fn ended(&mut self, now: Duration, label: &str, ended: Ended, acts: &mut Vec<Act>) {
        if let Some(agent) = self.agents.get_mut(label) {
            agent.pid = None;
            agent.last = Some(ended);
        }
        self.order(now, label, Event::Exit(ended), acts);
    }

    /// Lets time pass up to `now`.
    pub fn tick(&mut self, now: Duration, acts: &mut Vec<Act>) {
        let labels: Vec<String> = self.agents.keys().cloned().collect();
        for label in labels {
            self.order(now, &label, Event::Tick, acts);
        }
    }

    /// Returns when [`Model::tick`] can change something.
    pub fn next_tick(&self) -> Option<Duration> {
        self.agents.values().filter_map(|a| a.machine.next_tick()).min()
    }

    /// Starts the machine anew: no process is left, and what lies in the folder of property lists is loaded.
    pub fn reboot(&mut self, now: Duration, folder: &Path, acts: &mut Vec<Act>) {
        self.agents.clear();
        let mut paths: Vec<_> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "plist"))
            .collect();
        paths.sort();
        for path in paths {
            self.bootstrap(now, &path, acts);
        }
    }

    fn print(&self, label: &str) -> Answer {
        let Some(agent) = self.agents.get(label) else {
            return failed(113, &format!("Could not find service \"{label}\" in domain for user"));
        };
        let state = match agent.machine.state() {
            State::Running { .. } => "running",
            State::Draining { kill_at: Some(_), .. } => "SIGTERMed",
            State::Draining { kill_at: None, .. } => "SIGKILLed",
            State::Throttled { .. } => "spawn scheduled",
            State::Idle | State::NotLoaded => "not running",
        };
        let mut out = format!(
            "gui/{}/{label} = {{\n\tactive count = {}\n\tpath = {}\n\ttype = LaunchAgent\n\tstate = {state}\n\n\tprogram = {}\n",
            self.uid,
            u32::from(agent.pid.is_some()),
            agent.job.path.display(),
            agent.job.program.display(),
        );
        let _ = writeln!(out, "\tenvironment = {{\n\t\tpid = 1\n\t}}\n\truns = {}", agent.runs);
        if let Some(pid) = agent.pid {
            let _ = writeln!(out, "\tpid = {pid}");
        }
        let _ = match agent.last {
            None => writeln!(out, "\tlast exit code = (never exited)"),
            Some(Ended::Code(code)) => writeln!(out, "\tlast exit code = {code}"),
            Some(Ended::Signal(n)) => writeln!(out, "\tlast terminating signal = Killed: {n}"),
            Some(Ended::Unstarted) => writeln!(out, "\tlast exit code = 78: EX_CONFIG"),
        };
        out.push_str("}\n");
        Answer { out, ..Answer::default() }
    }

    fn print_disabled(&self) -> Answer {
        let mut out = "disabled services = {\n".to_owned();
        for label in &self.disabled {
            let _ = writeln!(out, "\t\"{label}\" => disabled");
        }
        out.push_str("}\n");
        Answer { out, ..Answer::default() }
    }

    fn list(&self) -> Answer {
        let mut out = "PID\tStatus\tLabel\n".to_owned();
        for (label, agent) in &self.agents {
            let pid = agent.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            let status = match agent.last {
                Some(Ended::Code(code)) => code,
                Some(Ended::Signal(n)) => -n,
                Some(Ended::Unstarted) => 78,
                None => 0,
            };
            let _ = writeln!(out, "{pid}\t{status}\t{label}");
        }
        Answer { out, ..Answer::default() }
    }
}

fn failed(code: i32, text: &str) -> Answer {
    Answer { code, err: format!("{text}\n"), ..Answer::default() }
}

/// Returns a signal's number, by name or as it stands.
fn number(signal: &str) -> Option<i32> {
    if let Ok(n) = signal.parse() {
        return Some(n);
    }
    let name = if signal.starts_with("SIG") { signal.to_owned() } else { format!("SIG{signal}") };
    name.parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
}
