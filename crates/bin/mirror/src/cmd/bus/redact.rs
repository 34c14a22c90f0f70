//! `mirror bus redact`: erases payloads by the owner's word, and says which copies are gone and which are not.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use mirror_clock::{Clock as _, SystemClock};
use mirror_contract::mirror::bus::v1::get_event_request::By;
use mirror_contract::mirror::bus::v1::{Event, GetEventRequest, PayloadState, RedactRequest, RedactResponse};
use mirror_contract::mirror::fold::v1::fold_service_client::FoldServiceClient;
use mirror_contract::mirror::fold::v1::{Copy, ForgetRequest, GetFoldRequest, copy::State};
use mirror_errors::Remote;
use mirror_kit::fold::FOLD_SERVICE;
use mirror_kit::{Decl, RedactionStatement, RedactionTarget};
use serde_json::json;

use crate::app::app;
use crate::args::RedactArgs;
use crate::client::channel;
use crate::cmd::event::state_name;
use crate::cmd::passphrase;
use crate::ctx::Ctx;
use crate::failure::{EXIT_AWAY, Failure};
use crate::out::{BAD, GOOD, ODD, Out, say};
use crate::text;

/// Most events of one statement.
const EVENTS: usize = 256;

/// How long a fold may take to read what is to be erased, and how often it is asked.
const CATCH_UP: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

/// What no command reaches, and what the owner can do about it.
const BEYOND: &[(&str, &str)] = &[
    ("exports, backups and other copies of the home", "delete them, or redact there too"),
    (
        "snapshots of the file system, such as those of Time Machine, APFS, Btrfs and ZFS",
        "delete those older than this",
    ),
    (
        "blocks that the disk has put elsewhere: SSDs, and files that were replaced",
        "only an encrypted disk forgets its key",
    ),
    ("memory, swap and core dumps of programs that had read it", "restart the machine; encrypt its swap"),
    ("what a terminal, an editor or an agent showed or kept", "clear its scrollback and its history"),
    (
        "the files that an event was imported from",
        "delete the rows there, or the next import of a new home takes them again",
    ),
    ("other devices and people who have received it", "ask them"),
];

/// What a service said about its copies.
#[derive(Debug)]
struct Fold {
    service: &'static str,
    answer: Result<Vec<Copy>, String>,
}

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &RedactArgs) -> Result<(), Failure> {
    let seqs: BTreeSet<u64> = args.seqs.iter().copied().collect();
    if seqs.len() > EVENTS {
        let many = format!("{} events were named, and one redaction has at most {EVENTS}", seqs.len());
        return Err(Failure::input(many).hint("give them in several commands"));
    }
    let events = events(ctx, &seqs).await?;
    let all_gone = events.iter().all(|event| event.payload_state() == PayloadState::Redacted);
    let done = if all_gone {
        say("these payloads are erased already; the folds are asked again");
        RedactResponse { already: seqs.iter().copied().collect(), ..RedactResponse::default() }
    } else {
        let before = if out.json_wanted() { Vec::new() } else { events.iter().map(row).collect() };
        if !before.is_empty() {
            out.table(&["SEQ", "TIME", "SUBJECT", "BYTES", "PAYLOAD"], &before, |_| None)?;
            out.flush()?;
        }
        if !args.yes {
            confirm()?;
        }
        for (service, why) in behind(ctx, &seqs).await {
            say(&format!("{service} may not find its copies of these payloads later: {why}"));
        }
        order(ctx, &events, &args.reason).await?
    };
    // Those that were erased before may have been so by other redactions, and a fold may have missed them.
    let mut redactions: BTreeSet<u64> = Some(done.redaction).filter(|seq| *seq > 0).into_iter().collect();
    redactions.extend(events.iter().map(|event| event.redacted_by).filter(|seq| *seq > 0));
    let mut folds = Vec::new();
    for decl in app().services.iter().map(|service| service.decl) {
        if decl.serves.contains(&FOLD_SERVICE) {
            folds.push(Fold { service: decl.name, answer: forget(ctx, decl, &redactions, &seqs).await });
        }
    }
    if out.json_wanted() {
        out.json(&told_json(&done, &redactions, &folds))?;
    } else {
        tell(out, &done, &folds)?;
    }
    match folds.iter().all(|fold| fold.answer.is_ok()) {
        true => Ok(()),
        false => Err(Failure::Said(EXIT_AWAY)),
    }
}

