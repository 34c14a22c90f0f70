//! Follows the log: the only writer of the names, and the only one that deletes blobs.
//!
//! Invariant: a blob is deleted only when the log was read to its end, and before that is told to the log; so a crash
//! anywhere deletes nothing that an event names, and leaves nothing undone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mirror_client::follow::{Follower, Next, Place};
use mirror_clock::{Sleep, due};
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{AppendRequest, Event, GetStatusRequest, NewEvent, PayloadType};
use mirror_contract::mirror::fold::v1::Copy;
use mirror_errors::{Chain, Remote};
use mirror_kit::{Channel, Context, SnapshotFile, SnapshotForm, StartError};
use tokio::sync::watch;

use crate::api::blocking;
use crate::blob::Digest;
use crate::refs::{ERASED, Record, Refs};
use crate::store::Store;

/// The largest state takes a third of the limit.
const FORM: SnapshotForm = SnapshotForm { name: "snapshot.json", fold: 1, limit: 64 << 20 };
/// Positions after which the snapshot is saved, so that a start reads at most as many again.
const SAVE_EVERY: u64 = 10_000;
/// Time without a name or an erasure after which the snapshot is saved.
const SAVE_QUIET: Duration = Duration::from_secs(5);
/// Time after which what could not be deleted or told is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// The names, and where in the log they stand.
#[derive(Debug, Clone, Default)]
struct Fold {
    refs: Refs,
    place: Place,
}

/// The names, shared between the reader and the calls.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    fold: Arc<watch::Sender<Fold>>,
    file: SnapshotFile,
}

impl Names {
    /// Returns the names that were saved last, or none.
    pub(crate) fn load(cx: &Context) -> Result<Self, StartError> {
        let file = SnapshotFile::new(&cx.state_dir()?, cx.node().origin.as_str(), FORM);
        let fold = file.load().loaded().map(|(refs, place)| Fold { refs, place }).unwrap_or_default();
        Ok(Self { fold: Arc::new(watch::Sender::new(fold)), file })
    }

    fn state(&self) -> (Place, Refs) {
        let Fold { refs, place } = self.fold.borrow().clone();
        (place, refs)
    }

    /// Saves the names as they are.
    pub(crate) fn save(&self) {
        self.file.keep(|| self.state());
    }
}

#[tonic::async_trait]
impl mirror_kit::fold::Fold for Names {
    fn upto(&self) -> u64 {
        self.fold.borrow().place.upto
    }

    fn snapshot(&self) -> u64 {
        self.file.upto()
    }

    async fn reached(&self, redaction: u64) {
        let _ = self.fold.subscribe().wait_for(|fold| fold.refs.is_done(redaction)).await.is_ok();
    }

    fn copies(&self, redaction: u64, _: &[u64]) -> Vec<Copy> {
        self.fold.borrow().refs.copies(redaction)
    }
}

/// Follows the bus for as long as the service lives.
pub(crate) struct Reader {
    cx: Context,
    bus: BusServiceClient<Channel>,
    follower: Follower,
    names: Names,
    store: Store,
    /// Head of the log when the bus was found: before it is reached, a later event may name a blob too.
    head: Option<u64>,
    /// Erasures that the log was told of, and has not handed out yet.
    told: BTreeSet<u64>,
    saved: u64,
    quiet: Option<Sleep>,
    again: Option<Sleep>,
}

