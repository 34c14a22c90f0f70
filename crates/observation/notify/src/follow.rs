//! Follows the log: the only writer of the fold.
//!
//! Invariant: the fold moves forward in the order of the log, without gaps, or starts again from its beginning.

use std::time::Duration;

use mirror_client::follow::{Follower, Next};
use mirror_clock::{Sleep, due};
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{Event, Filter, GetStatusRequest};
use mirror_kit::fold::REDACTED;
use mirror_kit::{Channel, Context};
use tokio::sync::watch;

use crate::health::Health;
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
        let subjects = vec!["notify.>".to_owned(), REDACTED.to_owned()];
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
        let place = self.follower.place().clone();
        let upto = place.upto;
        let was_stale = self.fold.borrow().stale;
        self.fold.send_if_modified(|fold| {
            events.iter().for_each(|event| fold.take(event));
            fold.place = place;
            // That the log grew by what is none of its business wakes nobody.
            !events.is_empty()
        });
        self.reached();
        if self.fold.borrow().stale {
            self.forget(was_stale);
            return;
        }
        if !events.is_empty() {
            self.quiet = Some(self.cx.clock().sleep(SAVE_QUIET));
        }
        if upto >= self.saved + SAVE_EVERY {
            self.save().await;
        }
    }

    /// Begins anew, once all erasures up to the head are known: otherwise each of them would be a beginning.
    fn forget(&mut self, was_stale: bool) {
        if !was_stale && let Err(error) = self.store.forget() {
            self.cx.fatal(format!("cannot remove a snapshot that may hold erased text: {error}"));
        }
        let fold = self.fold.borrow();
        let erased = fold.caught_up.then(|| fold.erased.clone());
        drop(fold);
        if let Some(erased) = erased {
            tracing::info!("a payload was erased; the cards are read again without it");
            self.restart(Fold { erased, ..Fold::default() });
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
        let fold = self.fold.borrow().clone();
        self.saved = fold.place.upto;
        self.store.save_apart(fold).await;
    }
}
