//! The service in a Sandbox.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt as _, stream};
use mirror_contract::mirror::blobs::v1 as pb;
use mirror_contract::mirror::bus::v1 as bus;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_errors::{Kind, Remote};
use mirror_kit::Channel;
use mirror_testkit::{Node, Sandbox};
use pb::blobs_service_client::BlobsServiceClient;
use tokio::task::JoinSet;
use tonic::{Response, Status};

type Client = BlobsServiceClient<Channel>;
type Put = Result<Response<pb::PutBlobResponse>, Status>;

fn sandbox() -> Sandbox {
    Sandbox::with(&[&mirror_bus::SERVICE, &mirror_blobs::SERVICE])
}

async fn start(config: &str) -> (Node, Client) {
    let node = sandbox().config(config).start().await;
    let client = client(&node);
    (node, client)
}

fn client(node: &Node) -> Client {
    BlobsServiceClient::new(node.channel("blobs"))
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

fn messages(content: &[u8], chunk: usize, expect_digest: &str) -> Vec<pb::PutBlobRequest> {
    let first = pb::PutBlobRequest { chunk: Bytes::new(), expect_digest: expect_digest.to_owned() };
    let rest = content
        .chunks(chunk)
        .map(|part| pb::PutBlobRequest { chunk: Bytes::copy_from_slice(part), expect_digest: String::new() });
    std::iter::once(first).chain(rest).collect()
}

async fn put(client: &mut Client, content: &[u8]) -> pb::PutBlobResponse {
    let answer = client.put_blob(stream::iter(messages(content, 100_000, ""))).await;
    answer.expect("the blob is stored").into_inner()
}

async fn get(client: &mut Client, digest: &str) -> Result<Vec<u8>, Status> {
    let request = pb::GetBlobRequest { digest: digest.to_owned() };
    let mut chunks = client.get_blob(request).await?.into_inner();
    let mut content = Vec::new();
    while let Some(part) = chunks.message().await? {
        assert!((1..=256 << 10).contains(&part.chunk.len()), "a chunk of {} bytes", part.chunk.len());
        content.extend_from_slice(&part.chunk);
    }
    Ok(content)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, kind: Kind, reason: &str) -> Remote {
    let remote = Remote::from_status(&answer.expect_err("it is refused"));
    assert_eq!((remote.kind, remote.reason.as_str()), (kind, reason), "{remote}");
    remote
}

fn path(node: &Node, digest: &str) -> PathBuf {
    node.home().blobs().join(&digest[..2]).join(digest)
}

/// Returns all files below a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.expect("the folder can be read").path();
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found
}

/// An upload that has sent one chunk and sends no more until its sender is used.
async fn hang(node: &Node, calls: &mut JoinSet<Put>) -> mpsc::Sender<pb::PutBlobRequest> {
    let (mut sender, receiver) = mpsc::channel(1);
    let mut client = client(node);
    calls.spawn(async move { client.put_blob(receiver).await });
    let message = pb::PutBlobRequest { chunk: Bytes::from_static(b"half"), expect_digest: String::new() };
    sender.send(message).await.expect("the call is under way");
    let blobs = node.home().blobs();
    node.wait("the upload has its first bytes", async || {
        let files = files(&blobs);
        let begun = files.iter().any(|f| f.metadata().is_ok_and(|m| m.len() == 4));
        if begun { Ok(()) } else { Err(format!("{files:?}")) }
    })
    .await;
    sender
}

#[tokio::test]
async fn a_blob_comes_back_as_it_went_in() {
    let (node, mut client) = start("").await;
    for len in [0, 1, 65_536, 65_537, 5 << 20] {
        let bytes = content(len);
        let receipt = put(&mut client, &bytes).await;
        assert_eq!(receipt.digest, blake3::hash(&bytes).to_hex().as_str());
        assert_eq!((receipt.size_bytes, receipt.duplicate), (len as u64, false));
        assert_eq!(get(&mut client, &receipt.digest).await.unwrap(), bytes);

        let digest = receipt.digest.clone();
        let info = client.get_blob_info(pb::GetBlobInfoRequest { digest: digest.clone() }).await.unwrap();
        assert_eq!(
            (info.get_ref().digest.as_str(), info.get_ref().size_bytes),
            (digest.as_str(), len as u64)
        );
        let checked = client.check_blob(pb::CheckBlobRequest { digest: digest.clone() }).await.unwrap();
        assert_eq!(
            (checked.get_ref().digest.as_str(), checked.get_ref().size_bytes),
            (digest.as_str(), len as u64)
        );

        let again = put(&mut client, &bytes).await;
        assert_eq!((again.digest, again.duplicate), (digest, true));
    }
    assert_eq!(files(&node.home().blobs()).len(), 5);
    node.finish().await;
}

