//! `mirror remedies`: what can heal, what was done, and one by hand.

use clap::builder::styling::Style;
use mirror_contract::mirror::remedy::v1::{
    Action, ListActionsRequest, ListRemediesRequest, Outcome, Remedy, RunRemedyRequest,
};
use serde_json::json;

use crate::args::{RemediesArgs, RemediesVerb};
use crate::ctx::Ctx;
use crate::failure::{EXIT_BLOCKED, Failure};
use crate::out::{BAD, GOOD, ODD, Out, say};
use crate::text::{self, one_line};

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &RemediesArgs) -> Result<(), Failure> {
    match &args.verb {
        Some(RemediesVerb::Run { id, remedy, target, cause }) => {
            let request = RunRemedyRequest {
                id: id.clone(),
                remedy: remedy.clone(),
                target: target.clone(),
                cause: cause.clone(),
            };
            carry_out(ctx, out, request).await
        }
        None if args.log => log(ctx, out).await,
        None => catalogue(ctx, out).await,
    }
}

async fn catalogue(ctx: &Ctx, out: &mut Out) -> Result<(), Failure> {
    let answer = ctx.remedy()?.list_remedies(ListRemediesRequest {}).await;
    let answer = answer.map_err(|s| ctx.refused("remedy", &s))?.into_inner();
    if out.json_wanted() {
        return answer.remedies.iter().try_for_each(|remedy| out.json(&remedy_json(remedy)));
    }
    let rows: Vec<Vec<String>> = answer.remedies.iter().map(row).collect();
    out.table(&["REMEDY", "LIMIT", "COOLDOWN", "SUMMARY", "ONLY WHEN", "UNDO"], &rows, |_| None)?;
    if let Some(until) = &answer.observing_until {
        let until = text::local_time(text::millis(until));
        say(&format!("the last remedies did not help; all are held back until {until}"));
    }
    Ok(())
}

async fn log(ctx: &Ctx, out: &mut Out) -> Result<(), Failure> {
    let answer = ctx.remedy()?.list_actions(ListActionsRequest::default()).await;
    let actions = answer.map_err(|s| ctx.refused("remedy", &s))?.into_inner().actions;
    show(out, &actions)
}

async fn carry_out(ctx: &Ctx, out: &mut Out, request: RunRemedyRequest) -> Result<(), Failure> {
    let answer = ctx.remedy()?.run_remedy(request).await.map_err(|s| ctx.refused("remedy", &s))?;
    let action = answer.into_inner().action.ok_or_else(|| Failure::bug("the service sent no action"))?;
    let helped = matches!(action.outcome(), Outcome::Healed | Outcome::NotNeeded);
    show(out, &[action])?;
    if helped { Ok(()) } else { Err(Failure::Said(EXIT_BLOCKED)) }
}

fn show(out: &mut Out, actions: &[Action]) -> Result<(), Failure> {
    if out.json_wanted() {
        return actions.iter().try_for_each(|action| out.json(&action_json(action)));
    }
    let rows: Vec<Vec<String>> = actions.iter().map(action_row).collect();
    let header = ["STARTED", "ID", "REMEDY", "TARGET", "BY", "OUTCOME", "TOOK", "DETAIL", "CAUSE"];
    out.table(&header, &rows, |i| Some(style(actions.get(i)?.outcome())))
}

fn style(outcome: Outcome) -> Style {
    match outcome {
        Outcome::Healed | Outcome::NotNeeded => GOOD,
        Outcome::NotHealed | Outcome::Failed => BAD,
        Outcome::HeldBack | Outcome::Unknown | Outcome::Running | Outcome::Unspecified => ODD,
    }
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Healed => "healed",
        Outcome::NotHealed => "not healed",
        Outcome::NotNeeded => "not needed",
        Outcome::HeldBack => "held back",
        Outcome::Failed => "failed",
        Outcome::Unknown | Outcome::Unspecified => "unknown",
        Outcome::Running => "running",
    }
}

fn row(remedy: &Remedy) -> Vec<String> {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { one_line(text, 200) };
    vec![
        one_line(&remedy.id, 60),
        text::span(remedy.limit_ms),
        text::span(remedy.cooldown_ms),
        one_line(&remedy.summary, 200),
        or_dash(&remedy.precondition),
        or_dash(&remedy.undo),
    ]
}

fn action_row(action: &Action) -> Vec<String> {
    let started = action.started.as_ref().map(text::millis);
    let took = started.zip(action.ended.as_ref()).map(|(started, ended)| {
        text::span(u64::try_from(text::millis(ended).saturating_sub(started)).unwrap_or(0))
    });
    vec![
        started.map_or_else(|| "-".to_owned(), text::local_time),
        one_line(&action.id, 64),
        one_line(&action.remedy, 60),
        one_line(&action.target, 60),
        one_line(&action.by, 60),
        name(action.outcome()).to_owned(),
        took.unwrap_or_else(|| "-".to_owned()),
        one_line(&action.detail, 300),
        one_line(&action.cause, 300),
    ]
}

fn remedy_json(remedy: &Remedy) -> serde_json::Value {
    json!({
        "id": remedy.id,
        "summary": remedy.summary,
        "precondition": remedy.precondition,
        "verify": remedy.verify,
        "undo": remedy.undo,
        "limit_ms": remedy.limit_ms,
        "cooldown_ms": remedy.cooldown_ms,
    })
}

fn action_json(action: &Action) -> serde_json::Value {
    json!({
        "id": action.id,
        "remedy": action.remedy,
        "target": action.target,
        "cause": action.cause,
        "by": action.by,
        "outcome": name(action.outcome()),
        "detail": action.detail,
        "started": action.started.as_ref().and_then(text::rfc3339),
        "ended": action.ended.as_ref().and_then(text::rfc3339),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_a_row() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let mut action = Action {
            id: "fix-1".into(),
            remedy: "restart".into(),
            target: "bus".into(),
            by: "svc:pulse".into(),
            outcome: Outcome::NotHealed.into(),
            detail: "still\naway".into(),
            started: at(10),
            ended: at(25),
            ..Action::default()
        };
        let row = action_row(&action);
        assert_eq!(row[1..8], ["fix-1", "restart", "bus", "svc:pulse", "not healed", "15 s", "still away"]);
        action.ended = None;
        assert_eq!(action_row(&action)[6], "-");
        assert_eq!(action_json(&action)["outcome"], "not healed");
    }

    #[test]
    fn a_remedy_is_a_row() {
        let remedy =
            Remedy { id: "restart".into(), limit_ms: 30_000, cooldown_ms: 600_000, ..Remedy::default() };
        assert_eq!(row(&remedy), ["restart", "30 s", "10 min", "", "-", "-"]);
    }
}
