//! Between the contract and the machine: all checks of requests, and the shape of answers.

use std::time::Duration;

use mirror_consumers::{Config, Counts, FilterSpec, Outcome, Standing, Taken, WAIT_LIMIT_MS};
use mirror_contract::mirror::bus::v1 as pb;
use mirror_types::Label;

use crate::error::BusError;
use crate::reader::Record;
use crate::wire;

/// Settlements of one request, and credit that one request may add.
pub(super) const REQUEST_LIMIT: u32 = 4_096;

/// Events of one answer.
pub(super) const PAGE_EVENTS: u32 = 256;

/// Longest wait of a fetch.
const FETCH_WAIT_MS: u64 = 30_000;

/// Bytes of a filter as it is recorded.
const FILTER_BYTES: usize = 8_192;

/// Waits of a backoff.
const BACKOFF_ITEMS: usize = 16;

const REASON_BYTES: usize = 256;

pub(super) fn invalid(field: impl Into<String>, why: impl Into<String>) -> BusError {
    BusError::Consumer { field: field.into(), why: why.into() }
}

fn span_ms(field: &str, span: &prost_types::Duration, limit_ms: u64) -> Result<u64, BusError> {
    let ms = Duration::try_from(*span).ok().and_then(|d| u64::try_from(d.as_millis()).ok());
    ms.filter(|ms| *ms <= limit_ms).ok_or_else(|| {
        let limit = limit_ms / 1_000;
        invalid(field, format!("is {} s {} ns, and 0 to {limit} s are allowed", span.seconds, span.nanos))
    })
}

fn number(field: &str, given: u32, default: u32, max: u32) -> Result<u32, BusError> {
    match given {
        0 => Ok(default),
        n if n <= max => Ok(n),
        n => Err(invalid(field, format!("is {n}, and 1 to {max} are allowed"))),
    }
}

/// Returns a checked name.
pub(super) fn name(field: &str, name: &str) -> Result<(), BusError> {
    // A name is made as a label is.
    let checked = Label::parse(name);
    checked.map(|_| ()).map_err(|e| invalid(field, e.to_string().replace("a label is", "a name is")))
}

/// Returns how a consumer is to read, with all defaults filled in; the filter as the reader needs it.
pub(super) fn config(
    config: Option<pb::ConsumerConfig>,
    head: u64,
) -> Result<(Config, wire::Filter), BusError> {
    let config = config.ok_or_else(|| invalid("config", "is missing"))?;
    name("config.name", &config.name)?;
    let filter = wire::Filter::new(config.filter.clone()).map_err(|e| match e {
        BusError::Filter { field, why } => invalid(format!("config.{field}"), why),
        other => other,
    })?;
    let spec = spec(config.filter.unwrap_or_default());
    let bytes = serde_json::to_vec(&spec).map_or(usize::MAX, |text| text.len());
    if bytes > FILTER_BYTES {
        let why = format!("has {bytes} bytes as JSON, at most {FILTER_BYTES} are allowed");
        return Err(invalid("config.filter", why));
    }
    if config.from > head + 1 {
        let why = format!("is {}, and the log ends at {head}; 0 begins with the next event", config.from);
        return Err(invalid("config.from", why));
    }
    let settle_within_ms = match &config.settle_within {
        None => 30_000,
        Some(span) => span_ms("config.settle_within", span, 3_600_000)?,
    };
    if settle_within_ms < 1_000 {
        let why = format!("is {settle_within_ms} ms, at least 1 second is needed");
        return Err(invalid("config.settle_within", why));
    }
    if config.backoff.len() > BACKOFF_ITEMS {
        let why = format!("has {} items, at most {BACKOFF_ITEMS} are allowed", config.backoff.len());
        return Err(invalid("config.backoff", why));
    }
    let at = |(i, span)| span_ms(&format!("config.backoff[{i}]"), span, WAIT_LIMIT_MS);
    let mut backoff_ms: Vec<u64> = config.backoff.iter().enumerate().map(at).collect::<Result<_, _>>()?;
    if backoff_ms.is_empty() {
        backoff_ms = vec![1_000, 5_000, 30_000, 120_000];
    }
    let config = Config {
        filter: spec,
        from: config.from,
        settle_within_ms,
        max_attempts: number("config.max_attempts", config.max_attempts, 5, 1_000)?,
        backoff_ms,
        max_in_hands: number("config.max_in_hands", config.max_in_hands, 256, 4_096)?,
        name: config.name,
    };
    Ok((config, filter))
}

fn spec(filter: pb::Filter) -> FilterSpec {
    FilterSpec {
        subjects: filter.subjects,
        actors: filter.actors,
        labels: filter.labels,
        since_ms: filter.since.as_ref().and_then(mirror_contract::millis),
        until_ms: filter.until.as_ref().and_then(mirror_contract::millis),
    }
}

