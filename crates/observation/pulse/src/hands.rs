//! The calls to others: for remedies, rows, events and cards. Each ends in an input, whatever comes of it.

use std::time::Duration;

use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{AppendRequest, NewEvent, PayloadType};
use mirror_contract::mirror::notify::v1::notify_service_client::NotifyServiceClient;
use mirror_contract::mirror::notify::v1::{DeleteCardRequest, PutCardRequest};
use mirror_contract::mirror::remedy::v1::remedy_service_client::RemedyServiceClient;
use mirror_contract::mirror::remedy::v1::{ListRemediesRequest, RunRemedyRequest};
use mirror_contract::mirror::supervisor::v1::supervisor_service_client::SupervisorServiceClient;
use mirror_contract::mirror::supervisor::v1::{ListAgentsRequest, RestartAgentRequest, WatchAgentsRequest};
use mirror_errors::{Kind, Remote};
use mirror_kit::{Channel, Context, StartError};
use tokio::sync::mpsc;
use tonic::Status;

use crate::pulse::{Ask, Card, Input, Outcome};
use crate::wire;

/// How long the opening of the supervisor's stream may take.
const OPENING: Duration = Duration::from_secs(5);
/// Shortest and longest pause before it is opened again.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_LIMIT: Duration = Duration::from_secs(5);

/// The peers.
#[derive(Debug, Clone)]
pub(crate) struct Hands {
    pub(crate) bus: BusServiceClient<Channel>,
    channels: Vec<(&'static str, Channel)>,
    supervisor: SupervisorServiceClient<Channel>,
    remedy: RemedyServiceClient<Channel>,
    notify: NotifyServiceClient<Channel>,
}

impl Hands {
    /// Returns clients of all peers, none of them connected.
    pub(crate) fn new(cx: &Context) -> Result<Self, StartError> {
        let (bus, supervisor) = (cx.client("bus")?.0, cx.client("supervisor")?.0);
        let (remedy, notify) = (cx.client("remedy")?.0, cx.client("notify")?.0);
        Ok(Self {
            bus: BusServiceClient::new(bus.clone()),
            supervisor: SupervisorServiceClient::new(supervisor.clone()),
            remedy: RemedyServiceClient::new(remedy.clone()),
            notify: NotifyServiceClient::new(notify.clone()),
            channels: vec![("bus", bus), ("supervisor", supervisor), ("remedy", remedy), ("notify", notify)],
        })
    }

    /// Returns the channel to a peer. That it is asked how it is on the same connection keeps that open, also when
    /// the folder of sockets goes.
    pub(crate) fn channel(&self, service: &str) -> Option<Channel> {
        self.channels.iter().find(|(name, _)| *name == service).map(|(_, channel)| channel.clone())
    }

    /// Hands on every row of the supervisor, for as long as the service lives.
    pub(crate) async fn follow_agents(mut self, cx: Context, inputs: mpsc::Sender<Input>) {
        let (shutdown, clock) = (cx.shutdown(), cx.clock());
        let mut pause = PAUSE;
        loop {
            let opening = tokio::time::timeout(OPENING, self.supervisor.watch_agents(WatchAgentsRequest {}));
            let Some(opened) = shutdown.or(opening).await else { return };
            if let Ok(Ok(stream)) = opened {
                let mut stream = stream.into_inner();
                while let Some(Ok(Some(news))) = shutdown.or(stream.message()).await {
                    pause = PAUSE;
                    if let Some(agent) = news.agent {
                        let _ = inputs.send(Input::Agent(Box::new(wire::row(agent)))).await;
                    }
                }
            }
            let _ = inputs.send(Input::SupervisorAway).await;
            if !shutdown.sleep(&*clock, pause).await {
                return;
            }
            pause = (pause * 2).min(PAUSE_LIMIT);
        }
    }

    /// Asks for all rows once; without an answer the stream says what is to be said.
    pub(crate) async fn list(mut self, inputs: mpsc::Sender<Input>) {
        if let Ok(answer) = self.supervisor.list_agents(ListAgentsRequest {}).await {
            for agent in answer.into_inner().agents {
                let _ = inputs.send(Input::Agent(Box::new(wire::row(agent)))).await;
            }
        }
    }

