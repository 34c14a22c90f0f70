//! What a fresh look finds, whether a remedy is called for, and whether it helped.
//!
//! It looks at nothing itself. A fact that could not be had is never taken for a good one.
//! Invariant: a service that starts, drains, is stopped or serves is never restarted.

use mirror_contract::millis;
use mirror_contract::mirror::supervisor::v1::{Agent, AgentDesired, AgentState};

use crate::catalogue::Remedy;

/// Failed starts within ten minutes, not counting those that a remedy caused, that make a service one that keeps failing.
const FAILED_STARTS: usize = 3;
/// Remedies of the last 15 minutes that did not help.
const UNHELPED: usize = 2;
/// How far above its declared ceiling a process may be; the ceiling is meant for an idle one.
pub(crate) const MEMORY_SLACK_MB: u64 = 128;

/// What a service says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    /// It serves, maybe in part.
    Ready { pid: u32 },
    /// It starts.
    Starting { pid: u32 },
    /// It does not serve, and says why.
    Unready { why: String },
    /// It did not answer, twice.
    Silent { why: String },
}

/// A fresh look at one agent.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) agent: Agent,
    /// Whether it is a service; a job has no health.
    pub(crate) health: Option<Health>,
    /// Whether the process was ready once, by its lease.
    pub(crate) was_ready: bool,
    /// Whether a living process holds the lease, or its row among the fleet.
    pub(crate) is_owned: bool,
    /// Whether the socket is there.
    pub(crate) has_socket: bool,
    /// Whether somebody accepts connections on it.
    pub(crate) is_answered: bool,
    /// Resident memory, where it could be had.
    pub(crate) resident_mb: Option<u64>,
    pub(crate) ceiling_mb: u64,
    pub(crate) startup_ms: u64,
    /// Failed starts within ten minutes that no remedy caused.
    pub(crate) failed_starts: usize,
    /// Remedies of this target within 15 minutes that did not help.
    pub(crate) unhelped: usize,
    pub(crate) wall_ms: u64,
}

/// Which process there was before the action.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Process {
    pid: u32,
    started_ms: u64,
}

impl Facts {
    /// Returns the process, if there is one.
    pub(crate) fn process(&self) -> Option<Process> {
        let started_ms = self.agent.started.as_ref().and_then(millis).unwrap_or_default();
        (self.agent.pid != 0).then_some(Process { pid: self.agent.pid, started_ms })
    }

    /// Returns whether the remedy is called for; the error says why not.
    pub(crate) fn calls_for(&self, remedy: Remedy) -> Result<(), String> {
        match remedy {
            Remedy::Reload if self.agent.state() == AgentState::NotLoaded => Ok(()),
            Remedy::Reload => Err("the supervisor has it loaded".to_owned()),
            Remedy::Render if !self.agent.problem.is_empty() => Ok(()),
            Remedy::Render => Err("its property list or unit is as rendered".to_owned()),
            Remedy::Start => self.calls_for_start(),
            Remedy::Restart => self.calls_for_restart(),
            Remedy::RestartKill => match self.hung()? {
                Some(_) => Ok(()),
                None => Err("it answers".to_owned()),
            },
            Remedy::Quarantine => self.keeps_failing(),
            Remedy::ClearStaleSocket => self.has_stale_socket(),
            Remedy::RotateLogs | Remedy::RecreateRunDir => Err("it is no remedy of one process".to_owned()),
        }
    }

    /// Returns whether it helped; the error says what is still wrong.
    pub(crate) fn shows_that_it_helped(
        &self,
        remedy: Remedy,
        before: Option<&Process>,
    ) -> Result<(), String> {
        match remedy {
            Remedy::Quarantine => {
                if self.agent.desired() != AgentDesired::Quarantined || self.process().is_some() {
                    return Err("it is not quarantined, or still has a process".to_owned());
                }
                Ok(())
            }
            Remedy::Reload | Remedy::Render => {
                if self.agent.state() == AgentState::NotLoaded {
                    return Err("the supervisor does not have it loaded".to_owned());
                }
                if !self.agent.problem.is_empty() {
                    return Err(self.agent.problem.clone());
                }
                if self.agent.desired() == AgentDesired::Running && self.health.is_some() {
                    self.serves()?;
                }
                Ok(())
            }
            Remedy::Restart | Remedy::RestartKill => {
                if self.process().as_ref() == before {
                    return Err("it has no new process".to_owned());
                }
                self.serves()?;
                self.ailment().map_or(Ok(()), Err)
            }
            _ => self.serves(),
        }
    }

