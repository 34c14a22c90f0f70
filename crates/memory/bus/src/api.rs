//! The gRPC methods of the bus.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use mirror_clock::Clock;
use mirror_contract::mirror::bus::v1 as pb;
use mirror_errors::reject;
use mirror_kit::{Halt, Peer, Principal, Shutdown, State, StateCell, Tasks};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::bus::Bus;
use crate::error::BusError;
use crate::event::{NewEvent, Prepared, Vocabulary};
use crate::forget::Done;
use crate::redact::Order;
use crate::stream::{Follow, append_stream, read_range, tail};
use crate::upkeep::Pace;
use crate::wire;

/// Most subjects in one answer.
const PAGE: u32 = 1_000;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) bus: Arc<Bus>,
    pub(crate) vocabulary: Vocabulary,
    pub(crate) tasks: Tasks,
    pub(crate) shutdown: Shutdown,
    pub(crate) clock: Arc<dyn Clock>,
    /// Whose word is believed when payloads are to be erased.
    pub(crate) halt: Arc<Halt>,
    pub(crate) state: StateCell,
}

/// Who called: what the bus stamps, and what it shows.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) actor: String,
    service: Option<Box<str>>,
    /// Whether payloads labelled private are shown.
    pub(crate) private: bool,
}

impl Caller {
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        let principal = request.extensions().get::<Peer>().map_or(Principal::Local, |p| p.principal.clone());
        let actor = principal.actor();
        match principal {
            Principal::Service(name) => Self { actor, service: Some(name), private: true },
            Principal::Local | Principal::Stranger { .. } => Self { actor, service: None, private: false },
        }
    }
}

impl Api {
    /// Checks an event for its caller and encodes it.
    pub(crate) fn prepare(&self, event: NewEvent, caller: &Caller) -> Result<Prepared, BusError> {
        self.vocabulary.check(&event.subject, caller.service.as_deref())?;
        Prepared::new(event, &caller.actor)
    }

    fn origin(&self) -> &str {
        self.bus.origin.as_str()
    }