    /// Asks for a remedy, and until when none is to be had where it was held back.
    pub(crate) async fn remedy(mut self, ask: Ask) -> Input {
        let Ask { id, remedy, target, cause } = ask;
        let request = RunRemedyRequest { id: id.clone(), remedy, target, cause };
        match self.remedy.run_remedy(request).await {
            Ok(answer) => {
                let action = answer.into_inner().action.unwrap_or_default();
                let outcome = wire::outcome(action.outcome());
                let observing_until = match outcome {
                    Outcome::HeldBack | Outcome::NotHealed | Outcome::Failed => self.observing_until().await,
                    _ => None,
                };
                Input::Outcome { id, outcome, detail: action.detail, observing_until }
            }
            Err(status) => refused(id, &status),
        }
    }

    async fn observing_until(&mut self) -> Option<u64> {
        let answer = self.remedy.list_remedies(ListRemediesRequest {}).await.ok()?;
        mirror_contract::millis(&answer.into_inner().observing_until?)
    }

    /// Has the supervisor kill and restart an agent. What became of a call without an answer is unknown, since each is
    /// one restart.
    pub(crate) async fn restart(mut self, ask: Ask) -> Input {
        let request = RestartAgentRequest { name: ask.target, kill: true };
        let (outcome, detail) = match self.supervisor.restart_agent(request).await {
            Ok(_) => (Outcome::Healed, "the supervisor has restarted it".to_owned()),
            Err(status) if Remote::is_away(&status) => {
                (Outcome::Unknown, "the supervisor did not answer".to_owned())
            }
            Err(status) => (Outcome::Failed, Remote::from_status(&status).to_string()),
        };
        Input::Outcome { id: ask.id, outcome, detail, observing_until: None }
    }

    /// Appends an event.
    pub(crate) async fn append(mut self, id: String, subject: &'static str, payload: String) -> Input {
        let event = event(id, subject, payload);
        let answer = self.bus.append(AppendRequest { event: Some(event), expect: None }).await;
        if let Err(status) = &answer
            && !Remote::is_away(status)
        {
            // The same id with other content, or a subject that is not ours, will never be taken.
            let remote = Remote::from_status(status);
            let never =
                matches!(remote.kind, Kind::Invalid | Kind::Denied | Kind::Exists | Kind::Precondition);
            if never {
                tracing::error!(subject, error = %remote, "the bus refuses an event; it is dropped");
                return Input::Appended { ok: true };
            }
        }
        Input::Appended { ok: answer.is_ok() }
    }

    /// Puts a card.
    pub(crate) async fn put_card(mut self, card: Card) -> Input {
        let subject = card.subject.clone();
        let ok = self.notify.put_card(PutCardRequest { card: Some(wire::card(card)) }).await.is_ok();
        Input::Carded { subject, ok }
    }

    /// Clears a card.
    pub(crate) async fn clear_card(mut self, subject: String) -> Input {
        let ok = self.notify.delete_card(DeleteCardRequest { subject: subject.clone() }).await.is_ok();
        Input::Carded { subject, ok }
    }
}

/// Returns an event; with an id, an append that is tried again after a lost answer is stored once.
pub(crate) fn event(id: String, subject: &str, payload: String) -> NewEvent {
    NewEvent {
        subject: subject.to_owned(),
        payload: payload.into(),
        r#type: PayloadType::Json.into(),
        id,
        ..NewEvent::default()
    }
}

/// Says what a refusal of a remedy means.
fn refused(id: String, status: &Status) -> Input {
    let remote = Remote::from_status(status);
    let outcome = match remote.reason.as_str() {
        "KIT_HALTED" => Outcome::Halted,
        // It may have begun all the same; the same id finds out.
        "KIT_DEADLINE" | "KIT_NOT_SERVING" | "KIT_BUSY" | "REMEDY_NOT_RECORDED" => Outcome::Away,
        _ if Remote::is_away(status) || remote.kind == Kind::Timeout => Outcome::Away,
        _ => Outcome::Refused,
    };
    Input::Outcome { id, outcome, detail: remote.to_string(), observing_until: None }
}
