//! remedy: carries out remedies from a closed catalogue, one at a time, limited, verified and recorded.
//!
//! It refuses what is not in the catalogue, callers other than pulse and the owner's own commands, and to act while it
//! cannot write down what it is about to do. It ends no process but through the supervisor, and never its own.
//! Invariant: each action has its intent on the disk before it, is begun at most once, and what was done is on the log
//! once. The journal is derived from the log, but for what was asked for and not done.

mod api;
mod catalogue;
mod config;
mod desk;
mod error;
mod facts;
mod files;
mod hands;
mod limits;
mod local;
mod publish;
mod remedy;
mod store;
mod wire;

#[doc(hidden)]
pub use wire::fuzz_wire;

use std::sync::Arc;
use std::time::Duration;

use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::remedy::v1::remedy_service_server::RemedyServiceServer;
use mirror_kit::{Away, Built, Context, Criticality, Decl, Need, Primitive, Service, StartError};

/// The declaration.
pub const DECL: Decl = Decl {
    name: "remedy",
    summary: "Carries out remedies from a closed catalogue: rate-limited, verified, recorded.",
    primitive: Primitive::Observation,
    tier: 3,
    needs: &[Need { service: "bus", away: Away::Degrade }, Need { service: "supervisor", away: Away::Deny }],
    serves: &["mirror.remedy.v1.RemedyService"],
    subjects: &["remedy"],
    reasons: error::REASONS,
    criticality: Criticality::Important,
    observes: true,
    ..Decl::DEFAULT
};

/// The service.
pub static SERVICE: Service = Service { decl: &DECL, build: |cx| Box::pin(async move { build(&cx) }) };

/// How often the heartbeat is written.
const BEAT: Duration = Duration::from_secs(30);

fn build(cx: &Context) -> Result<Built, StartError> {
    let config = cx.config::<config::Config>()?;
    let (bus, _) = cx.client("bus")?;
    let (supervisor, _) = cx.client("supervisor")?;
    let hands = hands::Hands::new(cx, supervisor);
    let desk = Arc::new(desk::Desk::open(cx, config, hands)?);
    cx.tasks().spawn(publish::publish(Arc::clone(&desk), BusServiceClient::new(bus)));
    cx.tasks().spawn(beat(cx.clone()));
    Ok(Built::new().serve(RemedyServiceServer::new(api::Api(desk))))
}

/// Writes the time into `run/remedy.beat`, so that others see without a call that this process gets on.
async fn beat(cx: Context) {
    let (clock, path) = (cx.clock(), cx.home().run().join("remedy.beat"));
    loop {
        // A beat that cannot be written is missed by whoever looks for it, which is its purpose.
        let _ = std::fs::write(&path, format!("{}\n", clock.wall_ms()));
        if !cx.shutdown().sleep(&*clock, BEAT).await {
            return;
        }
    }
}
