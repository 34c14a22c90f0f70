//! registry: Says which services exist, which should run, and which do.
//!
//! It refuses to guess: whether a service runs is read from its lease, and what it does from its own words in it.
//! It changes nothing and calls nobody, so that it answers when all else is away.
//! Invariant: files are polled only while somebody watches, by one poller for all.

mod api;
mod config;
mod error;
mod follow;
mod registry;
mod store;
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
pub static SERVICE: Service = Service { decl: &DECL, build: |cx| Box::pin(async move { build(&cx) }) };

fn build(cx: &Context) -> Result<Built, StartError> {
    let config = cx.config::<config::Config>()?.checked()?;
    let store = store::Store::at(cx.home(), cx.catalogue());
    let store = Arc::new(store.map_err(|e| StartError::NotServing(e.to_string()))?);
    let scanned = Arc::clone(&store);
    let scan = move || scanned.list();
    let hub = follow::Hub::new(scan, config.every(), cx.clock(), cx.tasks().clone(), cx.shutdown());
    Ok(Built::new().serve(RegistryServiceServer::new(api::Api::new(store, hub, cx.shutdown()))))
}
