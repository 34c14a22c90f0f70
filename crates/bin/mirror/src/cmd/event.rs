//! Events for people and as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mirror_contract::mirror::bus::v1::{Event, PayloadState, PayloadType};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::out::{DIM, GOOD, Out};
use crate::text::{self, one_line};

/// Columns of an excerpt where the output is no terminal.
const EXCERPT: usize = 200;

/// An event as JSON: the payload as what it is.
#[derive(Debug, Serialize)]
pub(crate) struct EventJson<'a> {
    seq: u64,
    subject: &'a str,
    id: &'a str,
    actor: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    model: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    causes: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    labels: &'a [String],
    wall_time: Option<String>,
    time: &'a str,
    origin: &'a str,
    leaf: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    payload_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacted_by: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    header: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    salt: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Payload {
    Json(Box<RawValue>),
    Text(String),
}

impl<'a> EventJson<'a> {
    pub(crate) fn of(event: &'a Event) -> Self {
        let (payload, payload_base64) = payload(event);
        Self {
            seq: event.seq,
            subject: &event.subject,
            id: &event.id,
            actor: &event.actor,
            model: &event.model,
            causes: &event.causes,
            labels: &event.labels,
            wall_time: event.wall_time.as_ref().and_then(text::rfc3339),
            time: &event.time,
            origin: &event.origin,
            leaf: &event.leaf,
            kind: type_name(event.r#type()),
            payload_state: state_name(event.payload_state()),
            redacted_by: (event.redacted_by > 0).then_some(event.redacted_by),
            payload,
            payload_base64,
            header: &event.header,
            salt: &event.salt,
        }
    }
}

fn payload(event: &Event) -> (Option<Payload>, Option<String>) {
    if event.payload_state() != PayloadState::Present {
        return (None, None);
    }
    let text = std::str::from_utf8(&event.payload);
    match (event.r#type(), text) {
        (PayloadType::Text, Ok(text)) => (Some(Payload::Text(text.to_owned())), None),
        (PayloadType::Json | PayloadType::Blob, Ok(text)) => {
            // A line break can only stand between tokens, where a space means the same.
            match serde_json::from_str::<Box<RawValue>>(&text.replace(['\n', '\r'], " ")) {
                Ok(raw) => (Some(Payload::Json(raw)), None),
                Err(_) => (None, Some(STANDARD.encode(&event.payload))),
            }
        }
        _ => (None, Some(STANDARD.encode(&event.payload))),
    }
}

/// Returns the name of a payload type, as the log spells it but for binary.
pub(crate) fn type_name(kind: PayloadType) -> &'static str {
    match kind {
        PayloadType::Json => "json",
        PayloadType::Text => "text",
        PayloadType::Binary => "binary",
        PayloadType::Blob => "blob",
        PayloadType::Unspecified => "unknown",
    }
}

pub(crate) fn state_name(state: PayloadState) -> &'static str {
    match state {
        PayloadState::Present => "present",
        PayloadState::Redacted => "redacted",
        PayloadState::Withheld => "withheld",
        PayloadState::Unspecified => "unknown",
    }
}

/// Returns what an event says, on one line.
pub(crate) fn excerpt(event: &Event, width: usize) -> String {
    match event.payload_state() {
        PayloadState::Redacted => return format!("(redacted by event {})", event.redacted_by),
        PayloadState::Withheld => return "(withheld: its label keeps it from this caller)".to_owned(),
        PayloadState::Present | PayloadState::Unspecified => {}
    }
    match event.r#type() {
        PayloadType::Text => one_line(&String::from_utf8_lossy(&event.payload), width),
        PayloadType::Json => one_line(&json_excerpt(&event.payload), width),
        PayloadType::Blob => one_line(&format!("(blob) {}", String::from_utf8_lossy(&event.payload)), width),
        PayloadType::Binary | PayloadType::Unspecified => {
            format!("({} of binary)", text::bytes(event.payload.len() as u64))
        }
    }
}

