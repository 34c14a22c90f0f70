//! `mirror append`: one event.

use mirror_contract::mirror::bus::v1::{AppendRequest, NewEvent, PayloadType};
use serde_json::json;

use crate::args::{AppendArgs, PayloadKind};
use crate::cmd::stdin;
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::Out;

/// Most of standard input that is read: more than fits into an event, so that the bus says what to do instead.
const INPUT_LIMIT: usize = 1 << 20;

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &AppendArgs) -> Result<(), Failure> {
    let payload = match args.payload.as_deref() {
        Some("-") | None => stdin::read_all(INPUT_LIMIT)?,
        Some(text) => text.as_bytes().to_vec(),
    };
    let event = NewEvent {
        subject: args.subject.clone(),
        r#type: payload_type(args.kind, &payload).into(),
        payload: payload.into(),
        id: args.id.clone().unwrap_or_default(),
        labels: args.label.clone(),
        ..NewEvent::default()
    };
    let request = AppendRequest { event: Some(event), expect: None };
    let answer = ctx.bus()?.append(request).await.map_err(|s| ctx.refused("bus", &s))?.into_inner();
    let ack = answer.ack.ok_or_else(|| Failure::bug("the bus sent no receipt"))?;
    if out.json_wanted() {
        return out.json(&json!({
            "origin": ack.origin,
            "seq": ack.seq,
            "id": ack.id,
            "leaf": ack.leaf,
            "duplicate": ack.duplicate,
        }));
    }
    let note = if ack.duplicate { "  (was there before)" } else { "" };
    out.line(&format!("{}  {}  {}{note}", ack.seq, ack.id, ack.leaf))
}

fn payload_type(wanted: Option<PayloadKind>, payload: &[u8]) -> PayloadType {
    match wanted {
        Some(PayloadKind::Json) => PayloadType::Json,
        Some(PayloadKind::Text) => PayloadType::Text,
        None => {
            let opens = payload.iter().find(|b| !b.is_ascii_whitespace());
            let valid = || serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok();
            if matches!(opens, Some(b'{' | b'[')) && valid() { PayloadType::Json } else { PayloadType::Text }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_json_and_a_sentence_is_text() {
        for (text, kind) in [
            (r#" {"a":1}"#, PayloadType::Json),
            ("[1]", PayloadType::Json),
            ("[todo] call home", PayloadType::Text),
            ("42", PayloadType::Text),
            ("", PayloadType::Text),
        ] {
            assert_eq!(payload_type(None, text.as_bytes()), kind, "{text}");
        }
        assert_eq!(payload_type(Some(PayloadKind::Text), b"{}"), PayloadType::Text);
    }
}
