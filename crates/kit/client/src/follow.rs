//! Following the bus: every event once and in order, across losses of the connection and restarts of the bus.
//!
//! A fold asks [`Follower::next`] in a loop and keeps [`Follower::place`] in its snapshot. What it refuses: to go on
//! when the log does not hold the place that the fold stands on; that is told, and the fold starts again from nothing.
//! Invariant: no event is handed out twice, and none is left out.
//!
//! ```no_run
//! # async fn example(channel: mirror_client::Channel) {
//! use mirror_client::follow::{Follower, Next, Place};
//!
//! let mut follower = Follower::new(channel, Place::default());
//! loop {
//!     match follower.next().await {
//!         Next::Open => { /* the bus is there */ }
//!         Next::Batch(events) => { /* fold them, then keep follower.place() with the result */ }
//!         Next::Away(why) => { /* say so; the next call waits and tries again */ }
//!         Next::Elsewhere => { /* set the state aside */ follower.restart() }
//!     }
//! }
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_errors::Remote;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::{Channel, trace};

/// Shortest wait before the bus is tried again.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest wait before the bus is tried again.
const PAUSE_LIMIT: Duration = Duration::from_secs(2);

/// A place in a log: how far it was read, and the last event that was handed out.
///
/// The leaf of an event commits to the whole log before it, so a place also says which log it was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Everything up to here was handed out or filtered out; 0 before the first.
    pub upto: u64,
    /// Position of the last event that was handed out; 0 before the first.
    pub seq: u64,
    /// Leaf of that event; empty before the first.
    pub leaf: String,
}

/// What a follower has to tell.
#[derive(Debug)]
pub enum Next {
    /// The bus answers; events may take their time.
    Open,
    /// The next events, at most 256. None: a heartbeat, or all were filtered out.
    Batch(Vec<pb::Event>),
    /// The bus is away, in one sentence; asked again, the follower waits and tries again.
    Away(String),
    /// The log does not hold this place: it is another log, or an older state of it.
    Elsewhere,
}

/// A stream that is being opened; `None` when the log does not hold the place.
type Opening = Pin<Box<dyn Future<Output = Result<Option<Streaming<pb::TailResponse>>, Status>> + Send>>;

/// Reads the log of the bus from a place on, for ever.
pub struct Follower {
    bus: BusServiceClient<Channel>,
    filter: Option<pb::Filter>,
    place: Place,
    /// Kept here, so that a call that is dropped again and again gets on.
    opening: Option<Opening>,
    stream: Option<Streaming<pb::TailResponse>>,
    wake: Option<Instant>,
    pause: Duration,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Follower {
    /// Returns a follower that hands out what comes after a place.
    pub fn new(bus: Channel, place: Place) -> Self {
        let bus = BusServiceClient::new(bus);
        Self { bus, filter: None, place, opening: None, stream: None, wake: None, pause: PAUSE }
    }

    /// Leaves out the events that do not match.
    #[must_use]
    pub fn filtered(mut self, filter: pb::Filter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Returns the place after the last batch.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Starts again at the first event.
    pub fn restart(&mut self) {
        self.place = Place::default();
        self.opening = None;
        self.stream = None;
        self.wake = None;
    }

    /// Waits for the next thing to tell. A call that is dropped loses nothing.
    pub async fn next(&mut self) -> Next {
        if let Some(stream) = &mut self.stream {
            return match stream.message().await {
                Ok(Some(response)) => self.take(response),
                Ok(None) => self.away("the bus ended the stream".to_owned()),
                Err(status) => self.away(Remote::from_status(&status).to_string()),
            };
        }
        if let Some(wake) = self.wake {
            tokio::time::sleep_until(wake).await;
            self.wake = None;
        }
        let opening = self
            .opening
            .get_or_insert_with(|| Box::pin(open(self.bus.clone(), self.place.clone(), self.filter.clone())));
        let opened = opening.await;
        self.opening = None;
        match opened {
            Ok(Some(stream)) => {
                self.stream = Some(stream);
                Next::Open
            }
            Ok(None) => {
                // Without a pause a caller that does not restart would ask in a busy loop.
                self.back_off();
                Next::Elsewhere
            }
            Err(status) => self.away(Remote::from_status(&status).to_string()),
        }
    }

    fn take(&mut self, response: pb::TailResponse) -> Next {
        let mut events = response.events;
        events.retain(|event| event.seq > self.place.upto);
        let before = self.place.upto;
        let mut last = before;
        for event in &events {
            let ordered =
                if self.filter.is_some() { event.seq > last } else { event.seq == last.saturating_add(1) };
            if !ordered {
                return self.away(format!("the bus sent event {} after {last}", event.seq));
            }
            last = event.seq;
        }
        if let Some(event) = events.last() {
            self.place = Place { upto: event.seq, seq: event.seq, leaf: event.leaf.clone() };
        }
        if self.filter.is_some() {
            self.place.upto = self.place.upto.max(response.upto);
        }
        if self.place.upto > before {
            // An answer alone proves nothing: at damage the bus answers, and ends the stream.
            self.pause = PAUSE;
        }
        Next::Batch(events)
    }

    fn away(&mut self, why: String) -> Next {
        self.stream = None;
        self.back_off();
        Next::Away(why)
    }

    fn back_off(&mut self) {
        let wait = self.pause / 2 + self.pause.mul_f64(trace::unit_random() / 2.0);
        self.wake = Some(Instant::now() + wait);
        self.pause = (self.pause * 2).min(PAUSE_LIMIT);
    }
}

async fn open(
    mut bus: BusServiceClient<Channel>,
    place: Place,
    filter: Option<pb::Filter>,
) -> Result<Option<Streaming<pb::TailResponse>>, Status> {
    if place.seq > 0 {
        let by = Some(pb::get_event_request::By::Seq(place.seq));
        match bus.get_event(pb::GetEventRequest { by }).await {
            Ok(found) if found.get_ref().event.as_ref().is_some_and(|event| event.leaf == place.leaf) => {}
            Ok(_) => return Ok(None),
            Err(status) if is_missing(&status) => return Ok(None),
            Err(status) => return Err(status),
        }
    }
    let request = pb::TailRequest { from: place.upto.saturating_add(1), filter };
    match bus.tail(request).await {
        Ok(stream) => Ok(Some(stream.into_inner())),
        Err(status) if is_missing(&status) => Ok(None),
        Err(status) => Err(status),
    }
}

fn is_missing(status: &Status) -> bool {
    matches!(Remote::from_status(status).reason.as_str(), "BUS_EVENT_MISSING" | "BUS_POSITION_OUT_OF_RANGE")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{SocketDial, channel};
    use mirror_paths::Home;

    #[tokio::test]
    async fn only_progress_shortens_the_wait() {
        let home = Home::at("/nonexistent").unwrap();
        let bus = channel(Arc::new(SocketDial::new(home)), "bus");
        let mut follower = Follower::new(bus, Place::default());
        for _ in 0..10 {
            assert!(
                matches!(follower.take(pb::TailResponse::default()), Next::Batch(events) if events.is_empty())
            );
            assert!(matches!(follower.away("damaged".to_owned()), Next::Away(_)));
        }
        assert_eq!(follower.pause, PAUSE_LIMIT, "a bus that answers and hangs up is asked ever more seldom");
        let event = pb::Event { seq: 1, ..pb::Event::default() };
        follower.take(pb::TailResponse { events: vec![event], upto: 1 });
        assert_eq!(follower.pause, PAUSE);
    }
}
