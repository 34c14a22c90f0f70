//! An idle day of the whole fleet: what it adds to the log. All services in one process, on a clock that the test moves.

#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use mirror_contract::mirror::supervisor::v1 as pb;
use mirror_contract::mirror::supervisor::v1::supervisor_service_server::{
    SupervisorService, SupervisorServiceServer,
};
use mirror_contract::timestamp;
use mirror_kit::{Built, Decl, Service};
use mirror_testkit::{START_MS, Sandbox};
use tonic::{Request, Response, Status};

/// What an idle day may add to the log, in bytes.
const DAY_LIMIT: u64 = 200_000;
/// No longer than the shortest interval at which a service looks around: a longer step would be a sleeping machine.
const STEP: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A supervisor to whom every service runs.
#[derive(Debug)]
struct AllRun;

/// Stands for the process of each service: this one holds all of them, and so more memory than any of them may.
static PROCESS: OnceLock<u32> = OnceLock::new();

/// Ends a process when it is dropped.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn rows() -> Vec<pb::Agent> {
    let services = mirror_cli::APP.services.iter().map(|s| s.decl.name);
    services
        .map(|name| pb::Agent {
            name: name.to_owned(),
            label: format!("dev.mirrordna.{name}"),
            desired: pb::AgentDesired::Running.into(),
            state: pb::AgentState::Running.into(),
            pid: *PROCESS.get().unwrap(),
            started: Some(timestamp(START_MS)),
            starts: 1,
            ..Default::default()
        })
        .collect()
}

#[tonic::async_trait]
impl SupervisorService for AllRun {
    type WatchAgentsStream = Pin<Box<dyn Stream<Item = Result<pb::WatchAgentsResponse, Status>> + Send>>;

    async fn list_agents(
        &self,
        _: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        let build = "test".to_owned();
        Ok(Response::new(pb::ListAgentsResponse { agents: rows(), backend: "up".to_owned(), build }))
    }

    async fn watch_agents(
        &self,
        _: Request<pb::WatchAgentsRequest>,
    ) -> Result<Response<Self::WatchAgentsStream>, Status> {
        let rows = rows().into_iter().map(|agent| Ok(pb::WatchAgentsResponse { agent: Some(agent) }));
        Ok(Response::new(Box::pin(futures::stream::iter(rows).chain(futures::stream::pending()))))
    }

    async fn start_agent(
        &self,
        request: Request<pb::StartAgentRequest>,
    ) -> Result<Response<pb::StartAgentResponse>, Status> {
        unreachable!("an idle fleet has nothing to start: {:?}", request.get_ref())
    }

    async fn stop_agent(
        &self,
        request: Request<pb::StopAgentRequest>,
    ) -> Result<Response<pb::StopAgentResponse>, Status> {
        unreachable!("an idle fleet has nothing to stop: {:?}", request.get_ref())
    }

    async fn restart_agent(
        &self,
        request: Request<pb::RestartAgentRequest>,
    ) -> Result<Response<pb::RestartAgentResponse>, Status> {
        unreachable!("an idle fleet has nothing to restart: {:?}", request.get_ref())
    }

    async fn render_agent(
        &self,
        request: Request<pb::RenderAgentRequest>,
    ) -> Result<Response<pb::RenderAgentResponse>, Status> {
        unreachable!("an idle fleet has nothing to render: {:?}", request.get_ref())
    }
}

static DECL: Decl = Decl {
    name: "supervisor",
    summary: "Says that every service runs.",
    serves: &["mirror.supervisor.v1.SupervisorService"],
    ..Decl::DEFAULT
};
static SUPERVISOR: Service = Service {
    decl: &DECL,
    build: |_| Box::pin(async { Ok(Built::new().serve(SupervisorServiceServer::new(AllRun))) }),
};

/// Returns the bytes of the log's events, without what is filled ahead.
fn bytes(bus: &Path) -> u64 {
    let mut sum = 0;
    for origin in fs::read_dir(bus.join("log")).unwrap().flatten() {
        for file in fs::read_dir(origin.path()).unwrap().flatten() {
            if file.path().extension().is_some_and(|e| e == "seg") {
                let text = fs::read(file.path()).unwrap();
                let end = text.iter().rposition(|b| *b != b'\n').map_or(0, |i| i + 2);
                sum += u64::try_from(end).unwrap();
            }
        }
    }
    sum
}

fn subjects(bus: &Path) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for origin in fs::read_dir(bus.join("log")).unwrap().flatten() {
        for file in fs::read_dir(origin.path()).unwrap().flatten() {
            let text = String::from_utf8_lossy(&fs::read(file.path()).unwrap()).into_owned();
            for subject in
                text.lines().filter_map(|l| l.split_once("\"k\":\"")?.1.split_once('"').map(|(k, _)| k))
            {
                *counts.entry(subject.to_owned()).or_default() += 1;
            }
        }
    }
    counts
}

#[tokio::test]
async fn an_idle_day_adds_less_than_two_hundred_kilobytes() {
    let mut services: Vec<&'static Service> =
        mirror_cli::APP.services.iter().copied().filter(|s| s.decl.name != "supervisor").collect();
    services.push(&SUPERVISOR);
    let process = Guard(Command::new("sleep").arg("3600").spawn().unwrap());
    PROCESS.set(process.0.id()).unwrap();
    let node = Sandbox::with(&services).manual_clock().start().await;
    let settle = async |steps: u32| {
        for _ in 0..steps {
            node.clock().advance(STEP);
            // Everything that is due runs, calls its peers and is answered, in this same thread.
            for _ in 0..64 {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    // The first minutes are a start and not an idle day.
    settle(60).await;
    let before = bytes(&node.home().bus());
    settle(u32::try_from(DAY.as_secs() / STEP.as_secs()).unwrap()).await;
    let added = bytes(&node.home().bus()) - before;
    let counts = subjects(&node.home().bus());
    println!("{added} bytes in 24 hours; the log holds {counts:?}");
    assert!(added < DAY_LIMIT, "{added} bytes in an idle day: {counts:?}");
    node.finish().await;
}
