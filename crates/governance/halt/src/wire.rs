//! Requests inward, with all validation; answers outward.

use mirror_contract::mirror::halt::v1 as pb;
use mirror_contract::timestamp;
use mirror_seal::Envelope;

use crate::error::Error;
use crate::halt::REASON;
use crate::warden::Shown;

/// Longest envelope, in bytes.
const ENVELOPE: usize = 8 << 10;

/// Checks the reason of an engagement.
pub(crate) fn reason(request: pb::EngageHaltRequest) -> Result<String, Error> {
    let reason = request.reason;
    if reason.trim().is_empty() || reason.len() > REASON {
        return Err(Error::Reason("must be 1 to 300 bytes"));
    }
    if reason.chars().any(char::is_control) {
        return Err(Error::Reason("must be one line without control characters"));
    }
    Ok(reason)
}

/// Reads the envelope of a release.
pub(crate) fn envelope(request: &pb::ReleaseHaltRequest) -> Result<Envelope, Error> {
    if request.envelope.len() > ENVELOPE {
        return Err(Error::Proof("must be at most 8,192 bytes"));
    }
    Envelope::from_json(request.envelope.as_bytes())
        .map_err(|_| Error::Proof("must be a DSSE envelope in JSON"))
}

impl From<Shown> for pb::HaltState {
    fn from(shown: Shown) -> Self {
        Self {
            engaged: shown.reason.is_some(),
            epoch: shown.epoch,
            reason: shown.reason.unwrap_or_default(),
            since: (shown.since_ms > 0).then(|| timestamp(shown.since_ms)),
            release_epoch: shown.release_epoch,
            releasable: shown.releasable,
        }
    }
}

/// Runs every check of a request on bytes that nobody wrote, for fuzzing.
#[doc(hidden)]
pub fn fuzz_wire(bytes: &[u8]) {
    if let Some(request) = mirror_contract::decode(bytes) {
        let _ = reason(request);
    }
    if let Some(request) = mirror_contract::decode(bytes) {
        let _ = envelope(&request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_within_its_bounds() {
        let check = |text: &str, ok: bool| {
            let request = pb::EngageHaltRequest { reason: text.to_owned() };
            assert_eq!(reason(request).is_ok(), ok, "{text:?}");
        };
        check("stop", true);
        check(&"x".repeat(300), true);
        for bad in ["", "  ", "a\nb", "a\u{1b}b", &"x".repeat(301)] {
            check(bad, false);
        }
    }

    #[test]
    fn an_envelope_is_bounded_json() {
        for bad in ["", "{}", "x", &"x".repeat(9_000)] {
            assert!(envelope(&pb::ReleaseHaltRequest { envelope: bad.to_owned() }).is_err());
        }
    }
}
