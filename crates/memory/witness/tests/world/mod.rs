//! A Sandbox with bus, fake keeper and witness, and the questions that tests ask of it.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mirror_contract::mirror::bus::v1 as bus;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::kit::v1::GetStateRequest;
use mirror_contract::mirror::kit::v1::get_state_response::State;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_contract::mirror::witness::v1 as pb;
use mirror_contract::mirror::witness::v1::witness_service_client::WitnessServiceClient;
use mirror_errors::Remote;
use mirror_kit::Channel;
use mirror_testkit::{Node, Sandbox};

use crate::fake::{self, Fake};

/// The Sandbox and its keeper.
pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) keeper: Arc<Fake>,
}

pub(crate) fn sandbox(keeper: &Arc<Fake>, config: &str) -> Sandbox {
    let services = [&mirror_bus::SERVICE, &fake::SERVICE, &mirror_witness::SERVICE];
    let config =
        format!("[bus]\nsegment_first_kib = 64\nsegment_max_kib = 64\n[witness]\nhold_ms = 300\n{config}");
    Sandbox::with(&services).manual_clock().config(&config).given(Arc::clone(keeper))
}

pub(crate) async fn world(config: &str) -> World {
    let keeper = Fake::new();
    World { node: sandbox(&keeper, config).start().await, keeper }
}

impl World {
    pub(crate) fn witness(&self) -> WitnessServiceClient<Channel> {
        WitnessServiceClient::new(self.node.channel("witness"))
    }

    fn bus(&self) -> BusServiceClient<Channel> {
        BusServiceClient::new(self.node.channel("bus"))
    }

    pub(crate) fn log(&self) -> PathBuf {
        let logs = std::fs::read_dir(self.node.home().bus().join("log")).unwrap();
        logs.map(|entry| entry.unwrap().path()).next().unwrap()
    }

    pub(crate) fn origin(&self) -> String {
        mirror_kit::node(self.node.home()).unwrap().origin.to_string()
    }

    pub(crate) fn notes(&self) -> PathBuf {
        self.node.home().bus().join("checkpoints").join(self.origin())
    }

    /// Appends so many events, and returns the position of the last.
    pub(crate) async fn append(&self, count: usize) -> u64 {
        let event = bus::NewEvent {
            subject: "local.note".into(),
            payload: format!("{{\"text\":\"{}\"}}", "x".repeat(200)).into(),
            r#type: bus::PayloadType::Json.into(),
            ..bus::NewEvent::default()
        };
        let request = bus::AppendBatchRequest { events: vec![event; count], expect: None };
        self.bus().append_batch(request).await.unwrap().into_inner().acks.last().unwrap().seq
    }

    /// Returns those of the newest 300 events whose subject matches; the older ones may be damaged.
    pub(crate) async fn events(&self, subject: &str) -> Vec<bus::Event> {
        let filter = bus::Filter { subjects: vec![subject.to_owned()], ..bus::Filter::default() };
        let from = self.head().await.saturating_sub(300);
        let request = bus::ReadRequest { from, filter: Some(filter), ..bus::ReadRequest::default() };
        let mut stream = self.bus().read(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(part) = stream.message().await.unwrap() {
            events.extend(part.events);
        }
        events
    }

    pub(crate) async fn head(&self) -> u64 {
        self.bus().get_status(bus::GetStatusRequest {}).await.unwrap().into_inner().head
    }

    /// Returns the size of the newest checkpoint; 0 when there is none.
    pub(crate) async fn size(&self) -> u64 {
        let answer = self.witness().get_checkpoint(pb::GetCheckpointRequest {}).await;
        answer.map_or(0, |answer| answer.into_inner().checkpoint.unwrap().size)
    }

    pub(crate) async fn run(&self) -> Result<pb::Checkpoint, Remote> {
        let answer = self.witness().run_checkpoint(pb::RunCheckpointRequest {}).await;
        answer.map(|a| a.into_inner().checkpoint.unwrap()).map_err(|status| Remote::from_status(&status))
    }

    /// Waits until the newest checkpoint covers so many events.
    pub(crate) async fn signed(&self, size: u64) {
        let what = format!("{size} events are signed");
        self.node
            .wait(&what, async || match self.size().await {
                found if found == size => Ok(()),
                found => Err(format!("{found}; {:?}", self.state("witness").await)),
            })
            .await;
    }

    pub(crate) async fn state(&self, service: &str) -> (State, String) {
        let mut kit = KitServiceClient::new(self.node.channel(service));
        let answer = kit.get_state(GetStateRequest {}).await.unwrap().into_inner();
        (answer.state(), answer.detail)
    }

    /// Waits until the witness is in a state whose sentence has a part, moving the clock.
    pub(crate) async fn is(&self, state: State, part: &str) {
        let what = format!("the witness is {state:?} with {part:?}");
        self.node
            .wait(&what, async || {
                self.node.clock().advance(Duration::from_secs(1));
                let found = self.state("witness").await;
                if found.0 == state && found.1.contains(part) { Ok(()) } else { Err(format!("{found:?}")) }
            })
            .await;
    }

    /// Waits until there are so many events of a subject, moving the clock.
    pub(crate) async fn recorded(&self, subject: &str, count: usize) -> Vec<serde_json::Value> {
        let mut found = Vec::new();
        self.node
            .wait(&format!("{subject} is recorded {count} times"), async || {
                self.node.clock().advance(Duration::from_secs(1));
                found = self.events(subject).await;
                if found.len() == count { Ok(()) } else { Err(format!("{found:?}")) }
            })
            .await;
        found.iter().map(|event| serde_json::from_slice(&event.payload).unwrap()).collect()
    }

    /// Verifies the log now, and returns what was found.
    pub(crate) async fn verify(&self) -> pb::GetVerificationResponse {
        let before = self.verification().await.finished;
        self.node.clock().advance(Duration::from_millis(1));
        assert!(
            self.witness().run_verification(pb::RunVerificationRequest {}).await.unwrap().into_inner().begun
        );
        let mut found = pb::GetVerificationResponse::default();
        self.node
            .wait("a verification ends", async || {
                found = self.verification().await;
                if !found.running && found.finished != before { Ok(()) } else { Err(format!("{found:?}")) }
            })
            .await;
        found
    }

    pub(crate) async fn verification(&self) -> pb::GetVerificationResponse {
        let answer = self.witness().get_verification(pb::GetVerificationRequest {}).await;
        answer.unwrap().into_inner()
    }
}

/// Replaces a folder by a copy of another.
pub(crate) fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}
