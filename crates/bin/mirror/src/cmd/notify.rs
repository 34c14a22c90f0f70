//! `mirror notify`: the owner's cards.

use mirror_contract::mirror::notify::v1::{
    Card, CardStatus, DeleteCardRequest, Delivery, ListCardsRequest, PutCardRequest, Urgency,
};
use mirror_errors::Kind;
use serde_json::json;

use crate::args::{self, NotifyArgs, NotifyPut, NotifyVerb};
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::{BAD, DIM, HEAD, ODD, Out, say};
use crate::text::{self, one_line};

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &NotifyArgs) -> Result<(), Failure> {
    match &args.verb {
        None | Some(NotifyVerb::List) => list(ctx, out).await,
        Some(NotifyVerb::Put(args)) => put(ctx, out, args).await,
        Some(NotifyVerb::Clear { subject }) => clear(ctx, out, subject).await,
    }
}

async fn list(ctx: &Ctx, out: &mut Out) -> Result<(), Failure> {
    let answer = ctx.notify()?.list_cards(ListCardsRequest {}).await;
    let answer = answer.map_err(|s| ctx.refused("notify", &s))?.into_inner();
    if out.json_wanted() {
        return answer.cards.iter().try_for_each(|status| out.json(&status_json(status)));
    }
    if answer.cards.is_empty() {
        say("there is no card");
    }
    for (i, status) in answer.cards.iter().enumerate() {
        if i > 0 {
            out.line("")?;
        }
        show(out, status)?;
    }
    if let Some(until) = &answer.quiet_until {
        say(&format!("quiet hours until {}", text::local_time(text::millis(until))));
    }
    Ok(())
}

async fn put(ctx: &Ctx, out: &mut Out, args: &NotifyPut) -> Result<(), Failure> {
    let urgency = match args.urgency {
        args::Urgency::Min => Urgency::Min,
        args::Urgency::Low => Urgency::Low,
        args::Urgency::Default => Urgency::Default,
        args::Urgency::High => Urgency::High,
        args::Urgency::Urgent => Urgency::Urgent,
    };
    let card = Card {
        subject: args.subject.clone(),
        title: args.title.clone(),
        body: args.body.clone().unwrap_or_default(),
        urgency: urgency.into(),
    };
    let answer = ctx.notify()?.put_card(PutCardRequest { card: Some(card) }).await;
    let changed = answer.map_err(|s| ctx.refused("notify", &s))?.into_inner().changed;
    if out.json_wanted() {
        return out.json(&json!({"subject": args.subject, "changed": changed}));
    }
    say(if changed { "the card is recorded" } else { "the card was there before" });
    Ok(())
}

async fn clear(ctx: &Ctx, out: &mut Out, subject: &str) -> Result<(), Failure> {
    let request = DeleteCardRequest { subject: subject.to_owned() };
    let answer = ctx.notify()?.delete_card(request).await.map_err(|s| ctx.refused("notify", &s))?;
    if !answer.into_inner().deleted {
        let home = ctx.home()?;
        let hint = format!("see the cards with: {}", ctx.command(&home, &ctx.exe()?, "notify"));
        let message = format!("there is no card of {subject:?}");
        return Err(Failure::new(Kind::NotFound, "CLI_CARD_MISSING", message).hint(hint));
    }
    if out.json_wanted() {
        return out.json(&json!({"subject": subject, "deleted": true}));
    }
    say("the card is cleared");
    Ok(())
}

fn show(out: &mut Out, status: &CardStatus) -> Result<(), Failure> {
    let card = status.card.clone().unwrap_or_default();
    let title = one_line(&card.title, 100);
    let style = match card.urgency() {
        Urgency::Urgent => BAD,
        Urgency::High => ODD,
        _ => HEAD,
    };
    out.line(&format!("{}  {}", out.paint(style, &title), out.paint(DIM, &note(status, &card))))?;
    for line in text::block(&card.body).lines() {
        out.line(&format!("    {line}"))?;
    }
    for delivery in status.deliveries.iter().filter(|delivery| delivery.channel != "log") {
        let line = format!("    {}", told(delivery));
        out.line(&if delivery.state == "failed" { out.paint(BAD, &line) } else { out.paint(DIM, &line) })?;
    }
    Ok(())
}

fn note(status: &CardStatus, card: &Card) -> String {
    let at = status.at.as_ref().map(|at| text::local_time(text::millis(at))).unwrap_or_default();
    let (subject, by) = (one_line(&card.subject, 255), one_line(&status.by, 60));
    let mut note = format!("[{subject}, {}, {by}, {at}", urgency_name(card.urgency()));
    if status.replaced > 0 {
        note.push_str(&format!(", replaced {}", text::some(status.replaced.into(), "time")));
    }
    note.push(']');
    note
}

fn told(delivery: &Delivery) -> String {
    let (channel, state) = (one_line(&delivery.channel, 20), one_line(&delivery.state, 20));
    match (&delivery.at, one_line(&delivery.detail, 300)) {
        (Some(at), _) => format!("{channel}: {state} {}", text::local_time(text::millis(at))),
        (None, detail) if detail.is_empty() => format!("{channel}: {state}"),
        (None, detail) => format!("{channel}: {state}, {detail}"),
    }
}

fn urgency_name(urgency: Urgency) -> &'static str {
    match urgency {
        Urgency::Unspecified => "unknown",
        Urgency::Min => "min",
        Urgency::Low => "low",
        Urgency::Default => "default",
        Urgency::High => "high",
        Urgency::Urgent => "urgent",
    }
}

fn status_json(status: &CardStatus) -> serde_json::Value {
    let card = status.card.clone().unwrap_or_default();
    let deliveries = status.deliveries.iter().map(|delivery| {
        json!({
            "channel": delivery.channel,
            "state": delivery.state,
            "detail": delivery.detail,
            "at": delivery.at.as_ref().and_then(text::rfc3339),
        })
    });
    json!({
        "subject": card.subject,
        "title": card.title,
        "body": card.body,
        "urgency": urgency_name(card.urgency()),
        "by": status.by,
        "at": status.at.as_ref().and_then(text::rfc3339),
        "replaced": status.replaced,
        "deliveries": deliveries.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_says_who_put_it_and_what_became_of_it() {
        let card = Card { subject: "pulse.bus".into(), urgency: Urgency::High.into(), ..Card::default() };
        let status = CardStatus { by: "svc:pulse".into(), replaced: 2, ..CardStatus::default() };
        assert_eq!(note(&status, &card), "[pulse.bus, high, svc:pulse, , replaced 2 times]");
        let waits = Delivery {
            channel: "ntfy".into(),
            state: "waiting".into(),
            detail: "quiet\u{1b}[2J hours".into(),
            at: None,
        };
        assert_eq!(told(&waits), "ntfy: waiting, quiet[2J hours");
        assert_eq!(status_json(&status)["urgency"], "unknown");
    }
}
