//! Redaction orders and the events that prove them: who may have which payloads erased, and which erasures are lawful.
//!
//! It believes an order only by the signature of a key that may release the halt. What the halt, the keeper, the witness
//! and the bus itself have recorded is never erased: folds and proofs of rights are made of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use mirror_kit::{REDACTION_TYPE, RedactionStatement, ReleaseKeys};
use mirror_seal::{Envelope, Hash, unhex};
use serde::{Deserialize, Serialize};

use crate::error::BusError;
use crate::line::{Header, Payload};
use crate::scan::{Event, Lines};
use crate::segments::Segments;

/// Subject of the event that proves a redaction.
pub(crate) const SUBJECT: &str = "bus.redacted";

/// Prefixes under which nothing is erased.
pub(crate) const KEPT: [&str; 6] = ["blobs", "bus", "dead", "halt", "keeper", "witness"];

/// Most events of one order.
const EVENTS: usize = 256;

/// Longest reason in bytes.
pub(crate) const REASON: usize = 256;

/// Longest envelope in bytes; with the rest of the event it fits into a payload.
const ENVELOPE: usize = 52 << 10;

/// Longest copy of `halt/keys` that is stored with an order.
const KEYS: usize = 6 << 10;

/// Redactions whose events are kept in memory.
const CACHE: usize = 512;

fn invalid(field: impl Into<String>, why: impl Into<String>) -> BusError {
    BusError::Redaction { field: field.into(), why: why.into() }
}

/// An order to erase payloads, as its owner signed it.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) envelope: Envelope,
    /// What `halt/keys` held, so that the order can be verified from the log alone.
    pub(crate) keys: Option<Envelope>,
    /// Position and leaf, in order.
    pub(crate) targets: Vec<(u64, Hash)>,
}

impl Order {
    /// Reads and checks an order for a log.
    pub(crate) fn open(
        text: &str,
        origin: &str,
        keys: &ReleaseKeys,
        proof: Option<Envelope>,
    ) -> Result<Self, BusError> {
        if text.len() > ENVELOPE {
            return Err(invalid(
                "envelope",
                format!("has {} bytes, at most {ENVELOPE} are allowed", text.len()),
            ));
        }
        let envelope = Envelope::from_json(text.as_bytes())
            .map_err(|e| invalid("envelope", format!("is no DSSE: {e}")))?;
        if envelope.payload_type() != REDACTION_TYPE {
            let found = envelope.payload_type();
            return Err(invalid(
                "envelope",
                format!("is of type {found:?}, and must be of {REDACTION_TYPE}"),
            ));
        }
        let targets = check(&envelope, origin)?;
        if keys.owner_word(&envelope, REDACTION_TYPE).is_none() {
            return Err(BusError::Unsigned);
        }
        let keys = proof.filter(|proof| proof.to_json().len() <= KEYS);
        Ok(Self { envelope, keys, targets })
    }

    /// Returns the payload of the event that proves the erasure of `events`.
    pub(crate) fn record(&self, events: &[u64]) -> String {
        let record = Record {
            v: 1,
            envelope: self.envelope.clone(),
            keys: self.keys.clone(),
            events: events.to_vec(),
        };
        // Numbers, strings and lists always serialise.
        serde_json::to_string(&record).unwrap_or_default()
    }
}

/// Reads what an envelope asks for, whoever signed it; returns the events.
fn check(envelope: &Envelope, origin: &str) -> Result<Vec<(u64, Hash)>, BusError> {
    let bytes = envelope.peek().ok_or_else(|| invalid("envelope.payload", "is not base64"))?;
    let statement: RedactionStatement = serde_json::from_slice(&bytes)
        .map_err(|e| invalid("envelope.payload", format!("is no redaction statement: {e}")))?;
    if statement.v != 1 {
        return Err(invalid("statement.v", format!("is {}, and this build knows 1", statement.v)));
    }
    if statement.origin != origin {
        return Err(invalid(
            "statement.origin",
            format!("is {:?}, and this log is {origin}", statement.origin),
        ));
    }
    line("statement.reason", &statement.reason).map_err(|(field, why)| invalid(field, why))?;
    let n = statement.events.len();
    if n == 0 || n > EVENTS {
        return Err(invalid("statement.events", format!("has {n} items, 1 to {EVENTS} are allowed")));
    }
    let mut targets = Vec::with_capacity(n);
    let mut last = 0;
    for (i, target) in statement.events.iter().enumerate() {
        if target.seq <= last {
            let why =
                format!("is {}, and positions begin at 1 and rise; the one before is {last}", target.seq);
            return Err(invalid(format!("statement.events[{i}].seq"), why));
        }
        last = target.seq;
        let leaf = unhex::<32>(&target.leaf).ok_or_else(|| {
            invalid(format!("statement.events[{i}].leaf"), "is not the 64 hex digits of a leaf hash")
        })?;
        targets.push((target.seq, leaf));
    }
    Ok(targets)
}

