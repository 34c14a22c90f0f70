//! The changelog as a service: over the bus, across losses of it, and with state that cannot be used.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mirror_contract::mirror::bus::v1 as bus;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::changelog::v1 as pb;
use mirror_contract::mirror::changelog::v1::changelog_service_client::ChangelogServiceClient;
use mirror_contract::mirror::import::v1 as import;
use mirror_contract::mirror::import::v1::import_service_client::ImportServiceClient;
use mirror_contract::mirror::kit::v1::GetStateRequest;
use mirror_contract::mirror::kit::v1::get_state_response::State;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_errors::Remote;
use mirror_testkit::{Node, Sandbox, files_with};

fn sandbox() -> Sandbox {
    Sandbox::with(&[&mirror_bus::SERVICE, &mirror_changelog::SERVICE])
}

fn importing() -> Sandbox {
    Sandbox::with(&[
        &mirror_bus::SERVICE,
        &mirror_blobs::SERVICE,
        &mirror_changelog::SERVICE,
        &mirror_import::SERVICE,
    ])
}

fn note(text: &str) -> bus::NewEvent {
    bus::NewEvent {
        subject: "local.note".into(),
        payload: serde_json::json!({ "text": text }).to_string().into(),
        r#type: bus::PayloadType::Json.into(),
        ..bus::NewEvent::default()
    }
}

/// Appends notes as one batch, and returns the position of the last.
async fn append(node: &Node, events: Vec<bus::NewEvent>) -> u64 {
    let mut client = BusServiceClient::new(node.channel("bus"));
    let request = bus::AppendBatchRequest { events, expect: None };
    client.append_batch(request).await.unwrap().into_inner().acks.last().unwrap().seq
}

async fn head(node: &Node) -> u64 {
    let mut client = BusServiceClient::new(node.channel("bus"));
    client.get_status(bus::GetStatusRequest {}).await.unwrap().into_inner().head
}

async fn ask(node: &Node, request: pb::GetChangelogRequest) -> Result<pb::GetChangelogResponse, Remote> {
    let mut client = ChangelogServiceClient::new(node.channel("changelog"));
    let answer = client.get_changelog(request).await.map_err(|status| Remote::from_status(&status))?;
    Ok(answer.into_inner())
}

async fn pages(node: &Node) -> pb::GetChangelogResponse {
    ask(node, pb::GetChangelogRequest { days: 4_000, ..pb::GetChangelogRequest::default() }).await.unwrap()
}

