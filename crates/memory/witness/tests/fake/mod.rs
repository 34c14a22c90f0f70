//! A keeper that signs what it is told to, and a log of its acts that the test writes.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::sync::{Arc, Mutex, MutexGuard};

use mirror_contract::mirror::keeper::v1 as pb;
use mirror_contract::mirror::keeper::v1::keeper_service_server::{KeeperService, KeeperServiceServer};
use mirror_errors::{Classify, Kind, reject};
use mirror_kit::{Built, Context, Decl, Service};
use mirror_seal::{Envelope, NodeKey, hex, sha256, sign_note};
use tonic::{Request, Response, Status};

pub(crate) const DECL: Decl = Decl {
    name: "keeper",
    summary: "Signs for tests.",
    tier: 0,
    serves: &["mirror.keeper.v1.KeeperService"],
    reasons: &["KEEPER_NOTE_FORKED"],
    ..Decl::DEFAULT
};

pub(crate) static SERVICE: Service = Service {
    decl: &DECL,
    build: |cx: Context| {
        Box::pin(async move {
            let seed = std::fs::read_to_string(cx.home().keys().join("node.seed")).unwrap();
            let given = cx.given::<Fake>().unwrap();
            given.lock().device = Some(NodeKey::from_hex(&seed).unwrap());
            Ok(Built::new().serve(KeeperServiceServer::new(Api(given))))
        })
    },
};

/// What the fake does, shared with the test.
pub(crate) struct Fake(Mutex<Acts>);

pub(crate) struct Acts {
    device: Option<NodeKey>,
    pub(crate) key: NodeKey,
    /// Signs with another key than it says.
    pub(crate) lies: bool,
    /// Refuses as the keeper does when it has signed another state.
    pub(crate) forked: bool,
    pub(crate) records: Vec<pb::KeeperRecord>,
    /// How often it was asked for records.
    pub(crate) asked: u64,
    /// How many notes it signed.
    pub(crate) signed: u64,
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        let key = NodeKey::generate().unwrap();
        let records = Vec::new();
        let acts = Acts { device: None, key, lies: false, forked: false, records, asked: 0, signed: 0 };
        Arc::new(Self(Mutex::new(acts)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Acts> {
        self.0.lock().unwrap()
    }
}

impl Acts {
    /// Adds a record; a checkpoint's signature has a size.
    pub(crate) fn record(&mut self, act: &str, size: Option<u64>) {
        let number = self.records.len() as u64 + 1;
        let prev = self.records.last().map_or_else(|| "0".repeat(64), |last| last.hash.clone());
        let root = if size.is_some() { "ab".repeat(32) } else { String::new() };
        let tail = size.map_or_else(String::new, |size| format!(",\"size\":{size},\"root\":\"{root}\""));
        let content = format!(
            "{{\"v\":1,\"number\":{number},\"prev\":\"{prev}\",\"at_ms\":{number},\"act\":\"{act}\",\
             \"caller\":\"svc:x\",\"type\":\"t\"{tail}"
        );
        self.records.push(pb::KeeperRecord {
            number,
            at: Some(mirror_contract::timestamp(number)),
            act: act.to_owned(),
            caller: "svc:x".to_owned(),
            r#type: "t".to_owned(),
            hash: hex(&sha256(content.as_bytes())),
            size: size.unwrap_or(0),
            root,
            ..pb::KeeperRecord::default()
        });
    }
}

struct Api(Arc<Fake>);

#[derive(Debug, thiserror::Error)]
#[error("it signed another state")]
struct Forked;

impl Classify for Forked {
    fn kind(&self) -> Kind {
        Kind::Conflict
    }
    fn reason(&self) -> &'static str {
        "KEEPER_NOTE_FORKED"
    }
}

#[tonic::async_trait]
impl KeeperService for Api {
    async fn sign_note(
        &self,
        request: Request<pb::SignNoteRequest>,
    ) -> Result<Response<pb::SignNoteResponse>, Status> {
        let text = request.into_inner().text;
        let mut acts = self.0.lock();
        if acts.forked {
            return Err(reject(Forked));
        }
        let name = format!("mirrordna/{}", acts.device.as_ref().unwrap().public().fingerprint());
        let other = NodeKey::generate().unwrap();
        let note = sign_note(if acts.lies { &other } else { &acts.key }, &name, &text).unwrap();
        acts.signed += 1;
        let size = text.lines().nth(1).unwrap().parse().unwrap();
        acts.record("sign", Some(size));
        Ok(Response::new(pb::SignNoteResponse { note }))
    }

    async fn list_keys(
        &self,
        _: Request<pb::ListKeysRequest>,
    ) -> Result<Response<pb::ListKeysResponse>, Status> {
        let acts = self.0.lock();
        let public_key = acts.key.public().to_hex();
        let said = format!(
            "{{\"purpose\":\"checkpoint\",\"serial\":1,\"public_key\":\"{public_key}\",\"created_ms\":0}}"
        );
        let certificate = Envelope::sign(
            acts.device.as_ref().unwrap(),
            "application/vnd.mirrordna.key.v1+json",
            said.as_bytes(),
        );
        let key = pb::Key {
            purpose: "checkpoint".to_owned(),
            serial: 1,
            public_key,
            certificate: certificate.to_json(),
            ..pb::Key::default()
        };
        Ok(Response::new(pb::ListKeysResponse { keys: vec![key] }))
    }

    async fn list_records(
        &self,
        request: Request<pb::ListRecordsRequest>,
    ) -> Result<Response<pb::ListRecordsResponse>, Status> {
        let from = request.into_inner().from.max(1);
        let mut acts = self.0.lock();
        acts.asked += 1;
        let records = acts.records.iter().filter(|r| r.number >= from).take(256).cloned().collect();
        let head = acts.records.len() as u64;
        Ok(Response::new(pb::ListRecordsResponse { records, head }))
    }

    async fn sign_envelope(
        &self,
        _: Request<pb::SignEnvelopeRequest>,
    ) -> Result<Response<pb::SignEnvelopeResponse>, Status> {
        Err(reject(Forked))
    }

    async fn rotate_key(
        &self,
        _: Request<pb::RotateKeyRequest>,
    ) -> Result<Response<pb::RotateKeyResponse>, Status> {
        Err(reject(Forked))
    }
}
