//! What every fold answers about itself, and what it learns from an erasure.
//!
//! A payload that the log erases must go from what was made of it. The bus tells of an erasure by an event of its own
//! before it overwrites the payload, so a fold that asks only whether a payload is still there may read it in between:
//! a fold keeps the positions that [`erasure`] names, and reads those events as erased whatever it is handed.
//! Invariant: the same log gives the same answers, whether the fold was there at the erasure or begins after it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mirror_client::Channel;
use mirror_clock::Clock;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{Event, GetEventRequest, PayloadState, get_event_request};
use mirror_contract::mirror::fold::v1 as pb;
use mirror_contract::mirror::fold::v1::fold_service_server::{FoldService, FoldServiceServer};
use mirror_errors::{Classify, Detail, Kind, Remote, reject};
use serde::{Deserialize, Serialize};
use tonic::{Request, Response, Status};

use crate::context::Context;

/// Full name of the gRPC service, for a declaration's `serves`.
pub const FOLD_SERVICE: &str = "mirror.fold.v1.FoldService";

/// Subject of the events that tell of an erasure.
pub const REDACTED: &str = "bus.redacted";

/// How long a call waits for the fold, below the deadline of the contract.
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the positions of the events whose payloads an event erases; none when it is no such event.
///
/// Only the bus says that something was erased: the event's proof was checked before it was stored.
pub fn erasure(event: &Event) -> Option<Vec<u64>> {
    #[derive(Deserialize)]
    struct Redaction {
        events: Vec<u64>,
    }
    if event.subject != REDACTED || event.actor != "svc:bus" {
        return None;
    }
    match serde_json::from_slice::<Redaction>(&event.payload) {
        Ok(redaction) => Some(redaction.events),
        Err(error) => {
            tracing::warn!(seq = event.seq, %error, "skipped a redaction that cannot be read");
            None
        }
    }
}

/// Positions of events whose payloads are erased, as far as a fold has learnt of them.
///
/// It grows by eight bytes for each event that the owner has erased with a signature, and by nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Erased(BTreeSet<u64>);

impl Erased {
    /// Returns whether the payload of an event counts as erased, and remembers it when it is.
    pub fn is(&mut self, event: &Event) -> bool {
        if event.payload_state() == PayloadState::Redacted {
            self.0.insert(event.seq);
        }
        self.0.contains(&event.seq)
    }

    /// Takes what an event erases; returns whether any of it had not counted as erased before.
    ///
    /// A fold that may hold something of those events then forgets what it has, and begins anew with these positions.
    pub fn learn(&mut self, event: &Event) -> bool {
        let before = self.0.len();
        self.0.extend(erasure(event).into_iter().flatten());
        self.0.len() > before
    }

    /// Returns whether the payload of a position counts as erased.
    pub fn contains(&self, seq: u64) -> bool {
        self.0.contains(&seq)
    }
}

/// What a fold says about itself.
#[tonic::async_trait]
pub trait Fold: Send + Sync + 'static {
    /// Returns the position of the last event that the fold holds.
    fn upto(&self) -> u64;

    /// Returns the position of the stored snapshot; 0 when there is none.
    fn snapshot(&self) -> u64;

    /// Waits until the fold has taken the redaction at a position, and has forgotten what that erases.
    async fn reached(&self, redaction: u64);

    /// Returns the copies that the fold knows of, of events that the redaction at a position erases.
    fn copies(&self, redaction: u64, events: &[u64]) -> Vec<pb::Copy>;
}

/// Returns a copy that is erased.
pub fn reached(seq: u64, place: impl Into<String>) -> pb::Copy {
    pb::Copy { seq, r#where: place.into(), state: pb::copy::State::Reached.into(), why: String::new() }
}

/// Returns a copy that may still exist; `why` says what the owner can do.
pub fn unreached(seq: u64, place: impl Into<String>, why: impl Into<String>) -> pb::Copy {
    pb::Copy { seq, r#where: place.into(), state: pb::copy::State::Unreached.into(), why: why.into() }
}

/// Returns the server of a fold over the log that `bus` reaches.
pub fn server(cx: &Context, bus: Channel, fold: Arc<dyn Fold>) -> FoldServiceServer<Api> {
    FoldServiceServer::new(Api { fold, bus: BusServiceClient::new(bus), clock: cx.clock() })
}

/// Why a fold cannot say what a redaction reached.
#[derive(Debug, thiserror::Error)]
enum FoldError {
    #[error("the fold has read up to {upto} and the redaction is at {redaction}; try again in a moment")]
    Behind { upto: u64, redaction: u64 },
    #[error("the fold cannot ask the bus what the redaction erases: {0}; try again in a moment")]
    BusAway(String),
}

impl Classify for FoldError {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }

    fn reason(&self) -> &'static str {
        "FOLD_BEHIND"
    }

    fn details(&self) -> Vec<Detail> {
        vec![Detail::RetryAfter(Duration::from_secs(1))]
    }
}

