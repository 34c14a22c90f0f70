//! The bus: the durable, hash-chained, human-readable event log that all other state is a fold over.
//!
//! One writer thread takes what waits, writes it at once, syncs once, and only then acknowledges and shows it. The format
//! is `docs/FORMAT.md`. It refuses appends when the log is damaged, the disk reserve is reached, or the caller does not own
//! the subject's prefix; it never retries a failed sync, and it calls no other service.
//! Invariant: what was acknowledged is there after any kill or power cut, or its loss is named.

mod api;
mod bus;
mod cold;
mod config;
mod consume;
mod copy;
mod disk;
mod engine;
mod erase;
mod error;
mod event;
mod forget;
mod generation;
mod line;
mod log;
mod packed;
mod payload;
mod reader;
mod recent;
mod recover;
mod redact;
mod repair;
mod scan;
mod seal;
mod segments;
mod source;
mod status;
mod store;
mod stream;
mod survey;
mod upkeep;
mod wire;
mod writer;

#[doc(hidden)]
pub mod bench;
#[doc(hidden)]
pub mod fuzz;

use std::sync::Arc;

use mirror_contract::mirror::bus::v1 as pb;
use mirror_kit::{Built, Context, Criticality, Decl, Halt, Primitive, Refusal, Service, StartError, State};
use mirror_types::Subject;

pub use config::Config;
pub use disk::{Disk, LogFile, RealDisk};
pub use error::BusError;

use crate::bus::Bus;
use crate::event::{NewEvent, Vocabulary};
use crate::log::Recovery;

/// The declaration of the bus.
pub const DECL: Decl = Decl {
    name: "bus",
    summary: "Keeps the durable, hash-chained event log that all other state is a fold over.",
    primitive: Primitive::Memory,
    tier: 0,
    serves: &["mirror.bus.v1.BusService", "mirror.bus.v1.ConsumerService"],
    subjects: &["bus", "dead"],
    reasons: error::REASONS,
    criticality: Criticality::Vital,
    // An empty one takes 10; the index of millions of ids is what grows, most of all while it is built anew.
    memory_mb: 24,
    max_in_flight: 4096,
    ..Decl::DEFAULT
};

/// The bus.
pub static SERVICE: Service = Service { decl: &DECL, build: |cx| Box::pin(build(cx)) };

async fn build(cx: Context) -> Result<Built, StartError> {
    build_on(cx, Arc::new(RealDisk)).await
}

async fn build_on(cx: Context, disk: Arc<dyn Disk>) -> Result<Built, StartError> {
    let config: Config = cx.config()?;
    let (home, origin, clock) = (cx.home().clone(), cx.node().origin.clone(), cx.clock());
    let (fatal, snapshots) = (cx.clone(), Arc::clone(&disk));
    let opened = tokio::task::spawn_blocking(move || {
        let fatal = move |why| fatal.fatal(why);
        Bus::open(&home.bus(), &origin, &config, disk, clock, fatal)
    });
    let opened = opened.await.map_err(|e| StartError::failed("open the log", e))?;
    let (bus, recovery) = opened.map_err(|e| StartError::failed("open the log", e))?;
    let bus = Arc::new(bus);
    // Before anybody is told of damage, which counts as the first state: calls come in from then on.
    let around = consume::Surroundings {
        time: consume::Steady::new(cx.clock()),
        tasks: cx.tasks().clone(),
        shutdown: cx.shutdown(),
        disk: snapshots,
        dir: cx.home().bus(),
    };
    let log = Arc::clone(&bus);
    let consumers = tokio::task::spawn_blocking(move || consume::Consumers::open(log, around)).await;
    let consumers = consumers.map_err(|e| StartError::failed("read the consumers", e))?;
    let consumers = Arc::new(consumers.map_err(|e| StartError::failed("read the consumers", e))?);
    report(&recovery);
    if let Some(damage) = recovery.damage.first() {
        cx.state().set(State::Degraded, damage.describe());
    } else if let Some(seq) = bus.sealed() {
        cx.state().set(State::Degraded, sealed(seq));
    }
    cx.tasks().spawn(watch_damage(cx.clone(), Arc::clone(&bus)));
    cx.tasks().spawn(upkeep::keep(Arc::clone(&bus), cx.shutdown()));
    if let Some(refusals) = cx.refusals() {
        cx.tasks().spawn(record_refusals(cx.clone(), Arc::clone(&bus), refusals));
    }
    let api = api::Api {
        bus: Arc::clone(&bus),
        vocabulary: Vocabulary::new(cx.catalogue()),
        tasks: cx.tasks().clone(),
        shutdown: cx.shutdown(),
        clock: cx.clock(),
        halt: Arc::new(Halt::new(cx.home(), Some(cx.node().key), cx.clock())),
        state: cx.state().clone(),
    };
    let consume = consume::ConsumeApi(Arc::clone(&consumers));
    let consume = pb::consumer_service_server::ConsumerServiceServer::new(consume);
    let server = pb::bus_service_server::BusServiceServer::new(api);
    Ok(Built::new().serve(server).serve(consume).on_drain(move || {
        consumers.close();
        bus.close();
    }))
}

/// Returns what is said of a log that was ended.
pub(crate) fn sealed(seq: u64) -> String {
    format!("the log was sealed by event {seq} and takes no more events")
}

/// Says what recovery found; the event about it stands in the log already.
fn report(recovery: &Recovery) {
    if recovery.damage.is_empty() && !recovery.is_clean() {
        let (segment, offset, bytes) =
            recovery.torn.as_ref().map_or((0, 0, 0), |t| (t.segment, t.offset, t.bytes));
        let (after, lost) = (recovery.after, recovery.lost);
        tracing::warn!(segment, offset, bytes, after, lost, "recovered from an unclean end");
    }
}

/// Keeps the state in step with damage, found when the log was opened or when somebody reads it.
async fn watch_damage(cx: Context, bus: Arc<Bus>) {
    let mut changes = bus.segments.watch_damage();
    let mut damaged = false;
    loop {
        changes.borrow_and_update();
        let damage = bus.segments.damage();
        if let Some(first) = damage.first() {
            let why = format!("the log is damaged, appends are refused: {}", first.describe());
            tracing::error!(why, ranges = damage.len(), "the log is damaged");
            cx.state().set(State::Degraded, why);
        } else if damaged {
            tracing::info!("the log is whole again, appends are taken");
            match bus.sealed() {
                Some(seq) => cx.state().set(State::Degraded, sealed(seq)),
                None => cx.state().set(State::Serving, ""),
            }
        }
        damaged = !damage.is_empty();
        if !matches!(cx.shutdown().or(changes.changed()).await, Some(Ok(()))) {
            return;
        }
    }
}

async fn own_event(bus: &Bus, subject: &str, payload: String) {
    let Ok(subject) = Subject::parse(subject) else { return };
    if let Err(e) = bus.record(NewEvent::json(subject, payload)).await {
        tracing::warn!(error = %e, "an own event was not recorded");
    }
}

/// Records who was refused at the door; the kit bounds the rate.
async fn record_refusals(cx: Context, bus: Arc<Bus>, mut refusals: tokio::sync::mpsc::Receiver<Refusal>) {
    while let Some(Some(refusal)) = cx.shutdown().or(refusals.recv()).await {
        let payload = serde_json::json!({
            "reason": refusal.reason, "uid": refusal.uid, "pid": refusal.pid, "method": refusal.method,
            "repeated": refusal.repeated,
        });
        own_event(&bus, "bus.refused", payload.to_string()).await;
    }
}