async fn events(ctx: &Ctx, seqs: &BTreeSet<u64>) -> Result<Vec<Event>, Failure> {
    let mut client = ctx.bus()?;
    let mut events = Vec::with_capacity(seqs.len());
    for seq in seqs {
        let request = GetEventRequest { by: Some(By::Seq(*seq)) };
        let answer = client.get_event(request).await.map_err(|s| ctx.refused("bus", &s))?;
        let mut event = answer.into_inner().event.ok_or_else(|| Failure::bug("the bus sent no event"))?;
        // It is not shown, so it need not be held.
        event.payload.clear();
        events.push(event);
    }
    Ok(events)
}

/// Waits until the folds have read what is to go, since afterwards the log can no longer tell what was made of it; returns
/// those that have not, and why.
async fn behind(ctx: &Ctx, seqs: &BTreeSet<u64>) -> Vec<(&'static str, String)> {
    let last = seqs.last().copied().unwrap_or(0);
    let mut behind = Vec::new();
    let Ok(home) = ctx.home() else { return behind };
    for decl in app().services.iter().map(|service| service.decl) {
        if !decl.serves.contains(&FOLD_SERVICE) {
            continue;
        }
        let mut client = FoldServiceClient::new(channel(&home, decl.name));
        let until = SystemClock.boot() + CATCH_UP;
        loop {
            let why = match client.get_fold(GetFoldRequest {}).await {
                Ok(answer) if answer.get_ref().upto >= last => break,
                Ok(answer) => format!("it has read up to event {}", answer.get_ref().upto),
                Err(status) => Remote::from_status(&status).to_string(),
            };
            if SystemClock.boot() >= until {
                behind.push((decl.name, why));
                break;
            }
            SystemClock.sleep(LOOK).await;
        }
    }
    behind
}

/// Returns what is told of an event before its payload goes, without the payload.
fn row(event: &Event) -> Vec<String> {
    let at = event.wall_time.as_ref().map_or(0, text::millis);
    vec![
        event.seq.to_string(),
        text::local_time(at),
        event.subject.clone(),
        text::count(stored_bytes(&event.header)),
        state_name(event.payload_state()).to_owned(),
    ]
}

/// Returns the size that a header says its payload has.
fn stored_bytes(header: &str) -> u64 {
    let header: Option<serde_json::Value> = serde_json::from_str(header).ok();
    header.and_then(|header| header["dl"].as_u64()).unwrap_or(0)
}

/// Makes sure that the owner means it.
fn confirm() -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::input("nothing was erased: there is nobody to ask").hint("say it with --yes"));
    }
    say("the payloads of these events will be erased for good; type yes to go on:");
    let mut line = String::new();
    io::stdin()
        .read_line(&mut line)
        .map_err(|e| Failure::file("read", std::path::Path::new("standard input"), &e))?;
    match line.trim() {
        "yes" => Ok(()),
        _ => Err(Failure::input("nothing was erased")),
    }
}

/// Signs the statement and has it carried out.
async fn order(ctx: &Ctx, events: &[Event], reason: &str) -> Result<RedactResponse, Failure> {
    let target = |event: &Event| RedactionTarget { seq: event.seq, leaf: event.leaf.clone() };
    let statement = RedactionStatement {
        v: 1,
        origin: events.first().map(|event| event.origin.clone()).unwrap_or_default(),
        events: events.iter().map(target).collect(),
        reason: reason.to_owned(),
        at_ms: SystemClock.wall_ms(),
    };
    let phrase = passphrase::ask()?;
    say("deriving the key, which takes a moment");
    let key = mirror_keeper::recovery::unlock(&ctx.home()?, &phrase).map_err(|e| passphrase::refused(&e))?;
    let request = RedactRequest { envelope: key.redaction(&statement).to_json() };
    let answer = ctx.bus()?.redact(request).await.map_err(|s| ctx.refused("bus", &s))?;
    Ok(answer.into_inner())
}

/// Has a service forget, and returns what it says of the events.
async fn forget(
    ctx: &Ctx,
    decl: &'static Decl,
    redactions: &BTreeSet<u64>,
    seqs: &BTreeSet<u64>,
) -> Result<Vec<Copy>, String> {
    let home = ctx.home().map_err(|_| "the home cannot be used".to_owned())?;
    let mut client = FoldServiceClient::new(channel(&home, decl.name));
    let mut copies = Vec::new();
    for redaction in redactions {
        let answer = client.forget(ForgetRequest { redaction: *redaction }).await;
        let answer = answer.map_err(|status| Remote::from_status(&status).to_string())?;
        copies.extend(answer.into_inner().copies.into_iter().filter(|copy| seqs.contains(&copy.seq)));
    }
    Ok(copies)
}

