//! Events for tests.

use mirror_contract::mirror::bus::v1::{Event, PayloadState, PayloadType};

/// 2026-02-12T10:00:00Z.
pub(crate) const WALL: i64 = 1_770_890_400;

/// Returns an event of a local caller, as many seconds after ten o'clock as its position says.
pub(crate) fn event(seq: u64, subject: &str, payload: &str) -> Event {
    Event {
        seq,
        subject: subject.to_owned(),
        payload: payload.as_bytes().to_vec().into(),
        r#type: PayloadType::Json.into(),
        payload_state: PayloadState::Present.into(),
        actor: "local".to_owned(),
        leaf: format!("{seq:064x}"),
        wall_time: Some(prost_types::Timestamp { seconds: WALL + seq.min(10_000) as i64, nanos: 0 }),
        ..Event::default()
    }
}

/// Returns an event of the bus that erases payloads.
pub(crate) fn erasure(seq: u64, events: &[u64]) -> Event {
    let mut event = event(seq, "bus.redacted", &format!(r#"{{"v":1,"envelope":{{}},"events":{events:?}}}"#));
    event.actor = "svc:bus".to_owned();
    event
}

/// Returns a row of session "s" of the day before, at noon.
pub(crate) fn import_row(seq: u64, vendor: &str, kind: &str, row: &str) -> Event {
    row_of(seq, vendor, kind, "\"session\":\"s\",\"at\":\"2026-02-11T12:00:00Z\"", row)
}

/// Returns a row with given other members.
pub(crate) fn row_of(seq: u64, vendor: &str, kind: &str, members: &str, row: &str) -> Event {
    let payload = format!(r#"{{"source":"x","kind":"{kind}",{members},"row":{row}}}"#);
    let mut event = event(seq, &format!("import.{vendor}.{kind}"), &payload);
    event.actor = "svc:import".to_owned();
    event.labels = vec!["imported".to_owned()];
    event
}