/// Returns a recorded filter as the contract has it; nothing when it takes all.
fn filter(spec: &FilterSpec) -> Option<pb::Filter> {
    (*spec != FilterSpec::default()).then(|| pb::Filter {
        subjects: spec.subjects.clone(),
        actors: spec.actors.clone(),
        labels: spec.labels.clone(),
        since: spec.since_ms.map(mirror_contract::timestamp),
        until: spec.until_ms.map(mirror_contract::timestamp),
    })
}

/// Returns a recorded filter as the reader needs it.
pub(super) fn reader(spec: &FilterSpec) -> Result<wire::Filter, BusError> {
    wire::Filter::new(filter(spec))
}

fn span(ms: u64) -> prost_types::Duration {
    let nanos = i32::try_from(ms % 1_000 * 1_000_000).unwrap_or_default();
    prost_types::Duration { seconds: i64::try_from(ms / 1_000).unwrap_or(i64::MAX), nanos }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Returns a consumer and where it stands.
pub(super) fn consumer(
    config: &Config,
    owner: &str,
    created_ms: u64,
    counts: Counts,
    head: u64,
) -> pb::Consumer {
    pb::Consumer {
        config: Some(pb::ConsumerConfig {
            name: config.name.clone(),
            filter: filter(&config.filter),
            from: config.from,
            settle_within: Some(span(config.settle_within_ms)),
            max_attempts: config.max_attempts,
            backoff: config.backoff_ms.iter().map(|ms| span(*ms)).collect(),
            max_in_hands: config.max_in_hands,
        }),
        owner: owner.to_owned(),
        settled_upto: counts.settled_upto,
        delivered_upto: counts.delivered_upto,
        in_hands: count(counts.in_hands),
        waiting: count(counts.waiting),
        dead: counts.dead,
        behind: head.saturating_sub(counts.settled_upto),
        created: Some(mirror_contract::timestamp(created_ms)),
    }
}

/// Returns the parts of a consumer that never change.
pub(super) fn facts(standing: &Standing) -> (String, u64) {
    (standing.owner.clone(), standing.created_ms)
}

/// Returns an event in somebody's hands.
pub(super) fn delivery(taken: &Taken, record: Record, origin: &str, private: bool) -> pb::Delivery {
    pb::Delivery {
        event: Some(wire::event(record, origin, private, false)),
        attempt: taken.attempt,
        settle_by: Some(mirror_contract::timestamp(taken.deadline)),
        token: taken.token.to_string(),
    }
}

/// Returns how many events a fetch wants, and how long it waits in milliseconds.
pub(super) fn fetch(request: &pb::FetchRequest) -> Result<(u32, u64), BusError> {
    let max = number("max", request.max, 1, PAGE_EVENTS)?;
    let wait = request.wait.as_ref().map_or(Ok(0), |wait| span_ms("wait", wait, FETCH_WAIT_MS))?;
    Ok((max, wait))
}

/// Returns what became of deliveries, by the text of their tokens; one that is malformed refuses all.
pub(super) fn settlements(settlements: Vec<pb::Settlement>) -> Result<Vec<(String, Outcome)>, BusError> {
    let limit = usize::try_from(REQUEST_LIMIT).unwrap_or(usize::MAX);
    if settlements.len() > limit {
        let why =
            format!("has {} items, at most {limit} are allowed; nothing was settled", settlements.len());
        return Err(invalid("settlements", why));
    }
    settlements.into_iter().enumerate().map(|(i, s)| settlement(i, s)).collect()
}

fn settlement(i: usize, settlement: pb::Settlement) -> Result<(String, Outcome), BusError> {
    use pb::settlement::Outcome as Wire;
    let field = |name: &str| format!("settlements[{i}].{name}");
    let kind = settlement.outcome();
    let pb::Settlement { token, outcome, delay, reason } = settlement;
    if kind != Wire::Nack && delay.is_some() {
        return Err(invalid(field("delay"), "is only for OUTCOME_NACK; nothing was settled"));
    }
    if !matches!(kind, Wire::Nack | Wire::Term) && !reason.is_empty() {
        return Err(invalid(
            field("reason"),
            "is only for OUTCOME_NACK and OUTCOME_TERM; nothing was settled",
        ));
    }
    if reason.len() > REASON_BYTES {
        let why =
            format!("has {} bytes, at most {REASON_BYTES} are allowed; nothing was settled", reason.len());
        return Err(invalid(field("reason"), why));
    }
    let outcome = match kind {
        Wire::Ack => Outcome::Ack,
        Wire::Extend => Outcome::Extend,
        Wire::Term => Outcome::Term { reason },
        Wire::Nack => {
            let delay = delay.map(|d| span_ms(&field("delay"), &d, WAIT_LIMIT_MS)).transpose()?;
            Outcome::Nack { delay, reason }
        }
        Wire::Unspecified => {
            let why =
                format!("is {outcome}; set it to OUTCOME_ACK, _NACK, _EXTEND or _TERM; nothing was settled");
            return Err(invalid(field("outcome"), why));
        }
    };
    Ok((token, outcome))
}
