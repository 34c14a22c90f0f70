//! What every socket answers besides its service: health, reflection, state and counters.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context as Poller, Poll};

use http::{Request, Response};
use mirror_contract::mirror::kit::v1 as pb;
use tonic::body::Body;
use tonic::service::Routes;

use crate::decl::Decl;
use crate::guard::Shared;
use crate::lease::LeaseInfo;
use crate::run::KIT_SERVICE;
use crate::state::State;

/// Returns reflection of exactly what this socket serves, in both versions that clients speak.
fn reflection(decl: &Decl) -> Result<Routes, tonic_reflection::server::Error> {
    let builder = || {
        let mut builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(mirror_contract::DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Not served, but what the details of errors are decoded with.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("grpc.health.v1.Health")
            .with_service_name(KIT_SERVICE);
        for name in decl.serves {
            builder = builder.with_service_name(*name);
        }
        builder
    };
    Ok(Routes::new(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}

pub(crate) fn merge(base: Routes, own: Routes) -> Routes {
    let router = base.into_axum_router().merge(own.into_axum_router().reset_fallback());
    Routes::from(router)
}

/// Sends a call to the routes that exist by now.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch {
    pub(crate) decl: &'static Decl,
    pub(crate) base: Routes,
    // The decoded contract is a megabyte, and most services are never asked for it.
    pub(crate) reflection: Arc<OnceLock<Option<Routes>>>,
    pub(crate) full: Arc<OnceLock<Routes>>,
}

impl tower::Service<Request<Body>> for Dispatch {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = <Routes as tower::Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Poller<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path().starts_with("/grpc.reflection.") {
            let built = self.reflection.get_or_init(|| {
                let built = reflection(self.decl);
                built.inspect_err(|e| tracing::error!(error = %e, "the contract cannot be reflected")).ok()
            });
            if let Some(reflection) = built {
                return reflection.clone().call(request);
            }
        }
        match self.full.get() {
            Some(full) => full.clone().call(request),
            None => self.base.clone().call(request),
        }
    }
}

pub(crate) struct KitApi {
    pub(crate) shared: Arc<Shared>,
    pub(crate) info: LeaseInfo,
    pub(crate) warnings: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl pb::kit_service_server::KitService for KitApi {
    async fn get_state(
        &self,
        _: tonic::Request<pb::GetStateRequest>,
    ) -> Result<tonic::Response<pb::GetStateResponse>, tonic::Status> {
        use pb::get_state_response::State as Wire;
        let (state, detail) = self.shared.state.get();
        let state = match state {
            State::Starting => Wire::Starting,
            State::Serving => Wire::Serving,
            State::Degraded => Wire::Degraded,
            State::NotServing => Wire::NotServing,
            State::Draining => Wire::Draining,
        };
        Ok(tonic::Response::new(pb::GetStateResponse {
            service: self.shared.decl.name.to_owned(),
            state: state.into(),
            detail,
            build: self.info.build.clone(),
            pid: self.info.pid,
            started: Some(mirror_contract::timestamp(self.info.started_ms)),
            config_warnings: self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }))
    }

    async fn get_metrics(
        &self,
        _: tonic::Request<pb::GetMetricsRequest>,
    ) -> Result<tonic::Response<pb::GetMetricsResponse>, tonic::Status> {
        Ok(tonic::Response::new(pb::GetMetricsResponse { text: self.shared.metrics.render() }))
    }
}
