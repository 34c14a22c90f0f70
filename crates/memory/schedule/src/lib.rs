//! schedule: Fires durable timers: each occurrence ends in exactly one terminal state.
//!
//! It refuses names and texts beyond their bounds, and a change that the bus did not record.
//! Invariant: the entries are a fold over the events under `schedule`; deleted, they are rebuilt to the same.

mod api;
mod config;
mod error;
mod follow;
mod schedule;
mod store;
mod wire;

use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::schedule::v1::schedule_service_server::ScheduleServiceServer;
use mirror_kit::{Away, Built, Context, Decl, Need, Primitive, Service, StartError};
use tokio::sync::watch;

/// The declaration.
pub const DECL: Decl = Decl {
    name: "schedule",
    summary: "Fires durable timers: each occurrence ends in exactly one terminal state.",
    primitive: Primitive::Memory,
    tier: 1,
    needs: &[Need { service: "bus", away: Away::Hold }],
    serves: &["mirror.schedule.v1.ScheduleService"],
    subjects: &["schedule"],
    reasons: error::REASONS,
    ..Decl::DEFAULT
};

/// The service.
pub static SERVICE: Service = Service { decl: &DECL, build: |cx| Box::pin(async move { build(&cx) }) };

fn build(cx: &Context) -> Result<Built, StartError> {
    let config = cx.config::<config::Config>()?.checked()?;
    let (channel, _) = cx.client("bus")?;
    let bus = BusServiceClient::new(channel);
    let store = store::Store::at(&cx.state_dir()?);
    let fold = watch::Sender::new(store.load());
    cx.tasks().spawn(follow::follow(cx.clone(), fold.clone(), store.clone(), bus.clone()));
    let api = api::Api::new(fold.clone(), bus, config);
    Ok(Built::new().serve(ScheduleServiceServer::new(api)).on_drain(move || {
        if let Err(error) = store.save(&fold.borrow()) {
            tracing::warn!(%error, "the snapshot was not saved; the next start reads more of the log");
        }
    }))
}
