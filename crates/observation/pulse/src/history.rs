//! Incidents of the past, read back from the log when there is no snapshot to tell of them.

use mirror_client::follow::{Follower, Next, Place};
use mirror_contract::mirror::bus::v1::{Event, Filter, GetStatusRequest};
use mirror_kit::Context;

use crate::engine::Shared;
use crate::hands::Hands;
use crate::pulse::{CLOSED, Told};

/// Reads the log once to its present end.
pub(crate) async fn recall(cx: Context, shared: Shared, hands: Hands) {
    let Ok((channel, _)) = cx.client("bus") else { return };
    let filter = Filter { subjects: vec!["pulse.incident".to_owned()], ..Filter::default() };
    let mut follower = Follower::new(channel, Place::default()).filtered(filter);
    let (shutdown, mut bus) = (cx.shutdown(), hands.bus);
    let (mut told, mut head) = (Vec::new(), None);
    loop {
        let Some(next) = shutdown.or(follower.next()).await else { return };
        match next {
            Next::Open => {
                let status = bus.get_status(GetStatusRequest {}).await;
                head = status.ok().map(|s| s.into_inner().head);
            }
            Next::Batch(events) => {
                told.extend(events.iter().filter_map(closed));
                let many = told.len().saturating_sub(CLOSED);
                told.drain(..many);
            }
            // It is tried again by itself; what was read stays.
            Next::Away(_) => {}
            Next::Elsewhere => follower.restart(),
        }
        if head.is_some_and(|head| follower.place().upto >= head) {
            shared.with(|core| core.recall(told));
            return;
        }
    }
}

/// Returns the incident of an event that says that one is over.
fn closed(event: &Event) -> Option<Told> {
    let value: serde_json::Value = serde_json::from_slice(&event.payload).ok()?;
    if value.get("state")?.as_str()? != "closed" {
        return None;
    }
    serde_json::from_value(value).ok()
}
