//! The service, over bus and blobs.

#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test, a panic is the report")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mirror_contract::mirror::blobs::v1 as blobs;
use mirror_contract::mirror::blobs::v1::blobs_service_client::BlobsServiceClient;
use mirror_contract::mirror::bus::v1 as bus;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::import::v1 as pb;
use mirror_contract::mirror::import::v1::import_service_client::ImportServiceClient;
use mirror_contract::mirror::import::v1::run_import_response::Message;
use mirror_errors::{Kind, Remote};
use mirror_testkit::{Node, Sandbox};
use tonic::{Status, Streaming};

async fn sandbox(config: &str) -> Node {
    Sandbox::with(&[&mirror_bus::SERVICE, &mirror_blobs::SERVICE, &mirror_import::SERVICE])
        .config(config)
        .start()
        .await
}

fn request(path: &Path) -> pb::RunImportRequest {
    pb::RunImportRequest { path: path.to_str().unwrap().into(), ..pb::RunImportRequest::default() }
}

async fn begin(
    node: &Node,
    request: pb::RunImportRequest,
) -> Result<Streaming<pb::RunImportResponse>, Status> {
    let mut import = ImportServiceClient::new(node.channel("import"));
    import.run_import(request).await.map(tonic::Response::into_inner)
}

async fn finish(
    mut answers: Streaming<pb::RunImportResponse>,
) -> Result<(pb::Report, Vec<pb::Progress>), Status> {
    let mut progress = Vec::new();
    while let Some(answer) = answers.message().await? {
        match answer.message.unwrap() {
            Message::Progress(news) => progress.push(news),
            Message::Report(report) => {
                assert!(answers.message().await?.is_none(), "the report is the last message");
                return Ok((report, progress));
            }
        }
    }
    panic!("the stream ended without a report");
}

async fn import(node: &Node, request: pb::RunImportRequest) -> Result<pb::Report, Remote> {
    let run = async { finish(begin(node, request).await?).await };
    run.await.map(|(report, _)| report).map_err(|status| Remote::from_status(&status))
}

/// Returns all events under `import.`.
async fn events(node: &Node) -> Vec<bus::Event> {
    let mut client = BusServiceClient::new(node.channel("bus"));
    let filter = bus::Filter { subjects: vec!["import.>".into()], ..bus::Filter::default() };
    let request = bus::ReadRequest { filter: Some(filter), ..bus::ReadRequest::default() };
    let mut answers = client.read(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        events.extend(answer.events);
    }
    events
}

fn quarantined(node: &Node) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(node.home().quarantine()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("import-") {
            lines.extend(fs::read_to_string(path).unwrap().lines().map(str::to_owned));
        }
    }
    lines
}

/// Returns the samples, moved to where a test may change them.
fn copy(into: &Path) -> PathBuf {
    let copied =
        Command::new("cp").arg("-R").arg(mirror_testkit::samples()).arg(into.join("samples")).status();
    assert!(copied.unwrap().success());
    into.join("samples")
}

const CLAUDE: &str = "claude/-home-user-lantern/5b0e6f3a-1f0c-4e55-9a34-0c7d2f9e1a01.jsonl";

fn assert_adds_up(report: &pb::Report) {
    assert_eq!(report.rows, report.taken + report.skipped + report.quarantined);
    assert_eq!(report.taken_by_kind.values().sum::<u64>(), report.taken);
    assert_eq!(report.quarantine.len() as u64, report.quarantined.min(100));
}

#[tokio::test]
async fn samples_are_imported_completely_and_a_second_time_nothing_happens() {
    let node = sandbox("").await;
    let samples = mirror_testkit::samples().canonicalize().unwrap();
    let first = import(&node, request(&samples)).await.unwrap();
    assert_adds_up(&first);
    assert_eq!((first.files, first.files_ignored), (8, 4));
    assert_eq!((first.taken, first.skipped, first.quarantined, first.blobs), (81, 0, 2, 0));
    assert_eq!(first.sessions, 7);
    let once = events(&node).await;
    assert_eq!(once.len(), 82, "each row, and that the import has finished");
    assert_eq!(once[80].seq, first.last_seq);
    let end = &once[81];
    assert_eq!((end.subject.as_str(), end.actor.as_str()), ("import.finished", "svc:import"));
    let counts: serde_json::Value = serde_json::from_slice(&end.payload).unwrap();
    assert_eq!((&counts["taken"], &counts["quarantined"]), (&81.into(), &2.into()));
    assert_eq!(quarantined(&node).len(), 2);

    let second = import(&node, request(&samples)).await.unwrap();
    assert_adds_up(&second);
    assert_eq!((second.taken, second.skipped, second.quarantined, second.last_seq), (0, 81, 2, 0));
    assert_eq!(events(&node).await.len(), once.len());
    assert_eq!(quarantined(&node).len(), 2);
    node.finish().await;
}