/// Checks that a reason is one line within its bound.
pub(crate) fn line(field: &'static str, text: &str) -> Result<(), (&'static str, String)> {
    if text.len() > REASON {
        return Err((field, format!("has {} bytes, at most {REASON} are allowed", text.len())));
    }
    match text.chars().any(char::is_control) {
        true => Err((field, "must be one line without control characters".to_owned())),
        false => Ok(()),
    }
}

/// Checks that a stored event is one that an order may erase.
pub(crate) fn fits(header: &Header, leaf: &Hash) -> Result<(), BusError> {
    let field = || format!("event {}", header.seq);
    if header.leaf != *leaf {
        let found = mirror_seal::hex(&header.leaf);
        return Err(invalid(
            field(),
            format!("has the leaf {found}, and the statement is about another one"),
        ));
    }
    let prefix = header.subject.prefix();
    if KEPT.contains(&prefix) {
        let why = format!("is of {}: what {} recorded is never erased", header.subject, prefix);
        return Err(invalid(field(), why));
    }
    Ok(())
}

/// Payload of a `bus.redacted` event.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    v: u32,
    envelope: Envelope,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<Envelope>,
    /// The events that this one has erased, in order.
    events: Vec<u64>,
}

/// What a stored redaction erases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) seq: u64,
    /// Position and leaf, in order.
    pub(crate) targets: Vec<(u64, Hash)>,
}

/// Returns whether a header is that of a redaction.
pub(crate) fn is_redaction(header: &Header) -> bool {
    header.subject.as_str() == SUBJECT && &*header.actor == "svc:bus"
}

/// Returns the events that the payload of a redaction lists; none when it is of no form that is known.
pub(crate) fn listed(payload: &[u8]) -> Vec<u64> {
    serde_json::from_slice::<Record>(payload).map(|record| record.events).unwrap_or_default()
}

impl Proof {
    /// Reads a stored event; nothing when it is no redaction.
    pub(crate) fn read(event: &Event<'_>, origin: &str) -> Option<Self> {
        let Payload::Here { at, .. } = &event.payload else { return None };
        if !is_redaction(&event.header) {
            return None;
        }
        let record: Record = serde_json::from_slice(&event.d_line[at.clone()]).ok()?;
        let mut targets = check(&record.envelope, origin).ok()?;
        // The list is in order, as it was checked when it was stored; what it names and nobody signed counts for nothing.
        targets.retain(|(seq, _)| record.events.binary_search(seq).is_ok());
        Some(Self { seq: event.header.seq, targets })
    }
}

/// The events that redactions name, as far as somebody asked.
#[derive(Debug, Default)]
pub(crate) struct Redactions(Mutex<BTreeMap<u64, Arc<[u64]>>>);

impl Redactions {
    /// Remembers a redaction before its payloads are overwritten.
    pub(crate) fn learn(&self, redaction: u64, events: impl IntoIterator<Item = u64>) -> Arc<[u64]> {
        let events: Arc<[u64]> = events.into_iter().collect();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(redaction, Arc::clone(&events));
        if known.len() > CACHE {
            // The newest stays: its event may not be readable by all yet.
            known.pop_first();
        }
        events
    }

    fn get(&self, redaction: u64) -> Option<Arc<[u64]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&redaction).cloned()
    }
}

/// Why an erased payload is damage.
pub(crate) const UNLAWFUL: &str = "the payload was erased without a redaction";

impl Segments {
    /// Returns whether the redaction that an erased line names exists and names the event.
    ///
    /// A redaction that cannot be read is damage by itself, and what it erased is not a second one.
    pub(crate) fn is_lawful(&self, seq: u64, by: u64) -> bool {
        let events = match self.redactions.get(by) {
            Some(events) => events,
            None if by > self.durable() => return false,
            None => match self.redaction(by) {
                Some(proof) => self.redactions.learn(by, proof.targets.iter().map(|(seq, _)| *seq)),
                None => return self.damage_at(by).is_some(),
            },
        };
        events.binary_search(&seq).is_ok()
    }

