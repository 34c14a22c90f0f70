//! Durable consumers as a service: what is delivered, to whom, how often, and what survives which end.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod attempts;
mod chaos;
mod client;
mod costs;
mod making;
mod pulling;
mod restarts;

use std::time::Duration;

use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::consumer_service_client::ConsumerServiceClient;
use mirror_errors::Remote;
use mirror_kit::{Channel, Decl, Principal, Service};
use mirror_testkit::{Node, Sandbox};
use pb::settlement::Outcome;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

static OWNER: Service =
    Service { decl: &OWNER_DECL, build: |_| Box::pin(async { Ok(mirror_kit::Built::new()) }) };
const OWNER_DECL: Decl =
    Decl { name: "owner", summary: "Owns a prefix.", subjects: &["owned"], ..Decl::DEFAULT };

fn sandbox() -> Sandbox {
    Sandbox::with(&[&mirror_bus::SERVICE, &OWNER])
        .config("[bus]\nsegment_first_kib = 64\nsegment_max_kib = 256\n")
}

/// A bus, as one caller sees it.
#[derive(Debug, Clone)]
struct Bus {
    bus: BusServiceClient<Channel>,
    consumers: ConsumerServiceClient<Channel>,
}

impl Bus {
    fn local(node: &Node) -> Self {
        Self::as_(node, Principal::Local)
    }

    fn service(node: &Node, name: &str) -> Self {
        Self::as_(node, Principal::Service(name.into()))
    }

    fn as_(node: &Node, principal: Principal) -> Self {
        let channel = node.channel_as(principal, "bus");
        Self { bus: BusServiceClient::new(channel.clone()), consumers: ConsumerServiceClient::new(channel) }
    }

    async fn append(&self, subject: &str, payload: &str) -> u64 {
        self.append_labelled(subject, payload, &[]).await
    }

    async fn append_labelled(&self, subject: &str, payload: &str, labels: &[&str]) -> u64 {
        let event = Some(pb::NewEvent {
            labels: labels.iter().map(|l| (*l).to_owned()).collect(),
            ..text(subject, payload)
        });
        let answer = self.bus.clone().append(pb::AppendRequest { event, expect: None }).await.unwrap();
        answer.into_inner().ack.unwrap().seq
    }

    /// Appends many events; returns the last position.
    async fn append_many(&self, subject: &str, n: usize) -> u64 {
        let mut last = 0;
        for chunk in (0..n).collect::<Vec<_>>().chunks(500) {
            let events = chunk.iter().map(|i| text(subject, &i.to_string())).collect();
            let request = pb::AppendBatchRequest { events, expect: None };
            let acks = self.bus.clone().append_batch(request).await.unwrap().into_inner().acks;
            last = acks.last().unwrap().seq;
        }
        last
    }

    async fn create(&self, config: pb::ConsumerConfig) -> Result<(pb::Consumer, bool), Remote> {
        let request = pb::CreateConsumerRequest { config: Some(config) };
        let answer = self.consumers.clone().create_consumer(request).await;
        let answer = answer.map_err(|s| Remote::from_status(&s))?.into_inner();
        Ok((answer.consumer.unwrap(), answer.created))
    }

    async fn fetch(&self, name: &str, max: u32, wait: Option<Duration>) -> Result<Vec<pb::Delivery>, Remote> {
        let wait = wait.map(|w| w.try_into().unwrap());
        let request = pb::FetchRequest { name: name.to_owned(), max, wait };
        let answer = self.consumers.clone().fetch(request).await.map_err(|s| Remote::from_status(&s))?;
        Ok(answer.into_inner().deliveries)
    }

    /// Fetches one event that must be there by now.
    async fn one(&self, name: &str) -> pb::Delivery {
        let mut found = self.fetch(name, 1, Some(Duration::from_secs(10))).await.unwrap();
        assert_eq!(found.len(), 1, "an event is there");
        found.remove(0)
    }

    /// Checks that there is nothing to fetch.
    async fn none(&self, name: &str) {
        let found = self.fetch(name, 8, None).await.unwrap();
        assert!(found.is_empty(), "{found:?}");
    }

