//! Between the contract and the domain: all checks of requests, and the shape of answers.

use bytes::Bytes;
use mirror_contract::mirror::bus::v1 as pb;
use mirror_types::{Cause, EventId, Label, Model, Subject, SubjectFilter};

use crate::error::BusError;
use crate::event::{NewEvent, named};
use crate::line::{Header, Stored};
use crate::reader::{Body, Record};
use crate::writer::{Ack, Expect};

/// Events of one batch, and of one message of a stream.
pub(crate) const BATCH_EVENTS: usize = 1_000;

/// Payload bytes of one batch.
pub(crate) const BATCH_BYTES: usize = 1 << 20;

/// Label whose payloads local callers do not get.
const PRIVATE: &str = "private";

fn field(field: &str, why: impl Into<String>) -> BusError {
    BusError::Event { field: field.to_owned(), why: why.into() }
}

impl TryFrom<pb::NewEvent> for NewEvent {
    type Error = BusError;

    fn try_from(event: pb::NewEvent) -> Result<Self, BusError> {
        let stored = match event.r#type() {
            pb::PayloadType::Json => Stored::Json,
            pb::PayloadType::Text => Stored::Text,
            pb::PayloadType::Binary => Stored::Base64,
            pb::PayloadType::Blob => Stored::Blob,
            pb::PayloadType::Unspecified => {
                return Err(field(
                    "type",
                    format!(
                        "is {}; set it to PAYLOAD_TYPE_JSON, PAYLOAD_TYPE_TEXT, PAYLOAD_TYPE_BINARY or PAYLOAD_TYPE_BLOB",
                        event.r#type
                    ),
                ));
            }
        };
        let id =
            if event.id.is_empty() { None } else { Some(EventId::parse(&event.id).map_err(named("id"))?) };
        let model = if event.model.is_empty() {
            None
        } else {
            Some(Model::parse(&event.model).map_err(named("model"))?)
        };
        Ok(Self {
            subject: Subject::parse(&event.subject).map_err(named("subject"))?,
            id,
            stored,
            payload: event.payload,
            model,
            causes: event
                .causes
                .iter()
                .map(|c| Cause::parse(c))
                .collect::<Result<_, _>>()
                .map_err(named("causes"))?,
            labels: event
                .labels
                .iter()
                .map(|l| Label::parse(l))
                .collect::<Result<_, _>>()
                .map_err(named("labels"))?,
        })
    }
}

/// Returns the event of a request that must have one.
pub(crate) fn required(event: Option<pb::NewEvent>) -> Result<NewEvent, BusError> {
    event.ok_or_else(|| field("event", "is missing"))?.try_into()
}

/// Returns the events of a batch, or of a message of a stream.
pub(crate) fn batch(events: Vec<pb::NewEvent>) -> Result<Vec<NewEvent>, BusError> {
    let (n, bytes) = (events.len(), events.iter().map(|e| e.payload.len()).sum::<usize>());
    if n == 0 || n > BATCH_EVENTS {
        return Err(BusError::Batch(format!(
            "has {n} items, 1 to {BATCH_EVENTS} are allowed; nothing was stored"
        )));
    }
    if bytes > BATCH_BYTES {
        return Err(BusError::Batch(format!(
            "has {bytes} bytes of payload, at most {BATCH_BYTES} are allowed; nothing was stored"
        )));
    }
    let at = |i: usize| {
        move |e: BusError| match e {
            BusError::Event { field, why } => BusError::Event { field: format!("events[{i}].{field}"), why },
            other => other,
        }
    };
    events.into_iter().enumerate().map(|(i, e)| e.try_into().map_err(at(i))).collect()
}

/// Returns what must hold for an append.
pub(crate) fn expect(expect: Option<pb::Expectation>) -> Result<Expect, BusError> {
    use pb::expectation::State;
    match expect.and_then(|e| e.state) {
        None => Ok(Expect::Nothing),
        Some(State::SubjectEmpty(true)) => Ok(Expect::Subject(0)),
        Some(State::SubjectEmpty(false)) => {
            Err(field("expect.subject_empty", "is false; leave it out, or set subject_seq"))
        }
        Some(State::SubjectSeq(seq)) => Ok(Expect::Subject(seq)),
        Some(State::LogSeq(seq)) => Ok(Expect::Log(seq)),
    }
}

/// Which events a reader wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    subjects: Vec<SubjectFilter>,
    actors: Vec<String>,
    labels: Vec<String>,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
}