    /// Reads a redaction; nothing when no such event can be read.
    fn redaction(&self, by: u64) -> Option<Proof> {
        let (segment, _) = self.of(by)?;
        let mut lines = Lines::new(self.open(&segment).ok()?, segment.seek(by).1);
        loop {
            let (at, header) = lines.next_header(&self.origin).ok()??;
            if header.seq < by {
                continue;
            }
            let mut found = Lines::new(self.open(&segment).ok()?, at);
            let event = found.event(&self.origin).ok()?.ok().filter(|event| event.header.seq == by)?;
            return Proof::read(&event, self.origin.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_kit::{RedactionTarget, ReleaseKey};
    use mirror_seal::NodeKey;

    const ORIGIN: &str = "0123456789abcdef.1";

    fn keys(rows: &[(&str, &NodeKey)]) -> ReleaseKeys {
        let row = |(kind, key): &(&str, &NodeKey)| ReleaseKey {
            kind: (*kind).to_owned(),
            public_key: key.public().to_hex(),
        };
        ReleaseKeys { keys: rows.iter().map(row).collect() }
    }

    fn statement(seqs: &[u64]) -> RedactionStatement {
        let target = |seq: &u64| RedactionTarget { seq: *seq, leaf: "ab".repeat(32) };
        RedactionStatement {
            v: 1,
            origin: ORIGIN.to_owned(),
            events: seqs.iter().map(target).collect(),
            reason: "by mistake".to_owned(),
            at_ms: 7,
        }
    }

    fn sign(key: &NodeKey, payload_type: &str, statement: &RedactionStatement) -> String {
        Envelope::sign(key, payload_type, &serde_json::to_vec(statement).unwrap()).to_json()
    }

    #[test]
    fn only_a_key_that_may_release_has_payloads_erased() {
        let [owner, device, keeper, thief] = [(); 4].map(|()| NodeKey::generate().unwrap());
        let known = keys(&[("recovery", &owner), ("device", &device), ("keeper", &keeper)]);
        let open = |key| Order::open(&sign(key, REDACTION_TYPE, &statement(&[1, 2])), ORIGIN, &known, None);
        for key in [&owner, &device] {
            assert_eq!(open(key).unwrap().targets, [(1, [0xab; 32]), (2, [0xab; 32])]);
        }
        for key in [&keeper, &thief] {
            assert_eq!(open(key).unwrap_err(), BusError::Unsigned);
        }
    }

    #[test]
    fn a_malformed_order_is_refused_by_name() {
        let owner = NodeKey::generate().unwrap();
        let known = keys(&[("recovery", &owner)]);
        let check = |text: &str, part: &str| {
            let error = Order::open(text, ORIGIN, &known, None).unwrap_err();
            assert!(matches!(error, BusError::Redaction { .. }), "{error}");
            assert!(error.to_string().contains(part), "{part}: {error}");
        };
        check("x", "no DSSE");
        check(&"x".repeat(60_000), "at most 53248");
        check(&sign(&owner, "application/other", &statement(&[1])), "application/other");
        check(&Envelope::sign(&owner, REDACTION_TYPE, b"{}").to_json(), "no redaction statement");
        let spare = br#"{"v":1,"origin":"0123456789abcdef.1","events":[],"all":true}"#;
        check(&Envelope::sign(&owner, REDACTION_TYPE, spare).to_json(), "unknown field");
        type Change = fn(&mut RedactionStatement);
        let changes: [(Change, &str); 8] = [
            (|s| s.v = 2, "statement.v is 2"),
            (|s| s.origin = "0123456789abcdef.2".to_owned(), "statement.origin"),
            (|s| s.reason = "a\nb".to_owned(), "one line"),
            (|s| s.reason = "x".repeat(257), "at most 256"),
            (|s| s.events.clear(), "has 0 items"),
            (|s| s.events = statement(&(1..=257).collect::<Vec<_>>()).events, "has 257 items"),
            (|s| s.events = statement(&[2, 2]).events, "events[1].seq"),
            (|s| s.events[0].leaf = "ab".to_owned(), "events[0].leaf"),
        ];
        for (change, part) in changes {
            let mut bad = statement(&[1]);
            change(&mut bad);
            check(&sign(&owner, REDACTION_TYPE, &bad), part);
        }
        check(&sign(&owner, REDACTION_TYPE, &statement(&[0])), "events[0].seq is 0");
    }

    #[test]
    fn the_largest_order_fits_into_an_event() {
        let owner = NodeKey::generate().unwrap();
        let seqs: Vec<u64> = (u64::MAX - 255..=u64::MAX).collect();
        let mut large = statement(&seqs);
        large.reason = "\"".repeat(REASON);
        let text = sign(&owner, REDACTION_TYPE, &large);
        let proof = Envelope::sign(&owner, "keys", &[b'x'; 4_000]);
        let order = Order::open(&text, ORIGIN, &keys(&[("recovery", &owner)]), Some(proof)).unwrap();
        let record = order.record(&seqs);
        assert!(record.len() < mirror_types::PAYLOAD_LIMIT, "{}", record.len());
        const { assert!(ENVELOPE + KEYS + EVENTS * 21 + 100 < mirror_types::PAYLOAD_LIMIT) };
        assert_eq!(listed(record.as_bytes()), seqs);
    }
}
