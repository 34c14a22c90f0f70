//! The stage of the tests: a supervisor that does what it is told to, or not, and a service `apple` to heal.

#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mirror_contract::mirror::bus::v1 as bus;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::remedy::v1 as pb;
use mirror_contract::mirror::remedy::v1::remedy_service_client::RemedyServiceClient;
use mirror_contract::mirror::supervisor::v1 as sv;
use mirror_contract::mirror::supervisor::v1::supervisor_service_server::{
    SupervisorService, SupervisorServiceServer,
};
use mirror_contract::timestamp;
use mirror_errors::{Classify, Kind, Remote, reject};
use mirror_kit::{Built, Channel, Context, Decl, Principal, Service, StartError, State};
use mirror_paths::Home;
use mirror_remedy::SERVICE;
use mirror_testkit::{Node, START_MS, Sandbox};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// Pid of a process that is none.
pub(crate) const OLD: u32 = 4_000_000_000;
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

const SUPERVISOR: Decl = Decl {
    name: "supervisor",
    summary: "Plays the supervisor.",
    tier: 1,
    serves: &["mirror.supervisor.v1.SupervisorService"],
    ..Decl::DEFAULT
};
static SUPERVISOR_SERVICE: Service =
    Service { decl: &SUPERVISOR, build: |cx| Box::pin(async move { supervisor(&cx) }) };

// All services of a test are one process, whose memory is none of theirs.
const APPLE: Decl =
    Decl { name: "apple", summary: "Is healed.", tier: 1, memory_mb: 100_000, ..Decl::DEFAULT };
static APPLE_SERVICE: Service = Service { decl: &APPLE, build: |cx| Box::pin(async move { apple(&cx) }) };

/// What the supervisor does with an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Obeys,
    Nods,
    Refuses,
    Hangs,
}

/// What the supervisor knows.
#[derive(Debug)]
pub(crate) struct World {
    agents: Mutex<BTreeMap<String, sv::Agent>>,
    calls: Mutex<Vec<String>>,
    effect: Mutex<Effect>,
    apple: watch::Sender<(State, String)>,
    /// Whether the supervisor says how things stand, or lets callers wait.
    gate: watch::Sender<bool>,
}

impl World {
    /// Changes the row of an agent.
    pub(crate) fn agent(&self, name: &str, change: impl FnOnce(&mut sv::Agent)) {
        change(self.agents.lock().unwrap().get_mut(name).unwrap());
    }

    /// Takes the process of `apple` away.
    pub(crate) fn down(&self, state: sv::AgentState) {
        self.agent("apple", |a| {
            (a.pid, a.started) = (0, None);
            a.set_state(state);
        });
    }

    pub(crate) fn says(&self, state: State, why: &str) {
        self.apple.send_replace((state, why.to_owned()));
    }

    pub(crate) fn effect(&self, effect: Effect) {
        *self.effect.lock().unwrap() = effect;
    }

    /// Lets callers of the supervisor wait, or not.
    pub(crate) fn gate(&self, open: bool) {
        self.gate.send_replace(open);
    }

    /// Returns whether a caller waits.
    pub(crate) fn waits(&self) -> bool {
        self.gate.receiver_count() > 0
    }

    /// Returns the orders so far, and forgets them.
    pub(crate) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

fn apple(cx: &Context) -> Result<Built, StartError> {
    let world = cx.given::<World>().unwrap();
    let (mut said, state, shutdown) = (world.apple.subscribe(), cx.state().clone(), cx.shutdown());
    cx.tasks().spawn(async move {
        loop {
            let (now, why) = said.borrow_and_update().clone();
            state.set(now, why);
            if !matches!(shutdown.or(said.changed()).await, Some(Ok(()))) {
                return;
            }
        }
    });
    Ok(Built::new())
}

fn supervisor(cx: &Context) -> Result<Built, StartError> {
    let fake = Fake { world: cx.given::<World>().unwrap(), cx: cx.clone() };
    Ok(Built::new().serve(SupervisorServiceServer::new(fake)))
}

struct Fake {
    world: Arc<World>,
    cx: Context,
}

#[derive(Debug, thiserror::Error)]
#[error("launchctl said no")]
struct Refused;

impl Classify for Refused {
    fn kind(&self) -> Kind {
        Kind::Precondition
    }
    fn reason(&self) -> &'static str {
        "SUPERVISOR_BACKEND_FAILED"
    }
}

