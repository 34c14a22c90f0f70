//! What an import does with a bus that refuses some rows, or has them with other content.

#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test, a panic is the report")]

mod fake;

use std::fs;

use mirror_contract::mirror::bus::v1 as bus;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::import::v1 as pb;
use mirror_contract::mirror::import::v1::import_service_client::ImportServiceClient;
use mirror_contract::mirror::import::v1::run_import_response::Message;
use mirror_kit::Principal;
use mirror_testkit::{Node, Sandbox};
use tonic::Streaming;

async fn begin(node: &Node, path: &std::path::Path) -> Streaming<pb::RunImportResponse> {
    let mut client = ImportServiceClient::new(node.channel("import"));
    let request =
        pb::RunImportRequest { path: path.to_str().unwrap().into(), ..pb::RunImportRequest::default() };
    client.run_import(request).await.unwrap().into_inner()
}

async fn finish(mut answers: Streaming<pb::RunImportResponse>) -> pb::Report {
    while let Some(answer) = answers.message().await.unwrap() {
        if let Some(Message::Report(report)) = answer.message {
            return report;
        }
    }
    panic!("the stream ended without a report");
}

async fn import(node: &Node, path: &std::path::Path) -> pb::Report {
    finish(begin(node, path).await).await
}

fn row(n: usize, text: &str) -> String {
    format!(
        "{{\"type\":\"user\",\"sessionId\":\"s\",\"uuid\":\"{n}\",\"message\":{{\"content\":\"{text}\"}}}}\n"
    )
}

#[tokio::test]
async fn rows_that_the_bus_refuses_are_quarantined_and_the_others_are_taken() {
    let home = tempfile::tempdir().unwrap();
    let node = Sandbox::with(&[&fake::BUS, &fake::BLOBS, &mirror_import::SERVICE]).start().await;
    let rows: String =
        (0..700).map(|n| row(n, if n == 3 || n == 699 { fake::REFUSED } else { "fine" })).collect();
    let path = home.path().join("s.jsonl");
    fs::write(&path, rows).unwrap();
    let report = import(&node, &path).await;
    assert_eq!((report.rows, report.taken, report.quarantined), (700, 698, 2));
    let lines: Vec<u64> = report.quarantine.iter().map(|kept| kept.line).collect();
    assert_eq!(lines, [4, 700]);
    assert!(report.quarantine[0].why.starts_with("the bus refuses the row: "));
    let kept = fs::read_dir(node.home().quarantine()).unwrap().count();
    assert_eq!(kept, 2);
    let again = import(&node, &path).await;
    assert_eq!((again.taken, again.skipped, again.quarantined), (0, 698, 2));
    assert_eq!(fs::read_dir(node.home().quarantine()).unwrap().count(), kept);
    node.finish().await;
}

#[tokio::test]
async fn rows_that_stand_among_stored_ones_are_found() {
    let home = tempfile::tempdir().unwrap();
    let node = Sandbox::with(&[&fake::BUS, &fake::BLOBS, &mirror_import::SERVICE]).start().await;
    let path = home.path().join("s.jsonl");
    fs::write(&path, (0..900).filter(|n| n % 7 != 0).map(|n| row(n, "x")).collect::<String>()).unwrap();
    let first = import(&node, &path).await;
    fs::write(&path, (0..900).map(|n| row(n, "x")).collect::<String>()).unwrap();
    let second = import(&node, &path).await;
    assert_eq!((first.taken, second.taken, second.skipped), (771, 129, 771));
    node.finish().await;
}

#[tokio::test]
async fn a_row_that_an_earlier_build_classified_otherwise_is_skipped() {
    let home = tempfile::tempdir().unwrap();
    let node = Sandbox::with(&[&fake::BUS, &fake::BLOBS, &mirror_import::SERVICE]).start().await;
    let path = home.path().join("s.jsonl");
    fs::write(&path, row(1, "x")).unwrap();
    let transcript =
        mirror_import::Transcript::open(&path, mirror_import::Want::Any, mirror_import::Limits::default());
    let Some(Ok(mirror_import::Item::Row(made))) = transcript.unwrap().unwrap().next() else {
        panic!("one row")
    };
    let event = bus::NewEvent {
        subject: "import.claude.other".into(),
        payload: "{}".into(),
        id: made.id,
        ..bus::NewEvent::default()
    };
    let mut client = BusServiceClient::new(node.channel_as(Principal::Service("import".into()), "bus"));
    client.append_batch(bus::AppendBatchRequest { events: vec![event], expect: None }).await.unwrap();
    let report = import(&node, &path).await;
    assert_eq!((report.taken, report.skipped), (0, 1));
    node.finish().await;
}

#[tokio::test]
async fn a_bus_that_restarts_during_an_import_costs_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Sandbox::with(&[&fake::BUS, &fake::BLOBS, &mirror_import::SERVICE]).start().await;
    let path = home.path().join("s.jsonl");
    fs::write(&path, (0..20_000).map(|n| row(n, "x")).collect::<String>()).unwrap();
    let mut running = begin(&node, &path).await;
    for _ in 0..3 {
        let news = running.message().await.unwrap().unwrap().message.unwrap();
        assert!(matches!(news, Message::Progress(_)), "the import is still running");
        node.kill("bus").await;
        node.launch("bus").await;
    }
    let report = finish(running).await;
    assert_eq!((report.rows, report.quarantined), (20_000, 0));
    assert_eq!(report.taken + report.skipped, 20_000);
    let again = import(&node, &path).await;
    assert_eq!((again.taken, again.skipped), (0, 20_000));
    node.finish().await;
}
