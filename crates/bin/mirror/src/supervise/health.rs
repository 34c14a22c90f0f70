//! Waits until a started service has settled.

use std::time::Duration;

use mirror_clock::{Clock as _, SystemClock};
use mirror_contract::mirror::kit::v1::get_state_response::State as Wire;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_contract::mirror::kit::v1::{GetStateRequest, GetStateResponse};
use mirror_kit::desired::Wish;
use mirror_kit::{Channel, Decl};
use mirror_paths::Home;
use mirror_supervisor::{AgentState, Rows};
use tokio::sync::watch;

use crate::client::channel;

/// Longest wait for a service to settle; one that takes longer is reported and goes on.
const LIMIT: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// How long a service that needs others may be without them at first: they are starting too.
const GRACE: Duration = Duration::from_secs(3);

/// How a service is, as far as its process goes.
enum Phase {
    /// No process, but one will be started.
    Waiting,
    /// A process, started at this boot time.
    Up { pid: u32, since: Duration },
    /// No process, and none will be started.
    Down { state: &'static str, detail: String, fine: bool },
}

fn phase(rows: &Rows, service: &str) -> Phase {
    let Some(row) = rows.iter().find(|row| row.name == service) else { return Phase::Waiting };
    let down = |state, detail: &str, fine| Phase::Down { state, detail: detail.to_owned(), fine };
    if let (1.., Some(since)) = (row.pid, row.since) {
        return Phase::Up { pid: row.pid, since };
    }
    match (row.wish, row.state) {
        (Wish::Stopped | Wish::Quarantined, _) => down(row.wish.name(), &row.reason, true),
        (Wish::Running, AgentState::NotLoaded) if !row.problem.is_empty() => {
            down("not loaded", &row.problem, false)
        }
        (Wish::Running, AgentState::Idle) if row.starts > 0 => down("ended", &row.last_exit, false),
        (Wish::Running, _) => Phase::Waiting,
    }
}

/// How a service came up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settled {
    /// State, or why there is none.
    pub(crate) state: &'static str,
    pub(crate) detail: String,
    pub(crate) pid: u32,
    /// From the start of the process to its first answer with this state.
    pub(crate) after: Duration,
    /// Whether it is as it should be.
    pub(crate) fine: bool,
}

/// Waits until a service serves, cannot serve, or is to stay down.
pub(crate) async fn settled(home: &Home, decl: &Decl, rows: watch::Receiver<Rows>) -> Settled {
    let service = decl.name;
    let clock = SystemClock;
    let mut kit = KitServiceClient::new(channel(home, service));
    let begun = clock.boot();
    let mut pause = Duration::from_millis(4);
    loop {
        let now = phase(&rows.borrow(), service);
        match now {
            Phase::Down { state, detail, fine } => {
                return Settled { state, detail, pid: 0, after: Duration::ZERO, fine };
            }
            Phase::Up { pid, since } => {
                let answer = ask(&mut kit, pid).await;
                let after = clock.boot().saturating_sub(since);
                match answer {
                    Some(("degraded", ..)) if after < GRACE => {}
                    Some(("not serving", ..)) if after < GRACE && !decl.needs.is_empty() => {}
                    Some((state, detail, fine)) => return Settled { state, detail, pid, after, fine },
                    None => {}
                }
            }
            Phase::Waiting => {}
        }
        if clock.boot().saturating_sub(begun) > LIMIT {
            let pid = if let Phase::Up { pid, .. } = now { pid } else { 0 };
            let detail = format!("no answer within {} s", LIMIT.as_secs());
            return Settled { state: "not healthy", detail, pid, after: LIMIT, fine: false };
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(64));
    }
}

/// Returns the state of the process `pid` when it has one; an earlier process may still hold the socket.
async fn ask(kit: &mut KitServiceClient<Channel>, pid: u32) -> Option<(&'static str, String, bool)> {
    let asked = tokio::time::timeout(ANSWER_LIMIT, kit.get_state(GetStateRequest {})).await;
    let answer: GetStateResponse = asked.ok()?.ok()?.into_inner();
    if answer.pid != pid {
        return None;
    }
    let (state, fine) = match answer.state() {
        Wire::Serving => ("serving", true),
        Wire::Degraded => ("degraded", true),
        Wire::NotServing => ("not serving", false),
        Wire::Draining => ("draining", false),
        Wire::Starting | Wire::Unspecified => return None,
    };
    Some((state, answer.detail, fine))
}