fn tell(out: &mut Out, done: &RedactResponse, folds: &[Fold]) -> Result<(), Failure> {
    if !done.erased.is_empty() {
        let erased = text::some(done.erased.len() as u64, "payload");
        out.line(&format!("{} {erased} by event {}", out.paint(GOOD, "erased"), done.redaction))?;
    }
    if !done.already.is_empty() {
        out.line(&format!("{} erased before", text::some(done.already.len() as u64, "payload")))?;
    }
    out.line("")?;
    out.line("reached:")?;
    out.line("  the log of this device, its index and its quarantine")?;
    let all = || folds.iter().flat_map(|fold| fold.answer.iter().flatten().map(move |copy| (fold, copy)));
    for (fold, copy) in all().filter(|(_, copy)| copy.state() == State::Reached) {
        out.line(&text::block(&format!("  {}: event {} in {}", fold.service, copy.seq, copy.r#where)))?;
    }
    for fold in folds.iter().filter(|fold| fold.answer.as_ref().is_ok_and(Vec::is_empty)) {
        out.line(&format!("  {}: never kept any of it", fold.service))?;
    }
    out.line("")?;
    out.line("not reached:")?;
    for fold in folds {
        if let Err(why) = &fold.answer {
            let line = format!("  {}: could not be asked: {why}", fold.service);
            out.line(&out.paint(BAD, &text::block(&line)))?;
        }
    }
    for (fold, copy) in all().filter(|(_, copy)| copy.state() != State::Reached) {
        let line = format!("  {}: event {} in {}: {}", fold.service, copy.seq, copy.r#where, copy.why);
        out.line(&out.paint(ODD, &text::block(&line)))?;
    }
    for (what, todo) in BEYOND {
        out.line(&format!("  {what}: {todo}"))?;
    }
    if folds.iter().any(|fold| fold.answer.is_err()) {
        say("hint: a service forgets by itself when it is back; the same command then tells what it reached");
    }
    Ok(())
}

fn told_json(done: &RedactResponse, redactions: &BTreeSet<u64>, folds: &[Fold]) -> serde_json::Value {
    let copies: Vec<_> = folds
        .iter()
        .flat_map(|fold| fold.answer.iter().flatten().map(move |copy| (fold.service, copy)))
        .map(|(service, copy)| {
            let reached = copy.state() == State::Reached;
            json!({ "service": service, "seq": copy.seq, "where": copy.r#where, "reached": reached, "why": copy.why })
        })
        .collect();
    let unasked: Vec<_> = folds
        .iter()
        .filter_map(|fold| Some(json!({ "service": fold.service, "why": fold.answer.as_ref().err()? })))
        .collect();
    let beyond: Vec<_> = BEYOND.iter().map(|(what, todo)| json!({ "what": what, "do": todo })).collect();
    json!({
        "redactions": redactions,
        "erased": done.erased,
        "already": done.already,
        "folds": folds.iter().map(|fold| fold.service).collect::<Vec<_>>(),
        "copies": copies,
        "unasked": unasked,
        "beyond": beyond,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_told_without_its_payload() {
        let event = Event {
            seq: 7,
            subject: "local.note".to_owned(),
            payload: b"secret".to_vec().into(),
            payload_state: PayloadState::Present.into(),
            header: r#"{"v":1,"dl":1234,"dh":"x"}"#.to_owned(),
            ..Event::default()
        };
        let row = row(&event);
        assert_eq!(
            (&row[0][..], &row[2][..], &row[3][..], &row[4][..]),
            ("7", "local.note", "1,234", "present")
        );
        assert!(!row.concat().contains("secret"));
        assert_eq!(stored_bytes("no header"), 0);
    }

    #[test]
    fn what_is_told_names_each_copy_and_who_could_not_be_asked() {
        let copy = |seq, state: State| Copy {
            seq,
            r#where: "a day".to_owned(),
            state: state.into(),
            why: if state == State::Reached { String::new() } else { "it was sent".to_owned() },
        };
        let folds = [
            Fold {
                service: "changelog",
                answer: Ok(vec![copy(3, State::Reached), copy(4, State::Unreached)]),
            },
            Fold { service: "notify", answer: Err("it is away".to_owned()) },
        ];
        let done = RedactResponse { redaction: 9, erased: vec![3, 4], already: vec![] };
        let value = told_json(&done, &BTreeSet::from([9]), &folds);
        assert_eq!(value["copies"][0]["reached"], true);
        assert_eq!(
            (&value["copies"][1]["reached"], &value["copies"][1]["why"]),
            (&false.into(), &"it was sent".into())
        );
        assert_eq!(value["unasked"], json!([{ "service": "notify", "why": "it is away" }]));
        assert_eq!((&value["redactions"], &value["erased"]), (&json!([9]), &json!([3, 4])));
        assert_eq!(value["beyond"].as_array().map(Vec::len), Some(BEYOND.len()));
    }
}
