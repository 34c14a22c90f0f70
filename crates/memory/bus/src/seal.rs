//! The end of a log: a last event, after which nothing is appended for ever.
//!
//! A sealed log is read, followed, proven and repaired as before. Nothing in it can be erased any more, because an erasure
//! begins with an event.

use std::sync::atomic::Ordering::Relaxed;

use mirror_types::Subject;

use crate::bus::{Bus, settle};
use crate::error::BusError;
use crate::event::{NewEvent, Prepared, named};
use crate::line::Header;
use crate::redact::line;
use crate::writer::Work;

/// Subject of the event that ends a log.
pub(crate) const SUBJECT: &str = "bus.sealed";

/// Returns whether a header is that of the event that ends a log.
pub(crate) fn is_seal(header: &Header) -> bool {
    header.subject.as_str() == SUBJECT && &*header.actor == "svc:bus"
}

impl Bus {
    /// Returns the event that sealed the log.
    pub(crate) fn sealed(&self) -> Option<u64> {
        Some(self.writer.gauges.sealed.load(Relaxed)).filter(|seq| *seq > 0)
    }

    /// Ends the log, which the caller has named; returns the position of its last event.
    pub(crate) async fn seal(&self, origin: &str, reason: &str) -> Result<u64, BusError> {
        if origin != self.origin.as_str() {
            let why = format!("is {origin:?}, and the log to be sealed is {}; repeat its name", self.origin);
            return Err(BusError::Unconfirmed { field: "origin", why });
        }
        line("reason", reason).map_err(|(field, why)| BusError::Unconfirmed { field, why })?;
        if let Some(seq) = self.sealed() {
            return Ok(seq);
        }
        let payload = serde_json::json!({ "v": 1, "reason": reason }).to_string();
        let event = NewEvent::json(Subject::parse(SUBJECT).map_err(named("subject"))?, payload);
        let answer = self.writer.work(Prepared::new(event, "svc:bus")?, Work::Seal).await;
        match settle(answer) {
            Ok(acks) => Ok(acks.first().map_or(0, |ack| ack.seq)),
            // Somebody else sealed it meanwhile.
            Err(BusError::Sealed { seq }) => Ok(seq),
            Err(e) => Err(e),
        }
    }
}
