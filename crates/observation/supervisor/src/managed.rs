//! The backend over launchd or systemd: what is wanted is written first, then the manager is told.
//!
//! A row says what the manager confirmed. A process that appears is seen by its lease within 250 ms, anything else by
//! a list every ten seconds, which also brings each service to what is wanted of it: what should run and does not is
//! started, what should not run and does is told to end.
//! Invariant: nothing here unloads an agent but [`Backend::render`] of a definition that differs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirror_clock::Clock;
use mirror_kit::desired::{self, Wish};
use mirror_kit::{Holder, Shutdown, holder};
use mirror_paths::Home;
use tokio::sync::watch;

use crate::backend::{AgentRow, AgentState, Backend, Rows};
use crate::error::Error;
use crate::install::Planned;
use crate::manager::{Manager, ManagerError, Put, Shown, same_on_disk};
use crate::rows;

/// How often the leases are looked at.
const GLANCE: Duration = Duration::from_millis(250);

/// How many glances make a list.
const GLANCES: u32 = 40;

/// Time from SIGTERM to SIGKILL; `ExitTimeOut` of the definitions.
const EXIT_TIME_OUT: Duration = Duration::from_secs(15);

/// Longest wait for a process after SIGKILL, and for one that was started meanwhile to end by itself.
const AFTER_KILL: Duration = Duration::from_secs(15);
const STEP: Duration = Duration::from_millis(50);

/// Shortest time between two starts.
const FLOOR_MS: u64 = 10_000;

/// The name under which this very service is an agent.
const SELF: &str = "supervisor";

/// The agents of a service manager.
#[derive(Debug)]
pub struct ManagerBackend {
    manager: Arc<dyn Manager>,
    home: Home,
    clock: Arc<dyn Clock>,
    agents: BTreeMap<String, Planned>,
    rows: watch::Sender<Rows>,
    /// Modification times of the leases, by agent, as of the last glance.
    leases: Mutex<BTreeMap<String, Option<std::time::SystemTime>>>,
}

impl ManagerBackend {
    /// Returns the backend for the agents of a plan.
    pub fn new(manager: Arc<dyn Manager>, home: Home, clock: Arc<dyn Clock>, plan: Vec<Planned>) -> Self {
        let agents: BTreeMap<String, Planned> = plan.into_iter().map(|p| (p.name.clone(), p)).collect();
        let rows = agents.values().map(|p| AgentRow::new(&p.name, p.job)).collect();
        let rows = watch::channel(Arc::new(rows)).0;
        Self { manager, home, clock, agents, rows, leases: Mutex::default() }
    }

    /// Watches the agents until the service is to stop.
    pub async fn attend(&self, shutdown: &Shutdown) {
        let mut glance = 0_u32;
        while shutdown.sleep(self.clock.as_ref(), GLANCE).await {
            glance = (glance + 1) % GLANCES;
            let result = if glance == 0 { self.sweep().await } else { self.glance().await };
            if let Err(error) = result {
                tracing::warn!(error = %mirror_errors::Chain(&error), "the agents cannot be looked at");
            }
        }
    }

    /// Looks at the agents whose lease changed since the last glance.
    async fn glance(&self) -> Result<(), ManagerError> {
        let changed: Vec<&Planned> = {
            let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            let mut changed = Vec::new();
            for planned in self.agents.values().filter(|p| !p.job) {
                let at = std::fs::metadata(self.home.lease(&planned.name)).and_then(|m| m.modified()).ok();
                if leases.insert(planned.name.clone(), at).is_some_and(|before| before != at) {
                    changed.push(planned);
                }
            }
            changed
        };
        for planned in changed {
            self.look(planned).await?;
        }
        Ok(())
    }

    /// Looks at all agents, and brings each service to what is wanted of it.
    pub async fn sweep(&self) -> Result<(), ManagerError> {
        self.list().await?;
        for planned in self.agents.values().filter(|p| !p.job) {
            let row = self.row(&planned.name);
            let unit = &planned.definition.unit;
            let is_to_run = row.wish == Wish::Running;
            if !is_to_run && row.state == AgentState::Running {
                self.manager.signal(unit, "SIGTERM").await?;
                self.look(planned).await?;
            }
            // A list does not tell a service that waits for its next start from one that rests.
            let rests = is_to_run && row.state == AgentState::Idle;
            if rests && self.look(planned).await?.state == AgentState::Idle {
                self.manager.start(unit).await?;
                self.look(planned).await?;
            }
        }
        Ok(())
    }

