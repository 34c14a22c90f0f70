//! Follows the log: the only writer of the fold, and of the claims that it is held against.
//!
//! Invariant: the fold moves forward in the order of the log, without gaps, or starts again from its beginning.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_client::follow::{Follower, Next, Place};
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{Event, GetStatusRequest};
use mirror_kit::{Channel, Context};
use mirror_seal::hex;
use tokio::sync::watch;

use crate::health::{Health, Part};
use crate::notes::Notes;
use crate::store::Store;
use crate::tree::Tree;
use crate::wire;
use crate::witness::{Conflict, Fold};

/// Events after which the snapshot is saved, so that a start reads at most as many again.
const SAVE_EVERY: u64 = 50_000;

/// How far the fold is, for those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// Number of events.
    pub(crate) size: u64,
    /// Position of the last event of others.
    pub(crate) foreign: u64,
    /// Whether the log was read to where it ended when it was opened.
    pub(crate) caught_up: bool,
    /// A claim that the log does not bear out.
    pub(crate) conflict: Option<Conflict>,
}

/// The fold, shared between its writer and its readers.
#[derive(Debug)]
pub(crate) struct Shared {
    fold: Mutex<Fold>,
    progress: watch::Sender<Progress>,
}

impl Shared {
    pub(crate) fn new(fold: Fold) -> Self {
        Self { fold: Mutex::new(fold), progress: watch::Sender::new(Progress::default()) }
    }

    /// Returns the fold, locked.
    pub(crate) fn fold(&self) -> MutexGuard<'_, Fold> {
        self.fold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns news of how far the fold is.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Tells how far the fold is; `goal` is where the log ended when it was opened.
    fn publish(&self, goal: Option<u64>) {
        let fold = self.fold();
        let progress = Progress {
            size: fold.size(),
            foreign: fold.foreign(),
            caught_up: goal.is_some_and(|goal| fold.size() >= goal),
            conflict: fold.conflict(),
        };
        drop(fold);
        self.progress.send_if_modified(|now| std::mem::replace(now, progress) != progress);
    }

    /// Forgets a claim that nobody signed.
    pub(crate) fn dismiss(&self, conflict: Conflict) {
        self.fold().dismiss(conflict.claim);
        let next = self.fold().conflict();
        self.progress.send_modify(|now| now.conflict = next);
    }
}

/// Follows the bus for as long as the service lives.
pub(crate) struct Reader {
    cx: Context,
    shared: Arc<Shared>,
    tree: Arc<Tree>,
    store: Store,
    notes: Notes,
    health: Arc<Health>,
    bus: BusServiceClient<Channel>,
    follower: Follower,
    /// Where the log ended when it was opened; none while that is not known.
    goal: Option<u64>,
    saved: u64,
}

impl Reader {
    pub(crate) fn new(
        cx: Context,
        bus: Channel,
        (shared, tree): (Arc<Shared>, Arc<Tree>),
        (store, notes): (Store, Notes),
        health: Arc<Health>,
    ) -> Self {
        let (size, leaf) = {
            let fold = shared.fold();
            (fold.size(), fold.leaf().map(|leaf| hex(&leaf)).unwrap_or_default())
        };
        let follower = Follower::new(bus.clone(), Place { upto: size, seq: size, leaf });
        let bus = BusServiceClient::new(bus);
        Self { cx, shared, tree, store, notes, health, bus, follower, goal: None, saved: size }
    }

    /// Runs until the service is to stop.
    pub(crate) async fn run(mut self) {
        let shutdown = self.cx.shutdown();
        while let Some(next) = shutdown.or(self.follower.next()).await {
            match next {
                Next::Open => {
                    self.goal = None;
                    self.look().await;
                }
                Next::Batch(events) => self.batch(&events).await,
                Next::Away(why) => {
                    self.health.bad(Part::Bus, format!("the bus is away, the head is not signed: {why}"));
                }
                Next::Elsewhere => self.begin_anew().await,
            }
        }
    }

    async fn batch(&mut self, events: &[Event]) {
        self.health.good(Part::Bus);
        if self.goal.is_none() {
            self.look().await;
        }
        let taken: Option<Vec<_>> = events.iter().map(wire::seen).collect();
        let Some(taken) = taken else {
            self.cx.fatal("the bus sent an event whose leaf is no hash");
            return;
        };
        // Before the fold has them: what the fold says is then in the tree, or on its way into it.
        self.tree.take(&taken.iter().map(|seen| seen.leaf).collect::<Vec<_>>()).await;
        let size = {
            let mut fold = self.shared.fold();
            taken.into_iter().for_each(|seen| fold.take(seen));
            fold.size()
        };
        self.shared.publish(self.goal);
        if size >= self.saved + SAVE_EVERY {
            self.saved = size;
            save(&self.store, &self.shared).await;
        }
    }

    /// Finds out where the log ends: a claim of more events than it has is a conflict.
    async fn look(&mut self) {
        let Ok(status) = self.bus.get_status(GetStatusRequest {}).await else { return };
        let status = status.into_inner();
        self.goal = Some(status.head);
        // A damaged log ends before the damage; the bus and the verification say what is lost.
        if status.damage.is_empty() {
            self.shared.fold().ends_at(status.head);
        }
        self.shared.publish(self.goal);
    }

    /// Reads the log from its first event, against all checkpoints.
    async fn begin_anew(&mut self) {
        tracing::warn!("the snapshot is not of this log; it is set aside and the log is read again");
        let (store, notes) = (self.store.clone(), self.notes.clone());
        let claims = tokio::task::spawn_blocking(move || {
            store.set_aside();
            notes.claims()
        });
        let claims = match claims.await {
            Ok(Ok(claims)) => claims,
            Ok(Err(error)) => return self.cx.fatal(format!("the checkpoints cannot be read: {error}")),
            Err(error) => return self.cx.fatal(format!("reading the checkpoints failed: {error}")),
        };
        self.tree.restart().await;
        let mut fold = Fold::default();
        fold.hold_against(claims);
        *self.shared.fold() = fold;
        (self.goal, self.saved) = (None, 0);
        self.shared.publish(None);
        self.follower.restart();
    }
}

/// Saves the fold as it is.
pub(crate) async fn save(store: &Store, shared: &Arc<Shared>) {
    let (store, shared) = (store.clone(), Arc::clone(shared));
    match tokio::task::spawn_blocking(move || store.save(|| shared.fold().clone())).await {
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
