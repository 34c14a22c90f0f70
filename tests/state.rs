//! What is made of the log may be lost: with `state/` deleted the fleet gives the same answers, before and after an
//! erasure, and what was erased is in no file of the home.
//!
//! Not compared, since it tells of the processes and not of the log: pids, times of start, states and their words, and
//! what services write down themselves as they start and stop.

#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use mirror_clock::{Clock as _, SystemClock};
use mirror_contract::mirror::bus::v1 as bus;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::fold::v1 as fold;
use mirror_contract::mirror::fold::v1::fold_service_client::FoldServiceClient;
use mirror_keeper::recovery::{self, Passphrase};
use mirror_kit::{RedactionStatement, RedactionTarget};
use mirror_testkit::fleet::Fleet;
use mirror_testkit::{files_with, samples, wait};
use serde_json::{Value, json};

/// Folds that hold something of payloads.
const FOLDS: [&str; 3] = ["blobs", "changelog", "notify"];
/// In no other text of the home.
const SECRET: &str = "velvet armadillo 7341";
/// Members of answers that tell of processes.
const OF_PROCESSES: [&str; 8] =
    ["pid", "started", "started_ms", "state", "detail", "actual", "build", "upto"];

fn json_lines(fleet: &Fleet, args: &[&str]) -> Vec<Value> {
    fleet.text(args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn append(fleet: &Fleet, subject: &str, kind: bus::PayloadType, payload: String) -> u64 {
    let (subject, payload) = (subject.to_owned(), payload.into());
    let event = bus::NewEvent { subject, payload, r#type: kind.into(), ..bus::NewEvent::default() };
    let request = bus::AppendRequest { event: Some(event), expect: None };
    let answer = BusServiceClient::new(fleet.channel("bus")).append(request).await.unwrap();
    answer.into_inner().ack.unwrap().seq
}

async fn up(fleet: &mut Fleet) {
    fleet.up().await;
    wait("the fleet serves", async || {
        let status = fleet.run(&["status"]);
        if status.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&status.stdout).into_owned())
        }
    })
    .await;
    let head = BusServiceClient::new(fleet.channel("bus")).get_status(bus::GetStatusRequest {}).await;
    let head = head.unwrap().into_inner().head;
    for name in FOLDS {
        let mut client = FoldServiceClient::new(fleet.channel(name));
        wait(&format!("{name} has read the log"), async || {
            let upto = client.get_fold(fold::GetFoldRequest {}).await.unwrap().into_inner().upto;
            if upto >= head { Ok(()) } else { Err(format!("{upto} of {head}")) }
        })
        .await;
    }
}

/// Deletes what is made of the log, and starts again.
async fn lose_state(fleet: &mut Fleet) {
    fleet.down().await;
    fs::remove_dir_all(fleet.home().state("changelog").parent().unwrap()).unwrap();
    up(fleet).await;
}

/// Leaves out what tells of processes.
fn plain(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            members.retain(|name, _| !OF_PROCESSES.contains(&name.as_str()));
            members.values_mut().for_each(|member| *member = plain(member.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = plain(item.take())),
        _ => {}
    }
    value
}

/// Returns every answer that is made of the log, under the words that ask for it.
fn answers(fleet: &Fleet, events: usize) -> Vec<(String, Value)> {
    let today = json_lines(fleet, &["log", "-n", "1", "--json"])[0].to_string();
    let mut found = Vec::new();
    let mut ask = |args: &[&str], keep: &dyn Fn(&mut Vec<Value>)| {
        let mut lines = json_lines(fleet, args);
        keep(&mut lines);
        found.push((args.join(" "), plain(Value::Array(lines))));
    };
    ask(&["log", "-n", "1000", "--from", "1", "--json"], &|lines| lines.truncate(events));
    ask(&["changelog", "--days", "400", "--json"], &|days| {
        for day in days {
            let is_today = today.contains(day["day"].as_str().unwrap());
            let keep = |entry: &Value| !is_today || entry["writer"] == "local";
            day["entries"].as_array_mut().unwrap().retain(keep);
        }
    });
    ask(&["services", "--json"], &|_| {});
    ask(&["schedule", "list", "--json"], &|_| {});
    ask(&["schedule", "history", "spare", "--json"], &|_| {});
    ask(&["notify", "list", "--json"], &|_| {});
    ask(&["pulse", "--history", "--json"], &|_| {});
    ask(&["halt", "status", "--json"], &|_| {});
    ask(&["keys", "list", "--json"], &|_| {});
    found
}

async fn expect_same(fleet: &Fleet, before: &[(String, Value)], events: usize) {
    wait("the answers are the same", async || {
        let now = answers(fleet, events);
        let mut both = before.iter().zip(&now);
        match both.find(|(before, now)| before != now) {
            None => Ok(()),
            Some((before, now)) => Err(format!("{}\n{}\n{}", before.0, before.1, now.1)),
        }
    })
    .await;
}

