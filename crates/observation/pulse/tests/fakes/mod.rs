//! Fakes of the peers and a few services to watch; the test says what they answer.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirror_clock::{Clock as _, ManualClock};
use mirror_contract::mirror::notify::v1 as notify;
use mirror_contract::mirror::notify::v1::notify_service_server::{NotifyService, NotifyServiceServer};
use mirror_contract::mirror::remedy::v1 as remedy;
use mirror_contract::mirror::remedy::v1::remedy_service_server::{RemedyService, RemedyServiceServer};
use mirror_contract::mirror::supervisor::v1 as supervisor;
use mirror_contract::mirror::supervisor::v1::supervisor_service_server::{
    SupervisorService, SupervisorServiceServer,
};
use mirror_contract::timestamp;
use mirror_kit::{Away, Built, Context, Decl, Need, Service, Shutdown, StartError};
use tokio::sync::broadcast;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

const BUS: &[Need] = &[Need { service: "bus", away: Away::Degrade }];

const fn decl(name: &'static str, tier: u8, needs: &'static [Need], serves: &'static [&'static str]) -> Decl {
    Decl { name, summary: "Is a fake.", tier, needs, serves, ..Decl::DEFAULT }
}

const SUPERVISOR_DECL: Decl = decl("supervisor", 1, &[], &["mirror.supervisor.v1.SupervisorService"]);
const NOTIFY_DECL: Decl = decl("notify", 1, BUS, &["mirror.notify.v1.NotifyService"]);
const REMEDY_DECL: Decl = decl("remedy", 3, BUS, &["mirror.remedy.v1.RemedyService"]);
const LEAF_DECL: Decl = decl("leaf", 2, BUS, &[]);
const OTHER_DECL: Decl = decl("other", 2, BUS, &[]);

pub(crate) static SUPERVISOR: Service = Service {
    decl: &SUPERVISOR_DECL,
    build: |cx| Box::pin(async move { Ok(Built::new().serve(SupervisorServiceServer::new(Fake::of(&cx)?))) }),
};
pub(crate) static NOTIFY: Service = Service {
    decl: &NOTIFY_DECL,
    build: |cx| Box::pin(async move { Ok(Built::new().serve(NotifyServiceServer::new(Fake::of(&cx)?))) }),
};
pub(crate) static REMEDY: Service = Service {
    decl: &REMEDY_DECL,
    build: |cx| Box::pin(async move { Ok(Built::new().serve(RemedyServiceServer::new(Fake::of(&cx)?))) }),
};
pub(crate) static LEAF: Service =
    Service { decl: &LEAF_DECL, build: |cx| Box::pin(async move { leaf(&cx) }) };
pub(crate) static OTHER: Service =
    Service { decl: &OTHER_DECL, build: |cx| Box::pin(async move { leaf(&cx) }) };

fn leaf(cx: &Context) -> Result<Built, StartError> {
    match Fake::of(cx)?.fleet.state().refusals.get(cx.decl().name) {
        Some(why) => Err(StartError::NotServing(why.clone())),
        None => Ok(Built::new()),
    }
}

/// What the fakes have in common, and the test with them.
pub(crate) struct Fleet {
    state: Mutex<State>,
    news: broadcast::Sender<supervisor::Agent>,
}

#[derive(Default)]
struct State {
    agents: BTreeMap<String, supervisor::Agent>,
    refusals: BTreeMap<String, String>,
    asked: Vec<remedy::RunRemedyRequest>,
    done: BTreeSet<String>,
    held: bool,
    cards: BTreeMap<String, String>,
}

impl Fleet {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), news: broadcast::channel(256).0 })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the supervisor run these agents since long ago.
    pub(crate) fn know(&self, names: &[&str]) {
        for name in names {
            self.put(name, |agent| {
                agent.set_desired(supervisor::AgentDesired::Running);
                agent.set_state(supervisor::AgentState::Running);
                agent.pid = std::process::id();
                agent.started = Some(timestamp(mirror_testkit::START_MS - 3_600_000));
            });
        }
    }

    /// Changes a row of the supervisor's.
    pub(crate) fn put(&self, name: &str, change: impl FnOnce(&mut supervisor::Agent)) {
        let mut state = self.state();
        let agent = state.agents.entry(name.to_owned()).or_default();
        agent.name = name.to_owned();
        change(agent);
        // Nobody watches yet at first.
        let _ = self.news.send(agent.clone());
    }

    /// A process ended by a signal, and is started again at launchd's floor.
    pub(crate) fn crashed(&self, name: &str, clock: &ManualClock) {
        self.put(name, |agent| {
            agent.set_state(supervisor::AgentState::Throttled);
            agent.last_exit = "SIGKILL".to_owned();
            agent.last_ended = Some(timestamp(clock.wall_ms()));
            agent.next_start = Some(timestamp(clock.wall_ms() + 10_000));
            agent.pid = 0;
        });
    }

    /// A process was started.
    pub(crate) fn started(&self, name: &str, clock: &ManualClock) {
        self.put(name, |agent| {
            agent.set_state(supervisor::AgentState::Running);
            agent.set_desired(supervisor::AgentDesired::Running);
            agent.started = Some(timestamp(clock.wall_ms()));
            agent.next_start = None;
            agent.pid = std::process::id();
            agent.starts += 1;
        });
    }

    /// Makes a leaf not serve from its next start; an empty text makes it serve.
    pub(crate) fn refuse(&self, name: &str, why: &str) {
        if why.is_empty() {
            self.state().refusals.remove(name);
        } else {
            self.state().refusals.insert(name.to_owned(), why.to_owned());
        }
    }

    /// Keeps the answers of the service remedy back.
    pub(crate) fn hold_answers(&self, held: bool) {
        self.state().held = held;
    }

    pub(crate) fn asked(&self) -> Vec<remedy::RunRemedyRequest> {
        self.state().asked.clone()
    }

    /// Returns how many actions were begun.
    pub(crate) fn acts(&self) -> usize {
        self.state().done.len()
    }

    pub(crate) fn cards(&self) -> BTreeMap<String, String> {
        self.state().cards.clone()
    }
}

