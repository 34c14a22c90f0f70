//! Records changes in the log.

use std::time::Duration;

use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{AppendRequest, NewEvent, PayloadType};
use mirror_kit::{Channel, Trace, hold};
use serde::Serialize;

use crate::error::Error;
use crate::notify::Change;

/// Appends events under `notify`.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    bus: BusServiceClient<Channel>,
    hold: Duration,
}

/// An event that is to be recorded once, however often that is tried.
#[derive(Debug, Clone)]
pub(crate) struct Event(NewEvent);

impl Event {
    /// Returns the event of a change.
    pub(crate) fn of(change: &Change) -> Result<Self, Error> {
        let (subject, payload) = match change {
            Change::Put(put) => ("notify.card", json(put)?),
            Change::Cleared(cleared) => ("notify.cleared", json(cleared)?),
            Change::Delivered(delivered) => ("notify.delivered", json(delivered)?),
            Change::Retracted(retracted) => ("notify.retracted", json(retracted)?),
        };
        Ok(Self(NewEvent {
            subject: subject.to_owned(),
            payload: payload.into(),
            r#type: PayloadType::Json.into(),
            // With an id, an append that is tried again after a lost answer is stored once.
            id: format!("notify-{}", Trace::fresh().to_header()),
            ..NewEvent::default()
        }))
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|e| Error::not_recorded(&e))
}

impl Recorder {
    /// Returns a recorder that waits for a bus that is away for so long.
    pub(crate) fn new(bus: Channel, hold: Duration) -> Self {
        Self { bus: BusServiceClient::new(bus), hold }
    }

    /// Appends an event and returns its position.
    pub(crate) async fn record(&self, event: &Event) -> Result<u64, Error> {
        let request = AppendRequest { event: Some(event.0.clone()), expect: None };
        let append = || async { self.bus.clone().append(request.clone()).await };
        let answer = hold(self.hold, append).await?;
        Ok(answer.into_inner().ack.map_or(0, |ack| ack.seq))
    }
}
