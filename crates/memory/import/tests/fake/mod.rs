//! A bus and blobs in memory that keep to the contract as far as an import sees it, and refuse what a test marks.
//!
//! They outlive a restart of their service, as the real ones do, because they belong to the home.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};

use mirror_contract::mirror::blobs::v1 as blobs;
use mirror_contract::mirror::blobs::v1::blobs_service_server::{BlobsService, BlobsServiceServer};
use mirror_contract::mirror::bus::v1 as bus;
use mirror_contract::mirror::bus::v1::bus_service_server::{BusService, BusServiceServer};
use mirror_errors::{Classify, Kind, reject};
use mirror_kit::{Built, Context, Decl, Peer, Principal, Service};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// Text that makes the bus refuse a payload.
pub(crate) const REFUSED: &str = "the bus refuses this";

pub(crate) static BUS: Service = Service {
    decl: &Decl {
        name: "bus",
        summary: "A bus in memory.",
        tier: 0,
        serves: &["mirror.bus.v1.BusService"],
        ..Decl::DEFAULT
    },
    build: |cx| {
        Box::pin(std::future::ready(Ok(Built::new().serve(BusServiceServer::new(FakeBus(of(&cx), cx))))))
    },
};

pub(crate) static BLOBS: Service = Service {
    decl: &Decl {
        name: "blobs",
        summary: "Blobs in memory.",
        tier: 1,
        serves: &["mirror.blobs.v1.BlobsService"],
        ..Decl::DEFAULT
    },
    build: |cx| {
        Box::pin(std::future::ready(Ok(Built::new().serve(BlobsServiceServer::new(FakeBlobs(of(&cx), cx))))))
    },
};

#[derive(Default)]
struct Store {
    events: Vec<bus::Event>,
    by_id: HashMap<String, usize>,
    blobs: HashMap<String, bytes::Bytes>,
}

type Shared = Arc<Mutex<Store>>;

fn of(cx: &Context) -> Shared {
    static HOMES: LazyLock<Mutex<HashMap<PathBuf, Shared>>> = LazyLock::new(Mutex::default);
    Arc::clone(HOMES.lock().unwrap().entry(cx.home().root().to_owned()).or_default())
}