    async fn settle(&self, name: &str, settlements: Vec<pb::Settlement>) -> Result<Vec<String>, Remote> {
        let request = pb::SettleRequest { name: name.to_owned(), settlements };
        let answer = self.consumers.clone().settle(request).await.map_err(|s| Remote::from_status(&s))?;
        Ok(answer.into_inner().stale)
    }

    /// Settles one delivery, which must be in these hands.
    async fn end(&self, name: &str, delivery: &pb::Delivery, outcome: Outcome) {
        let stale = self.settle(name, vec![settlement(delivery, outcome)]).await.unwrap();
        assert!(stale.is_empty(), "{delivery:?} is in these hands");
    }

    async fn list(&self, name: &str) -> Vec<pb::Consumer> {
        let request = pb::ListConsumersRequest { name: name.to_owned() };
        self.consumers.clone().list_consumers(request).await.unwrap().into_inner().consumers
    }

    async fn show(&self, name: &str) -> pb::Consumer {
        self.list(name).await.pop().unwrap()
    }

    /// Returns all events of a subject.
    async fn read(&self, subject: &str) -> Vec<pb::Event> {
        let filter = Some(pb::Filter { subjects: vec![subject.to_owned()], ..Default::default() });
        let request = pb::ReadRequest { filter, ..Default::default() };
        let mut stream = self.bus.clone().read(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(part) = stream.message().await.unwrap() {
            events.extend(part.events);
        }
        events
    }

    async fn pull(&self, name: &str, credit: u32) -> Puller {
        let (requests, receiver) = mpsc::channel(16);
        let first = pb::ConsumeRequest { name: name.to_owned(), credit, settlements: Vec::new() };
        requests.send(first).await.unwrap();
        let stream =
            self.consumers.clone().consume(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Puller { requests, stream, ready: Vec::new(), settled: 0, stale: Vec::new() }
    }
}

/// A stream that pulls.
struct Puller {
    requests: mpsc::Sender<pb::ConsumeRequest>,
    stream: tonic::Streaming<pb::ConsumeResponse>,
    ready: Vec<pb::Delivery>,
    settled: u64,
    stale: Vec<String>,
}

impl Puller {
    async fn take(&mut self) -> Result<(), Remote> {
        let part = self.stream.message().await.map_err(|s| Remote::from_status(&s))?;
        let part = part.unwrap_or_else(|| panic!("the stream goes on"));
        self.ready.extend(part.deliveries);
        self.settled = self.settled.max(part.settled);
        self.stale.extend(part.stale);
        Ok(())
    }

    /// Returns the next deliveries, as many as are asked for.
    async fn next(&mut self, n: usize) -> Vec<pb::Delivery> {
        while self.ready.len() < n {
            self.take().await.unwrap();
        }
        self.ready.drain(..n).collect()
    }

    async fn send(&self, credit: u32, settlements: Vec<pb::Settlement>) {
        let request = pb::ConsumeRequest { name: String::new(), credit, settlements };
        self.requests.send(request).await.unwrap();
    }

    async fn settled(&mut self, n: u64) {
        while self.settled < n {
            self.take().await.unwrap();
        }
    }
}

fn text(subject: &str, payload: &str) -> pb::NewEvent {
    pb::NewEvent {
        subject: subject.to_owned(),
        payload: payload.to_owned().into(),
        r#type: pb::PayloadType::Text.into(),
        ..Default::default()
    }
}

fn settlement(delivery: &pb::Delivery, outcome: Outcome) -> pb::Settlement {
    pb::Settlement { token: delivery.token.clone(), outcome: outcome.into(), ..Default::default() }
}

/// Returns a consumer of all events under `local`, from the first.
fn config(name: &str) -> pb::ConsumerConfig {
    let filter = Some(pb::Filter { subjects: vec!["local.>".to_owned()], ..Default::default() });
    pb::ConsumerConfig { name: name.to_owned(), filter, from: 1, ..Default::default() }
}

fn secs(seconds: u64) -> prost_types::Duration {
    Duration::from_secs(seconds).try_into().unwrap()
}

fn seq(delivery: &pb::Delivery) -> u64 {
    delivery.event.as_ref().unwrap().seq
}

fn seqs(deliveries: &[pb::Delivery]) -> Vec<u64> {
    deliveries.iter().map(seq).collect()
}