#[tokio::test]
async fn an_upload_without_messages_is_the_empty_blob() {
    let (node, mut client) = start("").await;
    let receipt = client.put_blob(stream::iter([])).await.unwrap().into_inner();
    assert_eq!((receipt.digest.as_str(), receipt.size_bytes), (blake3::hash(b"").to_hex().as_str(), 0));
    assert_eq!(get(&mut client, &receipt.digest).await.unwrap(), b"");
    node.finish().await;
}

#[tokio::test]
async fn concurrent_puts_of_the_same_content_store_it_once() {
    let (node, _) = start("").await;
    let bytes = content(1 << 20);
    let mut calls = JoinSet::new();
    for _ in 0..16 {
        let (mut client, bytes) = (client(&node), bytes.clone());
        calls.spawn(async move { put(&mut client, &bytes).await });
    }
    let receipts = calls.join_all().await;
    assert_eq!(receipts.iter().filter(|r| !r.duplicate).count(), 1);
    let digest = &receipts[0].digest;
    assert!(receipts.iter().all(|r| r.digest == *digest));
    assert_eq!(files(&node.home().blobs()), [path(&node, digest)]);
    node.finish().await;
}

#[tokio::test]
async fn content_other_than_expected_is_refused_and_not_kept() {
    let (node, mut client) = start("").await;
    let [one, two] = [b"one", b"two"].map(|content| blake3::hash(content).to_hex().to_string());
    let right = client.put_blob(stream::iter(messages(b"one", 2, &one))).await.unwrap().into_inner();
    assert_eq!(right.digest, one);

    let wrong = client.put_blob(stream::iter(messages(b"two", 2, &one))).await;
    let remote = refused(wrong, Kind::Invalid, "BLOBS_DIGEST_MISMATCH");
    assert_eq!(remote.values.get("actual"), Some(&two));
    refused(get(&mut client, &two).await, Kind::NotFound, "BLOBS_MISSING");
    assert_eq!(files(&node.home().blobs()), [path(&node, &one)]);
    node.finish().await;
}

#[tokio::test]
async fn malformed_requests_are_refused_in_words() {
    let (node, mut client) = start("[blobs]\nmax_mib = 1\n").await;
    let digest = blake3::hash(b"one").to_hex().to_string();
    for text in ["", "abc", &digest.to_uppercase(), &digest[1..], &"é".repeat(32), &"f".repeat(70_000)] {
        let digest = text.to_owned();
        let remote = refused(get(&mut client, text).await, Kind::Invalid, "BLOBS_DIGEST_INVALID");
        assert_eq!(remote.fields[0].0, "digest");
        let info = client.get_blob_info(pb::GetBlobInfoRequest { digest: digest.clone() }).await;
        refused(info, Kind::Invalid, "BLOBS_DIGEST_INVALID");
        let check = client.check_blob(pb::CheckBlobRequest { digest: digest.clone() }).await;
        refused(check, Kind::Invalid, "BLOBS_DIGEST_INVALID");
        if !text.is_empty() {
            let put = client.put_blob(stream::iter(messages(b"one", 3, text))).await;
            let remote = refused(put, Kind::Invalid, "BLOBS_DIGEST_INVALID");
            assert_eq!(remote.fields[0].0, "expect_digest");
        }
    }

    for chunk in [(1 << 20) + 1, 3 << 20] {
        let long = client.put_blob(stream::iter(messages(&content(chunk), chunk, ""))).await;
        refused(long, Kind::Invalid, "BLOBS_CHUNK_INVALID");
    }
    let mut holed = messages(b"one", 1, "");
    holed[2].chunk = Bytes::new();
    refused(client.put_blob(stream::iter(holed)).await, Kind::Invalid, "BLOBS_CHUNK_INVALID");

    let large = client.put_blob(stream::iter(messages(&content((1 << 20) + 1), 1 << 20, ""))).await;
    let remote = refused(large, Kind::Invalid, "BLOBS_TOO_LARGE");
    assert_eq!(remote.values.get("limit_bytes").map(String::as_str), Some("1048576"));

    let blobs = node.home().blobs();
    node.wait("nothing is kept", async || {
        let files = files(&blobs);
        if files.is_empty() { Ok(()) } else { Err(format!("{files:?}")) }
    })
    .await;
    refused(get(&mut client, &digest).await, Kind::NotFound, "BLOBS_MISSING");
    node.finish().await;
}

