//! The reader: follows the bus, keeps the fold and its snapshot, and tells those who wait.
//!
//! Invariant: what readers see is the fold of all events up to `upto`, and an erased text is gone with the event that
//! says so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirror_client::follow::{Follower, Next, Place};
use mirror_clock::{Clock, Sleep, due};
use mirror_contract::mirror::bus::v1 as bus;
use mirror_contract::mirror::fold::v1::Copy;
use mirror_kit::fold::reached;
use mirror_kit::{Channel, Context, State};
use tokio::sync::watch;

use crate::fact::read;
use crate::fold::Fold;
use crate::store::Store;

/// Events after which a snapshot is due.
const SNAPSHOT_EVENTS: u64 = 2_000;
/// Time without events after which a snapshot is due.
const SNAPSHOT_QUIET: Duration = Duration::from_secs(5);

/// How far the fold is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// Position that the pages reflect.
    pub(crate) upto: u64,
    /// How often the fold was begun anew.
    pub(crate) life: u64,
}

/// The fold, shared between the reader and the calls.
#[derive(Debug)]
pub(crate) struct Shelf {
    fold: Mutex<Fold>,
    progress: watch::Sender<Progress>,
}

/// What the changelog says about itself as a fold.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) store: Store,
}

#[tonic::async_trait]
impl mirror_kit::fold::Fold for Standing {
    fn upto(&self) -> u64 {
        self.shelf.progress.borrow().upto
    }

    fn snapshot(&self) -> u64 {
        self.store.upto()
    }

    async fn reached(&self, redaction: u64) {
        // After an erasure the pages begin anew, so that they only come here once the text is gone from all copies.
        let _ = self.shelf.progress().wait_for(|now| now.upto >= redaction).await.is_ok();
    }

    fn copies(&self, _: u64, events: &[u64]) -> Vec<Copy> {
        events.iter().map(|seq| reached(*seq, "the pages of the changelog and their snapshot")).collect()
    }
}

impl Shelf {
    pub(crate) fn new(fold: Fold) -> Self {
        let progress = watch::channel(Progress { upto: fold.upto(), life: 0 }).0;
        Self { fold: Mutex::new(fold), progress }
    }

    /// Returns the fold as it is.
    pub(crate) fn fold(&self) -> Fold {
        self.fold.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns news of how far the fold is.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Adds events; when one says that a payload was erased which they may quote, begins anew instead and returns false.
    fn add(&self, events: &[bus::Event]) -> bool {
        // Payloads are read before the lock is taken: that is the part that takes time.
        let facts: Vec<_> = events.iter().map(read).collect();
        let mut fold = self.fold.lock().unwrap_or_else(PoisonError::into_inner);
        for (fact, event) in facts.into_iter().zip(events) {
            if !fold.take(event, fact) {
                let erased = fold.erased().clone();
                self.replace(&mut fold, Fold::new(erased));
                return false;
            }
        }
        let upto = fold.upto();
        self.progress.send_if_modified(|now| std::mem::replace(&mut now.upto, upto) != upto);
        true
    }

    /// Begins anew.
    fn reset(&self) {
        let mut fold = self.fold.lock().unwrap_or_else(PoisonError::into_inner);
        self.replace(&mut fold, Fold::default());
    }

    fn replace(&self, fold: &mut Fold, by: Fold) {
        let upto = by.upto();
        *fold = by;
        self.progress.send_modify(|progress| *progress = Progress { upto, life: progress.life + 1 });
    }
}

/// Follows the bus for as long as the service lives.
pub(crate) struct Reader {
    pub(crate) context: Context,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) store: Store,
    follower: Follower,
    clock: Arc<dyn Clock>,
    /// Events since the last snapshot.
    unsaved: u64,
    quiet: Option<Sleep>,
    away: bool,
}

