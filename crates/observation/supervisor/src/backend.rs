//! What supervises on this machine, behind one trait: the engine of `mirror up`, launchd, or systemd.
//!
//! Invariant: a backend writes what is wanted of an agent before it acts on it, so that a crash in between leaves the
//! wish, and the next start of anything follows it.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use mirror_kit::desired::Wish;
use tokio::sync::watch;

use crate::error::Error;

/// What an agent's process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentState {
    /// Not loaded: nothing will start it.
    NotLoaded,
    /// Loaded, without a process.
    Idle,
    /// Loaded, without a process, and due to start at `next_start_ms`.
    Throttled,
    /// It has a process.
    Running,
    /// It has a process that was told to end.
    Draining,
}

/// An agent as its backend sees it: the domain form of the contract's `Agent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRow {
    /// Name: `bus`, or `job.verify-log` for a job.
    pub name: String,
    /// Label: `dev.mirrordna.<name>`.
    pub label: String,
    /// Whether it is a job that ends by itself.
    pub job: bool,
    /// What is wanted of it.
    pub wish: Wish,
    /// Why, where it is not to run; else empty.
    pub reason: String,
    /// What its process does.
    pub state: AgentState,
    /// Process id; 0 without one.
    pub pid: u32,
    /// When the process started, by the clock that counts from the boot; absent without one, or where the backend
    /// does not say. It is not sent.
    pub since: Option<Duration>,
    /// When the process started, in milliseconds since 1970; 0 without one.
    pub started_ms: u64,
    /// When it will be started next, in milliseconds since 1970; 0 where nothing is planned.
    pub next_start_ms: u64,
    /// How the last process ended, such as "exit code 74"; empty before the first end.
    pub last_exit: String,
    /// When the last process ended, in milliseconds since 1970; 0 before the first end.
    pub last_ended_ms: u64,
    /// Starts since the supervisor started.
    pub starts: u64,
    /// What is wrong with its property list or unit, one sentence; empty when it is as rendered.
    pub problem: String,
}

impl AgentRow {
    /// Returns an agent that is not loaded and was never started.
    pub fn new(name: &str, job: bool) -> Self {
        Self {
            name: name.to_owned(),
            label: mirror_agents::label(name),
            job,
            wish: Wish::Running,
            reason: String::new(),
            state: AgentState::NotLoaded,
            pid: 0,
            since: None,
            started_ms: 0,
            next_start_ms: 0,
            last_exit: String::new(),
            last_ended_ms: 0,
            starts: 0,
            problem: String::new(),
        }
    }
}

/// All agents, in order of name.
pub type Rows = Arc<Vec<AgentRow>>;

/// What supervises the agents of this machine.
///
/// The names that reach it are of agents that [`Backend::rows`] lists. Each order returns the agent as it is then.
#[tonic::async_trait]
pub trait Backend: Send + Sync + Debug {
    /// Returns what supervises: `up`, `launchd` or `systemd`.
    fn name(&self) -> &'static str;

    /// Returns the newest rows and the notice of newer ones. The sender lives as long as the backend.
    fn rows(&self) -> watch::Receiver<Rows>;

    /// Brings the rows up to date, where the backend is not told of changes; called before they are listed.
    async fn refresh(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Has the agents that should run started; called once, when the service is built.
    async fn begin(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Wants an agent running and orders its start, unless it runs.
    async fn start(&self, agent: &str) -> Result<AgentRow, Error>;

    /// Wants an agent stopped or quarantined, and returns when its process is gone.
    async fn stop(&self, agent: &str, wish: Wish, reason: &str) -> Result<AgentRow, Error>;

    /// Ends an agent's process and orders another; `kill` spares SIGTERM. It must not be stopped.
    async fn restart(&self, agent: &str, kill: bool) -> Result<AgentRow, Error>;

    /// Writes an agent's property list or unit as the catalogue says, loads it where that changed something or it was
    /// not loaded, and says whether anything differed.
    async fn render(&self, agent: &str) -> Result<(bool, AgentRow), Error>;
}
