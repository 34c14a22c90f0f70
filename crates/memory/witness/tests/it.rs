//! The witness over a bus and a keeper: when it has the head signed, what it notices, and what it records.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod fake;
mod faults;
mod proofs;
mod world;

use std::fs;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use mirror_contract::mirror::kit::v1::get_state_response::State;
use mirror_contract::mirror::witness::v1 as pb;
use mirror_errors::{Kind, Remote};
use mirror_testkit::Sandbox;
use sha2::{Digest as _, Sha256};
use world::{World, world};

type Hash = [u8; 32];

/// The tree hash of RFC 6962 section 2.1, word for word.
fn mth(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            Sha256::new().chain_update([1]).chain_update(mth(left)).chain_update(mth(right)).finalize().into()
        }
    }
}

/// Returns the leaves of the log as it lies on disk.
fn leaves(world: &World) -> Vec<Hash> {
    let mut segments: Vec<_> = fs::read_dir(world.log()).unwrap().map(|e| e.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.sort();
    let text: Vec<u8> = segments.iter().flat_map(|path| fs::read(path).unwrap()).collect();
    let headers = text.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"E "));
    headers
        .map(|line| {
            let at = line.iter().position(|byte| *byte == b'{').unwrap();
            Sha256::new().chain_update([0]).chain_update(&line[at..]).finalize().into()
        })
        .collect()
}

/// Checks a note with nothing of the product's: text, root over the log on disk, key id and signature.
#[track_caller]
fn check_note(world: &World, checkpoint: &pb::Checkpoint) {
    let leaves = leaves(world);
    let root = mth(&leaves[..usize::try_from(checkpoint.size).unwrap()]);
    let origin = world.origin();
    let text = format!("mirrordna/{origin}\n{}\n{}\n", checkpoint.size, STANDARD.encode(root));
    let name = format!("mirrordna/{}", origin.split('.').next().unwrap());
    let signature = checkpoint.note.strip_prefix(&format!("{text}\n\u{2014} {name} ")).unwrap();
    let signature = STANDARD.decode(signature.strip_suffix('\n').unwrap()).unwrap();
    let key = world.keeper.lock().key.public().to_bytes();
    let id = Sha256::new().chain_update(&name).chain_update(b"\n\x01").chain_update(key).finalize();
    assert_eq!(signature[..4], id[..4]);
    let signed = Signature::from_slice(&signature[4..]).unwrap();
    VerifyingKey::from_bytes(&key).unwrap().verify_strict(text.as_bytes(), &signed).unwrap();
    assert_eq!(checkpoint.root, root.iter().map(|b| format!("{b:02x}")).collect::<String>());
}

#[track_caller]
fn refused(answer: Result<pb::Checkpoint, Remote>, kind: Kind, reason: &str) -> Remote {
    let error = answer.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (kind, reason), "{error}");
    error
}

#[tokio::test]
async fn the_head_is_signed_when_it_moved_and_a_minute_has_passed() {
    let w = world("").await;
    refused(w.run().await, Kind::NotFound, "WITNESS_NO_CHECKPOINT");
    let first = w.append(3).await;
    w.signed(first).await;
    let second = w.append(4).await;
    w.node.clock().advance(Duration::from_secs(59));
    assert_eq!(w.size().await, first);
    w.node.clock().advance(Duration::from_secs(1));
    w.signed(second).await;

    let listed = w.witness().list_checkpoints(pb::ListCheckpointsRequest::default()).await.unwrap();
    let listed = listed.into_inner().checkpoints;
    assert_eq!(listed.iter().map(|c| c.size).collect::<Vec<_>>(), [second, first]);
    listed.iter().for_each(|checkpoint| check_note(&w, checkpoint));
    let apart = listed[0].at.unwrap().seconds - listed[1].at.unwrap().seconds;
    assert_eq!(apart, 60);
    assert_eq!(fs::read_to_string(w.notes().join("latest")).unwrap(), listed[0].note);
    assert_eq!(fs::read_to_string(w.notes().join(format!("{first:020}.note"))).unwrap(), listed[1].note);
    let before = pb::ListCheckpointsRequest { before_size: second, limit: 1 };
    let older = w.witness().list_checkpoints(before).await.unwrap().into_inner().checkpoints;
    assert_eq!(older, listed[1..]);
    let many = pb::ListCheckpointsRequest { before_size: 0, limit: 257 };
    let error = Remote::from_status(&w.witness().list_checkpoints(many).await.unwrap_err());
    assert_eq!(error.reason, "WITNESS_LIMIT_INVALID");
    w.node.finish().await;
}

