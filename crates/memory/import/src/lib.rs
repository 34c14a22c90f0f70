//! Import: transcripts of coding agents become events with provenance, each row once.
//!
//! It refuses to write to its source, to follow symbolic links, and to lose a row: what it cannot read is kept in the
//! quarantine folder with why, and a row of an unknown type is kept as it stands.
//! Invariant: the same row has the same id and the same payload in every import, wherever its file lies and however
//! far it has grown. `docs/IMPORT.md` has the shape of the events.

mod api;
mod claude;
mod codex;
mod config;
mod detect;
mod error;
mod frames;
mod gemini;
mod json;
mod kind;
mod lines;
mod quarantine;
mod reader;
mod report;
mod row;
mod run;
mod transcript;
mod view;
mod walk;
mod wire;

#[doc(hidden)]
pub use wire::fuzz_wire;

use std::sync::Arc;

use mirror_contract::mirror::blobs::v1::blobs_service_client::BlobsServiceClient;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::import::v1::import_service_server::ImportServiceServer;
use mirror_kit::{Away, Built, Context, Criticality, Decl, Need, Primitive, Service, StartError};
use mirror_paths::private_dir;
use tokio::sync::Semaphore;

pub use kind::{Kind, Vendor};
pub use row::{Blob, ImportedRow};
pub use transcript::{BadRow, Item, Limits, Transcript, Want};
pub use view::{EXCERPT_CHARS, RowView, Tokens, summary_fields};
pub use walk::{FILES_LIMIT, Found, Walk, WalkError, walk};

/// The declaration.
pub const DECL: Decl = Decl {
    name: "import",
    summary: "Reads transcripts of coding agents and appends each row to the bus once.",
    primitive: Primitive::Memory,
    tier: 2,
    needs: &[Need { service: "bus", away: Away::Hold }, Need { service: "blobs", away: Away::Hold }],
    serves: &["mirror.import.v1.ImportService"],
    subjects: &["import"],
    reasons: error::REASONS,
    criticality: Criticality::Useful,
    memory_mb: 3,
    ..Decl::DEFAULT
};

/// The service.
pub static SERVICE: Service = Service { decl: &DECL, build: |cx| Box::pin(std::future::ready(build(cx))) };

fn build(cx: Context) -> Result<Built, StartError> {
    let config = cx.config::<config::Config>()?.checked()?;
    let (bus, _) = cx.client("bus")?;
    let (blobs, _) = cx.client("blobs")?;
    let folder = cx.home().quarantine();
    private_dir(&folder).map_err(|error| StartError::failed("make the quarantine folder", error))?;
    let quarantine = quarantine::Folder::open(folder)
        .map_err(|error| StartError::failed("tidy the quarantine folder", error))?;
    let api = api::Api {
        runner: run::Runner {
            bus: BusServiceClient::new(bus),
            blobs: BlobsServiceClient::new(blobs),
            wait: config.wait(),
            quarantine,
            shutdown: cx.shutdown(),
        },
        limits: config.limits(),
        one: Arc::new(Semaphore::new(1)),
        cx,
    };
    Ok(Built::new().serve(ImportServiceServer::new(api)))
}
