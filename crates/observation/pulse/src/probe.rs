//! Asks one service how it is, and listens to its health: one task and one connection for each.
//!
//! A health stream that breaks or changes is only a signal to ask; the answer is what counts.

use std::sync::Arc;
use std::time::Duration;

use mirror_clock::Clock;
use mirror_contract::mirror::kit::v1 as kit;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_errors::{Kind, Remote};
use mirror_kit::{Channel, Holder, Shutdown, holder};
use mirror_paths::Home;
use tokio::sync::mpsc;
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::pulse::{Answer, Input};
use crate::wire;

/// How long the opening of a health stream may take.
const OPENING: Duration = Duration::from_secs(2);

/// How much later than its deadline an answer may be missed before that says more about this process.
const LATE: Duration = Duration::from_secs(1);

/// One service, as it is watched.
pub(crate) struct Prober {
    pub(crate) agent: usize,
    pub(crate) name: String,
    pub(crate) channel: Channel,
    pub(crate) home: Home,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) inputs: mpsc::Sender<Input>,
}

impl Prober {
    /// Answers questions, each with how long it may take in milliseconds, until the service ends.
    pub(crate) async fn run(self, mut asked: mpsc::Receiver<u64>, shutdown: Shutdown) {
        let work = async {
            let (mut stream, mut last) = (None, None);
            loop {
                tokio::select! {
                    patience = asked.recv() => {
                        let Some(patience) = patience else { return };
                        let answer = self.ask(Duration::from_millis(patience)).await;
                        let answered = matches!(answer, Answer::Said(..));
                        self.tell(Input::Probe { agent: self.agent, answer }).await;
                        if answered && stream.is_none() {
                            stream = self.listen().await;
                            last = None;
                        }
                    }
                    news = next(&mut stream) => {
                        let Some(status) = news else {
                            stream = None;
                            self.tell(Input::Signal(self.agent)).await;
                            continue;
                        };
                        if last.replace(status).is_some_and(|before| before != status) {
                            self.tell(Input::Signal(self.agent)).await;
                        }
                    }
                }
            }
        };
        shutdown.or(work).await;
    }

    async fn tell(&self, input: Input) {
        // An error means that the service ends.
        let _ = self.inputs.send(input).await;
    }

    async fn ask(&self, patience: Duration) -> Answer {
        let mut request = Request::new(kit::GetStateRequest {});
        request.set_timeout(patience);
        let began = self.clock.boot();
        let mut client = KitServiceClient::new(self.channel.clone());
        // The deadline of a call does not cover its connection.
        let limit = patience + patience / 4;
        let answer = tokio::time::timeout(limit, client.get_state(request)).await;
        match answer {
            Ok(Ok(state)) => {
                let state = state.into_inner();
                match wire::said(state.state()) {
                    // It answers on a connection that is open; nobody else could open one.
                    Some(_) if self.has_lost_its_socket() => Answer::Away { socket: false, lease: true },
                    Some(said) => Answer::Said(said, state.detail),
                    None => Answer::Odd("it has no state that this build knows".to_owned()),
                }
            }
            Ok(Err(status)) => self.explain(&status, began, patience),
            Err(_) => self.silent(began, limit),
        }
    }

    fn silent(&self, began: Duration, limit: Duration) -> Answer {
        Answer::Silent { late: self.clock.boot().saturating_sub(began) > limit + LATE }
    }

    fn explain(&self, status: &Status, began: Duration, patience: Duration) -> Answer {
        let remote = Remote::from_status(status);
        if remote.kind == Kind::Timeout {
            return self.silent(began, patience);
        }
        if Remote::is_away(status) {
            return Answer::Away { socket: self.has_socket(), lease: self.holds_lease() };
        }
        Answer::Odd(remote.to_string())
    }

    fn has_socket(&self) -> bool {
        self.home.socket(&self.name).is_ok_and(|path| path.exists())
    }

    /// Returns whether a process holds the lease; one that cannot be looked at may well be held.
    fn holds_lease(&self) -> bool {
        !matches!(holder(&self.home, &self.name), Ok(Holder::Nobody))
    }

    /// Returns whether a process serves without a socket. Where the folder of sockets is gone its lease is gone too.
    fn has_lost_its_socket(&self) -> bool {
        !self.has_socket() && (self.holds_lease() || !self.home.run().exists())
    }

    async fn listen(&self) -> Option<Streaming<HealthCheckResponse>> {
        let mut client = HealthClient::new(self.channel.clone());
        let request = HealthCheckRequest { service: String::new() };
        match tokio::time::timeout(OPENING, client.watch(request)).await {
            Ok(Ok(stream)) => Some(stream.into_inner()),
            Ok(Err(status)) if status.code() == Code::Unimplemented => None,
            // The next question tells more.
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

/// Returns the next status; nothing when the stream has ended. Without a stream it waits for ever.
async fn next(stream: &mut Option<Streaming<HealthCheckResponse>>) -> Option<i32> {
    match stream {
        Some(open) => open.message().await.ok().flatten().map(|m| m.status),
        None => std::future::pending().await,
    }
}
