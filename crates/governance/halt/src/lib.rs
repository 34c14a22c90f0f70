//! halt: Keeps the kill switch: engaging needs nothing, releasing needs the owner's proof.
//!
//! The halt itself is the file that every service reads, so it holds without this service. It refuses a release that the
//! owner's key did not sign for this epoch, and one that the log cannot record; it never frees by itself. Files that were
//! removed, changed or put back are replaced by an engagement of a newer epoch.
//! Events: `halt.engaged` and `halt.released`, each with the whole envelope and the keys to verify it by.
//! Invariant: once the log proves an epoch, no older statement frees.

mod api;
mod error;
mod follow;
mod halt;
mod outbox;
mod store;
mod warden;
mod watch;
mod wire;

#[doc(hidden)]
pub use wire::fuzz_wire;

use std::sync::Arc;

use mirror_contract::mirror::halt::v1::halt_service_server::HaltServiceServer;
use mirror_kit::{Away, Built, Context, Criticality, Decl, Need, Primitive, Service, StartError};

/// The declaration.
pub const DECL: Decl = Decl {
    name: "halt",
    summary: "Keeps the kill switch: engaging needs nothing, releasing needs the owner's proof.",
    primitive: Primitive::Governance,
    tier: 1,
    needs: &[Need { service: "bus", away: Away::Hold }, Need { service: "keeper", away: Away::Degrade }],
    serves: &["mirror.halt.v1.HaltService"],
    subjects: &["halt"],
    reasons: error::REASONS,
    criticality: Criticality::Important,
    ..Decl::DEFAULT
};

/// The service.
pub static SERVICE: Service = Service { decl: &DECL, build: |cx| Box::pin(async move { build(&cx) }) };

fn build(cx: &Context) -> Result<Built, StartError> {
    let (bus, _) = cx.client("bus")?;
    let (keeper, _) = cx.client("keeper")?;
    let store = store::Store::at(&cx.home().halt(), &cx.state_dir()?, cx.node().origin.as_str());
    let fold = store.load_fold();
    // What the log proved before is known before the log can be read, so that no old file frees in the meantime.
    let told =
        tokio::sync::watch::Sender::new(follow::Told { proven: fold.proven, ..follow::Told::default() });
    let outbox = Arc::new(outbox::Outbox::new(store.clone(), bus.clone()));
    let warden =
        warden::Warden::new(cx.clone(), store.clone(), keeper, told.subscribe(), Arc::clone(&outbox));
    let warden = Arc::new(warden);
    cx.tasks().spawn(watch::run(cx.clone(), Arc::clone(&warden), told.subscribe()));
    cx.tasks().spawn(follow::follow(cx.clone(), bus, store, fold, told));
    let (sender, teller) = (cx.clone(), Arc::clone(&warden));
    cx.tasks().spawn(async move { outbox.run(&sender, || teller.tell()).await });
    Ok(Built::new().serve(HaltServiceServer::new(api::Api { warden, shutdown: cx.shutdown() })))
}