impl Fake {
    async fn order(
        &self,
        call: String,
        name: &str,
        change: impl FnOnce(&mut sv::Agent),
    ) -> Result<(), Status> {
        self.world.calls.lock().unwrap().push(call);
        let effect = *self.world.effect.lock().unwrap();
        match effect {
            Effect::Obeys => self.world.agent(name, change),
            Effect::Nods => {}
            Effect::Refuses => return Err(reject(Refused)),
            Effect::Hangs => std::future::pending().await,
        }
        Ok(())
    }

    /// Gives an agent a process that serves.
    fn run(&self, agent: &mut sv::Agent) {
        agent.pid = std::process::id();
        agent.started = Some(timestamp(self.cx.clock().wall_ms() + 1));
        agent.set_state(sv::AgentState::Running);
        touch(&self.cx.home().socket(&agent.name).unwrap());
        if agent.name == "apple" {
            self.world.says(State::Serving, "");
        }
    }
}

/// Makes an empty file where a socket would be.
pub(crate) fn touch(path: &std::path::Path) {
    std::fs::write(path, "").unwrap();
}

#[tonic::async_trait]
impl SupervisorService for Fake {
    type WatchAgentsStream = tokio_stream::Empty<Result<sv::WatchAgentsResponse, Status>>;

    async fn list_agents(
        &self,
        _: Request<sv::ListAgentsRequest>,
    ) -> Result<Response<sv::ListAgentsResponse>, Status> {
        let mut gate = self.world.gate.subscribe();
        gate.wait_for(|open| *open).await.unwrap();
        let agents = self.world.agents.lock().unwrap().values().cloned().collect();
        Ok(Response::new(sv::ListAgentsResponse { agents, ..Default::default() }))
    }

    async fn watch_agents(
        &self,
        _: Request<sv::WatchAgentsRequest>,
    ) -> Result<Response<Self::WatchAgentsStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn start_agent(
        &self,
        request: Request<sv::StartAgentRequest>,
    ) -> Result<Response<sv::StartAgentResponse>, Status> {
        let name = request.into_inner().name;
        self.order(format!("start {name}"), &name, |a| self.run(a)).await?;
        Ok(Response::new(sv::StartAgentResponse::default()))
    }

    async fn stop_agent(
        &self,
        request: Request<sv::StopAgentRequest>,
    ) -> Result<Response<sv::StopAgentResponse>, Status> {
        let sv::StopAgentRequest { name, reason, quarantine } = request.into_inner();
        let stop = |a: &mut sv::Agent| {
            (a.pid, a.started) = (0, None);
            a.set_state(sv::AgentState::Idle);
            a.set_desired(sv::AgentDesired::Quarantined);
        };
        self.order(format!("stop {name} quarantine={quarantine} {reason}"), &name, stop).await?;
        Ok(Response::new(sv::StopAgentResponse::default()))
    }

    async fn restart_agent(
        &self,
        request: Request<sv::RestartAgentRequest>,
    ) -> Result<Response<sv::RestartAgentResponse>, Status> {
        let sv::RestartAgentRequest { name, kill } = request.into_inner();
        self.order(format!("restart {name} kill={kill}"), &name, |a| self.run(a)).await?;
        Ok(Response::new(sv::RestartAgentResponse::default()))
    }

    async fn render_agent(
        &self,
        request: Request<sv::RenderAgentRequest>,
    ) -> Result<Response<sv::RenderAgentResponse>, Status> {
        let name = request.into_inner().name;
        let render = |a: &mut sv::Agent| {
            a.problem.clear();
            self.run(a);
        };
        self.order(format!("render {name}"), &name, render).await?;
        Ok(Response::new(sv::RenderAgentResponse::default()))
    }
}

fn row(name: &str) -> (String, sv::Agent) {
    let agent = sv::Agent {
        name: name.to_owned(),
        desired: sv::AgentDesired::Running.into(),
        state: sv::AgentState::Running.into(),
        pid: OLD,
        started: Some(timestamp(START_MS - 3_600_000)),
        starts: 1,
        ..sv::Agent::default()
    };
    (name.to_owned(), agent)
}

/// Starts a fleet in which all is well, under a manual clock.
pub(crate) async fn start() -> (Node, Arc<World>) {
    start_with("").await
}

