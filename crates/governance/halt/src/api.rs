//! The gRPC methods: parse, call, render.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use mirror_contract::mirror::halt::v1 as pb;
use mirror_contract::mirror::halt::v1::halt_service_server::HaltService;
use mirror_errors::reject;
use mirror_kit::Shutdown;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use crate::warden::Warden;
use crate::wire;

/// How long a release waits for the log, twice at most; the contract gives it 30 seconds.
const RELEASE: Duration = Duration::from_secs(5);

/// The service.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) warden: Arc<Warden>,
    pub(crate) shutdown: Shutdown,
}

impl Api {
    fn halt(&self) -> Option<pb::HaltState> {
        Some(self.warden.shown().into())
    }
}

#[tonic::async_trait]
impl HaltService for Api {
    type WatchHaltStream = Pin<Box<dyn Stream<Item = Result<pb::WatchHaltResponse, Status>> + Send>>;

    async fn get_halt(
        &self,
        _: Request<pb::GetHaltRequest>,
    ) -> Result<Response<pb::GetHaltResponse>, Status> {
        Ok(Response::new(pb::GetHaltResponse { halt: self.halt() }))
    }

    async fn watch_halt(
        &self,
        _: Request<pb::WatchHaltRequest>,
    ) -> Result<Response<Self::WatchHaltStream>, Status> {
        let states = WatchStream::new(self.warden.watch());
        let messages = states.map(|shown| Ok(pb::WatchHaltResponse { halt: Some(shown.into()) }));
        Ok(Response::new(Box::pin(self.shutdown.clone().end(messages))))
    }

    async fn engage_halt(
        &self,
        request: Request<pb::EngageHaltRequest>,
    ) -> Result<Response<pb::EngageHaltResponse>, Status> {
        let reason = wire::reason(request.into_inner()).map_err(reject)?;
        let recorded = self.warden.engage(&reason).await.map_err(reject)?;
        Ok(Response::new(pb::EngageHaltResponse { halt: self.halt(), recorded }))
    }

    async fn release_halt(
        &self,
        request: Request<pb::ReleaseHaltRequest>,
    ) -> Result<Response<pb::ReleaseHaltResponse>, Status> {
        let envelope = wire::envelope(request.get_ref()).map_err(reject)?;
        self.warden.release(&envelope, RELEASE).await.map_err(reject)?;
        Ok(Response::new(pb::ReleaseHaltResponse { halt: self.halt() }))
    }
}