struct Fake {
    fleet: Arc<Fleet>,
    shutdown: Shutdown,
}

impl Fake {
    fn of(cx: &Context) -> Result<Self, StartError> {
        let fleet = cx.given().ok_or_else(|| StartError::failed("find the fleet", "the test gave none"))?;
        Ok(Self { fleet, shutdown: cx.shutdown() })
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl SupervisorService for Fake {
    type WatchAgentsStream =
        Pin<Box<dyn Stream<Item = Result<supervisor::WatchAgentsResponse, Status>> + Send>>;

    async fn list_agents(
        &self,
        _: Request<supervisor::ListAgentsRequest>,
    ) -> Answer<supervisor::ListAgentsResponse> {
        let agents = self.fleet.state().agents.values().cloned().collect();
        Ok(Response::new(supervisor::ListAgentsResponse { agents, ..Default::default() }))
    }

    async fn watch_agents(
        &self,
        _: Request<supervisor::WatchAgentsRequest>,
    ) -> Answer<Self::WatchAgentsStream> {
        let news = tokio_stream::wrappers::BroadcastStream::new(self.fleet.news.subscribe());
        let now: Vec<supervisor::Agent> = self.fleet.state().agents.values().cloned().collect();
        let agents = tokio_stream::iter(now).chain(news.filter_map(Result::ok));
        let agents = agents.map(|agent| Ok(supervisor::WatchAgentsResponse { agent: Some(agent) }));
        Ok(Response::new(Box::pin(self.shutdown.end(Box::pin(agents)))))
    }

    async fn start_agent(
        &self,
        _: Request<supervisor::StartAgentRequest>,
    ) -> Answer<supervisor::StartAgentResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn stop_agent(
        &self,
        _: Request<supervisor::StopAgentRequest>,
    ) -> Answer<supervisor::StopAgentResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn restart_agent(
        &self,
        _: Request<supervisor::RestartAgentRequest>,
    ) -> Answer<supervisor::RestartAgentResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn render_agent(
        &self,
        _: Request<supervisor::RenderAgentRequest>,
    ) -> Answer<supervisor::RenderAgentResponse> {
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl RemedyService for Fake {
    async fn list_remedies(
        &self,
        _: Request<remedy::ListRemediesRequest>,
    ) -> Answer<remedy::ListRemediesResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn run_remedy(
        &self,
        request: Request<remedy::RunRemedyRequest>,
    ) -> Answer<remedy::RunRemedyResponse> {
        let request = request.into_inner();
        {
            let mut state = self.fleet.state();
            state.asked.push(request.clone());
            state.done.insert(request.id.clone());
        }
        while self.fleet.state().held {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let mut action = remedy::Action {
            id: request.id,
            remedy: request.remedy,
            target: request.target,
            detail: "it serves".to_owned(),
            ..remedy::Action::default()
        };
        action.set_outcome(remedy::Outcome::Healed);
        Ok(Response::new(remedy::RunRemedyResponse { action: Some(action) }))
    }

    async fn list_actions(
        &self,
        _: Request<remedy::ListActionsRequest>,
    ) -> Answer<remedy::ListActionsResponse> {
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl NotifyService for Fake {
    async fn put_card(&self, request: Request<notify::PutCardRequest>) -> Answer<notify::PutCardResponse> {
        let card = request.into_inner().card.unwrap_or_default();
        self.fleet.state().cards.insert(card.subject, card.body);
        Ok(Response::new(notify::PutCardResponse { changed: true }))
    }

    async fn delete_card(
        &self,
        request: Request<notify::DeleteCardRequest>,
    ) -> Answer<notify::DeleteCardResponse> {
        let deleted = self.fleet.state().cards.remove(&request.into_inner().subject).is_some();
        Ok(Response::new(notify::DeleteCardResponse { deleted }))
    }

    async fn list_cards(&self, _: Request<notify::ListCardsRequest>) -> Answer<notify::ListCardsResponse> {
        Ok(Response::new(Default::default()))
    }
}
