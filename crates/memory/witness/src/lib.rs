//! witness: Has the head of the log signed each minute, and verifies the log in the background.
//!
//! It follows the bus, keeps the right edge of the log's Merkle tree, has the keeper sign its root, and writes the signed
//! checkpoints to `bus/checkpoints/` and the tree to `bus/tiles/`, from which it proves that an event is in the log and
//! that the log only grew. It tells the bus what the keeper's own log says, and reads the whole log again and again with
//! the second reader. It refuses to sign a log that differs from what was signed before, and it believes no signature
//! that does not lead to the device key.
//! Invariant: a checkpoint covers only events that are durable, and is durable itself before anybody is told of it.

mod api;
mod cadence;
mod checkpoint;
mod config;
mod error;
mod follow;
mod health;
mod ingest;
mod keys;
mod notary;
mod notes;
mod outbox;
mod proofs;
mod records;
mod scrub;
mod store;
mod tiles;
mod tree;
mod wire;
mod witness;

#[doc(hidden)]
pub use wire::fuzz_wire;

use std::sync::Arc;
use std::time::Duration;

use mirror_contract::mirror::witness::v1::witness_service_server::WitnessServiceServer;
use mirror_kit::{Away, Built, Context, Criticality, Decl, Need, Primitive, Service, StartError};
use tokio::sync::{mpsc, watch};

use crate::witness::Fold;

/// The declaration.
pub const DECL: Decl = Decl {
    name: "witness",
    summary: "Has the head of the log signed each minute, and verifies the log in the background.",
    primitive: Primitive::Memory,
    tier: 1,
    needs: &[Need { service: "bus", away: Away::Degrade }, Need { service: "keeper", away: Away::Hold }],
    serves: &["mirror.witness.v1.WitnessService"],
    subjects: &["witness"],
    reasons: error::REASONS,
    criticality: Criticality::Important,
    memory_mb: 4,
    ..Decl::DEFAULT
};

/// The service.
pub static SERVICE: Service = Service { decl: &DECL, build: |cx| Box::pin(build(cx)) };

/// Calls for a checkpoint that may wait for their turn.
const CALLS: usize = 16;

async fn build(cx: Context) -> Result<Built, StartError> {
    let config = cx.config::<config::Config>()?.checked()?;
    let ((bus, _), (keeper, _)) = (cx.client("bus")?, cx.client("keeper")?);
    let origin = cx.node().origin.as_str().to_owned();
    let store = store::Store::at(&cx.state_dir()?, &origin);
    let (opening, folder) = (store.clone(), cx.home().bus());
    let opened = tokio::task::spawn_blocking(move || open(&opening, &folder, &origin)).await;
    let opened = opened.unwrap_or_else(|e| Err(std::io::Error::other(e)));
    let (notes, fold, newest) = opened.map_err(|e| {
        StartError::NotServing(format!("cannot use bus/checkpoints: {e}; mend it and restart the service"))
    })?;

    let health = Arc::new(health::Health::new(cx.state().clone()));
    let shared = Arc::new(follow::Shared::new(fold));
    let latest = watch::Sender::new(newest);
    let tiles = tiles::Tiles::at(&cx.home().bus(), cx.node().origin.as_str());
    let tree = tree::Tree::new(tiles, notes.clone(), bus.clone(), shared.fold().size());
    let outbox = outbox::open(&cx, bus.clone(), Arc::clone(&health));
    let scrub = scrub::Parts {
        cx: cx.clone(),
        store: store.clone(),
        notes: notes.clone(),
        health: Arc::clone(&health),
        outbox: outbox.clone(),
        first: Duration::from_secs(config.verify_first_minutes * 60),
        every: Duration::from_secs(config.verify_minutes * 60),
    };
    let desk = scrub::start(scrub, store.verified());
    let peers = (bus.clone(), keeper.clone());
    let ingest =
        ingest::Ingest::new(cx.clone(), peers, Arc::clone(&shared), Arc::clone(&health), outbox.clone());
    cx.tasks().spawn(ingest.run());
    let notary = notary::Notary::new(notary::Parts {
        cx: cx.clone(),
        bus: bus.clone(),
        keeper,
        shared: Arc::clone(&shared),
        tree: Arc::clone(&tree),
        store: store.clone(),
        notes: notes.clone(),
        health: Arc::clone(&health),
        outbox,
        cadence: config.cadence(),
        hold: config.hold(),
        latest: latest.clone(),
    });
    let (calls, waiting) = mpsc::channel(CALLS);
    cx.tasks().spawn(notary.run(waiting));
    let (read, kept) = ((Arc::clone(&shared), Arc::clone(&tree)), (store.clone(), notes.clone()));
    cx.tasks().spawn(follow::Reader::new(cx.clone(), bus, read, kept, health).run());
    let api = api::Api { latest, notes, notary: calls, desk, tree };
    Ok(Built::new().serve(WitnessServiceServer::new(api)).on_drain(move || {
        if let Err(error) = store.save(|| shared.fold().clone()) {
            tracing::warn!(%error, "the snapshot was not saved; the next start reads more of the log");
        }
    }))
}

type Opened = (notes::Notes, Fold, Option<notes::Checkpoint>);

/// Opens what is on disk: the checkpoints, and the fold if it agrees with the newest of them, else an empty one.
fn open(store: &store::Store, bus: &std::path::Path, origin: &str) -> std::io::Result<Opened> {
    let notes = notes::Notes::open(bus, origin)?;
    let newest = notes.newest()?;
    let mut fold = store.load();
    let claim = newest.as_ref().map(|newest| newest.claim);
    // The newest stands for all before it; to read each of them at every start would take long.
    if claim.is_some_and(|claim| fold.agreed() != Some(claim)) && !fold.hold_against(notes.claims()?) {
        tracing::info!("the snapshot is beyond a checkpoint that it does not know; the log is read again");
        fold = Fold::default();
        fold.hold_against(notes.claims()?);
    }
    Ok((notes, fold, newest))
}
