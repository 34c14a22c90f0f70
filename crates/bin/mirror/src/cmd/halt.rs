//! `mirror halt`: the kill switch by hand, also when nothing runs.

use std::time::Duration;

use mirror_clock::{Clock as _, SystemClock};
use mirror_contract::mirror::halt::v1::{EngageHaltRequest, GetHaltRequest, HaltState, ReleaseHaltRequest};
use mirror_kit::{HALT_TYPE, Halt, HaltStatement};
use mirror_paths::Home;
use mirror_seal::{Envelope, NodeKey};
use serde_json::json;

use crate::args::{HaltArgs, HaltVerb};
use crate::cmd::passphrase;
use crate::ctx::Ctx;
use crate::failure::{EXIT_BLOCKED, Failure};
use crate::out::{BAD, GOOD, Out, say};
use crate::text;

/// Longest wait for the service before the files are used: a halt does not wait for a service that hangs.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &HaltArgs) -> Result<(), Failure> {
    match &args.verb {
        None => engage(ctx, out, &args.reason).await,
        Some(HaltVerb::Status) => status(ctx, out).await,
        Some(HaltVerb::Release) => release(ctx, out).await,
    }
}

async fn engage(ctx: &Ctx, out: &mut Out, words: &[String]) -> Result<(), Failure> {
    if let Some(verb) = mistyped(words) {
        let message = format!("{:?} is nearly a verb, and nothing was halted", words.concat());
        let home = ctx.home()?;
        return Err(Failure::input(message)
            .hint(format!("did you mean: {}", ctx.command(&home, &ctx.exe()?, &format!("halt {verb}")))));
    }
    let reason = match words {
        [] => "engaged on the command line".to_owned(),
        words => words.join(" "),
    };
    let request = EngageHaltRequest { reason: reason.clone() };
    let mut client = ctx.halt()?;
    let (state, how) = match tokio::time::timeout(PATIENCE, client.engage_halt(request)).await {
        Ok(Ok(answer)) => {
            let answer = answer.into_inner();
            let how =
                if answer.recorded { "recorded" } else { "in force; the bus records it when it is back" };
            (answer.halt.unwrap_or_default(), how)
        }
        // A reason that cannot be recorded is the only thing worth asking again for.
        Ok(Err(status)) if mirror_errors::Remote::from_status(&status).reason == "HALT_REASON_INVALID" => {
            return Err(ctx.refused("halt", &status));
        }
        _ => by_hand(&ctx.home()?, &reason)?,
    };
    if out.json_wanted() {
        let mut value = state_json(&state);
        value["how"] = how.into();
        return out.json(&value);
    }
    say(&format!("halted ({how})"));
    show(out, &state)
}

/// Returns the verb that somebody may have meant by a single word.
fn mistyped(words: &[String]) -> Option<&'static str> {
    let [word] = words else { return None };
    ["status", "release"].into_iter().find(|verb| strsim::damerau_levenshtein(word, verb) <= 2)
}

/// Engages the halt without its service: any statement that says so halts, and needs no proof.
fn by_hand(home: &Home, reason: &str) -> Result<(HaltState, &'static str), Failure> {
    let view = of_files(home)?;
    if view.engaged {
        return Ok((view, "it was halted before; the halt service is away"));
    }
    let statement = HaltStatement {
        epoch: view.release_epoch,
        engaged: true,
        reason: text::one_line(reason, 300),
        since_ms: SystemClock.wall_ms(),
    };
    let bug = |what: &str| Failure::bug(format!("the halt cannot be written: {what}"));
    let payload = serde_json::to_vec(&statement).map_err(|e| bug(&e.to_string()))?;
    let key = NodeKey::generate().map_err(|e| bug(&e.to_string()))?;
    let path = home.halt().join("state");
    mirror_paths::write_atomic(&path, Envelope::sign(&key, HALT_TYPE, &payload).to_json().as_bytes())
        .map_err(|e| Failure::file("write", &path, &e))?;
    Ok((of_files(home)?, "written by this command; the halt service is away and records it when it is back"))
}

/// Reads the state as every service does.
fn of_files(home: &Home) -> Result<HaltState, Failure> {
    let key = mirror_kit::node(home).map_err(|e| Failure::home(&e))?.key;
    let halt = Halt::new(home, Some(key), std::sync::Arc::new(SystemClock));
    let view = halt.view();
    let statement = view.statement.as_ref();
    let epoch = statement.map_or(view.seen, |statement| statement.epoch);
    let trusted = statement.filter(|_| view.trusted).map_or(0, |statement| statement.epoch);
    let since = statement.map_or(0, |statement| statement.since_ms);
    Ok(HaltState {
        engaged: view.halted.is_some(),
        epoch,
        reason: view.halted.unwrap_or_default(),
        since: (since > 0).then(|| mirror_contract::timestamp(since)),
        release_epoch: view.seen.max(trusted).saturating_add(1),
        releasable: halt.is_releasable(),
    })
}