    /// Returns whether the process that the supervisor started says that it serves.
    fn serves(&self) -> Result<(), String> {
        let Some(process) = self.process() else { return Err("it has no process".to_owned()) };
        match &self.health {
            Some(Health::Ready { pid }) if *pid == process.pid => Ok(()),
            Some(Health::Ready { pid }) => {
                Err(format!("process {pid} answers for it, and the supervisor started {}", process.pid))
            }
            Some(Health::Starting { .. }) => Err("it is starting".to_owned()),
            Some(Health::Unready { why } | Health::Silent { why }) => Err(why.clone()),
            None => Err("it has no health".to_owned()),
        }
    }

    fn should_run(&self) -> Result<(), String> {
        match self.agent.desired() {
            AgentDesired::Running => Ok(()),
            _ => Err(format!("it is not to run: {}", self.agent.reason)),
        }
    }

    fn calls_for_start(&self) -> Result<(), String> {
        self.should_run()?;
        match self.agent.state() {
            AgentState::Idle if self.agent.pid == 0 => Ok(()),
            AgentState::NotLoaded => {
                Err("the supervisor does not have it loaded; the remedy is reload".to_owned())
            }
            AgentState::Throttled => Err("its next start is due by itself".to_owned()),
            _ => Err("it has a process".to_owned()),
        }
    }

    /// Returns the process that may be restarted: one that should run and has had time to start.
    fn settled(&self) -> Result<Process, String> {
        self.should_run()?;
        let process = self.process().ok_or("it has no process")?;
        if self.agent.state() == AgentState::Draining {
            return Err("it was told to end".to_owned());
        }
        let age = self.wall_ms.saturating_sub(process.started_ms);
        if !self.was_ready && age < self.startup_ms {
            return Err(format!("it is within its start time of {} s", self.startup_ms / 1000));
        }
        Ok(process)
    }

    fn hung(&self) -> Result<Option<&str>, String> {
        self.settled()?;
        Ok(match &self.health {
            Some(Health::Silent { why }) => Some(why),
            _ => None,
        })
    }

    fn calls_for_restart(&self) -> Result<(), String> {
        self.settled()?;
        let ill = match &self.health {
            Some(Health::Ready { .. }) => self.ailment().is_some(),
            health => health.is_some(),
        };
        if ill { Ok(()) } else { Err("it serves".to_owned()) }
    }

    /// Returns what is wrong with a process that serves.
    fn ailment(&self) -> Option<String> {
        if !self.has_socket {
            return Some("its socket is gone".to_owned());
        }
        let limit = self.ceiling_mb + MEMORY_SLACK_MB;
        self.resident_mb
            .filter(|mb| *mb > limit)
            .map(|mb| format!("it holds {mb} MiB, and more than {limit} is far too much"))
    }

    fn keeps_failing(&self) -> Result<(), String> {
        self.should_run()?;
        // A process lives shorter than the floor between two starts when the supervisor must hold the next one back.
        let throttled =
            self.agent.state() == AgentState::Throttled && self.agent.starts >= FAILED_STARTS as u64;
        if throttled || self.failed_starts >= FAILED_STARTS {
            return Ok(());
        }
        match (self.unhelped >= UNHELPED, self.serves()) {
            (true, Err(_)) => Ok(()),
            (true, Ok(())) => Err("it serves".to_owned()),
            (false, _) => Err(format!(
                "{} failed starts within ten minutes and {} remedies that did not help are not enough",
                self.failed_starts, self.unhelped
            )),
        }
    }

    fn has_stale_socket(&self) -> Result<(), String> {
        self.should_run()?;
        if !self.has_socket {
            return Err("it has no socket".to_owned());
        }
        if self.process().is_some() || self.is_owned {
            return Err("its owner lives".to_owned());
        }
        if self.is_answered { Err("somebody answers on its socket".to_owned()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
