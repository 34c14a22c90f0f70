//! Follows the log: the only writer of the fold.
//!
//! Invariant: the fold moves forward in the order of the log, without gaps, or starts again from its beginning.

use std::time::Duration;

use mirror_client::follow::{Follower, Next};
use mirror_clock::{Sleep, due};
use mirror_contract::millis;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{Event, Filter, GetStatusRequest, PayloadState};
use mirror_kit::{Channel, Context};
use tokio::sync::watch;

use crate::health::Health;
use crate::notify::Change;
use crate::store::{Fold, Store};

/// Positions after which the snapshot is saved, so that a start reads at most as many again.
const SAVE_EVERY: u64 = 10_000;
/// Time without events of its own after which the snapshot is saved.
const SAVE_QUIET: Duration = Duration::from_secs(5);

/// Follows the bus for as long as the service lives.
pub(crate) struct Reader {
    cx: Context,
    bus: BusServiceClient<Channel>,
    follower: Follower,
    fold: watch::Sender<Fold>,
    store: Store,
    health: Health,
    /// Head of the log when the bus was found, until the fold has reached it.
    head: Option<u64>,
    saved: u64,
    quiet: Option<Sleep>,
}

impl Reader {
    pub(crate) fn new(
        cx: &Context,
        bus: Channel,
        fold: watch::Sender<Fold>,
        store: Store,
        health: Health,
    ) -> Self {
        let place = fold.borrow().place.clone();
        let subjects = vec!["notify.>".to_owned(), "bus.redacted".to_owned()];
        let filter = Filter { subjects, ..Filter::default() };
        Self {
            cx: cx.clone(),
            bus: BusServiceClient::new(bus.clone()),
            saved: place.upto,
            follower: Follower::new(bus, place).filtered(filter),
            fold,
            store,
            health,
            head: None,
            quiet: None,
        }
    }

    /// Runs until the service is to stop.
    pub(crate) async fn run(mut self) {
        let shutdown = self.cx.shutdown();
        loop {
            let next = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = due(&mut self.quiet) => {
                    self.save().await;
                    continue;
                }
                next = self.follower.next() => next,
            };
            match next {
                Next::Open => self.opened().await,
                Next::Batch(events) => self.batch(&events).await,
                Next::Away(why) => self.health.bus(Some(why)),
                Next::Elsewhere => {
                    tracing::warn!("the snapshot is not of this log; the cards are read again");
                    self.restart(Fold::default());
                }
            }
        }
    }

    async fn opened(&mut self) {
        self.health.bus(None);
        // A head that cannot be asked for now is asked for when the stream is opened again.
        if let Ok(status) = self.bus.get_status(GetStatusRequest {}).await {
            self.head = Some(status.get_ref().head);
            self.reached();
        }
    }

    /// Says that the fold has caught up, when it has.
    fn reached(&self) {
        let head = self.head;
        self.fold.send_if_modified(|fold| {
            let caught_up = fold.caught_up || head.is_some_and(|head| fold.place.upto >= head);
            std::mem::replace(&mut fold.caught_up, caught_up) != caught_up
        });
    }

    async fn batch(&mut self, events: &[Event]) {
        self.health.bus(None);
        let reflected = self.fold.borrow().erased;
        if let Some(erased) = erasure(events, reflected) {
            tracing::info!("a payload was erased; the cards are read again without it");
            if let Err(error) = self.store.forget() {
                self.cx.fatal(format!("cannot remove a snapshot that may hold erased text: {error}"));
            }
            self.restart(Fold { erased, ..Fold::default() });
            return;
        }
        let place = self.follower.place().clone();
        let upto = place.upto;
        self.fold.send_if_modified(|fold| {
            for event in events {
                if let Some(change) = change_of(event) {
                    let at_ms = event.wall_time.as_ref().and_then(millis).unwrap_or_default();
                    fold.cards.apply(event.seq, at_ms, change);
                }
            }
            fold.place = place;
            // That the log grew by what is none of its business wakes nobody.
            !events.is_empty()
        });
        self.reached();
        if !events.is_empty() {
            self.quiet = Some(self.cx.clock().sleep(SAVE_QUIET));
        }
        if upto >= self.saved + SAVE_EVERY {
            self.save().await;
        }
    }

    /// Reads again from the first event.
    fn restart(&mut self, fold: Fold) {
        self.fold.send_replace(fold);
        self.follower.restart();
        self.saved = 0;
        self.quiet = None;
    }

    async fn save(&mut self) {
        self.quiet = None;
        let (store, fold) = (self.store.clone(), self.fold.borrow().clone());
        self.saved = fold.place.upto;
        match tokio::task::spawn_blocking(move || store.save(&fold)).await {
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
}

/// Returns the position of the last erasure that the fold does not reflect.
///
/// An erased change counts as one that never was. What it had changed is unknown once it is erased, so the fold starts
/// again; erasures are rare.
fn erasure(events: &[Event], reflected: u64) -> Option<u64> {
    let erasures = events.iter().filter(|e| e.subject == "bus.redacted" && e.actor == "svc:bus");
    erasures.map(|e| e.seq).filter(|seq| *seq > reflected).max()
}

/// Returns the change of an event; an erased one, or one of a later build, changes nothing.
fn change_of(event: &Event) -> Option<Change> {
    if event.payload_state() != PayloadState::Present {
        return None;
    }
    let payload = &event.payload;
    let change = match event.subject.as_str() {
        "notify.card" => serde_json::from_slice(payload).map(Change::Put),
        "notify.cleared" => serde_json::from_slice(payload).map(Change::Cleared),
        "notify.delivered" => serde_json::from_slice(payload).map(Change::Delivered),
        "notify.retracted" => serde_json::from_slice(payload).map(Change::Retracted),
        _ => return None,
    };
    change
        .inspect_err(|error| tracing::warn!(seq = event.seq, %error, "skipped a change that cannot be read"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::{Content, Put, Urgency};

    fn event(seq: u64, subject: &str, payload: &str, state: PayloadState) -> Event {
        Event {
            seq,
            subject: subject.to_owned(),
            actor: if subject.starts_with("bus") { "svc:bus" } else { "svc:notify" }.to_owned(),
            payload: payload.to_owned().into(),
            payload_state: state.into(),
            ..Event::default()
        }
    }

    #[test]
    fn changes_are_read_and_erased_ones_count_as_never_made() {
        let card = r#"{"subject":"a","title":"t","body":"b","urgency":"high","by":"svc:pulse"}"#;
        let content = Content { title: "t".into(), body: "b".into(), urgency: Urgency::High };
        let put = Put { subject: "a".into(), content, by: "svc:pulse".into() };
        assert_eq!(change_of(&event(1, "notify.card", card, PayloadState::Present)), Some(Change::Put(put)));
        assert_eq!(change_of(&event(1, "notify.card", "", PayloadState::Redacted)), None);
        assert_eq!(change_of(&event(1, "notify.card", "{}", PayloadState::Present)), None);
        assert_eq!(change_of(&event(1, "notify.later", card, PayloadState::Present)), None);
    }

    #[test]
    fn an_erasure_is_reflected_once() {
        let erased = |seq| event(seq, "bus.redacted", "{}", PayloadState::Present);
        assert_eq!(erasure(&[erased(4), erased(6)], 0), Some(6));
        assert_eq!(erasure(&[erased(4), erased(6)], 6), None);
        let forged = Event { actor: "local".into(), ..erased(9) };
        assert_eq!(erasure(&[forged], 0), None);
    }
}
