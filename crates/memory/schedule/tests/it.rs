//! The service as its callers see it, with the services it needs in one process.

use mirror_contract::mirror::schedule::v1::schedule_service_client::ScheduleServiceClient;
use mirror_contract::mirror::schedule::v1::{GetEntryRequest, PutEntryRequest, PutEntryResponse};
use mirror_errors::{Kind, Remote};
use mirror_kit::Channel;
use mirror_schedule::SERVICE;
use mirror_testkit::{Node, Sandbox, wait};

fn sandbox() -> Sandbox {
    Sandbox::with(&[&mirror_bus::SERVICE, &SERVICE])
}

fn client(node: &Node) -> ScheduleServiceClient<Channel> {
    ScheduleServiceClient::new(node.channel("schedule"))
}

async fn put(node: &Node, name: &str, text: &str) -> Result<PutEntryResponse, Remote> {
    let request = PutEntryRequest { name: name.to_owned(), text: text.to_owned() };
    let answer = client(node).put_entry(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| Remote::from_status(&status))
}

async fn get(node: &Node, name: &str) -> Result<String, Remote> {
    let answer = client(node).get_entry(GetEntryRequest { name: name.to_owned() }).await;
    answer.map(|a| a.into_inner().text).map_err(|status| Remote::from_status(&status))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Remote>, kind: Kind, reason: &str) -> Remote {
    let error = answer.expect_err("it is refused");
    assert_eq!((error.kind, error.reason.as_str()), (kind, reason), "{error}");
    error
}

async fn wait_for(node: &Node, name: &str, text: &str) {
    wait("the entry is there", async || match get(node, name).await {
        Ok(found) if found == text => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test]
async fn a_text_is_read_back_and_put_once() {
    let node = sandbox().start().await;
    let first = put(&node, "a", "one").await.unwrap();
    assert!(!first.unchanged);
    assert_eq!(get(&node, "a").await.unwrap(), "one");
    let again = put(&node, "a", "one").await.unwrap();
    assert_eq!((again.seq, again.unchanged), (first.seq, true));
    let changed = put(&node, "a", "two").await.unwrap();
    assert!(changed.seq > first.seq && !changed.unchanged);
    assert_eq!(get(&node, "a").await.unwrap(), "two");
    node.finish().await;
}

#[tokio::test]
async fn entries_come_back_from_the_log_and_from_the_snapshot() {
    let mut node = sandbox().start().await;
    put(&node, "a", "one").await.unwrap();
    node.kill("schedule").await;
    node.launch("schedule").await;
    wait_for(&node, "a", "one").await;

    let snapshot = node.home().state("schedule").join("snapshot.json");
    node.stop("schedule").await;
    assert!(std::fs::read_to_string(&snapshot).unwrap().contains("\"one\""));
    node.launch("schedule").await;
    wait_for(&node, "a", "one").await;

    node.stop("schedule").await;
    std::fs::write(&snapshot, "{\"fold\":1,").unwrap();
    node.expect_log("set aside");
    node.launch("schedule").await;
    wait_for(&node, "a", "one").await;
    assert!(snapshot.with_extension("json.bad").is_file());
    node.finish().await;
}

#[tokio::test]
async fn bad_requests_are_named_and_change_nothing() {
    let node = sandbox().config("[schedule]\nentries = 1\n").start().await;
    put(&node, "a", "one").await.unwrap();
    let long = "x".repeat(4097);
    for (name, text, field) in
        [("", "one", "name"), ("a b", "one", "name"), ("a", "", "text"), ("a", long.as_str(), "text")]
    {
        let error = refused(put(&node, name, text).await, Kind::Invalid, "SCHEDULE_ENTRY_INVALID");
        assert_eq!(error.fields.first().map(|(f, _)| f.as_str()), Some(field), "{name:?} {error}");
    }
    let full = refused(put(&node, "b", "one").await, Kind::Precondition, "SCHEDULE_FULL");
    assert_eq!(full.values.get("limit").map(String::as_str), Some("1"), "{full}");
    refused(get(&node, "b").await, Kind::NotFound, "SCHEDULE_ENTRY_MISSING");
    refused(get(&node, "B").await, Kind::Invalid, "SCHEDULE_ENTRY_INVALID");
    assert_eq!(get(&node, "a").await.unwrap(), "one");
    node.finish().await;
}

#[tokio::test]
async fn without_the_bus_reading_goes_on_and_a_put_is_refused() {
    let mut node = sandbox().config("[schedule]\nhold_ms = 50\n").start().await;
    put(&node, "a", "one").await.unwrap();
    node.kill("bus").await;
    refused(put(&node, "a", "two").await, Kind::Unavailable, "SCHEDULE_NOT_RECORDED");
    assert_eq!(get(&node, "a").await.unwrap(), "one");
    node.launch("bus").await;
    wait("a put is taken again", async || {
        put(&node, "a", "three").await.map(drop).map_err(|e| e.to_string())
    })
    .await;
    assert_eq!(get(&node, "a").await.unwrap(), "three");
    node.finish().await;
}

#[tokio::test]
async fn a_value_out_of_bounds_keeps_it_from_serving_and_it_says_why() {
    let mut node = sandbox().config("[schedule]\nentries = 0\n").start().await;
    node.expect_log("not serving");
    let error = refused(get(&node, "a").await, Kind::Unavailable, "KIT_NOT_SERVING");
    assert!(error.message.contains("schedule.entries"), "{error}");
    node.finish().await;
}
