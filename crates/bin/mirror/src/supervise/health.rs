//! Waits until a started service has settled.

use std::time::Duration;

use mirror_clock::{Clock as _, SystemClock};
use mirror_contract::mirror::kit::v1::get_state_response::State as Wire;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_contract::mirror::kit::v1::{GetStateRequest, GetStateResponse};
use mirror_kit::Channel;
use mirror_paths::Home;
use tokio::sync::watch;

use super::keeper::Phase;
use crate::client::channel;

/// Longest wait for a service to settle; one that takes longer is reported and goes on.
const LIMIT: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// How long a service may be degraded at first: the peers that it misses are starting too.
const GRACE: Duration = Duration::from_secs(3);

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
pub(crate) async fn settled(home: &Home, service: &str, phase: watch::Receiver<Phase>) -> Settled {
    let clock = SystemClock;
    let mut kit = KitServiceClient::new(channel(home, service));
    let begun = clock.boot();
    let mut pause = Duration::from_millis(4);
    loop {
        let now = *phase.borrow();
        match now {
            Phase::Down(why) => {
                let after = Duration::ZERO;
                return Settled { state: why, detail: String::new(), pid: 0, after, fine: true };
            }
            Phase::Up { pid, since } => {
                let answer = ask(&mut kit, pid).await;
                let after = clock.boot().saturating_sub(since);
                match answer {
                    Some(("degraded", ..)) if after < GRACE => {}
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
