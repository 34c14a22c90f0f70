//! The gRPC methods: check, ask what supervises, render.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use mirror_contract::mirror::supervisor::v1 as pb;
use mirror_contract::mirror::supervisor::v1::supervisor_service_server::SupervisorService;
use mirror_errors::{Classify as _, reject};
use mirror_kit::Shutdown;
use mirror_kit::desired::Wish;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::backend::{AgentRow, Backend, Rows};
use crate::error::Error;
use crate::supervisor::{changed, check_reason};

/// The service.
#[derive(Debug)]
pub(crate) struct Api {
    backend: Arc<dyn Backend>,
    build: &'static str,
    shutdown: Shutdown,
}

impl Api {
    pub(crate) fn new(backend: Arc<dyn Backend>, build: &'static str, shutdown: Shutdown) -> Self {
        Self { backend, build, shutdown }
    }

    /// Checks that an agent exists, so that nothing is written down for a name that is a slip.
    fn known(&self, name: &str) -> Result<(), Status> {
        let rows = self.backend.rows();
        let known = rows.borrow().iter().any(|row| row.name == name);
        if known { Ok(()) } else { Err(reject(Error::unknown(name))) }
    }
}

/// Returns the status of an error; what supervises should not fail, so that is logged.
fn answer(error: Error) -> Status {
    if let Error::Backend { what, why } = &error {
        tracing::info!(reason = error.reason(), what, why, "an order was not followed");
    }
    reject(error)
}

#[tonic::async_trait]
impl SupervisorService for Api {
    type WatchAgentsStream = Pin<Box<dyn Stream<Item = Result<pb::WatchAgentsResponse, Status>> + Send>>;

    async fn list_agents(
        &self,
        _: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        self.backend.refresh().await.map_err(answer)?;
        let rows = self.backend.rows().borrow().clone();
        Ok(Response::new(pb::ListAgentsResponse {
            agents: rows.iter().cloned().map(Into::into).collect(),
            backend: self.backend.name().to_owned(),
            build: self.build.to_owned(),
        }))
    }

    async fn watch_agents(
        &self,
        _: Request<pb::WatchAgentsRequest>,
    ) -> Result<Response<Self::WatchAgentsStream>, Status> {
        self.backend.refresh().await.map_err(answer)?;
        let agents =
            watch(self.backend.rows()).map(|row| Ok(pb::WatchAgentsResponse { agent: Some(row.into()) }));
        Ok(Response::new(Box::pin(self.shutdown.clone().end(agents))))
    }

    async fn start_agent(
        &self,
        request: Request<pb::StartAgentRequest>,
    ) -> Result<Response<pb::StartAgentResponse>, Status> {
        let name = request.into_inner().name;
        self.known(&name)?;
        let row = self.backend.start(&name).await.map_err(answer)?;
        Ok(Response::new(pb::StartAgentResponse { agent: Some(row.into()) }))
    }

    async fn stop_agent(
        &self,
        request: Request<pb::StopAgentRequest>,
    ) -> Result<Response<pb::StopAgentResponse>, Status> {
        let pb::StopAgentRequest { name, reason, quarantine } = request.into_inner();
        self.known(&name)?;
        check_reason(&reason, quarantine).map_err(reject)?;
        let wish = if quarantine { Wish::Quarantined } else { Wish::Stopped };
        let row = self.backend.stop(&name, wish, reason.trim()).await.map_err(answer)?;
        Ok(Response::new(pb::StopAgentResponse { agent: Some(row.into()) }))
    }

    async fn restart_agent(
        &self,
        request: Request<pb::RestartAgentRequest>,
    ) -> Result<Response<pb::RestartAgentResponse>, Status> {
        let pb::RestartAgentRequest { name, kill } = request.into_inner();
        self.known(&name)?;
        let row = self.backend.restart(&name, kill).await.map_err(answer)?;
        Ok(Response::new(pb::RestartAgentResponse { agent: Some(row.into()) }))
    }

    async fn render_agent(
        &self,
        request: Request<pb::RenderAgentRequest>,
    ) -> Result<Response<pb::RenderAgentResponse>, Status> {
        let name = request.into_inner().name;
        self.known(&name)?;
        let (changed, row) = self.backend.render(&name).await.map_err(answer)?;
        Ok(Response::new(pb::RenderAgentResponse { changed, agent: Some(row.into()) }))
    }
}

/// Returns every agent once, and then each again when it has changed; one that changed twice meanwhile is told once.
fn watch(mut rows: watch::Receiver<Rows>) -> impl Stream<Item = AgentRow> + Unpin {
    rows.mark_changed();
    let watcher = (rows, Rows::default(), VecDeque::new());
    Box::pin(stream::unfold(watcher, |(mut rows, mut told, mut pending)| async move {
        loop {
            if let Some(row) = pending.pop_front() {
                return Some((row, (rows, told, pending)));
            }
            // An error means that what supervises is gone, and this process with it.
            rows.changed().await.ok()?;
            let now = rows.borrow_and_update().clone();
            pending.extend(changed(&told, &now));
            told = now;
        }
    }))
}
