//! Consuming from the bus: each event at least once, until it is settled, across losses of the connection and restarts.
//!
//! A service asks [`Consumer::next`] in a loop, does what the event asks for, and then says what became of it. What it
//! refuses: to take more events at a time than it was told to. Invariant: an event whose settlement was answered with
//! [`Settled::Done`] is not delivered again, whatever happens to the bus or to this process.
//!
//! ```no_run
//! # async fn example(channel: mirror_client::Channel) {
//! use mirror_client::consume::{Consumer, Next};
//! use mirror_contract::mirror::bus::v1::ConsumerConfig;
//!
//! let config = ConsumerConfig { name: "indexer".to_owned(), from: 1, ..ConsumerConfig::default() };
//! let mut consumer = Consumer::new(channel, config);
//! loop {
//!     match consumer.next().await {
//!         Next::Open => { /* the bus is there */ }
//!         Next::Delivery(delivery) => {
//!             // Work with delivery.event, twice if need be; then:
//!             let _ = delivery.ack().await;
//!         }
//!         Next::Away(why) => { /* say so; the next call waits and tries again */ }
//!         Next::Refused(why) => { /* say so; trying again helps only when somebody acts */ }
//!     }
//! }
//! # }
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::consumer_service_client::ConsumerServiceClient;
use mirror_errors::{Kind, Remote};
use pb::settlement::Outcome;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{Channel, hold, trace};

/// Shortest wait before the bus is tried again.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest wait before the bus is tried again.
const PAUSE_LIMIT: Duration = Duration::from_secs(2);
/// Events that are on their way or handed out and not taken note of, unless told otherwise.
const CREDIT: u32 = 64;
/// How long a settlement tries to reach a bus that is away.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// What a consumer has to tell.
#[derive(Debug)]
pub enum Next {
    /// The bus answers; events may take their time.
    Open,
    /// The next event.
    Delivery(Box<Delivery>),
    /// The bus is away, in one sentence; asked again, the consumer waits and tries again.
    Away(String),
    /// The bus refuses this consumer: its configuration, its name or its owner.
    Refused(Remote),
}

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is stored.
    Done,
    /// It was settled before, came too late, or the bus was restarted; unless it was settled, the event comes again.
    Stale,
}

/// An event in these hands.
#[derive(Clone)]
pub struct Delivery {
    /// The event.
    pub event: pb::Event,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// When it must be settled, in milliseconds since 1970.
    pub settle_by_ms: u64,
    token: String,
    consumer: String,
    client: ConsumerServiceClient<Channel>,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seq, attempt) = (self.event.seq, self.attempt);
        f.debug_struct("Delivery").field("seq", &seq).field("attempt", &attempt).finish_non_exhaustive()
    }
}

impl Delivery {
    /// Says that the event is done; returns when that is durable.
    ///
    /// # Errors
    ///
    /// What the bus answers, or that it is away for long; the event then comes again.
    pub async fn ack(&self) -> Result<Settled, Status> {
        self.settle(Outcome::Ack, None, "").await
    }

    /// Says that the event failed and is to be tried again, after `delay` or the consumer's backoff.
    ///
    /// # Errors
    ///
    /// As [`Delivery::ack`].
    pub async fn nack(&self, delay: Option<Duration>, reason: &str) -> Result<Settled, Status> {
        self.settle(Outcome::Nack, delay, reason).await
    }

    /// Says that the event can never be done; it becomes a dead letter.
    ///
    /// # Errors
    ///
    /// As [`Delivery::ack`].
    pub async fn term(&self, reason: &str) -> Result<Settled, Status> {
        self.settle(Outcome::Term, None, reason).await
    }

    /// Asks for more time: the consumer's `settle_within` from now.
    ///
    /// # Errors
    ///
    /// As [`Delivery::ack`].
    pub async fn extend(&self) -> Result<Settled, Status> {
        self.settle(Outcome::Extend, None, "").await
    }

    async fn settle(
        &self,
        outcome: Outcome,
        delay: Option<Duration>,
        reason: &str,
    ) -> Result<Settled, Status> {
        let settlement = pb::Settlement {
            token: self.token.clone(),
            outcome: outcome.into(),
            delay: delay.and_then(|delay| delay.try_into().ok()),
            reason: reason.to_owned(),
        };
        let request = pb::SettleRequest { name: self.consumer.clone(), settlements: vec![settlement] };
        let answer = hold(SETTLE_LIMIT, || {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.settle(request).await }
        });
        let stale = answer.await?.into_inner().stale;
        Ok(if stale.is_empty() { Settled::Done } else { Settled::Stale })
    }
}

struct Session {
    requests: mpsc::Sender<pb::ConsumeRequest>,
    stream: Streaming<pb::ConsumeResponse>,
}

