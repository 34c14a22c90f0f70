//! Follows the log: the only writer of what it proves.
//!
//! An erased or unverifiable event proves nothing. Invariant: the same events give the same fold.

use mirror_client::follow::{Follower, Next};
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{Event, Filter, GetStatusRequest, PayloadState};
use mirror_kit::{Channel, Context};
use mirror_seal::PublicKey;
use tokio::sync::watch;

use crate::halt::{ENGAGED, RELEASED, Recorded};
use crate::store::{Fold, Store};

/// Positions after which the snapshot is saved, so that a start reads at most as many again.
const SAVE_EVERY: u64 = 10_000;

/// What the log says, for those who act on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Highest epoch that is proven.
    pub(crate) proven: u64,
    /// Whether the log was read to where it ended when it was opened.
    pub(crate) caught_up: bool,
    /// Why the bus is away; nothing while it is there.
    pub(crate) away: Option<String>,
}

/// Follows the log until the service is to stop, then saves the snapshot.
pub(crate) async fn follow(
    cx: Context,
    bus: Channel,
    store: Store,
    mut fold: Fold,
    told: watch::Sender<Told>,
) {
    let filter = Filter { subjects: vec!["halt.>".to_owned()], ..Filter::default() };
    let mut follower = Follower::new(bus.clone(), fold.place.clone()).filtered(filter);
    let mut status = BusServiceClient::new(bus);
    let (shutdown, device) = (cx.shutdown(), cx.node().key);
    // Once read to its end, the log only grows by what this service appends.
    let (mut goal, mut caught_up) = (None, false);
    let mut saved = fold.place.upto;
    while let Some(next) = shutdown.or(follower.next()).await {
        match next {
            Next::Open => {}
            Next::Batch(events) => {
                let epochs = events.iter().filter_map(|event| proven(event, device));
                let highest = epochs.fold(fold.proven, u64::max);
                let news = highest > fold.proven;
                fold = Fold { proven: highest, place: follower.place().clone() };
                if news || fold.place.upto >= saved + SAVE_EVERY {
                    saved = fold.place.upto;
                    store.save_fold(&fold);
                }
            }
            Next::Away(why) => {
                told.send_if_modified(|told| told.away.replace(why).is_none());
                continue;
            }
            Next::Elsewhere => {
                tracing::warn!("the snapshot is not of this log; what the log proves is read again");
                fold = Fold::default();
                (goal, caught_up) = (None, false);
                follower.restart();
                continue;
            }
        }
        if goal.is_none() {
            let answer = status.get_status(GetStatusRequest {}).await;
            goal = answer.ok().map(|answer| answer.get_ref().head);
        }
        caught_up |= goal.is_some_and(|goal| fold.place.upto >= goal);
        let now = Told { proven: fold.proven, caught_up, away: None };
        told.send_if_modified(|told| std::mem::replace(told, now.clone()) != now);
    }
    store.save_fold(&fold);
}

/// Returns the epoch that an event proves.
fn proven(event: &Event, device: PublicKey) -> Option<u64> {
    let ours = [ENGAGED, RELEASED].contains(&event.subject.as_str());
    if !ours || event.payload_state() != PayloadState::Present {
        return None;
    }
    serde_json::from_slice::<Recorded>(&event.payload).ok()?.proves(device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_kit::{HALT_TYPE, HaltStatement};
    use mirror_seal::{Envelope, NodeKey};

    #[test]
    fn only_a_verified_event_that_is_there_proves_something() {
        let key = NodeKey::generate().unwrap();
        let statement = HaltStatement { epoch: 3, engaged: true, reason: String::new(), since_ms: 0 };
        let event = |by: &NodeKey, subject: &str, state: PayloadState| {
            let envelope = Envelope::sign(by, HALT_TYPE, &serde_json::to_vec(&statement).unwrap());
            let payload = serde_json::to_vec(&Recorded::new(&statement, true, &envelope, None)).unwrap();
            Event {
                subject: subject.into(),
                payload: payload.into(),
                payload_state: state.into(),
                ..Event::default()
            }
        };
        let check = |event: Event, expected: Option<u64>| assert_eq!(proven(&event, key.public()), expected);
        check(event(&key, ENGAGED, PayloadState::Present), Some(3));
        check(event(&key, ENGAGED, PayloadState::Redacted), None);
        check(event(&key, "halt.other", PayloadState::Present), None);
        check(event(&NodeKey::generate().unwrap(), ENGAGED, PayloadState::Present), None);
        check(Event { payload: "{}".into(), ..event(&key, ENGAGED, PayloadState::Present) }, None);
    }
}
