//! Hands the outbox to the bus, note by note and in order.
//!
//! A note that the bus does not take now is kept and tried again; one that it will never take is given up with an error.
//! Invariant: each note is stored once, whatever is lost on the way, because its id goes with it.

use std::time::Duration;

use mirror_client::follow::Place;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{AppendRequest, NewEvent, PayloadType};
use mirror_errors::{Kind, Remote};
use mirror_kit::{Channel, Shutdown, hold};

use crate::desk::{Desk, Health, Part};
use crate::job::Posted;

/// How long the bus may be away before that is told.
const HOLD: Duration = Duration::from_secs(1);

/// Pause before the bus is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Hands over what there is, until the service is to stop.
pub(crate) async fn flush(desk: Desk, health: Health, bus: BusServiceClient<Channel>, shutdown: Shutdown) {
    let mut view = desk.view();
    loop {
        let Some(Ok(posted)) = shutdown
            .or(async {
                let schedule = view.wait_for(|schedule| !schedule.outbox.is_empty()).await;
                schedule.map(|schedule| schedule.outbox.front().cloned())
            })
            .await
        else {
            return;
        };
        let Some(posted) = posted else { continue };
        let request = match request(&posted) {
            Ok(request) => request,
            Err(error) => {
                give_up(&desk, &posted, &error.to_string()).await;
                continue;
            }
        };
        let append = || async { bus.clone().append(request.clone()).await };
        let Some(answer) = shutdown.or(hold(HOLD, append)).await else { return };
        match answer {
            Ok(answer) => {
                let ack = answer.into_inner().ack.unwrap_or_default();
                let place = Place { upto: ack.seq, seq: ack.seq, leaf: ack.leaf };
                let id = posted.id.clone();
                let taken = desk.change(move |schedule, _| {
                    schedule.acknowledge(&id, Some(place));
                    Ok(())
                });
                // An error means that the disk fails or the service ends; the note is handed over again.
                if taken.await.is_ok() {
                    health.note(Part::Bus, None);
                }
            }
            Err(status) => {
                let remote = Remote::from_status(&status);
                if matches!(remote.kind, Kind::Invalid | Kind::Exists | Kind::Denied) {
                    give_up(&desk, &posted, &remote.to_string()).await;
                    continue;
                }
                let waiting = desk.now().outbox.len();
                let why = format!("the bus is away, and {waiting} records wait for it: {remote}");
                health.note(Part::Bus, Some(why));
                if shutdown.or(tokio::time::sleep(PAUSE)).await.is_none() {
                    return;
                }
            }
        }
    }
}

async fn give_up(desk: &Desk, posted: &Posted, why: &str) {
    tracing::error!(why, subject = posted.note.subject(), "the log will never take a record; it is given up");
    let id = posted.id.clone();
    let given_up = desk.change(move |schedule, _| {
        schedule.acknowledge(&id, None);
        Ok(())
    });
    // An error means that it is tried and given up again.
    let _ = given_up.await.is_ok();
}

fn request(posted: &Posted) -> Result<AppendRequest, serde_json::Error> {
    let event = NewEvent {
        subject: posted.note.subject().to_owned(),
        payload: serde_json::to_vec(&posted.note)?.into(),
        r#type: PayloadType::Json.into(),
        id: posted.id.clone(),
        ..NewEvent::default()
    };
    Ok(AppendRequest { event: Some(event), expect: None })
}
