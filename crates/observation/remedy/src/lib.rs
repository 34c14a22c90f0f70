//! remedy: Carries out remedies from a closed catalogue: rate-limited, verified, recorded.
//!
//! It refuses names and texts beyond their bounds, and a change that the bus did not record.
//! Invariant: the entries are a fold over the events under `remedy`; deleted, they are rebuilt to the same.

mod api;
mod config;
mod error;
mod follow;
mod remedy;
mod store;
mod wire;

use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::remedy::v1::remedy_service_server::RemedyServiceServer;
use mirror_kit::{Away, Built, Context, Decl, Need, Primitive, Service, StartError};
use tokio::sync::watch;

/// The declaration.
pub const DECL: Decl = Decl {
    name: "remedy",
    summary: "Carries out remedies from a closed catalogue: rate-limited, verified, recorded.",
    primitive: Primitive::Observation,
    tier: 3,
    needs: &[Need { service: "bus", away: Away::Hold }],
    serves: &["mirror.remedy.v1.RemedyService"],
    subjects: &["remedy"],
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
    Ok(Built::new().serve(RemedyServiceServer::new(api)).on_drain(move || {
        if let Err(error) = store.save(&fold.borrow()) {
            tracing::warn!(%error, "the snapshot was not saved; the next start reads more of the log");
        }
    }))
}