#[tokio::test]
async fn the_reserve_of_the_disk_is_left_alone_and_reading_goes_on() {
    let (mut node, mut client) = start("").await;
    let digest = put(&mut client, b"one").await.digest;
    node.stop("blobs").await;
    std::fs::write(node.home().config(), "[blobs]\nreserve_mib = 1073741824\n").unwrap();
    node.launch("blobs").await;
    node.expect_log("BLOBS_DISK_RESERVE");

    let mut client = self::client(&node);
    let answer = client.put_blob(stream::iter(messages(b"two", 3, ""))).await;
    let remote = refused(answer, Kind::Exhausted, "BLOBS_DISK_RESERVE");
    assert_eq!(remote.values.get("reserve_bytes"), Some(&(1_u64 << 50).to_string()));
    assert!(remote.retry_after.is_some());
    assert_eq!(get(&mut client, &digest).await.unwrap(), b"one");
    node.finish().await;
}

#[tokio::test]
async fn a_flipped_byte_ends_the_stream_with_an_error_and_the_file_is_in_quarantine() {
    let (mut node, mut client) = start("").await;
    node.expect_log("BLOBS_CORRUPT");
    let bytes = content(700_000);
    let digest = put(&mut client, &bytes).await.digest;
    let damage = |at: usize| {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        std::fs::remove_file(path(&node, &digest)).unwrap();
        std::fs::write(path(&node, &digest), &damaged).unwrap();
        damaged
    };
    let quarantine = node.home().quarantine().join("blobs");

    let damaged = damage(350_000);
    let mut chunks =
        client.get_blob(pb::GetBlobRequest { digest: digest.clone() }).await.unwrap().into_inner();
    let mut read = 0;
    let end = loop {
        match chunks.message().await {
            Ok(Some(part)) => read += part.chunk.len(),
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
        }
    };
    assert_eq!(read, bytes.len());
    refused(end, Kind::Corrupt, "BLOBS_CORRUPT");
    assert_eq!(std::fs::read(quarantine.join(&digest)).unwrap(), damaged);
    refused(get(&mut client, &digest).await, Kind::NotFound, "BLOBS_MISSING");

    assert!(!put(&mut client, &bytes).await.duplicate);
    damage(699_999);
    let check = client.check_blob(pb::CheckBlobRequest { digest: digest.clone() }).await;
    refused(check, Kind::Corrupt, "BLOBS_CORRUPT");
    assert_eq!(files(&quarantine).len(), 2);

    assert!(!put(&mut client, &bytes).await.duplicate);
    damage(0);
    node.expect_log("moved to quarantine and replaced");
    assert!(!put(&mut client, &bytes).await.duplicate, "the good copy takes the place of the damaged one");
    assert_eq!(get(&mut client, &digest).await.unwrap(), bytes);
    assert_eq!(files(&quarantine).len(), 3);
    node.finish().await;
}

#[tokio::test]
async fn a_kill_in_mid_put_leaves_no_blob_and_the_next_start_removes_the_rest() {
    let (mut node, _) = start("").await;
    let mut calls = JoinSet::new();
    let sender = hang(&node, &mut calls).await;
    node.kill("blobs").await;
    // The process of a real kill has no destructors, so that its file is still there.
    let left = node.home().blobs().join(".put-0123456789abcdef");
    std::fs::write(&left, "half").unwrap();
    calls.shutdown().await;
    drop(sender);

    node.launch("blobs").await;
    let blobs = node.home().blobs();
    node.wait("nothing is left", async || {
        let files = files(&blobs);
        if files.is_empty() { Ok(()) } else { Err(format!("{files:?}")) }
    })
    .await;
    let mut client = client(&node);
    let digest = blake3::hash(b"half").to_hex().to_string();
    refused(get(&mut client, &digest).await, Kind::NotFound, "BLOBS_MISSING");
    assert!(!put(&mut client, b"half").await.duplicate);
    node.finish().await;
}

#[tokio::test]
async fn a_caller_that_leaves_in_mid_put_leaves_nothing() {
    let (node, _) = start("").await;
    let mut calls = JoinSet::new();
    let sender = hang(&node, &mut calls).await;
    calls.shutdown().await;
    let blobs = node.home().blobs();
    node.wait("nothing is left", async || {
        let files = files(&blobs);
        if files.is_empty() { Ok(()) } else { Err(format!("{files:?}")) }
    })
    .await;
    drop(sender);
    node.finish().await;
}