    async fn list(&self) -> Result<(), ManagerError> {
        let units: Vec<&str> = self.agents.values().map(|p| p.definition.unit.as_str()).collect();
        let shown = self.manager.list(&units).await?;
        for (planned, shown) in self.agents.values().zip(shown) {
            let row = self.row(&planned.name);
            // A list knows less of a process than a look does, so what a look said of the same one stands.
            let same =
                row.pid == shown.pid.unwrap_or(0) && (row.state != AgentState::NotLoaded) == shown.loaded;
            let waits = row.state == AgentState::Throttled;
            if same && !waits {
                self.publish(planned, None);
            } else if shown.pid.is_none() && waits {
                self.look(planned).await?;
            } else {
                self.publish(planned, Some(shown));
            }
        }
        Ok(())
    }

    async fn look(&self, planned: &Planned) -> Result<AgentRow, ManagerError> {
        let shown = self.manager.show(&planned.definition.unit).await?;
        self.publish(planned, Some(shown));
        Ok(self.row(&planned.name))
    }

    fn row(&self, name: &str) -> AgentRow {
        let rows = self.rows.borrow();
        let row = rows.iter().find(|row| row.name == name);
        row.cloned().unwrap_or_else(|| AgentRow::new(name, false))
    }

    /// Puts an agent's row and its fleet row as they are; without `shown` its process is as it was.
    fn publish(&self, planned: &Planned, shown: Option<Shown>) {
        let before = self.row(&planned.name);
        let mut row = before.clone();
        (row.wish, row.reason) = desired::read(&self.home, &planned.name);
        row.problem = self.problem(planned);
        if let Some(shown) = shown {
            self.follow(&mut row, &shown);
        }
        if row == before {
            return;
        }
        if row.pid != before.pid {
            self.note(&row.name, before.pid, row.pid);
        }
        self.rows.send_modify(|rows| {
            let mut all = rows.as_ref().clone();
            if let Some(old) = all.iter_mut().find(|old| old.name == row.name) {
                *old = row;
            }
            *rows = Arc::new(all);
        });
    }

    /// Writes down which process is an agent, for its peers.
    fn note(&self, name: &str, before: u32, pid: u32) {
        if pid == 0 {
            rows::remove(&self.home, name, before);
        } else if let Err(error) = rows::write(&self.home, name, pid) {
            // One that has ended meanwhile has no start to be written; the next look sees that.
            tracing::info!(agent = name, %error, "its fleet row cannot be written; peers take it for a local caller");
        }
    }

    fn follow(&self, row: &mut AgentRow, shown: &Shown) {
        let now = self.clock.wall_ms();
        let pid = shown.pid.unwrap_or(0);
        if pid != row.pid {
            if row.pid != 0 {
                row.last_ended_ms = now;
            }
            row.pid = pid;
            if pid != 0 {
                row.starts += 1;
                row.started_ms = self.started_ms(&row.name, pid).unwrap_or(now);
            }
        }
        row.state = match (shown.loaded, shown.pid) {
            (false, _) => AgentState::NotLoaded,
            (true, Some(_)) if shown.draining => AgentState::Draining,
            (true, Some(_)) => AgentState::Running,
            (true, None) if shown.waiting => AgentState::Throttled,
            (true, None) => AgentState::Idle,
        };
        row.next_start_ms = if row.state == AgentState::Throttled { row.started_ms + FLOOR_MS } else { 0 };
        if pid == 0 {
            row.started_ms = if row.state == AgentState::Throttled { row.started_ms } else { 0 };
            row.last_exit.clone_from(&shown.last_exit);
        }
    }

    /// Returns when a process started, by its own word.
    fn started_ms(&self, name: &str, pid: u32) -> Option<u64> {
        match holder(&self.home, name) {
            Ok(Holder::Process(info)) if info.pid == pid => Some(info.started_ms),
            _ => None,
        }
    }

    fn problem(&self, planned: &Planned) -> String {
        if same_on_disk(self.manager.folder(), &planned.definition) {
            return String::new();
        }
        let folder = self.manager.folder().display();
        format!("its files in {folder} are not as the catalogue says; run: mirror install")
    }

    fn planned(&self, agent: &str) -> Result<&Planned, Error> {
        self.agents.get(agent).ok_or_else(|| Error::unknown(agent))
    }

    fn wish(&self, agent: &str, wish: Wish, reason: &str) -> Result<(), Error> {
        desired::write(&self.home, agent, wish, reason)
            .map_err(|e| Error::backend(format!("write what is wanted of {agent}"), e))
    }

