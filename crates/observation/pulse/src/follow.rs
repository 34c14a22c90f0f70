//! Follows the log: the only writer of the fold.
//!
//! Invariant: the fold moves forward in the order of the log, without gaps, or starts again from its beginning.

use std::time::Duration;

use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{Event, Filter, PayloadState, TailRequest, TailResponse};
use mirror_errors::Remote;
use mirror_kit::{Channel, Context, State};
use tokio::sync::watch;
use tonic::Status;

use crate::pulse::{Entries, Put};
use crate::store::Store;

/// Pause before the bus is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// Positions after which the snapshot is saved, so that a start reads at most as many again.
const SAVE_EVERY: u64 = 10_000;

/// Why following ended.
enum End {
    /// The service is to stop.
    Stopped,
    /// The bus is away, or refused.
    Away(String),
    /// The fold must be built anew: it is ahead of the log, or an event it holds was erased.
    Again(Entries),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        let remote = Remote::from_status(&status);
        match remote.reason.as_str() {
            "BUS_POSITION_OUT_OF_RANGE" => Self::Again(Entries::default()),
            _ => Self::Away(remote.to_string()),
        }
    }
}

/// Follows the log until the service is to stop.
pub(crate) async fn follow(
    cx: Context,
    fold: watch::Sender<Entries>,
    store: Store,
    mut bus: BusServiceClient<Channel>,
) {
    loop {
        match tail(&cx, &fold, &store, &mut bus).await {
            End::Stopped => return,
            End::Again(entries) => {
                tracing::info!("the entries are built anew from the log");
                fold.send_replace(entries);
            }
            End::Away(why) => {
                cx.state().set(State::Degraded, format!("the bus is away, entries may be old: {why}"));
                if !cx.shutdown().sleep(&*cx.clock(), PAUSE).await {
                    return;
                }
            }
        }
    }
}

async fn tail(
    cx: &Context,
    fold: &watch::Sender<Entries>,
    store: &Store,
    bus: &mut BusServiceClient<Channel>,
) -> End {
    match try_tail(cx, fold, store, bus).await {
        Ok(end) => end,
        Err(status) => status.into(),
    }
}

async fn try_tail(
    cx: &Context,
    fold: &watch::Sender<Entries>,
    store: &Store,
    bus: &mut BusServiceClient<Channel>,
) -> Result<End, Status> {
    let shutdown = cx.shutdown();
    let filter =
        Filter { subjects: vec!["pulse.>".to_owned(), "bus.redacted".to_owned()], ..Filter::default() };
    let request = TailRequest { from: fold.borrow().upto() + 1, filter: Some(filter) };
    let Some(answer) = shutdown.or(bus.tail(request)).await else { return Ok(End::Stopped) };
    let mut stream = answer?.into_inner();
    cx.state().set(State::Serving, "");
    let mut saved = fold.borrow().upto();
    loop {
        let Some(message) = shutdown.or(stream.message()).await else { return Ok(End::Stopped) };
        let Some(response) = message? else { return Ok(End::Away("it ended the stream".to_owned())) };
        if let Some(again) = take(fold, response) {
            return Ok(End::Again(again));
        }
        let upto = fold.borrow().upto();
        if upto >= saved + SAVE_EVERY {
            saved = upto;
            let entries = fold.borrow().clone();
            save(store.clone(), entries).await;
        }
    }
}

async fn save(store: Store, entries: Entries) {
    match tokio::task::spawn_blocking(move || store.save(&entries)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "the snapshot was not saved; the next start reads more of the log");
        }
        Err(error) => {
            // A save that the end of the service cut off is made again by the drain; a panic is a bug and goes on.
            if let Ok(panic) = error.try_into_panic() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Takes the events of one response; returns the fold to go on with when it must be built anew.
fn take(fold: &watch::Sender<Entries>, response: TailResponse) -> Option<Entries> {
    let mut again = None;
    fold.send_modify(|entries| {
        for event in response.events {
            if event.subject == "bus.redacted" {
                if !entries.reflects_erasure(event.seq) {
                    again = Some(Entries::rebuilt_after(event.seq));
                    return;
                }
            } else if let Some(put) = put_of(&event) {
                entries.apply(event.seq, put);
            }
        }
        entries.skip_to(response.upto);
    });
    again
}

/// Returns the change of an event; an erased one, or one of a later build, changes nothing.
fn put_of(event: &Event) -> Option<Put> {
    if event.subject != "pulse.put" || event.payload_state() != PayloadState::Present {
        return None;
    }
    serde_json::from_slice(&event.payload)
        .inspect_err(|error| tracing::warn!(seq = event.seq, %error, "skipped a change that cannot be read"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, subject: &str, payload: &str, state: PayloadState) -> Event {
        Event {
            seq,
            subject: subject.to_owned(),
            payload: payload.to_owned().into(),
            payload_state: state.into(),
            ..Event::default()
        }
    }

    fn response(events: Vec<Event>, upto: u64) -> TailResponse {
        TailResponse { events, upto }
    }

    #[test]
    fn changes_are_taken_and_erased_ones_count_as_never_made() {
        let fold = watch::Sender::new(Entries::default());
        let events = vec![
            event(1, "pulse.put", r#"{"name":"a","text":"one"}"#, PayloadState::Present),
            event(2, "pulse.put", "", PayloadState::Redacted),
            event(3, "pulse.other", "{}", PayloadState::Present),
        ];
        assert_eq!(take(&fold, response(events, 9)), None);
        assert_eq!(fold.borrow().get("a").unwrap().seq, 1);
        assert_eq!(fold.borrow().upto(), 9);
    }

    #[test]
    fn an_erasure_builds_the_fold_anew_once() {
        let fold = watch::Sender::new(Entries::default());
        let erasure = || vec![event(4, "bus.redacted", "{}", PayloadState::Present)];
        let again = take(&fold, response(erasure(), 4)).unwrap();
        fold.send_replace(again);
        assert_eq!(take(&fold, response(erasure(), 4)), None);
        assert_eq!(fold.borrow().upto(), 4);
    }
}
