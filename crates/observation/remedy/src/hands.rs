//! Eyes and hands: looks at the supervisor, the services and the home, and acts through the supervisor.
//!
//! It refuses to take a service for dead because it could not be looked at.
//! Invariant: it ends no process itself.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use mirror_contract::mirror::kit::v1::get_state_response::State;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_contract::mirror::kit::v1::{GetStateRequest, GetStateResponse};
use mirror_contract::mirror::supervisor::v1 as pb;
use mirror_contract::mirror::supervisor::v1::supervisor_service_client::SupervisorServiceClient;
use mirror_errors::{Kind, Remote};
use mirror_kit::{Channel, Context, Decl, Holder, holder};
use tonic::Status;

use crate::catalogue::{FLEET, Remedy};
use crate::facts::{Facts, Health, Process};
use crate::files::{self, Log};
use crate::local::{Local, remove_socket};
use crate::remedy::Ask;

/// How long a service has to say how it is.
const ANSWER: Duration = Duration::from_secs(2);

/// What the ledger says about a target's last minutes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct History {
    /// Remedies that did not help.
    pub(crate) unhelped: usize,
    /// Restarts by remedies.
    pub(crate) restarts: usize,
}

/// What a fresh look comes to.
#[derive(Debug)]
pub(crate) enum Look {
    /// The remedy is called for.
    Called(Seen),
    /// It is not, and why.
    NotCalled(String),
    /// It could not be looked at, or cannot be done now.
    Blind(String),
}

/// What was seen before the act.
#[derive(Debug)]
pub(crate) enum Seen {
    /// One agent's process, and the socket that it left.
    Process { before: Option<Process>, socket: Option<u64> },
    /// Log files to be set aside.
    Logs(Vec<Log>),
    /// Folders to be made, and services without a socket, lower tiers first.
    Run { missing: Vec<PathBuf>, socketless: Vec<&'static str> },
}

/// What the act itself said.
#[derive(Debug)]
pub(crate) enum Acted {
    /// It was done; one sentence more, or nothing.
    Done(String),
    /// It failed.
    Refused(String),
    /// The answer was lost; it may have been done.
    Unsure(String),
}

/// Eyes and hands.
#[derive(Debug)]
pub(crate) struct Hands {
    cx: Context,
    supervisor: SupervisorServiceClient<Channel>,
}

impl Hands {
    pub(crate) fn new(cx: &Context, supervisor: Channel) -> Self {
        Self { cx: cx.clone(), supervisor: SupervisorServiceClient::new(supervisor) }
    }

    /// Returns the longest time from the act to the check.
    pub(crate) fn limit(&self, ask: &Ask) -> Duration {
        ask.remedy.limit(self.decl(&ask.target))
    }

    fn decl(&self, target: &str) -> Option<&'static Decl> {
        self.cx.catalogue().iter().find(|d| d.name == target).copied()
    }

    async fn agents(&self) -> Result<Vec<pb::Agent>, String> {
        let answer = self.supervisor.clone().list_agents(pb::ListAgentsRequest {}).await;
        answer.map(|a| a.into_inner().agents).map_err(|status| {
            format!("the supervisor does not say how things stand: {}", Remote::from_status(&status))
        })
    }

    /// Looks whether a remedy is called for.
    pub(crate) async fn look(&self, ask: &Ask, history: History) -> Look {
        match ask.remedy {
            Remedy::RotateLogs => self.look_at_logs(&ask.target).await,
            Remedy::RecreateRunDir => self.look_at_run().await,
            _ => match self.facts(&ask.target, history, 2).await {
                Err(why) => Look::Blind(why),
                Ok((facts, socket)) => match facts.calls_for(ask.remedy) {
                    Ok(()) => Look::Called(Seen::Process { before: facts.process(), socket }),
                    Err(why) => Look::NotCalled(why),
                },
            },
        }
    }

    /// Checks whether a remedy helped; the error says what is still wrong.
    pub(crate) async fn check(&self, ask: &Ask, seen: &Seen) -> Result<(), String> {
        match seen {
            Seen::Process { before, .. } => {
                let (facts, _) = self.facts(&ask.target, History::default(), 1).await?;
                facts.shows_that_it_helped(ask.remedy, before.as_ref())
            }
            Seen::Logs(_) => match self.look_at_logs(&ask.target).await {
                Look::NotCalled(_) => Ok(()),
                Look::Called(_) => Err("a log file is above its size again".to_owned()),
                Look::Blind(why) => Err(why),
            },
            Seen::Run { socketless, .. } => {
                match self.look_at_run().await {
                    Look::NotCalled(_) => {}
                    Look::Called(_) => return Err("a folder or a socket is missing".to_owned()),
                    Look::Blind(why) => return Err(why),
                }
                for name in socketless {
                    let (facts, _) = self.facts(name, History::default(), 1).await?;
                    let helped = facts.shows_that_it_helped(Remedy::Restart, None);
                    helped.map_err(|why| format!("{name}: {why}"))?;
                }
                Ok(())
            }
        }
    }