type Opening = Pin<Box<dyn Future<Output = Result<Session, Status>> + Send>>;

/// Pulls from a consumer for ever; makes it where it does not exist.
///
/// When it is dropped, what it handed out and is not settled is delivered again at once, to whoever pulls.
pub struct Consumer {
    client: ConsumerServiceClient<Channel>,
    config: pb::ConsumerConfig,
    credit: u32,
    /// Handed out since the bus was last given credit.
    used: u32,
    ready: VecDeque<pb::Delivery>,
    /// Kept here, so that a call that is dropped again and again gets on.
    opening: Option<Opening>,
    session: Option<Session>,
    wake: Option<Instant>,
    pause: Duration,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("name", &self.config.name).finish_non_exhaustive()
    }
}

impl Consumer {
    /// Returns a consumer of the bus.
    pub fn new(bus: Channel, config: pb::ConsumerConfig) -> Self {
        Self {
            client: ConsumerServiceClient::new(bus),
            config,
            credit: CREDIT,
            used: 0,
            ready: VecDeque::new(),
            opening: None,
            session: None,
            wake: None,
            pause: PAUSE,
        }
    }

    /// Lets at most so many events, 1 to 4,096, be on their way at a time.
    #[must_use]
    pub fn with_credit(mut self, credit: u32) -> Self {
        self.credit = credit.clamp(1, 4_096);
        self
    }

    /// Waits for the next thing to tell. A call that is dropped loses nothing.
    pub async fn next(&mut self) -> Next {
        loop {
            if let Some(delivery) = self.ready.pop_front() {
                self.give_credit();
                let Some(event) = delivery.event else { continue };
                let settle_by = delivery.settle_by.as_ref();
                return Next::Delivery(Box::new(Delivery {
                    event,
                    attempt: delivery.attempt,
                    settle_by_ms: settle_by.and_then(mirror_contract::millis).unwrap_or_default(),
                    token: delivery.token,
                    consumer: self.config.name.clone(),
                    client: self.client.clone(),
                }));
            }
            if let Some(session) = &mut self.session {
                match session.stream.message().await {
                    Ok(Some(response)) => {
                        self.pause = PAUSE;
                        self.ready.extend(response.deliveries);
                        continue;
                    }
                    Ok(None) => return self.away("the bus ended the stream".to_owned()),
                    Err(status) => return self.failed(&status),
                }
            }
            if let Some(wake) = self.wake {
                tokio::time::sleep_until(wake).await;
                self.wake = None;
            }
            let opening = self
                .opening
                .get_or_insert_with(|| Box::pin(open(self.client.clone(), self.config.clone(), self.credit)));
            let opened = opening.await;
            self.opening = None;
            return match opened {
                Ok(session) => {
                    self.session = Some(session);
                    self.used = 0;
                    Next::Open
                }
                Err(status) => self.failed(&status),
            };
        }
    }

    /// Lets the bus send as many more as were handed out, many at a time.
    fn give_credit(&mut self) {
        self.used += 1;
        let Some(session) = self.session.as_ref().filter(|_| self.used >= self.credit.div_ceil(2)) else {
            return;
        };
        let request = pb::ConsumeRequest { credit: self.used, ..Default::default() };
        if session.requests.try_send(request).is_ok() {
            self.used = 0;
        }
    }

    fn failed(&mut self, status: &Status) -> Next {
        let remote = Remote::from_status(status);
        let refused = matches!(remote.kind, Kind::Invalid | Kind::Denied | Kind::Exists);
        if refused && !remote.reason.is_empty() {
            self.lost();
            return Next::Refused(remote);
        }
        self.away(remote.to_string())
    }

    fn away(&mut self, why: String) -> Next {
        self.lost();
        Next::Away(why)
    }

    fn lost(&mut self) {
        // What was sent and not handed out is delivered again.
        self.ready.clear();
        self.session = None;
        let wait = self.pause / 2 + self.pause.mul_f64(trace::unit_random() / 2.0);
        self.wake = Some(Instant::now() + wait);
        self.pause = (self.pause * 2).min(PAUSE_LIMIT);
    }
}

async fn open(
    mut client: ConsumerServiceClient<Channel>,
    config: pb::ConsumerConfig,
    credit: u32,
) -> Result<Session, Status> {
    let name = config.name.clone();
    client.create_consumer(pb::CreateConsumerRequest { config: Some(config) }).await?;
    let (requests, receiver) = mpsc::channel(4);
    let first = pb::ConsumeRequest { name, credit, settlements: Vec::new() };
    // There is room: it is the first.
    let _ = requests.try_send(first);
    let stream = client.consume(ReceiverStream::new(receiver)).await?.into_inner();
    Ok(Session { requests, stream })
}