const FILTER_ITEMS: usize = 64;

impl Filter {
    pub(crate) fn new(filter: Option<pb::Filter>) -> Result<Self, BusError> {
        let Some(filter) = filter else { return Ok(Self::default()) };
        let bad = |field: &str, why: String| BusError::Filter { field: format!("filter.{field}"), why };
        for (name, len) in [
            ("subjects", filter.subjects.len()),
            ("actors", filter.actors.len()),
            ("labels", filter.labels.len()),
        ] {
            if len > FILTER_ITEMS {
                return Err(bad(name, format!("has {len} items, at most {FILTER_ITEMS} are allowed")));
            }
        }
        let subjects = filter
            .subjects
            .iter()
            .map(|s| SubjectFilter::parse(s))
            .collect::<Result<_, _>>()
            .map_err(|e| bad("subjects", e.to_string()))?;
        let ms = |name: &str, time: Option<prost_types::Timestamp>| match time {
            None => Ok(None),
            Some(t) => u64::try_from(t.seconds)
                .ok()
                .and_then(|s| s.checked_mul(1000)?.checked_add(u64::try_from(t.nanos).ok()? / 1_000_000))
                .map(Some)
                .ok_or_else(|| bad(name, "is before 1970 or too large".to_owned())),
        };
        Ok(Self {
            subjects,
            actors: filter.actors,
            labels: filter.labels,
            since_ms: ms("since", filter.since)?,
            until_ms: ms("until", filter.until)?,
        })
    }

    pub(crate) fn wants(&self, header: &Header) -> bool {
        (self.subjects.is_empty() || self.subjects.iter().any(|s| s.matches(header.subject.as_str())))
            && (self.actors.is_empty() || self.actors.iter().any(|a| **a == *header.actor))
            && (self.labels.is_empty()
                || self.labels.iter().any(|l| header.labels.iter().any(|have| have.as_str() == l)))
            && self.since_ms.is_none_or(|t| header.wall_ms >= t)
            && self.until_ms.is_none_or(|t| header.wall_ms < t)
    }
}

/// Returns an event as a caller may see it.
pub(crate) fn event(record: Record, origin: &str, private: bool, whole: bool) -> pb::Event {
    let Record { header, json, body } = record;
    let withheld = !private && header.labels.iter().any(|l| l.as_str() == PRIVATE);
    let (state, payload, salt, redacted_by) = match body {
        Body::Redacted { by } => (pb::PayloadState::Redacted, Bytes::new(), String::new(), by),
        Body::Here { .. } if withheld => (pb::PayloadState::Withheld, Bytes::new(), String::new(), 0),
        Body::Here { payload, salt } => {
            let salt = if whole {
                base64::Engine::encode(&mirror_seal::BASE64_UNPADDED, salt)
            } else {
                String::new()
            };
            (pb::PayloadState::Present, payload, salt, 0)
        }
    };
    let r#type = match header.stored {
        Stored::Json => pb::PayloadType::Json,
        Stored::Text => pb::PayloadType::Text,
        Stored::Base64 => pb::PayloadType::Binary,
        Stored::Blob => pb::PayloadType::Blob,
    };
    pb::Event {
        origin: origin.to_owned(),
        seq: header.seq,
        time: header.hlc.to_string(),
        wall_time: Some(mirror_contract::timestamp(header.wall_ms)),
        subject: header.subject.to_string(),
        id: header.id.to_string(),
        r#type: r#type.into(),
        payload,
        payload_state: state.into(),
        actor: header.actor.into_string(),
        model: header.model.map(|m| m.to_string()).unwrap_or_default(),
        causes: header.causes.iter().map(|c| c.as_str().to_owned()).collect(),
        labels: header.labels.iter().map(ToString::to_string).collect(),
        leaf: mirror_seal::hex(&header.leaf),
        header: if whole { json } else { String::new() },
        salt,
        redacted_by,
    }
}

/// Returns a receipt.
pub(crate) fn ack(ack: Ack, origin: &str) -> pb::Ack {
    pb::Ack {
        origin: origin.to_owned(),
        seq: ack.seq,
        id: ack.id.map_or_else(|| format!("{}{}", crate::event::OWN_ID, ack.seq), |id| id.into_string()),
        leaf: mirror_seal::hex(&ack.leaf),
        duplicate: ack.duplicate,
        durability: pb::Durability::Synced.into(),
    }
}
