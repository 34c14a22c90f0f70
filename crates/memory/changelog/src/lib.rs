//! The changelog: what happened, in words that a person reads, by day and by writer.
//!
//! It answers "what did my agents do last night?" as a fold of the bus: one entry for each session of a coding agent
//! and day, and one for each other writer and subject. It refuses to show text that is erased, withheld, or labelled
//! private, and it never passes on a terminal escape or control character of what others wrote.
//! Invariant: the pages are a function of the log alone; `state/changelog` may be deleted and is made again.

mod api;
mod error;
mod fact;
mod fold;
mod json;
mod moment;
mod page;
mod reader;
mod rows;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod text;
mod wire;

#[doc(hidden)]
pub use wire::fuzz_wire;

use std::sync::Arc;

use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::changelog::v1::changelog_service_server::ChangelogServiceServer;
use mirror_kit::fold::{self as folds, FOLD_SERVICE};
use mirror_kit::{Away, Built, Context, Decl, Need, Primitive, Service, StartError};

pub use error::Error;
pub use fold::{CLOSED_DAYS, DAYS, ENTRIES, FOLD, Fold, MARKS, Page, Query};
pub use page::Entry;

/// The declaration.
pub const DECL: Decl = Decl {
    name: "changelog",
    summary: "The human-readable changelog: what happened, by day and by writer.",
    primitive: Primitive::Memory,
    tier: 1,
    needs: &[Need { service: "bus", away: Away::Degrade }],
    serves: &["mirror.changelog.v1.ChangelogService", FOLD_SERVICE],
    reasons: error::REASONS,
    memory_mb: 4,
    ..Decl::DEFAULT
};

/// The service.
pub static SERVICE: Service = Service { decl: &DECL, build: |context| Box::pin(build(context)) };

async fn build(context: Context) -> Result<Built, StartError> {
    let (bus, _) = context.client("bus")?;
    let store = store::Store::new(&context.state_dir()?, context.node().origin.as_str());
    let loading = store.clone();
    let fold = tokio::task::spawn_blocking(move || loading.load())
        .await
        .map_err(|e| StartError::failed("load the snapshot", e))?;
    let shelf = Arc::new(reader::Shelf::new(fold));
    let reader = reader::Reader::new(context.clone(), bus.clone(), Arc::clone(&shelf), store.clone());
    context.tasks().spawn(reader.run());
    let api = api::Api {
        shelf: Arc::clone(&shelf),
        bus: BusServiceClient::new(bus.clone()),
        clock: context.clock(),
        shutdown: context.shutdown(),
    };
    let standing = Arc::new(reader::Standing { shelf: Arc::clone(&shelf), store: store.clone() });
    let built =
        Built::new().serve(ChangelogServiceServer::new(api)).serve(folds::server(&context, bus, standing));
    Ok(built.on_drain(move || {
        let fold = shelf.fold();
        if fold.upto() > 0 {
            store.save(&fold);
        }
    }))
}
