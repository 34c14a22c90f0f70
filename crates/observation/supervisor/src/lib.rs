//! supervisor: Starts, stops and watches the processes of the fleet.
//!
//! Behind one contract stands what supervises this machine: the engine of `mirror up`, launchd, or systemd. What is
//! wanted of an agent is a file in `desired/`, written before anything is done about it.
//! It refuses to restart what is to be stopped, and to take an agent away: a stop is a wish, never a removal.
//! Invariant: whatever dies in between, the next start of anything follows the last wish that was written.

mod api;
pub mod backend;
pub mod engine;
mod error;
pub mod install;
pub mod launchd;
pub mod managed;
pub mod manager;
pub mod rows;
mod supervisor;
pub mod system;
pub mod systemd;
pub mod tool;
mod wire;

use std::sync::Arc;

use mirror_contract::mirror::supervisor::v1::supervisor_service_server::SupervisorServiceServer;
use mirror_kit::{Built, Context, Criticality, Decl, Primitive, Service, StartError};

pub use backend::{AgentRow, AgentState, Backend, Rows};
pub use error::Error;

/// The declaration.
pub const DECL: Decl = Decl {
    name: "supervisor",
    summary: "Starts, stops and watches the processes of the fleet.",
    primitive: Primitive::Observation,
    tier: 1,
    serves: &["mirror.supervisor.v1.SupervisorService"],
    reasons: error::REASONS,
    criticality: Criticality::Important,
    memory_mb: 8,
    ..Decl::DEFAULT
};

/// The service.
pub static SERVICE: Service = Service { decl: &DECL, build: |cx| Box::pin(build(cx)) };

/// What supervises where the process of the service does so itself; given to the service by `mirror up`.
#[derive(Debug)]
pub struct Foreground(pub Arc<dyn Backend>);

async fn build(cx: Context) -> Result<Built, StartError> {
    let backend = match cx.given::<Foreground>() {
        Some(foreground) => Arc::clone(&foreground.0),
        None => system(&cx)?,
    };
    backend.begin().await.map_err(|e| StartError::NotServing(e.to_string()))?;
    let api = api::Api::new(backend, cx.build(), cx.shutdown());
    Ok(Built::new().serve(SupervisorServiceServer::new(api)))
}

/// Returns what supervises this machine when no fleet runs in the foreground, and has it watched.
fn system(cx: &Context) -> Result<Arc<dyn Backend>, StartError> {
    let system = system::System::of(cx.home(), cx.clock(), cx.catalogue(), cx.jobs())
        .map_err(|e| StartError::NotServing(e.to_string()))?;
    let managed = managed::ManagerBackend::new(system.manager, cx.home().clone(), cx.clock(), system.plan);
    let managed = Arc::new(managed);
    let (watched, shutdown) = (Arc::clone(&managed), cx.shutdown());
    cx.tasks().spawn(async move { watched.attend(&shutdown).await });
    Ok(managed)
}
