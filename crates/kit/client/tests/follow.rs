//! The follower against a bus that plays a script.

#![expect(clippy::panic, reason = "in a test, a panic is the report")]

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use mirror_client::follow::{Follower, Next, Place};
use mirror_client::{BoxIo, Dial, Dialing, channel};
use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::bus_service_server::{BusService, BusServiceServer};
use mirror_errors::{Classify, Kind, reject};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the bus does: each tail plays one script to its end; when there are no more, tails stay silent.
#[derive(Debug, Default)]
struct Play {
    up: bool,
    leaves: BTreeMap<u64, String>,
    scripts: VecDeque<Vec<pb::TailResponse>>,
    asked: Vec<u64>,
}

#[derive(Debug, Clone, Default)]
struct FakeBus(Arc<Mutex<Play>>);

impl FakeBus {
    fn with<T>(&self, act: impl FnOnce(&mut Play) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn plays(scripts: &[&[pb::TailResponse]]) -> Self {
        let bus = Self::default();
        bus.with(|play| {
            play.up = true;
            play.scripts = scripts.iter().map(|s| s.to_vec()).collect();
            play.leaves = (1..=20).map(|seq| (seq, leaf(seq))).collect();
        });
        bus
    }

    fn follower(&self, place: Place) -> Follower {
        Follower::new(channel(Arc::new(self.clone()), "bus"), place)
    }
}

impl Dial for FakeBus {
    #[expect(clippy::disallowed_methods, reason = "there is no kit here")]
    fn dial(&self, _: &str) -> Dialing {
        let bus = self.clone();
        Box::pin(async move {
            if !bus.with(|play| play.up) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let server = tonic::transport::Server::builder().add_service(BusServiceServer::new(bus));
            let incoming = tokio_stream::once(Ok::<_, io::Error>(theirs)).chain(tokio_stream::pending());
            tokio::spawn(server.serve_with_incoming(incoming));
            Ok(Box::new(ours) as BoxIo)
        })
    }
}

#[derive(Debug)]
struct Missing;

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no such event")
    }
}

impl std::error::Error for Missing {}

impl Classify for Missing {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }

    fn reason(&self) -> &'static str {
        "BUS_EVENT_MISSING"
    }
}

#[tonic::async_trait]
impl BusService for FakeBus {
    type AppendStreamStream = Answers<pb::AppendStreamResponse>;
    type ReadStream = Answers<pb::ReadResponse>;
    type TailStream = Answers<pb::TailResponse>;

    async fn append(&self, _: Request<pb::AppendRequest>) -> Result<Response<pb::AppendResponse>, Status> {
        Err(Status::unimplemented("append"))
    }

    async fn append_batch(
        &self,
        _: Request<pb::AppendBatchRequest>,
    ) -> Result<Response<pb::AppendBatchResponse>, Status> {
        Err(Status::unimplemented("append batch"))
    }

    async fn append_stream(
        &self,
        _: Request<Streaming<pb::AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        Err(Status::unimplemented("append stream"))
    }

    async fn get_event(
        &self,
        request: Request<pb::GetEventRequest>,
    ) -> Result<Response<pb::GetEventResponse>, Status> {
        let Some(pb::get_event_request::By::Seq(seq)) = request.into_inner().by else {
            return Err(Status::unimplemented("get by id"));
        };
        let leaf = self.with(|play| play.leaves.get(&seq).cloned()).ok_or(Missing).map_err(reject)?;
        Ok(Response::new(pb::GetEventResponse {
            event: Some(pb::Event { seq, leaf, ..pb::Event::default() }),
        }))
    }

    async fn read(&self, _: Request<pb::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        Err(Status::unimplemented("read"))
    }

    async fn tail(&self, request: Request<pb::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let script = self.with(|play| {
            play.asked.push(request.get_ref().from);
            play.scripts.pop_front()
        });
        let stream: Self::TailStream = match script {
            Some(script) => Box::pin(tokio_stream::iter(script).map(Ok)),
            None => Box::pin(tokio_stream::pending()),
        };
        Ok(Response::new(stream))
    }

    async fn list_subjects(
        &self,
        _: Request<pb::ListSubjectsRequest>,
    ) -> Result<Response<pb::ListSubjectsResponse>, Status> {
        Err(Status::unimplemented("list"))
    }

    async fn redact(&self, _: Request<pb::RedactRequest>) -> Result<Response<pb::RedactResponse>, Status> {
        Err(Status::unimplemented("redact"))
    }

    async fn seal(&self, _: Request<pb::SealRequest>) -> Result<Response<pb::SealResponse>, Status> {
        Err(Status::unimplemented("seal"))
    }

    async fn repair(&self, _: Request<pb::RepairRequest>) -> Result<Response<pb::RepairResponse>, Status> {
        Err(Status::unimplemented("repair"))
    }

