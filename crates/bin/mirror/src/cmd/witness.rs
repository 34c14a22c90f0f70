//! `mirror checkpoint` and `mirror witness`: signed statements about the log, and its verification.

use mirror_contract::mirror::witness::v1::{
    Checkpoint, GetCheckpointRequest, GetVerificationRequest, GetVerificationResponse, RunCheckpointRequest,
    RunVerificationRequest,
};
use serde_json::json;

use crate::args::{CheckpointArgs, WitnessArgs};
use crate::ctx::Ctx;
use crate::failure::{EXIT_DAMAGE, Failure};
use crate::out::{BAD, Out, say};
use crate::text::{self, some};

pub(crate) async fn checkpoint(ctx: &Ctx, out: &mut Out, args: &CheckpointArgs) -> Result<(), Failure> {
    let mut client = ctx.witness()?;
    let answer = if args.now {
        client.run_checkpoint(RunCheckpointRequest {}).await.map(|a| a.into_inner().checkpoint)
    } else {
        client.get_checkpoint(GetCheckpointRequest {}).await.map(|a| a.into_inner().checkpoint)
    };
    let found = answer.map_err(|s| ctx.refused("witness", &s))?;
    let found = found.ok_or_else(|| Failure::bug("the witness sent no checkpoint"))?;
    if out.json_wanted() {
        return out.json(&json!({
            "size": found.size,
            "root": found.root,
            "note": found.note,
            "at": found.at.as_ref().and_then(text::rfc3339),
        }));
    }
    // The note is the data, as whoever checks the signature needs it.
    out.bytes(found.note.as_bytes())?;
    say(&told(&found));
    Ok(())
}

fn told(found: &Checkpoint) -> String {
    let at = found.at.as_ref().map(|at| format!(", signed {}", text::local_time(text::millis(at))));
    format!("{}{}", some(found.size, "event"), at.unwrap_or_default())
}

pub(crate) async fn witness(ctx: &Ctx, out: &mut Out, args: &WitnessArgs) -> Result<(), Failure> {
    let mut client = ctx.witness()?;
    if args.run {
        let answer = client.run_verification(RunVerificationRequest {}).await;
        let begun = answer.map_err(|s| ctx.refused("witness", &s))?.into_inner().begun;
        say(if begun { "a verification has begun" } else { "a verification was under way" });
    }
    let answer = client.get_verification(GetVerificationRequest {}).await;
    let state = answer.map_err(|s| ctx.refused("witness", &s))?.into_inner();
    if out.json_wanted() {
        out.json(&json!({
            "running": state.running,
            "finished": state.finished.as_ref().and_then(text::rfc3339),
            "events": state.events,
            "findings": state.findings,
        }))?;
    } else {
        for line in lines(&state) {
            let line = if line.starts_with("damage") { out.paint(BAD, &line) } else { line };
            out.line(&line)?;
        }
    }
    if state.findings.is_empty() { Ok(()) } else { Err(Failure::Said(EXIT_DAMAGE)) }
}

fn lines(state: &GetVerificationResponse) -> Vec<String> {
    let mut lines = vec![match &state.finished {
        Some(at) => {
            let verified = some(state.events, "event");
            format!("verified  {verified}, until {}", text::local_time(text::millis(at)))
        }
        None => "verified  no pass has ended yet".to_owned(),
    }];
    if state.running {
        lines.push("running   a pass is under way".to_owned());
    }
    lines.extend(state.findings.iter().map(|finding| format!("damage    {}", text::one_line(finding, 400))));
    if state.findings.is_empty() && state.finished.is_some() {
        lines.push("damage    none".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_intact_before_it_was_read() {
        let mut state = GetVerificationResponse { running: true, ..GetVerificationResponse::default() };
        assert_eq!(lines(&state), ["verified  no pass has ended yet", "running   a pass is under way"]);
        state = GetVerificationResponse {
            finished: Some(prost_types::Timestamp::default()),
            events: 7,
            ..GetVerificationResponse::default()
        };
        assert_eq!(lines(&state)[1], "damage    none");
        state.findings = vec!["segment 3 \u{1b}[2J is gone".into()];
        assert_eq!(lines(&state)[1], "damage    segment 3 [2J is gone");
        assert!(lines(&state)[0].starts_with("verified  7 events, until 1970-01-0"));
    }
}
