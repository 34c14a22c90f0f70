//! Statements on their way to the log: kept in a file until the bus has them, each recorded once.
//!
//! The id of an event is made of its envelope, so that a statement that is found again is not recorded again.
//! Invariant: a statement leaves the file only when it is in the log.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{AppendRequest, NewEvent, PayloadType};
use mirror_errors::Remote;
use mirror_kit::{Channel, Context, HaltStatement, hold};
use mirror_seal::{Envelope, hex, sha256};
use tokio::sync::watch;

use crate::halt::Recorded;
use crate::store::{Pending, Store};

/// Most statements that wait; with one a minute, those of four hours.
const LIMIT: usize = 256;
/// How long one attempt holds on.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Pause before the next attempt.
const PAUSE: Duration = Duration::from_secs(1);

/// What waits for the log.
#[derive(Debug)]
pub(crate) struct Outbox {
    store: Store,
    bus: BusServiceClient<Channel>,
    queue: Mutex<Queue>,
    /// How many wait.
    waiting: watch::Sender<usize>,
}

#[derive(Debug)]
struct Queue {
    events: Vec<Pending>,
    /// The last that was recorded, which is put again each time its file is looked at.
    last: String,
    /// Why the bus does not take the first.
    stuck: Option<String>,
}

impl Outbox {
    pub(crate) fn new(store: Store, bus: Channel) -> Self {
        let events = store.load_pending();
        let waiting = watch::Sender::new(events.len());
        let queue = Mutex::new(Queue { events, last: String::new(), stuck: None });
        Self { store, bus: BusServiceClient::new(bus), queue, waiting }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the log has everything.
    pub(crate) fn is_empty(&self) -> bool {
        *self.waiting.borrow() == 0
    }

    /// Returns why the bus does not take what waits.
    pub(crate) fn stuck(&self) -> Option<String> {
        let queue = self.queue();
        let waiting = queue.events.len();
        queue.stuck.as_ref().map(|why| format!("{waiting} statements wait for the log: {why}"))
    }

    /// Hands a statement to the log.
    pub(crate) fn put(
        &self,
        subject: &str,
        statement: &HaltStatement,
        signed: bool,
        envelope: &Envelope,
        keys: Option<Envelope>,
    ) {
        let pending = pending(subject, statement, signed, envelope, keys);
        let mut queue = self.queue();
        if queue.last == pending.id || queue.events.iter().any(|other| other.id == pending.id) {
            return;
        }
        if queue.events.len() >= LIMIT {
            tracing::error!("{LIMIT} statements of the halt wait for the log; the oldest is not recorded");
            queue.events.remove(0);
        }
        queue.events.push(pending);
        self.keep(&queue);
    }

    fn keep(&self, queue: &Queue) {
        if let Err(error) = self.store.save_pending(&queue.events) {
            tracing::warn!(%error, "what waits for the log is only in memory");
        }
        self.waiting.send_replace(queue.events.len());
    }

    /// Waits until the log has everything, at most for `limit`; returns whether it has.
    pub(crate) async fn drained(&self, limit: Duration) -> bool {
        let mut waiting = self.waiting.subscribe();
        let drained = waiting.wait_for(|waiting| *waiting == 0);
        tokio::time::timeout(limit, drained).await.is_ok()
    }

    /// Has the log take a release now, after all that waits.
    pub(crate) async fn record(
        &self,
        subject: &str,
        statement: &HaltStatement,
        envelope: &Envelope,
        keys: Option<Envelope>,
        limit: Duration,
    ) -> Result<(), String> {
        let release = pending(subject, statement, true, envelope, keys);
        let all = async {
            let waiting = self.queue().events.clone();
            for event in waiting.iter().chain([&release]) {
                self.append(event, limit).await?;
                self.done(event);
            }
            Ok(())
        };
        tokio::time::timeout(limit, all).await.map_err(|_| "the bus took too long".to_owned())?
    }

    async fn append(&self, pending: &Pending, limit: Duration) -> Result<(), String> {
        let event = NewEvent {
            subject: pending.subject.clone(),
            payload: serde_json::to_vec(&pending.recorded).map_err(|e| e.to_string())?.into(),
            r#type: PayloadType::Json.into(),
            id: pending.id.clone(),
            ..NewEvent::default()
        };
        let request = AppendRequest { event: Some(event), expect: None };
        let append = || async { self.bus.clone().append(request.clone()).await };
        let refused = match hold(limit, append).await {
            Ok(_) => return Ok(()),
            Err(status) => Remote::from_status(&status),
        };
        // The log has the envelope, with the keys that there were at the time.
        if refused.reason == "BUS_ID_REUSED" { Ok(()) } else { Err(refused.to_string()) }
    }

    fn done(&self, event: &Pending) {
        let mut queue = self.queue();
        queue.stuck = None;
        queue.last.clone_from(&event.id);
        let before = queue.events.len();
        queue.events.retain(|other| other.id != event.id);
        if queue.events.len() < before {
            self.keep(&queue);
        }
    }

    /// Hands over what waits until the service is to stop; `told` is called when the way is blocked or free again.
    pub(crate) async fn run(&self, cx: &Context, told: impl Fn()) {
        let shutdown = cx.shutdown();
        let mut waiting = self.waiting.subscribe();
        while shutdown.or(some(&mut waiting)).await == Some(true) {
            let Some(event) = self.queue().events.first().cloned() else { continue };
            let Some(taken) = shutdown.or(self.append(&event, ATTEMPT)).await else { return };
            match taken {
                Ok(()) => self.done(&event),
                Err(why) => {
                    let first = self.queue().stuck.replace(why.clone()).is_none();
                    if first {
                        tracing::info!(why, "the bus does not take a statement of the halt; it is kept");
                    }
                    if !shutdown.sleep(&*cx.clock(), PAUSE).await {
                        return;
                    }
                }
            }
            told();
        }
    }
}

/// Waits until something waits; returns false when nothing ever will.
async fn some(waiting: &mut watch::Receiver<usize>) -> bool {
    waiting.wait_for(|waiting| *waiting > 0).await.is_ok()
}

fn pending(
    subject: &str,
    statement: &HaltStatement,
    signed: bool,
    envelope: &Envelope,
    keys: Option<Envelope>,
) -> Pending {
    let recorded = Recorded::new(statement, signed, envelope, keys);
    let id = format!("halt-{}", hex(&sha256(envelope.to_json().as_bytes())[..16]));
    Pending { id, subject: subject.to_owned(), recorded }
}