    async fn compress(
        &self,
        _: Request<pb::CompressRequest>,
    ) -> Result<Response<pb::CompressResponse>, Status> {
        Err(Status::unimplemented("compress"))
    }

    async fn rebuild_index(
        &self,
        _: Request<pb::RebuildIndexRequest>,
    ) -> Result<Response<pb::RebuildIndexResponse>, Status> {
        Err(Status::unimplemented("rebuild index"))
    }

    async fn get_status(
        &self,
        _: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        Err(Status::unimplemented("status"))
    }
}

fn leaf(seq: u64) -> String {
    format!("{seq:064x}")
}

fn batch(seqs: &[u64]) -> pb::TailResponse {
    let event = |seq: &u64| pb::Event { seq: *seq, leaf: leaf(*seq), ..pb::Event::default() };
    pb::TailResponse {
        events: seqs.iter().map(event).collect(),
        upto: seqs.last().copied().unwrap_or_default(),
    }
}

/// Follows until `last` was handed out; returns the positions, and why the bus was away in between.
async fn follow(follower: &mut Follower, last: u64) -> (Vec<u64>, Vec<String>) {
    let (mut seqs, mut away) = (Vec::new(), Vec::new());
    while follower.place().upto < last {
        match follower.next().await {
            Next::Batch(events) => seqs.extend(events.iter().map(|event| event.seq)),
            Next::Away(why) => away.push(why),
            Next::Open => {}
            Next::Elsewhere => panic!("the place is in the log"),
        }
    }
    (seqs, away)
}

#[tokio::test]
async fn every_event_comes_once_and_in_order_across_losses() {
    let bus = FakeBus::plays(&[&[batch(&[1, 2]), batch(&[3])], &[], &[batch(&[4])], &[batch(&[5, 6])]]);
    let mut follower = bus.follower(Place::default());
    let (seqs, away) = follow(&mut follower, 6).await;
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);
    assert_eq!(away.len(), 3, "{away:?}");
    assert_eq!(bus.with(|play| play.asked.clone()), [1, 4, 4, 5]);
    assert_eq!(*follower.place(), Place { upto: 6, seq: 6, leaf: leaf(6) });
}

#[tokio::test]
async fn a_repeat_is_dropped_and_a_gap_is_asked_for_again() {
    let bus = FakeBus::plays(&[&[batch(&[1, 2]), batch(&[2, 3]), batch(&[5])], &[batch(&[4, 5])]]);
    let (seqs, away) = follow(&mut bus.follower(Place::default()), 5).await;
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    assert_eq!(away, ["the bus sent event 5 after 3"]);
    assert_eq!(bus.with(|play| play.asked.clone()), [1, 4]);
}

#[tokio::test]
async fn a_bus_that_is_down_is_found_when_it_comes() {
    let bus = FakeBus::plays(&[&[batch(&[1])]]);
    bus.with(|play| play.up = false);
    let mut follower = bus.follower(Place::default());
    for _ in 0..3 {
        assert!(matches!(follower.next().await, Next::Away(_)));
    }
    bus.with(|play| play.up = true);
    assert_eq!(follow(&mut follower, 1).await.0, [1]);
}

#[tokio::test]
async fn a_place_that_the_log_does_not_hold_is_told_and_left() {
    let other = Place { upto: 3, seq: 3, leaf: "of another log".into() };
    let ahead = Place { upto: 30, seq: 30, leaf: leaf(30) };
    for place in [other, ahead] {
        let bus = FakeBus::plays(&[&[batch(&[1])]]);
        let mut follower = bus.follower(place);
        assert!(matches!(follower.next().await, Next::Elsewhere));
        assert!(matches!(follower.next().await, Next::Elsewhere));
        follower.restart();
        assert_eq!(follow(&mut follower, 1).await.0, [1]);
    }
}

#[tokio::test]
async fn what_is_filtered_out_moves_the_place() {
    let beat = pb::TailResponse { events: Vec::new(), upto: 9 };
    let bus = FakeBus::plays(&[&[batch(&[2, 5]), beat], &[batch(&[12])]]);
    let mut follower = bus.follower(Place::default()).filtered(pb::Filter::default());
    assert_eq!(follow(&mut follower, 12).await.0, [2, 5, 12]);
    assert_eq!(bus.with(|play| play.asked.clone()), [1, 10]);
}

#[tokio::test]
async fn a_call_that_is_dropped_loses_nothing() {
    let bus = FakeBus::plays(&[&[batch(&[1])], &[batch(&[2])]]);
    let mut follower = bus.follower(Place::default());
    let mut seqs = Vec::new();
    while follower.place().upto < 2 {
        tokio::select! {
            biased;
            next = follower.next() => if let Next::Batch(events) = next {
                seqs.extend(events.iter().map(|event| event.seq));
            },
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(seqs, [1, 2]);
}