impl Reader {
    pub(crate) fn new(cx: &Context, bus: Channel, names: Names, store: Store) -> Self {
        let place = names.fold.borrow().place.clone();
        Self {
            cx: cx.clone(),
            bus: BusServiceClient::new(bus.clone()),
            saved: place.upto,
            follower: Follower::new(bus, place),
            names,
            store,
            head: None,
            told: BTreeSet::new(),
            quiet: None,
            again: None,
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
                () = due(&mut self.again) => {
                    self.again = None;
                    self.erase().await;
                    continue;
                }
                next = self.follower.next() => next,
            };
            match next {
                Next::Open => self.opened().await,
                Next::Batch(events) => self.batch(&events).await,
                // What is stored needs no bus; an erasure is followed when it is back.
                Next::Away(why) => tracing::debug!(why, "the bus is away"),
                Next::Elsewhere => {
                    tracing::warn!("the snapshot is not of this log; the names of blobs are read again");
                    self.names.fold.send_replace(Fold::default());
                    self.follower.restart();
                    (self.head, self.saved) = (None, 0);
                    self.told.clear();
                }
            }
        }
    }

    async fn opened(&mut self) {
        if let Ok(status) = self.bus.get_status(GetStatusRequest {}).await {
            self.head = Some(status.get_ref().head);
            self.erase().await;
        }
    }

    async fn batch(&mut self, events: &[Event]) {
        let place = self.follower.place().clone();
        let upto = place.upto;
        let mut news = false;
        self.names.fold.send_if_modified(|fold| {
            for event in events {
                news |= fold.refs.take(event);
            }
            fold.place = place;
            news
        });
        if news {
            self.quiet = Some(self.cx.clock().sleep(SAVE_QUIET));
        }
        if upto >= self.saved + SAVE_EVERY {
            self.save().await;
        }
        if self.head.is_none() {
            self.opened().await;
        } else {
            self.erase().await;
        }
    }

    /// Deletes what is to be deleted and tells the log; what fails is tried again.
    async fn erase(&mut self) {
        if self.again.is_some() || self.plans().is_empty() {
            return;
        }
        // What was appended meanwhile may name a blob of them.
        let Ok(status) = self.bus.get_status(GetStatusRequest {}).await else { return };
        self.head = Some(status.get_ref().head);
        let plans = self.plans();
        for (record, digests) in plans {
            let store = self.store.clone();
            let count = digests.len();
            let erased = blocking(move || digests.into_iter().try_for_each(|digest| store.erase(digest)));
            let why = match erased.await {
                Ok(()) => self.tell(&record).await.err(),
                Err(error) => Some(Chain(&error).to_string()),
            };
            let redaction = record.redaction;
            match why {
                None => {
                    self.told.insert(redaction);
                    tracing::info!(redaction, count, "deleted the blobs of erased events");
                }
                Some(why) => {
                    tracing::warn!(
                        redaction,
                        why,
                        "cannot delete the blobs of erased events, or say so; it is tried again"
                    );
                    self.again = Some(self.cx.clock().sleep(AGAIN));
                    return;
                }
            }
        }
    }

    /// Returns what is to be done for erasures, once all names are known up to the head.
    fn plans(&self) -> Vec<(Record, BTreeSet<Digest>)> {
        let fold = self.names.fold.borrow();
        if self.head.is_none_or(|head| fold.place.upto < head) {
            return Vec::new();
        }
        let due = fold.refs.pending().filter(|redaction| !self.told.contains(redaction));
        due.map(|redaction| fold.refs.plan(redaction)).collect()
    }

    async fn tell(&mut self, record: &Record) -> Result<(), String> {
        let event = NewEvent {
            subject: ERASED.to_owned(),
            payload: serde_json::to_vec(record).map_err(|e| e.to_string())?.into(),
            r#type: PayloadType::Json.into(),
            // An erasure has one outcome, however often it is told.
            id: format!("blobs-erased-{}", record.redaction),
            ..NewEvent::default()
        };
        let request = AppendRequest { event: Some(event), expect: None };
        let told = self.bus.append(request).await;
        told.map(|_| ()).map_err(|status| Remote::from_status(&status).to_string())
    }

    async fn save(&mut self) {
        self.quiet = None;
        self.saved = self.names.fold.borrow().place.upto;
        let names = self.names.clone();
        self.names.file.keep_apart(move || names.state()).await;
    }
}