/// Returns the readable part of a JSON payload, or all of it.
fn json_excerpt(payload: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Readable {
        text: Option<String>,
        summary: Option<String>,
        message: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Imported<'a> {
        #[serde(borrow)]
        row: &'a RawValue,
    }
    if let Some(view) = mirror_import::summary_fields(payload) {
        // A row without text is still told better by itself than by what stands around it.
        return match serde_json::from_slice::<Imported<'_>>(payload) {
            Ok(imported) if view.text.is_empty() => imported.row.get().to_owned(),
            _ => view.text,
        };
    }
    let readable = serde_json::from_slice::<Readable>(payload).ok();
    readable
        .and_then(|r| r.text.or(r.summary).or(r.message))
        .filter(|text| !text.trim().is_empty())
        .unwrap_or_else(|| String::from_utf8_lossy(payload).into_owned())
}

/// Prints events, one line each, in columns that settle as events come.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    seq: usize,
    subject: usize,
    actor: usize,
}

impl Lines {
    pub(crate) fn print(&mut self, out: &mut Out, event: &Event) -> Result<(), crate::failure::Failure> {
        if out.json_wanted() {
            return out.json(&EventJson::of(event));
        }
        let at = event.wall_time.as_ref().map_or(0, text::millis);
        let (time, seq) = (text::local_time(at), event.seq.to_string());
        self.seq = self.seq.max(seq.len());
        self.subject = self.subject.max(event.subject.len().min(28));
        self.actor = self.actor.max(event.actor.len().min(16));
        let (seq_width, subject_width, actor_width) = (self.seq, self.subject, self.actor);
        let head = format!(
            "{time}  {seq:>seq_width$}  {:<subject_width$}  {:<actor_width$}  ",
            event.subject, event.actor
        );
        let width = out.width().map_or(EXCERPT, |w| w.saturating_sub(head.len()).max(20));
        let line = format!(
            "{}  {seq:>seq_width$}  {}  {}  {}",
            out.paint(DIM, &time),
            out.paint(GOOD, &format!("{:<subject_width$}", event.subject)),
            out.paint(DIM, &format!("{:<actor_width$}", event.actor)),
            excerpt(event, width)
        );
        out.line(line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: PayloadType, payload: &[u8]) -> Event {
        Event {
            seq: 7,
            r#type: kind.into(),
            payload: payload.to_vec().into(),
            payload_state: PayloadState::Present.into(),
            ..Event::default()
        }
    }

    #[track_caller]
    fn check(event: &Event, line: &str, json: &str) {
        assert_eq!(excerpt(event, 40), line);
        let text = serde_json::to_string(&EventJson::of(event)).unwrap();
        assert!(text.contains(json) && !text.contains('\n'), "{json} in {text}");
    }

    #[test]
    fn a_payload_is_shown_as_what_it_is() {
        check(&event(PayloadType::Text, b"a\x1b[1m\nb"), "a[1m b", r#""payload":"a\u001b[1m\nb""#);
        check(
            &event(PayloadType::Json, b"{\"n\":1.10,\n\"x\":[]}"),
            r#"{"n":1.10, "x":[]}"#,
            r#"{"n":1.10, "x":[]}"#,
        );
        check(&event(PayloadType::Json, br#"{"n":1,"text":"hi"}"#), "hi", r#""payload":{"n":1,"text":"hi"}"#);
        let row = br#"{"source":"gemini","kind":"patch","row":{"$rewindTo":"g4"}}"#;
        check(&event(PayloadType::Json, row), r#"{"$rewindTo":"g4"}"#, r#""payload":{"source":"gemini""#);
        check(&event(PayloadType::Binary, b"\0\x01"), "(2 B of binary)", r#""payload_base64":"AAE=""#);
        let mut gone = event(PayloadType::Text, b"");
        gone.payload_state = PayloadState::Redacted.into();
        gone.redacted_by = 9;
        check(&gone, "(redacted by event 9)", r#""payload_state":"redacted","redacted_by":9"#);
    }
}
