//! Two small services that misbehave on request: `stage`, and `back`, which it calls.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use mirror_contract::mirror::changelog::v1 as changelog;
use mirror_contract::mirror::import::v1 as import;
use mirror_contract::mirror::registry::v1 as registry;
use mirror_errors::{Classify, Kind, reject};
use mirror_kit::{Away, Built, Channel, Context, Decl, Need, Service, StartError, Trace};
use serde::{Deserialize, Serialize};
use tonic::{Request, Response, Status};

use changelog::changelog_service_client::ChangelogServiceClient;

/// Calls that run at once in `stage`; as many again wait.
pub(crate) const IN_FLIGHT: usize = 2;

const STAGE: Decl = Decl {
    name: "stage",
    summary: "Does what it is asked, and nothing well.",
    tier: 2,
    needs: &[Need { service: "back", away: Away::Deny }],
    serves: &["mirror.registry.v1.RegistryService", "mirror.import.v1.ImportService"],
    reasons: &["STAGE_REFUSED"],
    max_in_flight: IN_FLIGHT,
    ..Decl::DEFAULT
};
pub(crate) static SERVICE: Service =
    Service { decl: &STAGE, build: |cx| Box::pin(async move { build(&cx) }) };

const BACK_DECL: Decl = Decl {
    name: "back",
    summary: "Says which trace it was called in.",
    serves: &["mirror.changelog.v1.ChangelogService"],
    ..Decl::DEFAULT
};
pub(crate) static BACK: Service = Service {
    decl: &BACK_DECL,
    build: |_| {
        let server = changelog::changelog_service_server::ChangelogServiceServer::new(Back);
        Box::pin(async { Ok(Built::new().serve(server)) })
    },
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    limit: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { limit: 1 }
    }
}

fn build(cx: &Context) -> Result<Built, StartError> {
    let _: Config = cx.config()?;
    let (channel, _) = cx.client("back")?;
    let stage = Stage { cx: cx.clone(), back: ChangelogServiceClient::new(channel) };
    Ok(Built::new()
        .serve(registry::registry_service_server::RegistryServiceServer::new(stage.clone()))
        .serve(import::import_service_server::ImportServiceServer::new(stage)))
}

#[derive(Debug, thiserror::Error)]
#[error("path is refused; ask for something else")]
struct Refused;

impl Classify for Refused {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }

    fn reason(&self) -> &'static str {
        "STAGE_REFUSED"
    }
}

#[derive(Clone)]
struct Stage {
    cx: Context,
    back: ChangelogServiceClient<Channel>,
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl registry::registry_service_server::RegistryService for Stage {
    type WatchServicesStream = Outgoing<registry::WatchServicesResponse>;

    async fn list_services(
        &self,
        _: Request<registry::ListServicesRequest>,
    ) -> Result<Response<registry::ListServicesResponse>, Status> {
        Ok(Response::new(registry::ListServicesResponse::default()))
    }

    async fn get_service(
        &self,
        request: Request<registry::GetServiceRequest>,
    ) -> Result<Response<registry::GetServiceResponse>, Status> {
        let mut service = registry::ServiceRecord::default();
        match request.into_inner().name.as_str() {
            "panic" => panic!("as asked"),
            "forever" => std::future::pending().await,
            // Ends when the test makes this file.
            "gate" => {
                let gate = self.cx.home().root().join("gate");
                while !gate.exists() {
                    self.cx.clock().sleep(Duration::from_millis(2)).await;
                }
            }
            "trace" => {
                service.name = Trace::current().to_string();
                let request = changelog::GetChangelogRequest::default();
                let answer = self.back.clone().get_changelog(request).await?.into_inner();
                service.summary = answer.days.into_iter().map(|d| d.day).collect();
            }
            _ => {}
        }
        Ok(Response::new(registry::GetServiceResponse { service: Some(service) }))
    }

    async fn watch_services(
        &self,
        _: Request<registry::WatchServicesRequest>,
    ) -> Result<Response<Self::WatchServicesStream>, Status> {
        let endless = stream::once(async { Ok(registry::WatchServicesResponse::default()) })
            .chain(stream::pending())
            .boxed();
        Ok(Response::new(Box::pin(self.cx.shutdown().end(endless))))
    }
}

#[tonic::async_trait]
impl import::import_service_server::ImportService for Stage {
    type RunImportStream = Outgoing<import::RunImportResponse>;

    async fn run_import(
        &self,
        request: Request<import::RunImportRequest>,
    ) -> Result<Response<Self::RunImportStream>, Status> {
        let path = request.into_inner().path;
        if path == "refuse" {
            return Err(reject(Refused));
        }
        let first = stream::once(async { Ok(import::RunImportResponse::default()) });
        let rest = stream::once(async move {
            // The first message is on its way by then.
            tokio::task::yield_now().await;
            assert!(path != "panic", "as asked");
            Ok(import::RunImportResponse::default())
        });
        Ok(Response::new(first.chain(rest).boxed()))
    }
}

struct Back;

#[tonic::async_trait]
impl changelog::changelog_service_server::ChangelogService for Back {
    type WatchChangelogStream = Outgoing<changelog::WatchChangelogResponse>;

    async fn get_changelog(
        &self,
        _: Request<changelog::GetChangelogRequest>,
    ) -> Result<Response<changelog::GetChangelogResponse>, Status> {
        let day = changelog::Day { day: Trace::current().to_string(), entries: Vec::new() };
        Ok(Response::new(changelog::GetChangelogResponse { days: vec![day], upto: 0 }))
    }

    async fn watch_changelog(
        &self,
        _: Request<changelog::WatchChangelogRequest>,
    ) -> Result<Response<Self::WatchChangelogStream>, Status> {
        Ok(Response::new(stream::pending().boxed()))
    }
}
