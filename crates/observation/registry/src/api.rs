//! The gRPC methods: parse, call, render.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, TryStreamExt as _};
use mirror_contract::mirror::registry::v1 as pb;
use mirror_contract::mirror::registry::v1::registry_service_server::RegistryService;
use mirror_errors::{Chain, Classify as _, reject};
use mirror_kit::Shutdown;
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::follow::Hub;
use crate::store::Store;

/// The service.
#[derive(Debug)]
pub(crate) struct Api {
    store: Arc<Store>,
    hub: Hub,
    shutdown: Shutdown,
}

impl Api {
    pub(crate) fn new(store: Arc<Store>, hub: Hub, shutdown: Shutdown) -> Self {
        Self { store, hub, shutdown }
    }
}

/// Returns the status of an error; what the owner must mend is logged with its chain.
fn answer(error: Error) -> Status {
    if matches!(error, Error::Storage { .. }) {
        tracing::warn!(reason = error.reason(), error = %Chain(&error), "a service cannot be looked at");
    }
    reject(error)
}

#[tonic::async_trait]
impl RegistryService for Api {
    type WatchServicesStream = Pin<Box<dyn Stream<Item = Result<pb::WatchServicesResponse, Status>> + Send>>;

    async fn list_services(
        &self,
        _: Request<pb::ListServicesRequest>,
    ) -> Result<Response<pb::ListServicesResponse>, Status> {
        let records = self.hub.refresh().await.map_err(answer)?;
        let services = records.iter().cloned().map(Into::into).collect();
        Ok(Response::new(pb::ListServicesResponse { services }))
    }

    async fn get_service(
        &self,
        request: Request<pb::GetServiceRequest>,
    ) -> Result<Response<pb::GetServiceResponse>, Status> {
        // Two small files: sooner read than handed to another thread.
        let record = self.store.get(&request.into_inner().name).map_err(answer)?;
        Ok(Response::new(pb::GetServiceResponse { service: Some(record.into()) }))
    }

    async fn watch_services(
        &self,
        _: Request<pb::WatchServicesRequest>,
    ) -> Result<Response<Self::WatchServicesStream>, Status> {
        let records = self.hub.watch().await.map_err(answer)?;
        let messages = records
            .map_ok(|record| pb::WatchServicesResponse { service: Some(record.into()) })
            .map_err(answer);
        Ok(Response::new(Box::pin(self.shutdown.clone().end(messages))))
    }
}