    /// Waits until an agent has no process; returns false when it still has one after `limit`.
    async fn gone(&self, planned: &Planned, limit: Duration) -> Result<bool, ManagerError> {
        let begun = self.clock.boot();
        loop {
            if self.look(planned).await?.pid == 0 {
                return Ok(true);
            }
            if self.clock.boot().saturating_sub(begun) >= limit {
                return Ok(false);
            }
            self.clock.sleep(STEP).await;
        }
    }

    async fn end(&self, planned: &Planned) -> Result<bool, ManagerError> {
        if self.look(planned).await?.pid == 0 {
            return Ok(true);
        }
        self.manager.signal(&planned.definition.unit, "SIGTERM").await?;
        if self.gone(planned, EXIT_TIME_OUT).await? {
            return Ok(true);
        }
        tracing::info!(agent = planned.name, "did not end in time; it is killed");
        self.manager.signal(&planned.definition.unit, "SIGKILL").await?;
        self.gone(planned, AFTER_KILL).await
    }

    async fn restart_one(&self, planned: &Planned, kill: bool) -> Result<AgentRow, ManagerError> {
        let unit = &planned.definition.unit;
        let row = self.look(planned).await?;
        if kill && row.pid != 0 {
            // The manager starts it again, as after any crash.
            self.manager.signal(unit, "SIGKILL").await?;
        } else {
            self.manager.kick(unit).await?;
        }
        self.look(planned).await
    }

    async fn start_one(&self, planned: &Planned) -> Result<AgentRow, ManagerError> {
        if self.look(planned).await?.state == AgentState::NotLoaded {
            self.manager.put(&planned.definition).await?;
        }
        self.manager.start(&planned.definition.unit).await?;
        self.look(planned).await
    }
}

#[tonic::async_trait]
impl Backend for ManagerBackend {
    fn name(&self) -> &'static str {
        self.manager.name()
    }

    fn rows(&self) -> watch::Receiver<Rows> {
        self.rows.subscribe()
    }

    async fn refresh(&self) -> Result<(), Error> {
        self.list().await.map_err(|e| failed("list the agents", &e))
    }

    async fn begin(&self) -> Result<(), Error> {
        // A manager that does not answer now is asked again in ten seconds.
        if let Err(error) = self.sweep().await {
            tracing::warn!(error = %mirror_errors::Chain(&error), "the agents cannot be looked at");
        }
        Ok(())
    }

    async fn start(&self, agent: &str) -> Result<AgentRow, Error> {
        let planned = self.planned(agent)?;
        self.wish(agent, Wish::Running, "")?;
        self.start_one(planned).await.map_err(|e| failed(&format!("start {agent}"), &e))
    }

    async fn stop(&self, agent: &str, wish: Wish, reason: &str) -> Result<AgentRow, Error> {
        let planned = self.planned(agent)?;
        self.wish(agent, wish, reason)?;
        let what = format!("stop {agent}");
        if self.end(planned).await.map_err(|e| failed(&what, &e))? {
            return Ok(self.row(agent));
        }
        Err(Error::backend(
            what,
            "its process is still there after SIGKILL; the machine may have to be restarted",
        ))
    }

    async fn restart(&self, agent: &str, kill: bool) -> Result<AgentRow, Error> {
        let planned = self.planned(agent)?;
        let wish = desired::read(&self.home, agent).0;
        if wish != Wish::Running {
            return Err(Error::Stopped { agent: agent.to_owned(), wish: wish.name() });
        }
        self.restart_one(planned, kill).await.map_err(|e| failed(&format!("restart {agent}"), &e))
    }

    async fn render(&self, agent: &str) -> Result<(bool, AgentRow), Error> {
        let planned = self.planned(agent)?;
        let what = format!("render {agent}");
        if agent == SELF && !self.problem(planned).is_empty() {
            // It would be unloaded in the middle of its own act, and nobody would load it again.
            return Err(Error::backend(what, "the supervisor cannot replace itself; run: mirror install"));
        }
        let put = self.manager.put(&planned.definition).await.map_err(|e| failed(&what, &e))?;
        let row = self.look(planned).await.map_err(|e| failed(&what, &e))?;
        Ok((put != Put::Unchanged, row))
    }
}

fn failed(what: &str, error: &ManagerError) -> Error {
    Error::backend(what, mirror_errors::Chain(error))
}