#[tokio::test]
async fn events_carry_what_the_row_says() {
    let node = sandbox("").await;
    let samples = mirror_testkit::samples().canonicalize().unwrap();
    import(&node, request(&samples.join("claude"))).await.unwrap();
    let events = events(&node).await;
    let lines = fs::read_to_string(samples.join(CLAUDE)).unwrap();
    let line = lines.lines().find(|line| line.contains("only timer.rs. The caf")).unwrap();
    let event = events
        .iter()
        .find(|event| std::str::from_utf8(&event.payload).unwrap().contains(line))
        .expect("the row is in a payload byte for byte");
    assert_eq!((event.subject.as_str(), event.model.as_str()), ("import.claude.turn", "claude-opus-4-6"));
    assert_eq!(event.labels, ["imported"]);
    let view = mirror_import::summary_fields(&event.payload).unwrap();
    assert_eq!(view.cwd.as_deref(), Some("/home/user/lantern"));
    assert_eq!(view.tokens.unwrap().output, 77);
    for event in &events {
        for part in ["lantern", "home", "5b0e6f3a"] {
            assert!(!event.subject.contains(part) && !event.id.contains(part), "{}", event.id);
        }
    }
    node.finish().await;
}

#[tokio::test]
async fn a_file_that_grew_and_moved_adds_its_new_rows_only() {
    let home = tempfile::tempdir().unwrap();
    let node = sandbox("").await;
    let samples = copy(home.path());
    let path = samples.join(CLAUDE);
    let first = import(&node, request(&samples)).await.unwrap();
    let mut text = fs::read_to_string(&path).unwrap();
    let row = |n: u32| {
        format!(
            "{{\"type\":\"user\",\"sessionId\":\"new\",\"uuid\":\"{n}\",\"message\":{{\"content\":\"more\"}}}}\n"
        )
    };
    text.push_str("tten.\"}]}}\n");
    let second = text.find('\n').unwrap() + 1;
    text.insert_str(second, &row(1));
    text.push_str(&row(2));
    fs::write(&path, text).unwrap();
    let moved = home.path().join("elsewhere");
    fs::rename(&samples, &moved).unwrap();
    fs::copy(moved.join(CLAUDE), moved.join("a copy.jsonl")).unwrap();
    let second = import(&node, request(&moved)).await.unwrap();
    assert_adds_up(&second);
    assert_eq!(
        second.taken_by_kind,
        std::collections::HashMap::from([("prompt".into(), 2), ("turn".into(), 1)])
    );
    assert_eq!(second.quarantined, first.quarantined - 1);
    assert_eq!(second.skipped, first.taken + 28, "the copy's rows are there already");
    assert_eq!(events(&node).await.len() as u64, first.taken + 3 + 2);
    node.finish().await;
}

