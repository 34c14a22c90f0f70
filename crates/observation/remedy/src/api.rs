//! The gRPC methods: parse, call, render.

use std::sync::Arc;

use mirror_contract::mirror::remedy::v1 as pb;
use mirror_contract::mirror::remedy::v1::remedy_service_server::RemedyService;
use mirror_contract::timestamp;
use mirror_errors::reject;
use mirror_kit::Peer;
use tonic::{Request, Response, Status};

use crate::desk::Desk;
use crate::wire;

/// The service.
#[derive(Debug)]
pub(crate) struct Api(pub(crate) Arc<Desk>);

#[tonic::async_trait]
impl RemedyService for Api {
    async fn list_remedies(
        &self,
        _: Request<pb::ListRemediesRequest>,
    ) -> Result<Response<pb::ListRemediesResponse>, Status> {
        let observing_until = self.0.observing_until_ms().map(timestamp);
        Ok(Response::new(pb::ListRemediesResponse { remedies: wire::catalogue(), observing_until }))
    }

    async fn run_remedy(
        &self,
        request: Request<pb::RunRemedyRequest>,
    ) -> Result<Response<pb::RunRemedyResponse>, Status> {
        let principal = request.extensions().get::<Peer>().map(|peer| peer.principal.clone());
        let by = wire::caller(principal.as_ref()).map_err(reject)?;
        let cx = self.0.context();
        let ask = wire::ask(request.into_inner(), cx.catalogue(), cx.jobs()).map_err(reject)?;
        let action = self.0.run(ask, by).await.map_err(reject)?;
        Ok(Response::new(pb::RunRemedyResponse { action: Some(action.into()) }))
    }

    async fn list_actions(
        &self,
        request: Request<pb::ListActionsRequest>,
    ) -> Result<Response<pb::ListActionsResponse>, Status> {
        let request = request.into_inner();
        let actions = self.0.newest(wire::limit(request.limit), &request.target);
        Ok(Response::new(pb::ListActionsResponse { actions: actions.into_iter().map(Into::into).collect() }))
    }
}