pub(crate) async fn start_with(config: &str) -> (Node, Arc<World>) {
    let names = ["bus", "supervisor", "apple", "remedy"];
    let world = Arc::new(World {
        agents: Mutex::new(names.map(row).into()),
        calls: Mutex::default(),
        effect: Mutex::new(Effect::Obeys),
        apple: watch::channel((State::Serving, String::new())).0,
        gate: watch::channel(true).0,
    });
    let services = [&mirror_bus::SERVICE, &SUPERVISOR_SERVICE, &APPLE_SERVICE, &SERVICE];
    let node = Sandbox::with(&services).manual_clock().config(config).given(Arc::clone(&world)).start().await;
    mend_sockets(node.home());
    node.wait("the log was read back", async || {
        let journal = node.home().state("remedy").join("journal");
        match std::fs::read_to_string(journal) {
            Ok(text) if text.contains("rebuilt") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    (node, world)
}

/// Puts a file where each service's socket would be.
pub(crate) fn mend_sockets(home: &Home) {
    for name in ["bus", "supervisor", "apple", "remedy"] {
        touch(&home.socket(name).unwrap());
    }
}

pub(crate) fn client(node: &Node) -> RemedyServiceClient<Channel> {
    RemedyServiceClient::new(node.channel_as(Principal::Service("pulse".into()), "remedy"))
}

pub(crate) fn request(id: &str, remedy: &str, target: &str) -> pb::RunRemedyRequest {
    pb::RunRemedyRequest {
        id: id.to_owned(),
        remedy: remedy.to_owned(),
        target: target.to_owned(),
        cause: "it looks ill".to_owned(),
    }
}

/// Asks for a remedy and moves the clock until the answer comes.
pub(crate) async fn run(node: &Node, id: &str, remedy: &str, target: &str) -> Result<pb::Action, Remote> {
    let mut client = client(node);
    let call = client.run_remedy(request(id, remedy, target));
    tokio::pin!(call);
    loop {
        tokio::select! {
            biased;
            answer = &mut call => {
                let answer = answer.map_err(|status| Remote::from_status(&status))?;
                return Ok(answer.into_inner().action.unwrap());
            }
            () = tokio::time::sleep(Duration::from_millis(5)) => node.clock().advance(Duration::from_millis(500)),
        }
    }
}

/// Asks for a remedy and checks what came of it; returns the detail.
#[track_caller]
pub(crate) fn check(answer: Result<pb::Action, Remote>, outcome: pb::Outcome) -> String {
    let action = answer.unwrap();
    assert_eq!(action.outcome(), outcome, "{action:?}");
    assert!(action.ended.is_some() || outcome == pb::Outcome::Running);
    action.detail
}

#[track_caller]
pub(crate) fn refused(answer: Result<pb::Action, Remote>, kind: Kind, reason: &str) -> Remote {
    let error = answer.expect_err("it is refused");
    assert_eq!((error.kind, error.reason.as_str()), (kind, reason), "{error}");
    error
}

/// Returns all actions, newest first.
pub(crate) async fn actions(node: &Node) -> Vec<pb::Action> {
    let request = pb::ListActionsRequest { limit: 256, ..Default::default() };
    client(node).list_actions(request).await.unwrap().into_inner().actions
}

/// Returns the events of remedies on the bus, "subject id outcome" each.
pub(crate) async fn events(node: &Node) -> Vec<String> {
    let filter = bus::Filter { subjects: vec!["remedy.>".to_owned()], ..Default::default() };
    let request = bus::ReadRequest { filter: Some(filter), ..Default::default() };
    let Ok(stream) = BusServiceClient::new(node.channel("bus")).read(request).await else {
        return Vec::new();
    };
    let mut stream = stream.into_inner();
    let mut told = Vec::new();
    while let Ok(Some(response)) = stream.message().await {
        for event in response.events {
            let action: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
            let text = |key: &str| action[key].as_str().unwrap().to_owned();
            told.push(format!("{} {} {}", event.subject, text("id"), text("outcome")));
        }
    }
    told
}

/// Waits until the bus has exactly these events, moving the clock.
pub(crate) async fn wait_for_events(node: &Node, expected: &[&str]) {
    node.wait("the bus has the events", async || {
        node.clock().advance(Duration::from_secs(1));
        let told = events(node).await;
        if told == expected { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
}

/// Makes a log file of a size.
pub(crate) fn log_file(node: &Node, name: &str, bytes: u64) {
    let file = std::fs::File::create(node.home().log().join(name)).unwrap();
    file.set_len(bytes).unwrap();
}

/// Leaves a socket that nobody listens on.
#[expect(clippy::disallowed_methods, reason = "a socket of a dead service is what is wanted")]
pub(crate) fn stale_socket(node: &Node) {
    let path = node.home().socket("apple").unwrap();
    let _ = std::fs::remove_file(&path);
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
}

/// Returns until when it only observes.
pub(crate) async fn observing(node: &Node) -> Option<u64> {
    let answer = client(node).list_remedies(pb::ListRemediesRequest {}).await.unwrap().into_inner();
    answer.observing_until.as_ref().and_then(mirror_contract::millis)
}
