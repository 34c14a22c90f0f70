//! Blobs: immutable content that is too large for an event, named by its BLAKE3 digest.
//!
//! It refuses content other than the caller expected, content over the limit, and content that would eat the reserve
//! of the disk.
//! A blob is deleted only when the owner has all events erased that name it; what became of the blobs of an erasure is
//! told by the event `blobs.erased` (JSON: `v`, `redaction`, `events` of `seq` and `became`).
//! Invariant: a name under `blobs/` is given only to synced content with that digest, and nothing damaged is deleted.

mod api;
mod blob;
mod config;
mod error;
mod follow;
mod refs;
mod store;
mod wire;

#[doc(hidden)]
pub use wire::fuzz_wire;

use std::sync::Arc;

use mirror_contract::mirror::blobs::v1::blobs_service_server::BlobsServiceServer;
use mirror_kit::fold::{self as folds, FOLD_SERVICE};
use mirror_kit::{Away, Built, Context, Criticality, Decl, Need, Primitive, Service, StartError};

/// The declaration.
pub const DECL: Decl = Decl {
    name: "blobs",
    summary: "Stores and returns immutable content, named by its BLAKE3 digest.",
    primitive: Primitive::Memory,
    tier: 1,
    needs: &[Need { service: "bus", away: Away::Degrade }],
    serves: &["mirror.blobs.v1.BlobsService", FOLD_SERVICE],
    subjects: &["blobs"],
    reasons: error::REASONS,
    criticality: Criticality::Important,
    memory_mb: 4,
    // A call may hold a window of unread chunks.
    max_in_flight: 64,
    ..Decl::DEFAULT
};

/// The service.
pub static SERVICE: Service = Service { decl: &DECL, build: |cx| Box::pin(build(cx)) };

/// Largest message that is decoded: twice the largest chunk, so that one a little too long is refused in words.
const MESSAGE_LIMIT: usize = 2 * wire::CHUNK_LIMIT;

async fn build(cx: Context) -> Result<Built, StartError> {
    let rules = cx.config::<config::Config>()?.rules().map_err(StartError::NotServing)?;
    let home = cx.home().clone();
    let (store, leftovers) = api::blocking(move || store::Store::open(&home, rules.limit, rules.reserve))
        .await
        .map_err(|e| StartError::failed("open the store", e))?;
    if leftovers > 0 {
        tracing::info!(leftovers, "removed what interrupted uploads left behind");
    }
    let (bus, _) = cx.client("bus")?;
    let names = follow::Names::load(&cx)?;
    cx.tasks().spawn(follow::Reader::new(&cx, bus.clone(), names.clone(), store.clone()).run());
    let standing = folds::server(&cx, bus, Arc::new(names.clone()));
    let api = api::Api::new(store, &rules, cx);
    let built = Built::new()
        .serve(BlobsServiceServer::new(api).max_decoding_message_size(MESSAGE_LIMIT))
        .serve(standing);
    Ok(built.on_drain(move || names.save()))
}