#[tokio::test]
async fn a_large_row_is_a_blob_and_its_event_names_it() {
    let home = tempfile::tempdir().unwrap();
    let node = sandbox("").await;
    let text = "word ".repeat(300_000);
    let row = format!("{{\"type\":\"user\",\"sessionId\":\"s\",\"message\":{{\"content\":\"{text}\"}}}}");
    let path = home.path().join("s.jsonl");
    fs::write(&path, format!("{row}\n{row}\n")).unwrap();
    let dry = import(&node, pb::RunImportRequest { dry_run: true, ..request(&path) }).await.unwrap();
    assert_eq!((dry.taken, dry.blobs), (2, 2));
    let report = import(&node, request(&path)).await.unwrap();
    assert_eq!((report.taken, report.blobs), (2, 1), "the same content is stored once");
    let events = events(&node).await;
    let payload: serde_json::Value = serde_json::from_slice(&events[0].payload).unwrap();
    assert!(payload["excerpt"].as_str().unwrap().starts_with("word word"));
    assert_ne!(events[0].id, events[1].id);
    let mut client = BlobsServiceClient::new(node.channel("blobs"));
    let digest = payload["blob"]["blake3"].as_str().unwrap().to_owned();
    let mut parts = client.get_blob(blobs::GetBlobRequest { digest }).await.unwrap().into_inner();
    let mut content = Vec::new();
    while let Some(part) = parts.message().await.unwrap() {
        content.extend_from_slice(&part.chunk);
    }
    assert!(content == row.as_bytes(), "the blob is the row byte for byte");
    assert_eq!(import(&node, request(&path)).await.unwrap().blobs, 0);
    node.finish().await;
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_and_leaves_no_trace() {
    let home = tempfile::tempdir().unwrap();
    let node = sandbox("").await;
    let samples = copy(home.path());
    fs::copy(samples.join(CLAUDE), samples.join("a copy.jsonl")).unwrap();
    let dry = |path: &Path| pb::RunImportRequest { dry_run: true, ..request(path) };
    let before = import(&node, dry(&samples)).await.unwrap();
    assert_adds_up(&before);
    assert!(events(&node).await.is_empty() && quarantined(&node).is_empty());
    let real = import(&node, request(&samples)).await.unwrap();
    assert_eq!(pb::Report { last_seq: 0, ..real.clone() }, before);
    let after = import(&node, dry(&samples)).await.unwrap();
    assert_eq!((after.taken, after.skipped), (0, real.rows - real.quarantined));
    node.finish().await;
}

#[tokio::test]
async fn formats_that_are_named_are_the_only_ones_read() {
    let node = sandbox("").await;
    let samples = mirror_testkit::samples().canonicalize().unwrap();
    let of = |format: pb::Format| pb::RunImportRequest {
        format: format.into(),
        dry_run: true,
        ..request(&samples)
    };
    let mut taken = BTreeMap::new();
    for format in [pb::Format::Claude, pb::Format::Codex, pb::Format::Gemini] {
        let report = import(&node, of(format)).await.unwrap();
        taken.insert(format.as_str_name(), (report.files, report.taken));
    }
    assert_eq!(
        taken,
        BTreeMap::from([("FORMAT_CLAUDE", (2, 29)), ("FORMAT_CODEX", (3, 29)), ("FORMAT_GEMINI", (3, 23))])
    );
    node.finish().await;
}

#[track_caller]
fn assert_refused(found: Result<pb::Report, Remote>, kind: Kind, reason: &str) {
    let remote = found.unwrap_err();
    assert_eq!((remote.kind, remote.reason.as_str()), (kind, reason), "{remote}");
}

#[tokio::test]
async fn bad_requests_are_refused_with_their_reasons() {
    let home = tempfile::tempdir().unwrap();
    let node = sandbox("").await;
    let notes = home.path().join("notes.md");
    fs::write(&notes, "# Notes\n").unwrap();
    let link = home.path().join("link");
    std::os::unix::fs::symlink(&notes, &link).unwrap();
    for (path, kind, reason) in [
        (Path::new(""), Kind::Invalid, "IMPORT_PATH_INVALID"),
        (Path::new("tests/samples"), Kind::Invalid, "IMPORT_PATH_INVALID"),
        (&link, Kind::Invalid, "IMPORT_PATH_INVALID"),
        (&home.path().join("none"), Kind::NotFound, "IMPORT_PATH_MISSING"),
        (&notes.join("inside"), Kind::NotFound, "IMPORT_PATH_MISSING"),
        (&notes, Kind::Unsupported, "IMPORT_FORMAT_UNKNOWN"),
    ] {
        assert_refused(import(&node, request(path)).await, kind, reason);
    }
    let unknown = pb::RunImportRequest { format: 99, ..request(home.path()) };
    assert_refused(import(&node, unknown).await, Kind::Unsupported, "IMPORT_FORMAT_UNKNOWN");
    let nothing = import(&node, request(home.path())).await.unwrap();
    assert_eq!((nothing.files, nothing.files_ignored, nothing.rows), (0, 2, 0));
    assert!(events(&node).await.is_empty(), "an import that changed nothing leaves no event");
    node.finish().await;
}

/// Writes more rows than the answers and chunks in between can hold, so that a run waits for its caller.
fn many(home: &Path) -> PathBuf {
    let rows: String = (0..8_000)
        .map(|n| format!("{{\"type\":\"user\",\"sessionId\":\"s\",\"uuid\":\"{n}\",\"message\":{{\"content\":\"x\"}}}}\n"))
        .collect();
    let path = home.join("many.jsonl");
    fs::write(&path, rows).unwrap();
    path
}

#[tokio::test]
async fn one_import_runs_at_a_time_and_progress_rises() {
    let home = tempfile::tempdir().unwrap();
    let node = sandbox("").await;
    let path = many(home.path());
    let running = begin(&node, request(&path)).await.unwrap();
    assert_refused(import(&node, request(&path)).await, Kind::Exhausted, "IMPORT_BUSY");
    let (report, progress) = finish(running).await.unwrap();
    assert_eq!(report.taken, 8_000);
    assert!(!progress.is_empty());
    let total = fs::metadata(&path).unwrap().len();
    for pair in progress.windows(2) {
        assert!(pair[0].bytes_done <= pair[1].bytes_done && pair[0].rows <= pair[1].rows);
    }
    for news in &progress {
        assert_eq!((news.bytes_total, news.file.as_str()), (total, "many.jsonl"));
        assert!(news.bytes_done <= total);
    }
    let small = home.path().join("small.jsonl");
    fs::write(&small, r#"{"type":"user","sessionId":"s","message":{"content":"x"}}"#).unwrap();
    node.wait("another import may run", async || {
        import(&node, request(&small)).await.map(drop).map_err(|remote| remote.to_string())
    })
    .await;
    node.finish().await;
}

#[tokio::test]
async fn an_import_whose_caller_went_away_ends_and_the_next_one_finishes_it() {
    let home = tempfile::tempdir().unwrap();
    let node = sandbox("").await;
    let path = many(home.path());
    drop(begin(&node, request(&path)).await.unwrap());
    let mut last = None;
    node.wait("the abandoned import is over", async || {
        last = Some(import(&node, request(&path)).await.map_err(|remote| remote.to_string())?);
        Ok(())
    })
    .await;
    let report = last.unwrap();
    assert_eq!(report.rows, 8_000);
    assert_eq!(report.taken + report.skipped, 8_000);
    let rows = events(&node).await.iter().filter(|event| event.subject == "import.claude.prompt").count();
    assert_eq!(rows, 8_000);
    node.finish().await;
}

#[tokio::test]
async fn without_the_bus_an_import_ends_and_is_finished_later() {
    let mut node = sandbox("[import]\nwait_seconds = 0\n").await;
    let samples = mirror_testkit::samples().canonicalize().unwrap();
    node.kill("bus").await;
    assert_refused(import(&node, request(&samples)).await, Kind::Unavailable, "IMPORT_BUS_AWAY");
    node.launch("bus").await;
    node.wait("the import goes through", async || {
        let report = import(&node, request(&samples)).await.map_err(|remote| remote.to_string())?;
        assert_eq!(report.taken, 81);
        Ok(())
    })
    .await;
    node.finish().await;
}

#[tokio::test]
async fn without_blobs_only_large_rows_cannot_pass() {
    let home = tempfile::tempdir().unwrap();
    let mut node = sandbox("[import]\nwait_seconds = 0\n").await;
    node.kill("blobs").await;
    let small = home.path().join("small.jsonl");
    fs::write(&small, r#"{"type":"user","sessionId":"s","message":{"content":"x"}}"#).unwrap();
    assert_eq!(import(&node, request(&small)).await.unwrap().taken, 1);
    let large = home.path().join("large.jsonl");
    let text = "x".repeat(100_000);
    fs::write(&large, format!(r#"{{"type":"user","sessionId":"s","message":{{"content":"{text}"}}}}"#))
        .unwrap();
    assert_refused(import(&node, request(&large)).await, Kind::Unavailable, "IMPORT_BLOBS_AWAY");
    node.finish().await;
}

#[tokio::test]
async fn real_sessions_are_imported_completely_twice_with_the_same_result() {
    let home = tempfile::tempdir().unwrap();
    let archive = mirror_testkit::test_data().map(|data| data.join("transcripts-claude.tar.zst"));
    let unpacked = archive.is_some_and(|archive| {
        let tar =
            Command::new("tar").arg("--zstd").arg("-xf").arg(archive).arg("-C").arg(home.path()).status();
        tar.is_ok_and(|status| status.success())
    });
    if !unpacked {
        println!("NOT MEASURED: no real transcripts; set MIRROR_TEST_DATA.");
        return;
    }
    let node = sandbox("").await;
    let first = import(&node, request(home.path())).await.unwrap();
    println!("{first:?}");
    assert_adds_up(&first);
    assert_eq!((first.rows, first.taken, first.skipped, first.quarantined), (5_419, 5_419, 0, 0));
    assert_eq!((first.files, first.sessions, first.blobs), (12, 6, 6));
    let second = import(&node, request(home.path())).await.unwrap();
    assert_eq!((second.taken, second.skipped, second.blobs), (0, 5_419, 0));
    assert_eq!(events(&node).await.len(), 5_420);
    node.finish().await;
}