/// Returns the pages when they reflect everything up to a position.
async fn pages_at(node: &Node, upto: u64) -> pb::GetChangelogResponse {
    let mut found = pb::GetChangelogResponse::default();
    node.wait(&format!("the pages reflect event {upto}"), async || match ask(node, request(4_000)).await {
        Ok(answer) if answer.upto >= upto => {
            found = answer;
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .await;
    found
}

fn request(days: u32) -> pb::GetChangelogRequest {
    pb::GetChangelogRequest { days, ..pb::GetChangelogRequest::default() }
}

fn events(answer: &pb::GetChangelogResponse) -> u64 {
    answer.days.iter().flat_map(|day| &day.entries).map(|entry| entry.events).sum()
}

async fn wait_for_state(node: &Node, wanted: State, part: &str) {
    let mut kit = KitServiceClient::new(node.channel("changelog"));
    node.wait(&format!("the changelog is {wanted:?}"), async || {
        let state = kit.get_state(GetStateRequest {}).await.unwrap().into_inner();
        let right = state.state == i32::from(wanted) && state.detail.contains(part);
        if right { Ok(()) } else { Err(format!("{state:?}")) }
    })
    .await;
}

async fn import(node: &Node, path: &Path) {
    let mut client = ImportServiceClient::new(node.channel("import"));
    let request = import::RunImportRequest {
        path: path.to_str().unwrap().to_owned(),
        ..import::RunImportRequest::default()
    };
    let mut answers = client.run_import(request).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
}

fn snapshot(node: &Node) -> PathBuf {
    node.home().state("changelog").join("snapshot.json")
}

fn texts<'a>(answer: &'a pb::GetChangelogResponse, day: &str, writer: &str) -> Vec<&'a str> {
    let entries = answer.days.iter().filter(|d| d.day == day).flat_map(|d| &d.entries);
    entries.filter(|e| e.writer == writer).map(|e| e.text.as_str()).collect()
}

#[tokio::test]
async fn what_was_just_imported_is_on_the_pages() {
    let node = importing().start().await;
    import(&node, &mirror_testkit::samples().canonicalize().unwrap()).await;
    let answer = pages(&node).await;
    assert_eq!(answer.upto, head(&node).await);
    assert_eq!(events(&answer), answer.upto);
    let sessions: Vec<_> =
        answer.days.iter().flat_map(|d| &d.entries).filter(|e| !e.session.is_empty()).collect();
    for writer in ["claude-code", "codex", "gemini"] {
        assert!(sessions.iter().any(|e| e.writer == writer), "{writer} in {answer:#?}");
    }
    assert!(answer.days.is_sorted_by(|a, b| a.day > b.day));

    let one = pb::GetChangelogRequest { writer: "codex".into(), ..request(1) };
    let one = ask(&node, one).await.unwrap();
    assert!(one.days.len() == 1 && one.days[0].entries.iter().all(|e| e.writer == "codex"));
    node.finish().await;
}

#[tokio::test]
async fn real_sessions_read_as_a_person_would_tell_them() {
    let Some(data) = mirror_testkit::test_data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let archive = data.join("transcripts-claude.tar.zst");
    let tar = Command::new("tar").arg("--zstd").arg("-xf").arg(archive).arg("-C").arg(folder.path()).status();
    if !tar.is_ok_and(|status| status.success()) {
        return;
    }
    let mut node = importing().start().await;
    import(&node, folder.path()).await;
    let answer = pages(&node).await;
    assert_eq!((answer.upto, events(&answer)), (head(&node).await, answer.upto));
    let told = |day: &str| texts(&answer, day, "claude-code").join("\n");
    assert_eq!(
        told("2026-02-12"),
        "spotter-dov: \"Work on bead spotter-dov. Run bd show spotter-dov to see the issue details and…\" \
         — 2 prompts, 151 turns, 183 tool calls (Bash 72, Read 47, Edit 32), 1 sub-agent, 1 compaction, \
         11 files changed"
    );
    assert_eq!(
        told("2026-02-11"),
        "spotter-gqc: \"Implement spotter-gqc\" — 2 prompts, 155 turns, 188 tool calls (Bash 79, Read 42, \
         Edit 35), 1 sub-agent, 1 compaction, 26 files changed\n\
         spotter-fum: \"Work on bead spotter-fum. Run bd show spotter-fum to see the issue details and…\" \
         — 1 prompt, 156 turns, 196 tool calls (Bash 85, Read 47, Edit 22), 1 sub-agent, 1 compaction, \
         11 files changed"
    );

    // Made again from nothing, the pages are the same to the byte.
    let before = format!("{answer:?}");
    node.stop("changelog").await;
    std::fs::remove_dir_all(node.home().state("changelog")).unwrap();
    node.launch("changelog").await;
    assert_eq!(format!("{:?}", pages_at(&node, answer.upto).await), before);
    node.finish().await;
}

#[tokio::test]
async fn pages_are_the_same_from_a_snapshot_and_from_nothing() {
    let mut node = sandbox().start().await;
    let upto = append(&node, (0..900).map(|n| note(&format!("note {n}"))).collect()).await;
    let before = pages_at(&node, upto).await;
    node.stop("changelog").await;
    assert!(snapshot(&node).exists());
    let upto = append(&node, vec![note("while it was away")]).await;
    node.launch("changelog").await;
    let resumed = pages_at(&node, upto).await;
    assert_eq!(events(&resumed), events(&before) + 1);

    node.stop("changelog").await;
    std::fs::remove_dir_all(node.home().state("changelog")).unwrap();
    node.launch("changelog").await;
    assert_eq!(pages_at(&node, upto).await, resumed);
    node.finish().await;
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_used_is_set_aside() {
    let mut node = sandbox().start().await;
    node.expect_log("set aside");
    let upto = append(&node, vec![note("one"), note("two")]).await;
    let before = pages_at(&node, upto).await;
    let good = {
        node.stop("changelog").await;
        std::fs::read_to_string(snapshot(&node)).unwrap()
    };
    for bad in [
        "",
        &good[..good.len() / 2],
        &good.replace("one", "two"),
        &good.replace("\"fold\":2", "\"fold\":1"),
        &good.replace(&format!("\"upto\":{upto}"), "\"upto\":1"),
    ] {
        assert_ne!(bad, good);
        std::fs::write(snapshot(&node), bad).unwrap();
        node.launch("changelog").await;
        assert_eq!(pages_at(&node, upto).await, before);
        node.stop("changelog").await;
        assert_eq!(std::fs::read_to_string(snapshot(&node).with_extension("json.bad")).unwrap(), bad);
        let again = std::fs::read_to_string(snapshot(&node)).unwrap();
        assert!(again.contains(&format!("\"upto\":{upto}")), "{again}");
    }
    node.finish().await;
}

#[tokio::test]
async fn a_snapshot_ahead_of_the_log_or_of_another_one_is_set_aside() {
    for count in [1, 9] {
        let mut node = sandbox().start().await;
        node.expect_log("the snapshot is not of this log");
        node.expect_log("recovered from an unclean end");
        let upto = append(&node, (0..5).map(|n| note(&format!("old {n}"))).collect()).await;
        pages_at(&node, upto).await;
        node.stop("changelog").await;
        node.stop("bus").await;
        std::fs::remove_dir_all(node.home().bus().join("log")).unwrap();
        node.launch("bus").await;
        let upto = append(&node, (0..count).map(|n| note(&format!("new {n}"))).collect()).await;
        node.launch("changelog").await;
        node.wait("the pages are of the new log", async || {
            let answer = pages(&node).await;
            let text = format!("{answer:?}");
            let right = answer.upto == upto && text.contains("new 0") && !text.contains("old");
            if right { Ok(()) } else { Err(text) }
        })
        .await;
        assert_eq!(events(&pages(&node).await), upto);
        assert!(snapshot(&node).with_extension("json.bad").exists());
        node.finish().await;
    }
}

#[tokio::test]
async fn a_bus_that_is_killed_in_mid_tail_leaves_no_gap_and_no_double_count() {
    let mut node = sandbox().start().await;
    node.expect_log("recovered from an unclean end");
    let mut sent = 0;
    for round in 0..4 {
        let upto = append(&node, (0..300).map(|n| note(&format!("{round} {n}"))).collect()).await;
        sent += 300;
        if round % 2 == 1 {
            pages_at(&node, upto).await;
        }
        node.kill("bus").await;
        wait_for_state(&node, State::Degraded, "the bus is away; pages reflect the log up to").await;
        assert!(round == 0 || ask(&node, request(1)).await.is_ok(), "it answers what it has");
        node.launch("bus").await;
        wait_for_state(&node, State::Serving, "").await;
    }
    let answer = pages_at(&node, head(&node).await).await;
    assert_eq!(events(&answer), answer.upto);
    let notes: u64 = answer
        .days
        .iter()
        .flat_map(|day| &day.entries)
        .filter(|entry| entry.text.starts_with("local.note"))
        .map(|entry| entry.events)
        .sum();
    assert_eq!(notes, sent);
    node.finish().await;
}

#[tokio::test]
async fn without_pages_and_without_the_bus_it_is_not_ready() {
    let mut node = sandbox().start().await;
    assert_eq!(pages(&node).await, pb::GetChangelogResponse::default(), "an empty log has no pages");
    node.kill("bus").await;
    let refused = ask(&node, request(1)).await.unwrap_err();
    assert_eq!(refused.reason, "CHANGELOG_NOT_READY");
    assert!(refused.retry_after.is_some());
    node.launch("bus").await;
    append(&node, vec![note("here")]).await;
    pages_at(&node, 1).await;
    node.finish().await;
}

#[tokio::test]
async fn a_watch_begins_with_the_pages_and_then_sends_what_changed_a_few_times_a_second() {
    let node = sandbox().manual_clock().start().await;
    append(&node, vec![note("first")]).await;
    let mut client = ChangelogServiceClient::new(node.channel("changelog"));
    let mut all = client.watch_changelog(pb::WatchChangelogRequest::default()).await.unwrap().into_inner();
    let bus_only = pb::WatchChangelogRequest { writer: "svc:bus".into() };
    let mut others = client.watch_changelog(bus_only).await.unwrap().into_inner();
    let page = all.message().await.unwrap().unwrap();
    assert_eq!((page.upto, page.day.unwrap().entries[0].events), (1, 1));

    for round in 1..=3_u64 {
        let upto = append(&node, (0..9).map(|n| note(&format!("{n}"))).collect()).await;
        pages_at(&node, upto).await;
        let mut next = Box::pin(all.message());
        let early = tokio::select! {
            biased;
            page = &mut next => Some(page),
            // Calls go to and fro while the clock stands still.
            _ = async { for _ in 0..20 { head(&node).await; } } => None,
        };
        assert!(early.is_none(), "{early:?}");
        node.clock().advance(Duration::from_millis(250));
        let page = next.await.unwrap().unwrap();
        assert_eq!((page.upto, page.day.unwrap().entries[0].events), (upto, 1 + 9 * round));
    }
    node.finish().await;
    assert!(others.message().await.unwrap().is_none(), "nothing of the bus, and the drain ends the stream");
}

#[tokio::test]
async fn a_snapshot_is_taken_after_some_quiet_and_after_many_events() {
    let node = sandbox().manual_clock().start().await;
    let saved = async |upto: u64| {
        let found = std::fs::read_to_string(snapshot(&node)).unwrap_or_default();
        if found.contains(&format!("\"upto\":{upto},")) { Ok(()) } else { Err(found) }
    };
    let upto = append(&node, vec![note("one")]).await;
    pages_at(&node, upto).await;
    assert!(!snapshot(&node).exists());
    node.wait("a snapshot is taken after some quiet", async || {
        node.clock().advance(Duration::from_secs(5));
        saved(upto).await
    })
    .await;

    let mut upto = upto;
    for _ in 0..4 {
        upto = append(&node, (0..500).map(|n| note(&format!("{n}"))).collect()).await;
    }
    node.wait("a snapshot is taken after many events", async || saved(upto).await).await;
    node.finish().await;
}

#[tokio::test]
async fn private_text_is_counted_and_not_shown() {
    let node = sandbox().start().await;
    let private = bus::NewEvent { labels: vec!["private".into()], ..note("the secret") };
    let upto = append(&node, vec![private, note("no secret \u{1b}[2J")]).await;
    let answer = pages_at(&node, upto).await;
    let entry = &answer.days[0].entries[0];
    assert_eq!((entry.text.as_str(), entry.events), ("local.note ×2: \"no secret\"", 2));
    node.finish().await;
}

#[tokio::test]
async fn wrong_requests_are_refused_by_name() {
    let node = sandbox().start().await;
    let refused = async |request| {
        let remote = ask(&node, request).await.unwrap_err();
        (remote.reason, remote.fields.into_iter().map(|(field, _)| field).collect::<Vec<_>>())
    };
    let bad_day = pb::GetChangelogRequest { to_day: "tomorrow".into(), ..request(0) };
    assert_eq!(refused(bad_day).await, ("CHANGELOG_DAY_INVALID".into(), vec!["to_day".into()]));
    let bad_writer = pb::GetChangelogRequest { writer: "\n".into(), ..request(0) };
    assert_eq!(refused(bad_writer).await, ("CHANGELOG_WRITER_INVALID".into(), vec!["writer".into()]));
    node.finish().await;
}

#[tokio::test]
async fn an_erased_text_leaves_every_copy() {
    let mut node = sandbox().start().await;
    let state = node.home().state("changelog");
    let secret = append(&node, vec![note("one"), note("hush")]).await;
    pages_at(&node, secret).await;
    for name in ["snapshot.json.bad", ".snapshot.json.7.0.tmp"] {
        node.stop("changelog").await;
        std::fs::copy(snapshot(&node), state.join(name)).unwrap();
        node.launch("changelog").await;
    }
    assert_eq!(files_with(&state, "hush").len(), 3);

    // The bus has not overwritten the payload yet, and the pages are read again while it is still there.
    let redaction = node.say_erased(&[secret]).await;
    let copies = node.forgotten("changelog", redaction).await;
    assert!(matches!(&copies[..], [(seq, _, true)] if *seq == secret), "{copies:?}");
    let after = pages_at(&node, redaction).await;
    let today = after.days[0].day.clone();
    assert_eq!(texts(&after, &today, "local"), ["local.note ×2 (1 erased): \"one\""]);
    node.stop("changelog").await;
    assert_eq!(files_with(&state, "hush"), Vec::<PathBuf>::new());

    std::fs::remove_dir_all(&state).unwrap();
    node.launch("changelog").await;
    assert_eq!(node.forgotten("changelog", redaction).await, copies);
    assert_eq!(pages_at(&node, redaction).await, after);
    assert_eq!(node.forgotten("changelog", secret).await, [], "that is no redaction");
    for none in [0, redaction + 99] {
        assert_eq!(node.forgotten("changelog", none).await, []);
    }
    node.finish().await;
}
