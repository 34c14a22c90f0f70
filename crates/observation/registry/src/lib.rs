//! The registry: the catalogue joined with what the owner wants and with what runs.
//!
//! It refuses to guess: whether a service runs is read from its lease, and what it does from its own words in it.
//! It changes nothing and calls nobody.
//! Invariant: files are polled only while somebody watches, by one poller for all.

mod api;
mod error;
mod registry;
mod store;
mod watch;
mod wire;

use std::sync::Arc;

use mirror_contract::mirror::registry::v1::registry_service_server::RegistryServiceServer;
use mirror_kit::{Built, Context, Decl, Primitive, Service, StartError};

/// The declaration.
pub const DECL: Decl = Decl {
    name: "registry",
    summary: "Says which services exist, which should run, and which do.",
    primitive: Primitive::Observation,
    tier: 1,
    serves: &["mirror.registry.v1.RegistryService"],
    reasons: error::REASONS,
    memory_mb: 3,
    ..Decl::DEFAULT
};

/// The service.
pub static SERVICE: Service = Service { decl: &DECL, build: |cx| Box::pin(build(cx)) };

#[expect(clippy::unused_async, reason = "the kit awaits every build")]
async fn build(cx: Context) -> Result<Built, StartError> {
    let store =
        store::Store::new(cx.home(), cx.catalogue()).map_err(|e| StartError::NotServing(e.to_string()))?;
    let store = Arc::new(store);
    let scanned = Arc::clone(&store);
    let hub = watch::Hub::new(move || scanned.list(), cx.clock(), cx.tasks().clone(), cx.shutdown());
    Ok(Built::new().serve(RegistryServiceServer::new(api::Api::new(store, hub, cx))))
}
