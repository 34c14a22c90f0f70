//! Messages: events inward to what the fold takes, checkpoints and verifications outward.
//!
//! Events of this service, all JSON with `"v":1`; times are in their headers:
//!
//! - `witness.diverged` {by, size, root, found}: the log is not the one that was signed. `by` is "checkpoint",
//!   "keeper" or "proof"; `found` is the root that the log has at that size, empty when it is shorter or `by` is another.
//! - `witness.damage` {origin, kind, segment, offset, first, last, message}: a verification found this.
//! - `witness.keeper` {from, to, head, signed, refused, records}: records `from` to `to` of the keeper's log, the last of
//!   which has the hash `head`; `signed` of them are checkpoint signatures, `refused` are refusals; `records` are all others,
//!   and a few of the refusals.
//! - `witness.keeper.broken` {number, expected, found}: the keeper's log is not the one that was read before.

use mirror_contract::mirror::bus::v1::{Event, PayloadState};
use mirror_contract::mirror::witness::v1 as pb;
use mirror_seal::{Hash, hex, unhex};
use serde::Deserialize;

use crate::error::Error;
use crate::notes::Checkpoint;
use crate::proofs::{Growth, Inclusion};
use crate::scrub::Standing;
use crate::witness::{Cursor, Seen};

/// Subject of what the keeper's log says.
pub(crate) const KEEPER: &str = "witness.keeper";

/// Checkpoints in one answer, unless asked otherwise.
const LIMIT: u32 = 32;

/// Most checkpoints in one answer.
const LIMIT_MOST: u32 = 256;

/// Returns what the fold takes of an event; none when its leaf is no hash.
pub(crate) fn seen(event: &Event) -> Option<Seen> {
    let own = event.actor == "svc:witness";
    let keeper = (own && event.subject == KEEPER).then(|| cursor(event)).flatten();
    Some(Seen { leaf: unhex(&event.leaf)?, own, keeper })
}

/// Returns how far an event reaches in the keeper's log. Of an erased one the id still tells the number.
fn cursor(event: &Event) -> Option<Cursor> {
    #[derive(Deserialize)]
    struct Payload {
        to: u64,
        head: String,
    }
    if event.payload_state() == PayloadState::Present {
        let payload: Payload = serde_json::from_slice(&event.payload).ok()?;
        return Some(Cursor { number: payload.to, hash: payload.head });
    }
    let number = event.id.rsplit_once('-')?.1.parse().ok()?;
    Some(Cursor { number, hash: String::new() })
}

/// Reads the limit of a listing.
pub(crate) fn limit(limit: u32) -> Result<usize, Error> {
    match limit {
        0 => Ok(LIMIT as usize),
        1..=LIMIT_MOST => Ok(limit as usize),
        _ => Err(Error::Invalid { field: "limit", why: "must be 1 to 256, or 0 for 32" }),
    }
}

impl From<Checkpoint> for pb::Checkpoint {
    fn from(checkpoint: Checkpoint) -> Self {
        Self {
            size: checkpoint.claim.size,
            root: hex(&checkpoint.claim.root),
            note: checkpoint.note,
            at: Some(mirror_contract::timestamp(checkpoint.at_ms)),
        }
    }
}

/// Returns the answer to a question for an event; `note` is the checkpoint of its tree.
pub(crate) fn inclusion(seq: u64, found: &Inclusion, note: String) -> pb::ProveInclusionResponse {
    pb::ProveInclusionResponse {
        seq,
        leaf: hex(&found.leaf),
        size: found.tree.size,
        root: hex(&found.tree.root),
        hashes: hexed(&found.path),
        note,
    }
}

/// Returns the answer to a question for growth; the notes are the checkpoints of its trees.
pub(crate) fn growth(found: &Growth, [from_note, to_note]: [String; 2]) -> pb::ProveConsistencyResponse {
    pb::ProveConsistencyResponse {
        from_size: found.from.size,
        from_root: hex(&found.from.root),
        to_size: found.to.size,
        to_root: hex(&found.to.root),
        hashes: hexed(&found.proof),
        from_note,
        to_note,
    }
}

fn hexed(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(|hash| hex(hash)).collect()
}

impl From<Standing> for pb::GetVerificationResponse {
    fn from(Standing { running, last }: Standing) -> Self {
        let finished = last.as_ref().map(|last| mirror_contract::timestamp(last.finished_ms));
        let (events, findings) = last.map(|last| (last.events, last.findings)).unwrap_or_default();
        Self { running, finished, events, findings }
    }
}

/// Runs every check of a request on bytes that nobody wrote, for fuzzing.
#[doc(hidden)]
pub fn fuzz_wire(bytes: &[u8]) {
    if let Some(event) = mirror_contract::decode(bytes) {
        let _ = seen(&event);
    }
    let text = String::from_utf8_lossy(bytes);
    let origin = "0123456789abcdef.1";
    let _ = (crate::checkpoint::parse(origin, &text), crate::checkpoint::peek(origin, &text));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(actor: &str, payload: &str, state: PayloadState) -> Event {
        Event {
            subject: KEEPER.to_owned(),
            id: "witness-keeper-5-9".to_owned(),
            actor: actor.to_owned(),
            leaf: "07".repeat(32),
            payload: payload.to_owned().into(),
            payload_state: state.into(),
            ..Event::default()
        }
    }

    #[test]
    fn only_the_witness_says_how_far_the_keepers_log_is_read() {
        let payload = r#"{"v":1,"from":5,"to":9,"head":"ab","more":1}"#;
        let own = seen(&event("svc:witness", payload, PayloadState::Present)).unwrap();
        assert_eq!(own.keeper, Some(Cursor { number: 9, hash: "ab".to_owned() }));
        assert!(own.own);
        let other = seen(&event("local", payload, PayloadState::Present)).unwrap();
        assert_eq!((other.keeper, other.own), (None, false));
        let erased = seen(&event("svc:witness", "", PayloadState::Redacted)).unwrap();
        assert_eq!(erased.keeper, Some(Cursor { number: 9, hash: String::new() }));
        assert_eq!(seen(&Event { leaf: "07".to_owned(), ..Event::default() }), None);
    }

    #[test]
    fn a_limit_has_a_default_and_a_bound() {
        assert_eq!((limit(0).unwrap(), limit(1).unwrap(), limit(256).unwrap()), (32, 1, 256));
        assert!(limit(257).unwrap_err().to_string().contains("limit"));
    }
}