#[derive(Debug, thiserror::Error)]
#[error("{1}: refused by the fake")]
struct Refusal(Kind, &'static str);

impl Classify for Refusal {
    fn kind(&self) -> Kind {
        self.0
    }
    fn reason(&self) -> &'static str {
        self.1
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn unused() -> Status {
    Status::unimplemented("an import has no use for it")
}

struct FakeBus(Shared, #[expect(dead_code, reason = "a service lives as long as its context")] Context);

#[tonic::async_trait]
impl BusService for FakeBus {
    async fn append_batch(
        &self,
        request: Request<bus::AppendBatchRequest>,
    ) -> Result<Response<bus::AppendBatchResponse>, Status> {
        let actor = match request.extensions().get::<Peer>().map(|peer| peer.principal.clone()) {
            Some(Principal::Service(name)) => format!("svc:{name}"),
            _ => "local".to_owned(),
        };
        let events = request.into_inner().events;
        let bytes: usize = events.iter().map(|event| event.payload.len()).sum();
        if events.is_empty() || events.len() > 1_000 || bytes > 1 << 20 {
            return Err(reject(Refusal(Kind::Invalid, "BUS_BATCH_INVALID")));
        }
        let mut store = self.0.lock().unwrap();
        let mut known = 0;
        for (n, event) in events.iter().enumerate() {
            let large = event.payload.len() > mirror_types::PAYLOAD_LIMIT;
            if large || std::str::from_utf8(&event.payload).unwrap().contains(REFUSED) {
                return Err(reject(Refusal(Kind::Invalid, "BUS_EVENT_INVALID")));
            }
            if events[..n].iter().any(|other| other.id == event.id) {
                return Err(reject(Refusal(Kind::Invalid, "BUS_BATCH_INVALID")));
            }
            if let Some(at) = store.by_id.get(&event.id) {
                let stored = &store.events[*at];
                if stored.subject != event.subject || stored.payload != event.payload {
                    return Err(reject(Refusal(Kind::Exists, "BUS_ID_REUSED")));
                }
                known += 1;
            }
        }
        if known != 0 && known != events.len() {
            return Err(reject(Refusal(Kind::Exists, "BUS_ID_REUSED")));
        }
        let mut acks = Vec::new();
        for event in events {
            let at = match store.by_id.get(&event.id) {
                Some(at) => *at,
                None => {
                    let at = store.events.len();
                    store.by_id.insert(event.id.clone(), at);
                    store.events.push(bus::Event {
                        seq: at as u64 + 1,
                        subject: event.subject,
                        id: event.id.clone(),
                        payload: event.payload,
                        actor: actor.clone(),
                        model: event.model,
                        labels: event.labels,
                        ..bus::Event::default()
                    });
                    at
                }
            };
            acks.push(bus::Ack {
                seq: at as u64 + 1,
                id: event.id,
                duplicate: known > 0,
                ..bus::Ack::default()
            });
        }
        Ok(Response::new(bus::AppendBatchResponse { acks }))
    }

    async fn get_event(
        &self,
        request: Request<bus::GetEventRequest>,
    ) -> Result<Response<bus::GetEventResponse>, Status> {
        let Some(bus::get_event_request::By::Id(id)) = request.into_inner().by else { return Err(unused()) };
        let store = self.0.lock().unwrap();
        match store.by_id.get(&id) {
            Some(at) => Ok(Response::new(bus::GetEventResponse { event: Some(store.events[*at].clone()) })),
            None => Err(reject(Refusal(Kind::NotFound, "BUS_EVENT_MISSING"))),
        }
    }

    type ReadStream = Answers<bus::ReadResponse>;

    async fn read(&self, _: Request<bus::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let parts: Vec<_> = self
            .0
            .lock()
            .unwrap()
            .events
            .chunks(256)
            .map(|events| Ok(bus::ReadResponse { events: events.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn append(&self, _: Request<bus::AppendRequest>) -> Result<Response<bus::AppendResponse>, Status> {
        Err(unused())
    }

    type AppendStreamStream = Answers<bus::AppendStreamResponse>;

    async fn append_stream(
        &self,
        _: Request<Streaming<bus::AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        Err(unused())
    }

    type TailStream = Answers<bus::TailResponse>;

    async fn tail(&self, _: Request<bus::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        Err(unused())
    }

    async fn list_subjects(
        &self,
        _: Request<bus::ListSubjectsRequest>,
    ) -> Result<Response<bus::ListSubjectsResponse>, Status> {
        Err(unused())
    }

    async fn redact(&self, _: Request<bus::RedactRequest>) -> Result<Response<bus::RedactResponse>, Status> {
        Err(unused())
    }

    async fn seal(&self, _: Request<bus::SealRequest>) -> Result<Response<bus::SealResponse>, Status> {
        Err(unused())
    }

    async fn repair(&self, _: Request<bus::RepairRequest>) -> Result<Response<bus::RepairResponse>, Status> {
        Err(unused())
    }

    async fn compress(
        &self,
        _: Request<bus::CompressRequest>,
    ) -> Result<Response<bus::CompressResponse>, Status> {
        Err(unused())
    }

    async fn rebuild_index(
        &self,
        _: Request<bus::RebuildIndexRequest>,
    ) -> Result<Response<bus::RebuildIndexResponse>, Status> {
        Err(unused())
    }

    async fn get_status(
        &self,
        _: Request<bus::GetStatusRequest>,
    ) -> Result<Response<bus::GetStatusResponse>, Status> {
        Err(unused())
    }
}

struct FakeBlobs(Shared, #[expect(dead_code, reason = "a service lives as long as its context")] Context);

#[tonic::async_trait]
impl BlobsService for FakeBlobs {
    async fn put_blob(
        &self,
        request: Request<Streaming<blobs::PutBlobRequest>>,
    ) -> Result<Response<blobs::PutBlobResponse>, Status> {
        let mut parts = request.into_inner();
        let (mut content, mut expected) = (Vec::new(), String::new());
        while let Some(part) = parts.next().await.transpose()? {
            if part.chunk.is_empty() || part.chunk.len() > 1 << 20 {
                return Err(reject(Refusal(Kind::Invalid, "BLOBS_CHUNK_INVALID")));
            }
            if content.is_empty() {
                expected = part.expect_digest;
            }
            content.extend_from_slice(&part.chunk);
        }
        let digest = blake3::hash(&content).to_hex().to_string();
        if digest != expected {
            return Err(reject(Refusal(Kind::Invalid, "BLOBS_DIGEST_MISMATCH")));
        }
        let size_bytes = content.len() as u64;
        let duplicate = self.0.lock().unwrap().blobs.insert(digest.clone(), content.into()).is_some();
        Ok(Response::new(blobs::PutBlobResponse { digest, size_bytes, duplicate }))
    }

    type GetBlobStream = Answers<blobs::GetBlobResponse>;

    async fn get_blob(
        &self,
        request: Request<blobs::GetBlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        let content = self.0.lock().unwrap().blobs.get(&request.into_inner().digest).cloned();
        let content = content.ok_or_else(|| reject(Refusal(Kind::NotFound, "BLOBS_MISSING")))?;
        let parts: Vec<_> = (0..content.len())
            .step_by(256 << 10)
            .map(|at| {
                Ok(blobs::GetBlobResponse { chunk: content.slice(at..content.len().min(at + (256 << 10))) })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn get_blob_info(
        &self,
        request: Request<blobs::GetBlobInfoRequest>,
    ) -> Result<Response<blobs::GetBlobInfoResponse>, Status> {
        let digest = request.into_inner().digest;
        let size = self.0.lock().unwrap().blobs.get(&digest).map(|content| content.len() as u64);
        let size_bytes = size.ok_or_else(|| reject(Refusal(Kind::NotFound, "BLOBS_MISSING")))?;
        Ok(Response::new(blobs::GetBlobInfoResponse { digest, size_bytes }))
    }

    async fn check_blob(
        &self,
        _: Request<blobs::CheckBlobRequest>,
    ) -> Result<Response<blobs::CheckBlobResponse>, Status> {
        Err(unused())
    }
}
