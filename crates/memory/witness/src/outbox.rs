//! Events on their way to the bus: appended in order, and again until the bus has them.
//!
//! An id is made of what the event says, so that what was found before is not recorded again after a restart.
//! Invariant: an event leaves the queue when it is stored, or when the bus will never take it, which is logged.

use std::sync::Arc;
use std::time::Duration;

use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{AppendRequest, NewEvent, PayloadType};
use mirror_errors::{Kind, Remote};
use mirror_kit::{Channel, Context};
use mirror_seal::{hex, sha256};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::health::{Health, Part};

/// Most events that wait.
const QUEUE: usize = 256;

/// Pause before the bus is asked again.
const PAUSE: Duration = Duration::from_secs(10);

/// Where events are put.
#[derive(Debug, Clone)]
pub(crate) struct Outbox(mpsc::Sender<NewEvent>);

impl Outbox {
    /// Puts an event; the same payload under the same subject is stored once, ever.
    pub(crate) fn put(&self, subject: &'static str, payload: &impl Serialize) {
        let Ok(payload) = serde_json::to_vec(payload) else { return };
        let digest = sha256(&payload);
        let id = format!("{}-{}", subject.replace('.', "-"), hex(&digest[..16]));
        if self.0.try_send(event(subject, id, payload)).is_err() {
            tracing::warn!(subject, "an event was not recorded: {QUEUE} others wait for the bus");
        }
    }
}

/// Returns an event of the witness.
pub(crate) fn event(subject: &str, id: String, payload: Vec<u8>) -> NewEvent {
    NewEvent {
        subject: subject.to_owned(),
        payload: payload.into(),
        r#type: PayloadType::Json.into(),
        id,
        ..NewEvent::default()
    }
}

/// Returns an outbox, and starts what empties it.
pub(crate) fn open(cx: &Context, bus: Channel, health: Arc<Health>) -> Outbox {
    let (sender, events) = mpsc::channel(QUEUE);
    cx.tasks().spawn(run(cx.clone(), BusServiceClient::new(bus), health, events));
    Outbox(sender)
}

async fn run(
    cx: Context,
    mut bus: BusServiceClient<Channel>,
    health: Arc<Health>,
    mut events: mpsc::Receiver<NewEvent>,
) {
    let shutdown = cx.shutdown();
    while let Some(Some(event)) = shutdown.or(events.recv()).await {
        let request = AppendRequest { event: Some(event), expect: None };
        loop {
            let Some(answer) = shutdown.or(bus.append(request.clone())).await else { return };
            let Err(status) = answer else { break };
            let remote = Remote::from_status(&status);
            if matches!(remote.kind, Kind::Invalid | Kind::Exists | Kind::Denied) {
                tracing::warn!(%remote, "the bus refuses an event of the witness");
                break;
            }
            health.bad(Part::Outbox, format!("an event waits for the bus: {remote}"));
            if !shutdown.sleep(&*cx.clock(), PAUSE).await {
                return;
            }
        }
        health.good(Part::Outbox);
    }
}
