//! `mirror get`: one event whole.

use mirror_contract::mirror::bus::v1::get_event_request::By;
use mirror_contract::mirror::bus::v1::{Event, GetEventRequest, PayloadState, PayloadType};

use crate::args::GetArgs;
use crate::cmd::event::{EventJson, state_name, type_name};
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::{DIM, Out};
use crate::text;

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &GetArgs) -> Result<(), Failure> {
    let by = match args.which.parse() {
        Ok(seq) if !args.id => By::Seq(seq),
        _ => By::Id(args.which.clone()),
    };
    let answer = ctx.bus()?.get_event(GetEventRequest { by: Some(by) }).await;
    let event = answer.map_err(|s| ctx.refused("bus", &s))?.into_inner().event;
    let event = event.ok_or_else(|| Failure::bug("the bus sent no event"))?;
    if args.payload {
        return out.bytes(&event.payload);
    }
    if out.json_wanted() {
        return out.json(&EventJson::of(&event));
    }
    show(out, &event)
}

fn show(out: &mut Out, event: &Event) -> Result<(), Failure> {
    let state = match event.payload_state() {
        PayloadState::Redacted => format!("redacted by event {}", event.redacted_by),
        state => state_name(state).to_owned(),
    };
    let size = text::bytes(event.payload.len() as u64);
    let wall = event.wall_time.as_ref();
    let rows = [
        ("seq", event.seq.to_string()),
        ("subject", event.subject.clone()),
        ("id", event.id.clone()),
        ("actor", event.actor.clone()),
        ("model", event.model.clone()),
        ("causes", event.causes.join(", ")),
        ("labels", event.labels.join(", ")),
        ("wall time", wall.map_or_else(String::new, |at| text::local_time(text::millis(at)))),
        ("time", event.time.clone()),
        ("origin", event.origin.clone()),
        ("leaf", event.leaf.clone()),
        ("payload", format!("{}, {size}, {state}", type_name(event.r#type()))),
        ("salt", event.salt.clone()),
        ("header", event.header.clone()),
    ];
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let name = out.paint(DIM, &format!("{name:<10}"));
        out.line(&format!("{name} {}", text::block(value)))?;
    }
    if event.payload_state() != PayloadState::Present {
        return Ok(());
    }
    out.line("")?;
    match event.r#type() {
        PayloadType::Binary | PayloadType::Unspecified => out.line("(binary; print it with --payload)"),
        _ => out.line(&text::block(&String::from_utf8_lossy(&event.payload))),
    }
}