/// Does something of everything, and returns the events that hold the secret.
async fn work(fleet: &Fleet, phrase: &Passphrase) -> Vec<u64> {
    let samples = samples().canonicalize().unwrap();
    fleet.text(&["import", &samples.to_string_lossy()]);
    fleet.text(&["append", "local.note", "kept"]);
    let note = append(fleet, "local.note", bus::PayloadType::Text, format!("note: {SECRET}")).await;

    let file = fleet.home().root().with_extension("blob");
    fs::write(&file, format!("blob: {SECRET}")).unwrap();
    let stored = json_lines(fleet, &["blobs", "put", &file.to_string_lossy(), "--json"]);
    let digest = stored[0]["digest"].as_str().unwrap();
    let name = json!({ "blake3": digest, "bytes": 27, "type": "text" }).to_string();
    let blob = append(fleet, "local.file", bus::PayloadType::Blob, name).await;

    fleet.text(&["schedule", "add", "spare", "--every", "1d"]);
    fleet.text(&["schedule", "add", "brief", "--every", "2h"]);
    fleet.text(&["schedule", "remove", "brief"]);
    fleet.text(&["notify", "put", "test.kept", "--title", "kept"]);
    fleet.text(&["notify", "put", "test.cleared", "--title", "cleared"]);
    fleet.text(&["notify", "clear", "test.cleared"]);
    fleet.text(&["notify", "put", "test.secret", "--title", "card", "--body", SECRET]);
    let cards = json_lines(fleet, &["log", "--subject", "notify.card", "-n", "1", "--json"]);
    let card = cards[0]["seq"].as_u64().unwrap();

    fleet.text(&["halt", "a test"]);
    let mut child =
        fleet.command(&["halt", "release"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{}", &*phrase.grouped()).unwrap();
    assert!(child.wait().unwrap().success());
    fleet.text(&["checkpoint", "--now"]);
    vec![note, blob, card]
}

/// Has payloads erased as the owner does, and returns the position of the proof.
async fn redact(fleet: &Fleet, phrase: &Passphrase, events: &[u64]) -> u64 {
    let mut client = BusServiceClient::new(fleet.channel("bus"));
    let mut targets = Vec::new();
    for seq in events {
        let by = Some(bus::get_event_request::By::Seq(*seq));
        let found = client.get_event(bus::GetEventRequest { by }).await.unwrap().into_inner();
        targets.push(RedactionTarget { seq: *seq, leaf: found.event.unwrap().leaf });
    }
    let statement = RedactionStatement {
        v: 1,
        origin: mirror_kit::node(fleet.home()).unwrap().origin.to_string(),
        events: targets,
        reason: "a test".to_owned(),
        at_ms: SystemClock.wall_ms(),
    };
    let key = recovery::unlock(fleet.home(), phrase).unwrap();
    let request = bus::RedactRequest { envelope: key.redaction(&statement).to_json() };
    let done = client.redact(request).await.unwrap().into_inner();
    assert_eq!(done.erased, events);
    done.redaction
}

async fn forgotten(fleet: &Fleet, redaction: u64) -> Vec<(&'static str, fold::Copy)> {
    let mut copies = Vec::new();
    for name in FOLDS {
        let mut client = FoldServiceClient::new(fleet.channel(name));
        let answer = client.forget(fold::ForgetRequest { redaction }).await.unwrap().into_inner();
        copies.extend(answer.copies.into_iter().map(|copy| (name, copy)));
    }
    copies
}

fn holders(fleet: &Fleet) -> Vec<PathBuf> {
    files_with(fleet.home().root(), SECRET)
}

fn under(paths: &[PathBuf], part: &Path) -> bool {
    paths.iter().any(|path| path.starts_with(part))
}

#[tokio::test]
async fn without_its_state_the_fleet_gives_the_same_answers() {
    let mut fleet = Fleet::new(env!("CARGO_BIN_EXE_mirror"));
    mirror_kit::init(fleet.home()).unwrap();
    let draft = recovery::draft(fleet.home(), SystemClock.wall_ms()).unwrap();
    let phrase = Passphrase::parse(&draft.passphrase().grouped()).unwrap();
    draft.commit().unwrap();
    up(&mut fleet).await;
    let mut secret = work(&fleet, &phrase).await;
    secret.sort_unstable();

    let events = json_lines(&fleet, &["log", "-n", "1000", "--from", "1", "--json"]).len();
    let before = answers(&fleet, events);
    let states = fleet.home().state("changelog").parent().unwrap().to_owned();
    lose_state(&mut fleet).await;
    expect_same(&fleet, &before, events).await;
    let found = holders(&fleet);
    assert!(under(&found, &fleet.home().bus()) && under(&found, &fleet.home().blobs()), "{found:?}");

    let redaction = redact(&fleet, &phrase, &secret).await;
    let copies = forgotten(&fleet, redaction).await;
    let reached = |(_, copy): &&(&str, fold::Copy)| copy.state() == fold::copy::State::Reached;
    assert_eq!(copies.iter().filter(reached).count(), 5, "three pages, a card and a blob: {copies:?}");
    assert_eq!(copies.len(), 5, "{copies:?}");
    assert_eq!(holders(&fleet), Vec::<PathBuf>::new());
    let after = answers(&fleet, events);
    assert_ne!(after, before);

    lose_state(&mut fleet).await;
    expect_same(&fleet, &after, events).await;
    assert_eq!(forgotten(&fleet, redaction).await, copies);
    assert!(!under(&holders(&fleet), &states));
    fleet.down().await;
    assert_eq!(holders(&fleet), Vec::<PathBuf>::new());
    let verdict = fleet.text(&["bus", "verify"]);
    assert!(verdict.contains("verdict: intact"), "{verdict}");
}