#[tokio::test]
async fn many_events_are_signed_without_waiting_and_so_is_a_call_for_it() {
    let w = world("checkpoint_events = 50\n").await;
    w.append(1).await;
    w.signed(1).await;
    w.append(49).await;
    assert_eq!(w.size().await, 1);
    w.append(1).await;
    w.signed(51).await;
    w.append(2).await;
    let asked = w.run().await.unwrap();
    assert_eq!(asked.size, 53);
    check_note(&w, &asked);
    assert_eq!(w.run().await.unwrap(), asked, "the head has not moved");
    assert_eq!(w.keeper.lock().signed, 3);
    w.node.finish().await;
}

#[tokio::test]
async fn an_idle_day_makes_no_checkpoint_and_no_event() {
    let w = world("").await;
    w.append(5).await;
    w.signed(5).await;
    w.keeper.lock().record("make", None);
    w.recorded("witness.>", 1).await;
    w.verify().await;
    let (head, passed) = (w.head().await, w.verification().await.finished.unwrap().seconds);
    let signed = w.keeper.lock().signed;
    for _ in 0..24 * 60 {
        let asked = w.keeper.lock().asked;
        w.node.clock().advance(Duration::from_secs(60));
        w.node
            .wait("the keeper is asked", async || {
                if w.keeper.lock().asked > asked { Ok(()) } else { Err(format!("{asked} times")) }
            })
            .await;
    }
    w.node
        .wait("the log was verified again after six hours", async || {
            let last = w.verification().await;
            let is_later = last.finished.is_some_and(|at| at.seconds >= passed + 6 * 3600);
            if is_later && last.findings.is_empty() { Ok(()) } else { Err(format!("{last:?}")) }
        })
        .await;
    assert_eq!(w.head().await, head);
    assert_eq!(w.keeper.lock().signed, signed);
    assert_eq!(w.state("witness").await.0, State::Serving);
    w.node.finish().await;
}

#[tokio::test]
async fn what_the_keeper_did_is_recorded_and_moves_no_checkpoint() {
    let w = world("").await;
    w.append(1).await;
    w.signed(1).await;
    {
        let mut acts = w.keeper.lock();
        acts.record("make", None);
        (0..300).for_each(|_| acts.record("refuse", None));
        acts.record("sign", None);
    }
    let told = w.recorded("witness.keeper", 1).await.remove(0);
    assert_eq!((told["from"].as_u64(), told["to"].as_u64()), (Some(1), Some(303)));
    assert_eq!((told["signed"].as_u64(), told["refused"].as_u64()), (Some(1), Some(300)));
    assert_eq!(told["head"].as_str(), Some(w.keeper.lock().records[302].hash.as_str()));
    assert_eq!(told["records"].as_array().unwrap().len(), 10);
    w.node.clock().advance(Duration::from_secs(3600));
    w.keeper.lock().record("retire", None);
    let told = w.recorded("witness.keeper", 2).await.remove(1);
    assert_eq!((told["from"].as_u64(), told["to"].as_u64()), (Some(304), Some(304)));
    assert_eq!((w.size().await, w.keeper.lock().signed), (1, 1));
    w.node.finish().await;
}