impl Reader {
    pub(crate) fn new(context: Context, bus: Channel, shelf: Arc<Shelf>, store: Store) -> Self {
        let fold = shelf.fold();
        let place = Place { upto: fold.upto(), seq: fold.upto(), leaf: fold.leaf().to_owned() };
        Self {
            follower: Follower::new(bus, place),
            clock: context.clock(),
            context,
            shelf,
            store,
            unsaved: 0,
            quiet: None,
            away: false,
        }
    }

    /// Runs until the service is to stop.
    pub(crate) async fn run(mut self) {
        let shutdown = self.context.shutdown();
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
                Next::Open => self.found(),
                Next::Batch(events) => self.batch(events).await,
                Next::Away(why) => self.lost(&why),
                Next::Elsewhere => {
                    tracing::warn!(
                        "the snapshot is not of this log; it is set aside and the pages are made again"
                    );
                    if let Err(e) = self.store.set_aside() {
                        tracing::warn!(error = %e, "cannot set the snapshot aside");
                    }
                    self.shelf.reset();
                    self.restart();
                }
            }
        }
    }

    async fn batch(&mut self, events: Vec<bus::Event>) {
        self.found();
        if events.is_empty() {
            return;
        }
        self.unsaved += events.len() as u64;
        let shelf = Arc::clone(&self.shelf);
        match tokio::task::spawn_blocking(move || shelf.add(&events)).await {
            Ok(true) => {
                self.quiet = Some(self.clock.sleep(SNAPSHOT_QUIET));
                if self.unsaved >= SNAPSHOT_EVENTS {
                    self.save().await;
                }
            }
            Ok(false) => {
                tracing::info!("a payload was erased; the pages are made again without it");
                if let Err(e) = self.store.forget() {
                    self.context.fatal(format!("cannot remove a snapshot that holds erased text: {e}"));
                }
                self.restart();
            }
            Err(e) => self.context.fatal(format!("the fold failed: {e}")),
        }
    }

    /// Reads again from the first event.
    fn restart(&mut self) {
        self.follower.restart();
        self.unsaved = 0;
        self.quiet = None;
    }

    fn found(&mut self) {
        if std::mem::take(&mut self.away) {
            tracing::info!("the bus is back");
            self.context.state().set(State::Serving, "");
        }
    }

    fn lost(&mut self, why: &str) {
        if !std::mem::replace(&mut self.away, true) {
            tracing::info!(why, "the bus is away");
        }
        let upto = self.shelf.fold().upto();
        let detail = format!("the bus is away; pages reflect the log up to {upto}");
        self.context.state().set(State::Degraded, detail);
    }

    async fn save(&mut self) {
        self.unsaved = 0;
        self.quiet = None;
        let (store, fold) = (self.store.clone(), self.shelf.fold());
        if let Err(e) = tokio::task::spawn_blocking(move || store.save(&fold)).await {
            self.context.fatal(format!("the snapshot failed: {e}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{erasure, event};

    #[test]
    fn an_erased_text_is_gone_with_the_event_that_says_so() {
        let secret = event(1, "local.note", r#"{"text":"secret"}"#);
        let mut gone = event(1, "local.note", "");
        gone.payload_state = bus::PayloadState::Redacted.into();
        let folded = |first: &bus::Event| {
            let shelf = Shelf::new(Fold::default());
            assert!(shelf.add(std::slice::from_ref(&secret)));
            assert!(!shelf.add(&[erasure(2, &[1])]));
            assert_eq!(*shelf.progress().borrow(), Progress { upto: 0, life: 1 });
            assert!(shelf.add(&[first.clone(), erasure(2, &[1])]), "the second reading knows of the erasure");
            assert_eq!(*shelf.progress().borrow(), Progress { upto: 2, life: 1 });
            shelf.fold()
        };
        let after = folded(&gone);
        assert_eq!(folded(&secret), after, "the payload was still there when it was read again");
        assert!(!format!("{after:?}").contains("secret"));

        let late = Shelf::new(Fold::default());
        assert!(late.add(&[gone, erasure(2, &[1])]), "what was read as erased needs no new beginning");
        assert_eq!(late.fold(), after);
    }
}