#[tokio::test]
async fn uploads_have_a_bound_and_silent_ones_are_given_up() {
    let node = sandbox().config("[blobs]\nuploads = 1\nidle_seconds = 86400\n").manual_clock().start().await;
    let mut calls: JoinSet<Put> = JoinSet::new();
    let sender = hang(&node, &mut calls).await;

    let mut second: JoinSet<Put> = JoinSet::new();
    let mut other = client(&node);
    second.spawn(async move { other.put_blob(stream::iter(messages(b"two", 3, ""))).await });
    let ends = async |calls: &mut JoinSet<Put>, step: u64| {
        let mut ended = None;
        node.wait("the call ends", async || {
            node.clock().advance(Duration::from_secs(step));
            ended = calls.try_join_next();
            if ended.is_some() { Ok(()) } else { Err("it is under way".to_owned()) }
        })
        .await;
        ended.expect("it has ended").expect("it did not panic")
    };
    let remote = refused(ends(&mut second, 1).await, Kind::Exhausted, "BLOBS_BUSY");
    assert!(remote.retry_after.is_some());

    refused(ends(&mut calls, 86_400).await, Kind::Timeout, "BLOBS_STALLED");
    drop(sender);
    assert!(!put(&mut client(&node), b"two").await.duplicate);
    assert_eq!(files(&node.home().blobs()).len(), 1);
    node.finish().await;
}

#[tokio::test]
async fn a_bad_bound_keeps_the_service_from_serving_and_names_the_key() {
    let mut node = sandbox().config("[blobs]\nuploads = 0\n").start().await;
    node.expect_log("blobs.uploads must be 1 to 64");
    let answer = client(&node).put_blob(stream::iter(messages(b"one", 3, ""))).await;
    let remote = refused(answer, Kind::Unavailable, "KIT_NOT_SERVING");
    assert!(remote.message.contains("blobs.uploads must be 1 to 64"), "{remote}");
    node.finish().await;
}

/// Appends an event that names a blob, and returns its position.
async fn name(node: &Node, digest: &str) -> u64 {
    let event = bus::NewEvent {
        subject: "local.file".to_owned(),
        payload: format!(r#"{{"blake3":"{digest}","bytes":3,"type":"text"}}"#).into(),
        r#type: bus::PayloadType::Blob.into(),
        ..bus::NewEvent::default()
    };
    let mut client = BusServiceClient::new(node.channel("bus"));
    let answer = client
        .append(bus::AppendRequest { event: Some(event), expect: None })
        .await
        .expect("the bus takes it");
    answer.into_inner().ack.expect("it is acknowledged").seq
}

fn outcomes(copies: &[(u64, String, bool)]) -> Vec<(u64, bool)> {
    copies.iter().map(|(seq, _, reached)| (*seq, *reached)).collect()
}

#[tokio::test]
async fn a_blob_goes_with_the_last_event_that_names_it_and_its_quarantine_too() {
    let (mut node, mut client) = start("").await;
    let lone = put(&mut client, b"lone").await.digest;
    let shared = put(&mut client, b"shared").await.digest;
    let (one, two, three) =
        (name(&node, &lone).await, name(&node, &shared).await, name(&node, &shared).await);
    let quarantine = node.home().quarantine().join("blobs");
    std::fs::create_dir_all(&quarantine).unwrap();
    for kept in [&lone, &format!("{lone}.2"), &shared] {
        std::fs::write(quarantine.join(kept), "old").unwrap();
    }

    let redaction = node.say_erased(&[one, two]).await;
    let copies = node.forgotten("blobs", redaction).await;
    assert_eq!(outcomes(&copies), [(one, true), (two, false)], "{copies:?}");
    refused(get(&mut client, &lone).await, Kind::NotFound, "BLOBS_MISSING");
    assert_eq!(get(&mut client, &shared).await.unwrap(), b"shared");
    assert_eq!(files(&quarantine).len(), 1);

    let last = node.say_erased(&[three]).await;
    assert_eq!(outcomes(&node.forgotten("blobs", last).await), [(three, true)]);
    refused(get(&mut client, &shared).await, Kind::NotFound, "BLOBS_MISSING");
    assert!(files(&quarantine).is_empty() && files(&node.home().blobs()).is_empty());

    node.kill("blobs").await;
    std::fs::remove_dir_all(node.home().state("blobs")).unwrap();
    node.launch("blobs").await;
    assert_eq!(node.forgotten("blobs", redaction).await, copies);
    assert_eq!(outcomes(&node.forgotten("blobs", last).await), [(three, true)]);
    node.finish().await;
}

#[tokio::test]
async fn an_erasure_that_came_while_the_service_was_away_is_followed_when_it_is_back() {
    let (mut node, mut client) = start("").await;
    let digest = put(&mut client, b"lone").await.digest;
    let seq = name(&node, &digest).await;
    node.stop("blobs").await;
    let redaction = node.say_erased(&[seq]).await;
    node.launch("blobs").await;
    assert_eq!(outcomes(&node.forgotten("blobs", redaction).await), [(seq, true)]);
    refused(get(&mut self::client(&node), &digest).await, Kind::NotFound, "BLOBS_MISSING");
    node.finish().await;
}