/// The calls.
#[derive(Clone)]
pub struct Api {
    fold: Arc<dyn Fold>,
    bus: BusServiceClient<Channel>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("upto", &self.fold.upto()).finish_non_exhaustive()
    }
}

impl Api {
    /// Returns the events that the redaction at a position erases; none when there is no redaction.
    async fn erased(&self, redaction: u64) -> Result<Vec<u64>, FoldError> {
        if redaction == 0 {
            return Ok(Vec::new());
        }
        let by = Some(get_event_request::By::Seq(redaction));
        match self.bus.clone().get_event(GetEventRequest { by }).await {
            Ok(found) => Ok(found.get_ref().event.as_ref().and_then(erasure).unwrap_or_default()),
            Err(status) => match Remote::from_status(&status) {
                remote if matches!(remote.kind, Kind::NotFound | Kind::Range) => Ok(Vec::new()),
                remote => Err(FoldError::BusAway(remote.to_string())),
            },
        }
    }

    async fn forgotten(&self, redaction: u64) -> Result<Vec<pb::Copy>, FoldError> {
        let events = self.erased(redaction).await?;
        if events.is_empty() {
            return Ok(Vec::new());
        }
        tokio::select! {
            biased;
            () = self.fold.reached(redaction) => Ok(self.fold.copies(redaction, &events)),
            () = self.clock.sleep(PATIENCE) => Err(FoldError::Behind { upto: self.fold.upto(), redaction }),
        }
    }
}

#[tonic::async_trait]
impl FoldService for Api {
    async fn get_fold(
        &self,
        _: Request<pb::GetFoldRequest>,
    ) -> Result<Response<pb::GetFoldResponse>, Status> {
        Ok(Response::new(pb::GetFoldResponse { upto: self.fold.upto(), snapshot: self.fold.snapshot() }))
    }

    async fn forget(
        &self,
        request: Request<pb::ForgetRequest>,
    ) -> Result<Response<pb::ForgetResponse>, Status> {
        let copies = self.forgotten(request.into_inner().redaction).await.map_err(reject)?;
        Ok(Response::new(pb::ForgetResponse { copies }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, subject: &str, payload: &str) -> Event {
        Event {
            seq,
            subject: subject.to_owned(),
            actor: "svc:bus".to_owned(),
            payload: payload.to_owned().into(),
            payload_state: PayloadState::Present.into(),
            ..Event::default()
        }
    }

    #[test]
    fn only_the_bus_erases() {
        let said = event(9, REDACTED, r#"{"v":1,"envelope":{"a":[1]},"events":[3,5]}"#);
        assert_eq!(erasure(&said), Some(vec![3, 5]));
        assert_eq!(erasure(&Event { actor: "local".into(), ..said.clone() }), None);
        assert_eq!(erasure(&Event { subject: "local.note".into(), ..said }), None);
        assert_eq!(erasure(&event(9, REDACTED, "{}")), None);
    }

    #[test]
    fn an_erasure_is_news_once_and_counts_before_the_payload_is_gone() {
        let mut erased = Erased::default();
        let redaction = event(9, REDACTED, r#"{"events":[3,5]}"#);
        assert!(!erased.is(&event(3, "local.note", "text")));
        assert!(erased.learn(&redaction));
        assert!(!erased.learn(&redaction));
        assert!(erased.is(&event(3, "local.note", "text")) && erased.contains(5) && !erased.contains(4));

        let mut late = Erased::default();
        for seq in [3, 5] {
            let gone = Event { payload_state: PayloadState::Redacted.into(), ..event(seq, "local.note", "") };
            assert!(late.is(&gone));
        }
        assert!(!late.learn(&redaction), "what was read as erased needs no new beginning");
        assert_eq!(late, erased);
    }
}