async fn status(ctx: &Ctx, out: &mut Out) -> Result<(), Failure> {
    let home = ctx.home()?;
    let mut client = ctx.halt()?;
    let state = match tokio::time::timeout(PATIENCE, client.get_halt(GetHaltRequest {})).await {
        Ok(Ok(answer)) => answer.into_inner().halt.unwrap_or_default(),
        _ => of_files(&home)?,
    };
    if out.json_wanted() {
        out.json(&state_json(&state))?;
    } else {
        show(out, &state)?;
    }
    if !state.engaged {
        return Ok(());
    }
    if state.releasable {
        say(&format!("hint: release it with: {}", ctx.command(&home, &ctx.exe()?, "halt release")));
    } else {
        say(&format!(
            "hint: no key can release it yet; make one with: {}",
            ctx.command(&home, &ctx.exe()?, "init")
        ));
    }
    Err(Failure::Said(EXIT_BLOCKED))
}

async fn release(ctx: &Ctx, out: &mut Out) -> Result<(), Failure> {
    let home = ctx.home()?;
    let mut client = ctx.halt()?;
    let answer = client.get_halt(GetHaltRequest {}).await.map_err(|s| ctx.refused("halt", &s))?;
    let mut state = answer.into_inner().halt.unwrap_or_default();
    if state.engaged {
        let phrase = passphrase::ask()?;
        say("deriving the key, which takes a moment");
        let key = mirror_keeper::recovery::unlock(&home, &phrase).map_err(|e| passphrase::refused(&e))?;
        let request = ReleaseHaltRequest { envelope: key.release(state.release_epoch).to_json() };
        let answer = client.release_halt(request).await.map_err(|s| ctx.refused("halt", &s))?;
        state = answer.into_inner().halt.unwrap_or_default();
    } else {
        say("the halt was not engaged");
    }
    if out.json_wanted() { out.json(&state_json(&state)) } else { show(out, &state) }
}

fn show(out: &mut Out, state: &HaltState) -> Result<(), Failure> {
    for line in lines(state) {
        let line = match line.strip_prefix("halt") {
            Some(_) if state.engaged => out.paint(BAD, &line),
            Some(_) => out.paint(GOOD, &line),
            None => line,
        };
        out.line(&line)?;
    }
    Ok(())
}

fn lines(state: &HaltState) -> Vec<String> {
    let mut lines = vec![if state.engaged {
        "halt     engaged: effects are refused".to_owned()
    } else {
        "halt     not engaged".to_owned()
    }];
    if !state.reason.is_empty() {
        lines.push(format!("why      {}", text::one_line(&state.reason, 400)));
    }
    if let Some(since) = &state.since {
        lines.push(format!("since    {}", text::local_time(text::millis(since))));
    }
    lines.push(format!("epoch    {}", state.epoch));
    let release = if state.releasable { "with the recovery passphrase" } else { "no key can release it" };
    lines.push(format!("release  {release}"));
    lines
}

fn state_json(state: &HaltState) -> serde_json::Value {
    json!({
        "engaged": state.engaged,
        "epoch": state.epoch,
        "reason": state.reason,
        "since": state.since.as_ref().and_then(text::rfc3339),
        "release_epoch": state.release_epoch,
        "releasable": state.releasable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_verb_with_a_typing_error_halts_nothing() {
        assert_eq!(mistyped(&words("stauts")), Some("status"));
        assert_eq!(mistyped(&words("relase")), Some("release"));
        for reason in ["", "fire", "release is broken", "statues everywhere"] {
            assert_eq!(mistyped(&words(reason)), None, "{reason}");
        }
    }

    #[test]
    fn a_halt_by_hand_holds_for_every_service() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        mirror_kit::init(&home).unwrap();
        assert!(!of_files(&home).unwrap().engaged);
        let (state, how) = by_hand(&home, "two\nlines").unwrap();
        assert!(state.engaged && state.reason.contains("two lines"), "{state:?}");
        assert!(how.contains("written by this command") && state.since.is_some());
        let (again, how) = by_hand(&home, "other").unwrap();
        assert!(how.contains("before") && again.reason == state.reason);
    }

    #[test]
    fn the_state_is_told_in_lines() {
        let free = HaltState { releasable: true, ..HaltState::default() };
        assert_eq!(
            lines(&free),
            ["halt     not engaged", "epoch    0", "release  with the recovery passphrase"]
        );
        let engaged = HaltState { engaged: true, epoch: 3, reason: "fire\n!".into(), ..HaltState::default() };
        assert_eq!(
            lines(&engaged),
            [
                "halt     engaged: effects are refused",
                "why      fire !",
                "epoch    3",
                "release  no key can release it"
            ]
        );
    }
}
