//! The engine of `mirror up`: launchd's rules over real processes, run from the property lists in `agents/`.
//!
//! One actor owns one machine for each agent; orders reach it over a bounded queue, and what it has done is seen in
//! the rows. It refuses a list that launchd would misread, and shows why.
//! Invariant: a process exists only between the intent before its start and the removal of its row after its end.

mod actor;
mod process;
mod slot;

use std::sync::Arc;

use mirror_clock::Clock;
use mirror_kit::desired::Wish;
use mirror_paths::{Home, write_atomic};
use tokio::sync::{mpsc, oneshot, watch};

pub use self::actor::Engine;
pub use self::slot::Managed;
use crate::backend::{AgentRow, Backend, Rows};
use crate::error::Error;

/// Orders that may wait; whoever gives more waits itself.
const ORDERS: usize = 64;

/// What is printed for whoever looks at the terminal, one sentence.
pub type Say = Box<dyn Fn(&str) + Send>;

/// What the engine is told.
#[derive(Debug)]
enum Order {
    /// Load all agents.
    Begin,
    /// Read what is wanted and whether lists were edited.
    Look,
    Start(String),
    Stop(String, Wish, String),
    Restart(String, bool),
    Render(String),
    /// End the processes of a tier, or of all, and start none again.
    Drain(Option<u8>),
    /// Kill all processes and start none again.
    Kill,
    /// Return once there is no process.
    Finish,
}

/// What came of it: whether anything differed.
type Answer = Result<bool, Error>;

type Command = (Order, oneshot::Sender<Answer>);

/// Gives orders to an engine.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    rows: watch::Receiver<Rows>,
    /// Tier of each agent whose process is not this one.
    tiers: Arc<[(String, u8)]>,
}

/// Writes the property lists that differ from the catalogue; returns how many.
pub fn lay(home: &Home, agents: &[Managed]) -> std::io::Result<usize> {
    let mut written = 0;
    for agent in agents {
        let path = agent.path(home);
        if !std::fs::read_to_string(&path).is_ok_and(|now| now == agent.text) {
            write_atomic(&path, agent.text.as_bytes())?;
            written += 1;
        }
    }
    Ok(written)
}

/// Returns an engine and what gives it orders; nothing happens until [`Engine::run`] is polled and told to begin.
pub fn engine(home: Home, clock: Arc<dyn Clock>, agents: Vec<Managed>, say: Say) -> (Engine, Handle) {
    let (commands, orders) = mpsc::channel(ORDERS);
    let tiers = agents.iter().filter(|a| !a.own).map(|a| (a.name.clone(), a.tier)).collect();
    let engine = Engine::new(home, clock, agents, say, orders);
    let rows = engine.rows();
    (engine, Handle { commands, rows, tiers })
}

impl Handle {
    async fn order(&self, order: Order) -> Answer {
        let ended = || Error::backend("reach the engine", "the fleet has ended; start it with `mirror up`");
        let (answer, answered) = oneshot::channel();
        self.commands.send((order, answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Returns an agent as it is once a condition holds for it.
    async fn when(&self, agent: &str, holds: impl Fn(&AgentRow) -> bool) -> Result<AgentRow, Error> {
        let mut rows = self.rows.clone();
        let row = |rows: &Rows| rows.iter().find(|row| row.name == agent).cloned();
        // An error means that the engine has ended, and with it every process.
        let _ = rows.wait_for(|rows| row(rows).is_none_or(|row| holds(&row))).await;
        let found = row(&rows.borrow());
        found.ok_or_else(|| Error::unknown(agent))
    }

    /// Loads all agents, which starts those that should run.
    pub async fn begin(&self) {
        // An engine that has ended has nothing to begin.
        let _ = self.order(Order::Begin).await;
    }

    /// Starts nothing any more, and ends the processes of a tier; returns when they are gone.
    pub async fn drain(&self, tier: u8) {
        let _ = self.order(Order::Drain(Some(tier))).await;
        let of_tier: Vec<&str> =
            self.tiers.iter().filter(|(_, t)| *t == tier).map(|(name, _)| name.as_str()).collect();
        let gone = |rows: &Rows| rows.iter().all(|row| row.pid == 0 || !of_tier.contains(&row.name.as_str()));
        // An error means that the engine has ended, and with it every process.
        let _ = self.rows.clone().wait_for(gone).await;
    }

    /// Kills all processes, and starts nothing any more.
    pub async fn kill(&self) {
        let _ = self.order(Order::Kill).await;
    }

    /// Has the engine return once no process is left; whatever still runs is drained.
    pub async fn finish(&self) {
        let _ = self.order(Order::Finish).await;
    }
}

#[tonic::async_trait]
impl Backend for Handle {
    fn name(&self) -> &'static str {
        "up"
    }

    fn rows(&self) -> watch::Receiver<Rows> {
        self.rows.clone()
    }

    async fn refresh(&self) -> Result<(), Error> {
        self.order(Order::Look).await.map(|_| ())
    }

    async fn start(&self, agent: &str) -> Result<AgentRow, Error> {
        self.order(Order::Start(agent.to_owned())).await?;
        self.when(agent, |_| true).await
    }

    async fn stop(&self, agent: &str, wish: Wish, reason: &str) -> Result<AgentRow, Error> {
        self.order(Order::Stop(agent.to_owned(), wish, reason.to_owned())).await?;
        self.when(agent, |row| row.pid == 0).await
    }

    async fn restart(&self, agent: &str, kill: bool) -> Result<AgentRow, Error> {
        self.order(Order::Restart(agent.to_owned(), kill)).await?;
        self.when(agent, |row| row.state != crate::AgentState::Draining).await
    }

    async fn render(&self, agent: &str) -> Result<(bool, AgentRow), Error> {
        let changed = self.order(Order::Render(agent.to_owned())).await?;
        let row = self.when(agent, |row| row.state != crate::AgentState::Draining).await?;
        Ok((changed, row))
    }
}