#[tokio::test]
async fn state_that_is_deleted_or_damaged_is_rebuilt_to_the_same() {
    let mut w = world("").await;
    w.append(700).await;
    w.keeper.lock().record("make", None);
    w.recorded("witness.keeper", 1).await;
    let checkpoint = w.run().await.unwrap();
    w.node.stop("witness").await;
    let snapshot = w.node.home().state("witness").join("snapshot.json");
    let saved = fs::read(&snapshot).unwrap();

    fs::remove_dir_all(w.node.home().state("witness")).unwrap();
    w.node.launch("witness").await;
    assert_eq!(w.run().await.unwrap(), checkpoint);
    assert_eq!(w.recorded("witness.keeper", 1).await.len(), 1, "nothing is told of twice");
    w.node.stop("witness").await;
    assert_eq!(fs::read(&snapshot).unwrap(), saved, "the state is rebuilt to the byte");

    fs::write(&snapshot, &saved[..saved.len() / 2]).unwrap();
    w.node.expect_log("set aside");
    w.node.launch("witness").await;
    assert_eq!(w.run().await.unwrap(), checkpoint);
    w.append(3).await;
    check_note(&w, &w.run().await.unwrap());
    w.node.finish().await;
}

#[tokio::test]
async fn a_witness_that_is_killed_in_the_middle_goes_on() {
    let mut w = world("checkpoint_events = 100\n").await;
    for round in 0..6 {
        w.append(150).await;
        if round % 2 == 0 {
            w.run().await.unwrap();
        }
        w.node.kill("witness").await;
        w.append(20).await;
        w.node.launch("witness").await;
    }
    let last = w.run().await.unwrap();
    assert_eq!(last.size, w.head().await);
    check_note(&w, &last);
    assert!(w.verify().await.findings.is_empty());
    let listed = w.witness().list_checkpoints(pb::ListCheckpointsRequest::default()).await.unwrap();
    for checkpoint in listed.into_inner().checkpoints {
        check_note(&w, &checkpoint);
    }
    w.node.finish().await;
}

#[tokio::test]
async fn a_log_that_grows_while_it_is_verified_is_whole() {
    let w = world("checkpoint_events = 200\n").await;
    w.append(100).await;
    let done = std::cell::Cell::new(false);
    let verifying = async {
        for _ in 0..5 {
            let found = w.verify().await;
            assert_eq!((found.events > 0, found.findings), (true, Vec::new()));
        }
        done.set(true);
    };
    let growing = async {
        while !done.get() {
            w.append(40).await;
        }
    };
    tokio::join!(verifying, growing);
    assert_eq!(w.verify().await.events, w.head().await);
    w.node.finish().await;
}

#[tokio::test]
async fn the_real_keeper_signs_and_its_log_is_taken_in() {
    let services = [&mirror_bus::SERVICE, &mirror_keeper::SERVICE, &mirror_witness::SERVICE];
    let node = Sandbox::with(&services).manual_clock().start().await;
    let w = World { node, keeper: fake::Fake::new() };
    let told = w.recorded("witness.keeper", 1).await.remove(0);
    let made = told["records"].as_array().unwrap().iter().filter(|record| record["act"] == "make").count();
    assert!(made >= 2, "{told}");
    let head = w.append(5).await;
    w.signed(head).await;
    w.append(1).await;
    w.run().await.unwrap();
    w.node.clock().advance(Duration::from_secs(60));
    w.is(State::Serving, "").await;
    assert_eq!(w.events("witness.keeper.broken").await.len(), 0);
    w.node.finish().await;
}

#[tokio::test]
async fn a_value_out_of_bounds_keeps_it_from_serving_and_it_says_why() {
    let mut w = world("checkpoint_secs = 0\n").await;
    w.node.expect_log("not serving");
    let error = refused(w.run().await, Kind::Unavailable, "KIT_NOT_SERVING");
    assert!(error.message.contains("witness.checkpoint_secs"), "{error}");
    w.node.finish().await;
}
