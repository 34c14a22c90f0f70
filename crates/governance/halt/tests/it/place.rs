//! A home with an owner, and the services over it.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::fs;
use std::sync::Arc;

use mirror_clock::SystemClock;
use mirror_contract::mirror::bus::v1 as bus;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::halt::v1 as pb;
use mirror_contract::mirror::halt::v1::halt_service_client::HaltServiceClient;
use mirror_errors::Remote;
use mirror_keeper::recovery::RECOVERY_TYPE;
use mirror_kit::{Channel, HALT_TYPE, Halt, HaltStatement, HaltView};
use mirror_paths::{Home, write_atomic};
use mirror_seal::{Envelope, NodeKey, base64};
use mirror_testkit::{Node, Sandbox};

pub(crate) struct Place {
    pub(crate) node: Node,
    pub(crate) owner: NodeKey,
    _temp: tempfile::TempDir,
}

fn device(home: &Home) -> NodeKey {
    NodeKey::from_hex(&fs::read_to_string(home.keys().join("node.seed")).unwrap()).unwrap()
}

impl Place {
    /// Returns a home whose owner has a recovery key, made without the time that a passphrase takes.
    pub(crate) async fn new() -> Self {
        Self::with(true).await
    }

    pub(crate) async fn without_owner() -> Self {
        Self::with(false).await
    }

    async fn with(owned: bool) -> Self {
        let temp = tempfile::Builder::new().prefix("m").tempdir().unwrap();
        let home = Home::at(temp.path().join("h")).unwrap();
        mirror_kit::init(&home).unwrap();
        let owner = NodeKey::generate().unwrap();
        if owned {
            let said = format!(
                r#"{{"format":1,"kdf":{{"name":"argon2id","m":64,"t":1,"p":1,"salt":"{}"}},"public_key":"{}","created_ms":1}}"#,
                base64(&[0; 16]),
                owner.public().to_hex()
            );
            let text = Envelope::sign(&device(&home), RECOVERY_TYPE, said.as_bytes()).to_json();
            write_atomic(&home.keys().join("recovery.json"), text.as_bytes()).unwrap();
        }
        let services = [&mirror_bus::SERVICE, &mirror_keeper::SERVICE, &mirror_halt::SERVICE];
        let node = Sandbox::with(&services).at(home.root()).start().await;
        Self { node, owner, _temp: temp }
    }

    pub(crate) fn home(&self) -> &Home {
        self.node.home()
    }

    pub(crate) fn device(&self) -> NodeKey {
        device(self.home())
    }

    pub(crate) async fn finish(self) {
        self.node.finish().await;
    }

    pub(crate) fn client(&self) -> HaltServiceClient<Channel> {
        HaltServiceClient::new(self.node.channel("halt"))
    }

    pub(crate) async fn halt(&self) -> pb::HaltState {
        self.client().get_halt(pb::GetHaltRequest {}).await.unwrap().into_inner().halt.unwrap()
    }

    pub(crate) async fn engage(&self, reason: &str) -> Result<pb::EngageHaltResponse, Remote> {
        let request = pb::EngageHaltRequest { reason: reason.to_owned() };
        let answer = self.client().engage_halt(request).await;
        answer.map(tonic::Response::into_inner).map_err(|s| Remote::from_status(&s))
    }

    pub(crate) async fn release(&self, envelope: String) -> Result<pb::HaltState, Remote> {
        let answer = self.client().release_halt(pb::ReleaseHaltRequest { envelope }).await;
        answer.map(|a| a.into_inner().halt.unwrap()).map_err(|s| Remote::from_status(&s))
    }

    pub(crate) fn release_by(&self, key: &NodeKey, epoch: u64) -> String {
        let statement = HaltStatement { epoch, engaged: false, reason: String::new(), since_ms: 0 };
        Envelope::sign(key, HALT_TYPE, &serde_json::to_vec(&statement).unwrap()).to_json()
    }

    /// Returns the state as a process sees it that has just started.
    pub(crate) fn fresh(&self) -> HaltView {
        let key = mirror_kit::node(self.home()).unwrap().key;
        Halt::new(self.home(), Some(key), Arc::new(SystemClock)).view()
    }

    /// Waits until the files hold a signed engagement of an epoch or a later one, that nothing is newer than.
    pub(crate) async fn settled(&self, what: &str, epoch: u64) -> HaltView {
        self.node
            .wait(what, async || {
                let view = self.fresh();
                let statement = view.statement.as_ref();
                let sound = view.trusted
                    && statement
                        .is_some_and(|s| s.engaged && s.epoch >= epoch && Some(s.epoch) == view.floor);
                if sound { Ok(()) } else { Err(format!("{view:?}")) }
            })
            .await;
        self.fresh()
    }

    /// Returns the halt's events, each as subject, epoch, and whether it was signed.
    pub(crate) async fn events(&self) -> Vec<String> {
        let filter = bus::Filter { subjects: vec!["halt.>".into()], ..bus::Filter::default() };
        let request = bus::ReadRequest { filter: Some(filter), ..bus::ReadRequest::default() };
        let mut client = BusServiceClient::new(self.node.channel("bus"));
        let mut answers = client.read(request).await.unwrap().into_inner();
        let mut found = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            for event in answer.events {
                assert_eq!(event.actor, "svc:halt");
                let payload: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
                let signed = if payload["signed"] == true { "signed" } else { "unsigned" };
                found.push(format!("{} {} {signed}", event.subject, payload["epoch"]));
            }
        }
        found
    }

    /// Waits until the log holds exactly these events.
    pub(crate) async fn recorded(&self, expected: &[&str]) {
        self.node
            .wait(&format!("the log holds {expected:?}"), async || {
                let found = self.events().await;
                if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
            })
            .await;
    }
}
