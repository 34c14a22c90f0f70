//! Appends with a fixed number in flight: one client on one connection, whose acknowledgements are all awaited.
//!
//! A time is taken from handing an event to the client until its acknowledgement is seen.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use hdrhistogram::Histogram;
use mirror_contract::mirror::bus::v1 as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::bus::Client;
use crate::syncs::{Acknowledged, Flushes};

/// When the last event is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until {
    span: f64,
    count: u64,
}

impl Until {
    /// After some time.
    pub(crate) fn span(span: Duration) -> Self {
        Self { span: span.as_secs_f64(), count: u64::MAX }
    }

    /// After so many events.
    pub(crate) fn count(count: u64) -> Self {
        Self { span: f64::INFINITY, count }
    }

    pub(crate) fn goes_on(self, seconds: f64, sent: u64) -> bool {
        seconds < self.span && sent < self.count
    }
}

/// What one client had acknowledged.
pub(crate) struct Run {
    pub(crate) acknowledged: Acknowledged,
    /// Nanoseconds from handing over to the acknowledgement.
    pub(crate) times: Histogram<u64>,
}

/// Keeps a number of events in flight on an append stream, one event a message; each is made from its number.
pub(crate) async fn stream(
    home: &Path,
    until: Until,
    window: usize,
    mut client: Client,
    make: impl Fn(u64) -> pb::NewEvent,
) -> anyhow::Result<Run> {
    let (send, requests) = mpsc::channel(window);
    let mut answers = client.append_stream(ReceiverStream::new(requests)).await?.into_inner();
    let mut flying = VecDeque::with_capacity(window);
    let mut times = Histogram::<u64>::new(3)?;
    let (flushes, start) = (Flushes::watch(home), Instant::now());
    let (mut seconds, mut sent) = (0.0, 0);
    loop {
        while flying.len() < window && until.goes_on(seconds, sent) {
            let request = pb::AppendStreamRequest { events: vec![make(sent)] };
            flying.push_back(Instant::now());
            send.try_send(request).ok().context("the stream has no room for what is in flight")?;
            sent += 1;
        }
        if flying.is_empty() {
            break;
        }
        let answer = answers.next().await.context("the bus ended the stream")??;
        let now = Instant::now();
        while times.len() < answer.count {
            let sent = flying.pop_front().context("more was acknowledged than was sent")?;
            times.record(u64::try_from((now - sent).as_nanos())?)?;
        }
        seconds = start.elapsed().as_secs_f64();
    }
    let count = times.len();
    Ok(Run { acknowledged: Acknowledged { count, seconds, window, flushes: flushes.count() }, times })
}
