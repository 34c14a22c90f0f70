//! Tells the bus what was done, in order and once, as soon as it takes it; and reads it back where the journal is gone.
//!
//! Invariant: an event is told again until the bus has acknowledged it, always under the same id.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{AppendRequest, Event, Filter, PayloadState, ReadRequest};
use mirror_errors::{Kind, Remote};
use mirror_kit::{Channel, State, hold};
use tonic::Status;

use crate::desk::Desk;
use crate::remedy::{Action, BOUND, Unsent};
use crate::wire;

/// How long one attempt waits for a bus that is away before that is shown in the state.
const HOLD: Duration = Duration::from_secs(1);
/// Pause after an attempt that failed.
const PAUSE: Duration = Duration::from_secs(5);

/// Publishes until the service is to stop. Only what waits is given up then, so that no line of the journal is left half
/// done behind it.
pub(crate) async fn publish(desk: Arc<Desk>, bus: BusServiceClient<Channel>) {
    let shutdown = desk.context().shutdown();
    while !desk.is_rebuilt() {
        match shutdown.or(hold(HOLD, || read_back(bus.clone()))).await {
            Some(Ok(told)) => desk.rebuild(told).await,
            Some(Err(status)) if away(&desk, &status).await => {}
            _ => return,
        }
    }
    loop {
        desk.context().state().set(State::Serving, "");
        let Some(unsent) = shutdown.or(desk.next_unsent()).await else { return };
        if !deliver(&desk, &bus, &unsent).await {
            return;
        }
        // A mark that is lost only makes the event be told again, under the same id.
        if let Err(error) = desk.write(unsent.sent, true).await {
            tracing::info!(%error, "the journal does not have that an event was told");
        }
    }
}

/// Tries until the bus has an event, or will never take it; returns false when the service is to stop.
async fn deliver(desk: &Desk, bus: &BusServiceClient<Channel>, unsent: &Unsent) -> bool {
    let shutdown = desk.context().shutdown();
    loop {
        let status = match shutdown.or(send(bus, unsent)).await {
            None => return false,
            Some(Ok(())) => return true,
            Some(Err(status)) => status,
        };
        let remote = Remote::from_status(&status);
        if matches!(remote.kind, Kind::Invalid | Kind::Exists) {
            tracing::error!(id = unsent.event_id, error = %remote, "the bus refused an event for good");
            return true;
        }
        if !away(desk, &status).await {
            return false;
        }
    }
}

/// Says that the bus is away, and waits; returns false when the service is to stop.
async fn away(desk: &Desk, status: &Status) -> bool {
    let (why, waiting) = (Remote::from_status(status), desk.unsent_count());
    let detail =
        format!("remedies work, but the bus does not take their record ({waiting} events wait): {why}");
    let cx = desk.context();
    cx.state().set(State::Degraded, detail);
    cx.shutdown().sleep(&*cx.clock(), PAUSE).await
}

async fn send(bus: &BusServiceClient<Channel>, unsent: &Unsent) -> Result<(), Status> {
    let Ok(event) = wire::event(unsent) else { return Ok(()) };
    let request = AppendRequest { event: Some(event), expect: None };
    hold(HOLD, || async { bus.clone().append(request.clone()).await }).await.map(drop)
}

/// Returns the newest actions that the log tells of, in the order of their beginnings.
async fn read_back(mut bus: BusServiceClient<Channel>) -> Result<Vec<Action>, Status> {
    let request = ReadRequest {
        filter: Some(Filter { subjects: vec!["remedy.>".to_owned()], ..Filter::default() }),
        limit: 2 * u64::try_from(BOUND / 2).unwrap_or_default(),
        reverse: true,
        ..ReadRequest::default()
    };
    let mut stream = bus.read(request).await?.into_inner();
    let mut told = Vec::new();
    while let Some(response) = stream.message().await? {
        told.extend(response.events.iter().filter_map(action_of));
    }
    told.reverse();
    Ok(joined(told))
}

/// Returns the action that an event tells of; an erased one, or one of a later build, tells of none.
fn action_of(event: &Event) -> Option<Action> {
    let is_ours = matches!(event.subject.as_str(), "remedy.began" | "remedy.ended");
    if !is_ours || event.payload_state() != PayloadState::Present {
        return None;
    }
    serde_json::from_slice(&event.payload)
        .inspect_err(|error| tracing::info!(seq = event.seq, %error, "skipped an action that cannot be read"))
        .ok()
}

/// Joins beginnings and ends.
fn joined(told: Vec<Action>) -> Vec<Action> {
    let mut places = BTreeMap::new();
    let mut actions: Vec<Action> = Vec::new();
    for action in told {
        let key = (action.id.clone(), action.began_ms);
        match places.get(&key) {
            Some(place) if action.ended_ms.is_some() => actions[*place] = action,
            Some(_) => {}
            None => {
                places.insert(key, actions.len());
                actions.push(action);
            }
        }
    }
    actions
}