    /// Acts.
    pub(crate) async fn act(&self, ask: &Ask, seen: &Seen) -> Acted {
        let mut supervisor = self.supervisor.clone();
        let name = ask.target.clone();
        match (ask.remedy, seen) {
            (Remedy::ClearStaleSocket, Seen::Process { socket, .. }) => {
                if let Err(error) = remove_socket(self.cx.home(), &name, *socket) {
                    return Acted::Refused(format!("the socket cannot be removed: {error}"));
                }
                said(supervisor.start_agent(pb::StartAgentRequest { name }).await)
            }
            (Remedy::Start, _) => said(supervisor.start_agent(pb::StartAgentRequest { name }).await),
            (Remedy::Restart | Remedy::RestartKill, _) => {
                let kill = ask.remedy == Remedy::RestartKill;
                said(supervisor.restart_agent(pb::RestartAgentRequest { name, kill }).await)
            }
            (Remedy::Reload | Remedy::Render, _) => {
                said(supervisor.render_agent(pb::RenderAgentRequest { name }).await)
            }
            (Remedy::Quarantine, _) => {
                let reason = ask.cause.clone();
                said(supervisor.stop_agent(pb::StopAgentRequest { name, reason, quarantine: true }).await)
            }
            (_, Seen::Logs(logs)) => rotate(logs.clone()).await,
            (_, Seen::Run { missing, socketless }) => self.recreate(missing, socketless).await,
            (_, Seen::Process { .. }) => Acted::Refused("it is no remedy of one process".to_owned()),
        }
    }

    async fn recreate(&self, missing: &[PathBuf], socketless: &[&'static str]) -> Acted {
        if let Err(error) = files::make_folders(missing) {
            return Acted::Refused(error.to_string());
        }
        for name in socketless {
            let request = pb::RestartAgentRequest { name: (*name).to_owned(), kill: false };
            let done = said(self.supervisor.clone().restart_agent(request).await);
            if let Acted::Refused(why) | Acted::Unsure(why) = done {
                // The rest may still be restarted; the check names what is left.
                tracing::info!(name, why, "a service without a socket was not restarted");
            }
        }
        let own = self.cx.decl().name;
        let lacks_own = self.cx.home().socket(own).is_ok_and(|path| !path.exists());
        Acted::Done(if lacks_own {
            format!("{own} itself needs a restart by the supervisor")
        } else {
            String::new()
        })
    }

    async fn look_at_logs(&self, target: &str) -> Look {
        let listed = match self.agents().await {
            Ok(listed) => listed,
            Err(why) => return Look::Blind(why),
        };
        let services = self.cx.catalogue().iter().map(|d| d.name.to_owned());
        let agents = services.chain(self.cx.jobs().iter().map(|j| j.agent()));
        let agents: Vec<String> = agents.filter(|a| target == FLEET || a == target).collect();
        let home = self.cx.home().clone();
        let looked = tokio::task::spawn_blocking(move || {
            let has_process = |name: &str| listed.iter().any(|a| a.name == name && a.pid != 0);
            let lives = |name: &str| has_process(name) || !matches!(holder(&home, name), Ok(Holder::Nobody));
            let logs = files::grown(&home, &agents, lives);
            let lack = files::lacks_room(&home, &logs);
            (logs, lack)
        });
        match looked.await {
            Err(error) => Look::Blind(format!("the log files cannot be looked at: {error}")),
            Ok((logs, _)) if logs.is_empty() => Look::NotCalled("no log file wants setting aside".to_owned()),
            Ok((_, Some(why))) => Look::Blind(why),
            Ok((logs, None)) => Look::Called(Seen::Logs(logs)),
        }
    }

    async fn look_at_run(&self) -> Look {
        let missing = files::missing_folders(self.cx.home());
        let socketless = match self.agents().await {
            Ok(agents) => self.socketless(&agents),
            // Its socket may have gone with the folder; then making the folder is what can be done.
            Err(_) if !missing.is_empty() => Vec::new(),
            Err(why) => return Look::Blind(why),
        };
        if missing.is_empty() && socketless.is_empty() {
            return Look::NotCalled("all folders and sockets are there".to_owned());
        }
        Look::Called(Seen::Run { missing, socketless })
    }

    /// Returns the services that run without a socket, lower tiers first, and never this one.
    fn socketless(&self, agents: &[pb::Agent]) -> Vec<&'static str> {
        let lacks = |decl: &Decl| {
            let runs = |a: &pb::Agent| {
                a.name == decl.name
                    && a.state() == pb::AgentState::Running
                    && a.desired() == pb::AgentDesired::Running
            };
            agents.iter().any(runs) && self.cx.home().socket(decl.name).is_ok_and(|path| !path.exists())
        };
        let own = self.cx.decl().name;
        let mut found: Vec<&'static Decl> =
            self.cx.catalogue().iter().copied().filter(|decl| decl.name != own && lacks(decl)).collect();
        // Whoever restarts the others comes last.
        found.sort_by_key(|decl| (decl.name == "supervisor", decl.tier));
        found.iter().map(|decl| decl.name).collect()
    }

