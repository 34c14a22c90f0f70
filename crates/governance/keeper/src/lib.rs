//! keeper: Keeps the private keys, and signs only what its table allows.
//!
//! It refuses to serve when a key could have been read by others, to sign for a caller and a type that its table does
//! not name, and to contradict a checkpoint that it signed. It calls nobody, and hands no private key to anybody.
//! Invariant: each signature and each refusal is in its own chained log before the answer leaves.

mod api;
mod desk;
mod error;
mod keeper;
mod log;
pub mod recovery;
mod ring;
mod wire;

#[doc(hidden)]
pub use log::fuzz_log;
#[doc(hidden)]
pub use wire::fuzz_wire;

use mirror_contract::mirror::keeper::v1::keeper_service_server::KeeperServiceServer;
use mirror_kit::{Binary, Built, Context, Criticality, Decl, Primitive, Service, StartError};

/// Type of the certificate that the device key signs for the key of a purpose.
pub const CERTIFICATE_TYPE: &str = "application/vnd.mirrordna.key.v1+json";

/// The declaration.
pub const DECL: Decl = Decl {
    name: "keeper",
    summary: "Keeps the private keys, and signs only what its table allows.",
    primitive: Primitive::Governance,
    tier: 0,
    serves: &["mirror.keeper.v1.KeeperService"],
    reasons: error::REASONS,
    criticality: Criticality::Important,
    binary: Binary::Keeper,
    memory_mb: 6,
    ..Decl::DEFAULT
};

/// The service.
pub static SERVICE: Service = Service { decl: &DECL, build: |cx| Box::pin(async move { build(&cx) }) };

fn build(cx: &Context) -> Result<Built, StartError> {
    let desk = desk::Desk::open(cx.home(), cx.node(), cx.clock())
        .map_err(|why| StartError::NotServing(format!("{why}; then restart the keeper")))?;
    let api = api::Api::new(desk, cx.clone());
    cx.tasks().spawn(api.clone().record_refusals());
    Ok(Built::new().serve(KeeperServiceServer::new(api)))
}