    /// Runs something that blocks on a thread for it.
    async fn blocking<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Bus) -> Result<T, BusError> + Send + 'static,
    ) -> Result<T, Status> {
        let bus = Arc::clone(&self.bus);
        tokio::task::spawn_blocking(move || run(&bus))
            .await
            .map_err(|e| reject(BusError::Read(e.to_string())))?
            .map_err(reject)
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl pb::bus_service_server::BusService for Api {
    async fn append(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let expect = wire::expect(request.expect).map_err(reject)?;
        let event = wire::required(request.event).map_err(reject)?;
        let event = self.prepare(event, &caller).map_err(reject)?;
        let acks = self.bus.append(vec![event], expect).await.map_err(reject)?;
        let ack = acks.into_iter().next().map(|ack| wire::ack(ack, self.origin()));
        Ok(Response::new(pb::AppendResponse { ack }))
    }

    async fn append_batch(
        &self,
        request: Request<pb::AppendBatchRequest>,
    ) -> Result<Response<pb::AppendBatchResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let expect = wire::expect(request.expect).map_err(reject)?;
        let events = wire::batch(request.events).map_err(reject)?;
        let events = events
            .into_iter()
            .map(|e| self.prepare(e, &caller))
            .collect::<Result<Vec<_>, _>>()
            .map_err(reject)?;
        let acks = self.bus.append(events, expect).await.map_err(reject)?;
        let acks = acks.into_iter().map(|ack| wire::ack(ack, self.origin())).collect();
        Ok(Response::new(pb::AppendBatchResponse { acks }))
    }

    type AppendStreamStream = Answers<pb::AppendStreamResponse>;

    async fn append_stream(
        &self,
        request: Request<Streaming<pb::AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let caller = Caller::of(&request);
        let (answers, receiver) = mpsc::channel(64);
        let task = append_stream(self.clone(), caller, request.into_inner(), answers);
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            shutdown.or(task).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_event(
        &self,
        request: Request<pb::GetEventRequest>,
    ) -> Result<Response<pb::GetEventResponse>, Status> {
        use pb::get_event_request::By;
        let private = Caller::of(&request).private;
        let by = request.into_inner().by.ok_or_else(|| {
            reject(BusError::Event { field: "by".to_owned(), why: "is missing; set seq or id".to_owned() })
        })?;
        let record = self
            .blocking(move |bus| match by {
                By::Seq(seq) => bus.get(seq),
                By::Id(id) => bus.find(&id),
            })
            .await?;
        let event = Some(wire::event(record, self.origin(), private, true));
        Ok(Response::new(pb::GetEventResponse { event }))
    }

    type ReadStream = Answers<pb::ReadResponse>;

    async fn read(&self, request: Request<pb::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let private = Caller::of(&request).private;
        let request = request.into_inner();
        let filter = wire::Filter::new(request.filter.clone()).map_err(reject)?;
        let range = self.range(&request).map_err(reject)?;
        let (answers, receiver) = mpsc::channel(4);
        let bus = Arc::clone(&self.bus);
        tokio::task::spawn_blocking(move || read_range(&bus, range, &filter, private, &answers));
        Ok(Response::new(Box::pin(self.shutdown.end(ReceiverStream::new(receiver)))))
    }

    type TailStream = Answers<pb::TailResponse>;

    async fn tail(&self, request: Request<pb::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let private = Caller::of(&request).private;
        let request = request.into_inner();
        let filter = wire::Filter::new(request.filter).map_err(reject)?;
        let (head, oldest) = (self.bus.head().seq, self.bus.segments.oldest());
        let from = if request.from == 0 { head + 1 } else { request.from };
        if from < oldest || from > head + 1 {
            return Err(reject(BusError::Position { field: "from", asked: from, oldest, head }));
        }
        let (answers, receiver) = mpsc::channel(4);
        let follow =
            Follow { bus: Arc::clone(&self.bus), filter, private, from, clock: Arc::clone(&self.clock) };
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            shutdown.or(tail(follow, answers)).await;
        });
        Ok(Response::new(Box::pin(self.shutdown.end(ReceiverStream::new(receiver)))))
    }

    async fn list_subjects(
        &self,
        request: Request<pb::ListSubjectsRequest>,
    ) -> Result<Response<pb::ListSubjectsResponse>, Status> {
        let request = request.into_inner();
        let size = if request.page_size == 0 { PAGE } else { request.page_size };
        let bad = |field: &str, why: String| reject(BusError::Filter { field: field.to_owned(), why });
        if size > PAGE {
            return Err(bad("page_size", format!("is {size}, at most {PAGE} is allowed")));
        }
        let filter = match request.filter.as_str() {
            "" => None,
            text => Some(mirror_types::SubjectFilter::parse(text).map_err(|e| bad("filter", e.to_string()))?),
        };
        let found = self
            .blocking(move |bus| {
                let want = |s: &str| filter.as_ref().is_none_or(|f| f.matches(s));
                bus.index
                    .subjects(&request.after, size as usize + 1, &want)
                    .map_err(|e| BusError::Read(e.to_string()))
            })
            .await?;
        let more = found.len() > size as usize;
        let subjects: Vec<_> = found
            .into_iter()
            .take(size as usize)
            .map(|(subject, last_seq)| pb::list_subjects_response::Subject { subject, last_seq })
            .collect();
        let next = subjects.last().filter(|_| more).map(|s| s.subject.clone()).unwrap_or_default();
        Ok(Response::new(pb::ListSubjectsResponse { subjects, next }))
    }

    async fn compress(
        &self,
        request: Request<pb::CompressRequest>,
    ) -> Result<Response<pb::CompressResponse>, Status> {
        let days = request.into_inner().older_than_days;
        let done = self.blocking(move |bus| bus.compress(days, Pace::Full)).await?;
        Ok(Response::new(pb::CompressResponse {
            segments: done.segments,
            bytes_before: done.before,
            bytes_after: done.after,
        }))
    }

    async fn repair(
        &self,
        request: Request<pb::RepairRequest>,
    ) -> Result<Response<pb::RepairResponse>, Status> {
        let from = request.into_inner().from;
        let ranges = self.blocking(move |bus| bus.repair(from.as_ref())).await?;
        Ok(Response::new(pb::RepairResponse { ranges }))
    }

    async fn rebuild_index(
        &self,
        _: Request<pb::RebuildIndexRequest>,
    ) -> Result<Response<pb::RebuildIndexResponse>, Status> {
        let head = self.bus.head().seq;
        self.blocking(|bus| bus.index.rebuild().map_err(|e| BusError::Read(e.to_string()))).await?;
        Ok(Response::new(pb::RebuildIndexResponse { head }))
    }

    async fn redact(
        &self,
        request: Request<pb::RedactRequest>,
    ) -> Result<Response<pb::RedactResponse>, Status> {
        let (envelope, halt) = (request.into_inner().envelope, Arc::clone(&self.halt));
        let done = self
            .blocking(move |bus| {
                let proof = halt.keys_envelope();
                bus.redact(&Order::open(&envelope, bus.origin.as_str(), &halt.keys(), proof)?)
            })
            .await?;
        let Done { redaction, erased, already } = done;
        Ok(Response::new(pb::RedactResponse { redaction, erased, already }))
    }

    async fn seal(&self, request: Request<pb::SealRequest>) -> Result<Response<pb::SealResponse>, Status> {
        let request = request.into_inner();
        let seq = self.bus.seal(&request.origin, &request.reason).await.map_err(reject)?;
        self.state.set(State::Degraded, crate::sealed(seq));
        Ok(Response::new(pb::SealResponse { seq }))
    }

    async fn get_status(
        &self,
        _: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        Ok(Response::new(self.blocking(|bus| Ok(bus.status())).await?))
    }
}