    /// Looks at one agent; `tries` is how often it must fail to answer to count as silent. Also tells the socket apart.
    async fn facts(
        &self,
        target: &str,
        history: History,
        tries: u32,
    ) -> Result<(Facts, Option<u64>), String> {
        let agents = self.agents().await?;
        let agent = agents.into_iter().find(|a| a.name == target);
        let agent = agent.ok_or("the supervisor does not list it")?;
        let decl = self.decl(target);
        let health = match decl {
            None => None,
            Some(_) if agent.pid == 0 => Some(Health::Silent { why: "it has no process".to_owned() }),
            Some(_) => Some(self.health(target, tries).await),
        };
        let home = self.cx.home().clone();
        let (name, pid, boot) = (target.to_owned(), agent.pid, self.cx.clock().boot());
        let local = tokio::task::spawn_blocking(move || Local::look(&home, &name, pid, boot));
        let local = local.await.map_err(|error| format!("it cannot be looked at: {error}"))?;
        let is_answered = match local.socket {
            Some(_) if agent.pid == 0 => self.is_answered(target).await,
            _ => false,
        };
        let facts = Facts {
            agent,
            health,
            was_ready: local.was_ready,
            is_owned: local.is_owned,
            has_socket: local.socket.is_some(),
            is_answered,
            resident_mb: local.resident_mb,
            ceiling_mb: decl.map_or(0, |d| d.memory_mb.into()),
            startup_ms: decl.map_or(0, |d| u64::from(d.startup_secs) * 1000),
            failed_starts: local.failed_starts.saturating_sub(history.restarts),
            unhelped: history.unhelped,
            wall_ms: self.cx.clock().wall_ms(),
        };
        Ok((facts, local.socket))
    }

    async fn health(&self, target: &str, tries: u32) -> Health {
        let mut why = String::new();
        for _ in 0..tries {
            match self.ask_state(target).await {
                Ok(answer) => return health_of(&answer),
                Err(silence) => why = silence,
            }
        }
        Health::Silent { why }
    }

    async fn ask_state(&self, target: &str) -> Result<GetStateResponse, String> {
        // A connection of its own, since an old one may still lead to a process that is gone.
        let channel = self.cx.observe(target).map_err(|error| error.to_string())?;
        let mut kit = KitServiceClient::new(channel);
        match tokio::time::timeout(ANSWER, kit.get_state(GetStateRequest {})).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(format!("it does not answer: {}", Remote::from_status(&status))),
            Err(_) => Err("it does not answer within 2 s".to_owned()),
        }
    }

    /// Returns whether somebody accepts connections on a socket; what cannot be told counts as yes.
    async fn is_answered(&self, target: &str) -> bool {
        let Ok(path) = self.cx.home().socket(target) else { return true };
        match tokio::time::timeout(ANSWER, tokio::net::UnixStream::connect(path)).await {
            Ok(Err(error)) => {
                !matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
            }
            _ => true,
        }
    }
}

fn health_of(answer: &GetStateResponse) -> Health {
    match answer.state() {
        State::Serving | State::Degraded => Health::Ready { pid: answer.pid },
        State::Starting => Health::Starting { pid: answer.pid },
        state => Health::Unready { why: format!("it says {}: {}", state.as_str_name(), answer.detail) },
    }
}

async fn rotate(logs: Vec<Log>) -> Acted {
    match tokio::task::spawn_blocking(move || files::rotate(&logs)).await {
        Ok(Ok(bytes)) => Acted::Done(format!("{} MiB were set aside", bytes >> 20)),
        Ok(Err(error)) => Acted::Refused(format!("a log file cannot be set aside: {error}")),
        Err(error) => Acted::Refused(format!("the log files cannot be set aside: {error}")),
    }
}

/// Reads what the supervisor said to an order.
fn said<T>(answer: Result<T, Status>) -> Acted {
    let Err(status) = answer else { return Acted::Done(String::new()) };
    let remote = Remote::from_status(&status);
    let why = format!("the supervisor says: {remote}");
    if Remote::is_away(&status) || remote.kind == Kind::Timeout {
        Acted::Unsure(why)
    } else {
        Acted::Refused(why)
    }
}
