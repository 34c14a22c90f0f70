//! What goes wrong around the witness: peers away, logs rolled back, damage, forgeries.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::fs;
use std::path::Path;

use mirror_contract::mirror::kit::v1::get_state_response::State;
use mirror_errors::Kind;
use mirror_seal::{NodeKey, sign_note};

use crate::world::{copy, world};
use crate::{check_note, refused};

#[tokio::test]
async fn without_the_keeper_it_is_degraded_and_then_catches_up() {
    let mut w = world("").await;
    w.append(1).await;
    w.signed(1).await;
    w.node.kill("keeper").await;
    let head = w.append(2).await;
    w.is(State::Degraded, "the keeper is away").await;
    refused(w.run().await, Kind::Unavailable, "WITNESS_KEEPER_AWAY");
    assert_eq!(w.size().await, 1);
    w.node.launch("keeper").await;
    w.is(State::Serving, "").await;
    w.signed(head).await;
    w.node.finish().await;
}

#[tokio::test]
async fn without_the_bus_it_is_degraded_and_answers_what_it_has() {
    let mut w = world("").await;
    w.append(1).await;
    w.signed(1).await;
    w.node.kill("bus").await;
    w.is(State::Degraded, "the bus is away").await;
    refused(w.run().await, Kind::Unavailable, "WITNESS_BUS_AWAY");
    assert_eq!(w.size().await, 1);
    w.node.launch("bus").await;
    w.is(State::Serving, "").await;
    w.append(1).await;
    assert_eq!(w.run().await.unwrap().size, w.head().await);
    w.node.finish().await;
}

#[tokio::test]
async fn a_log_that_was_rolled_back_is_noticed_and_nothing_is_signed_any_more() {
    let mut w = world("").await;
    let temp = tempfile::tempdir().unwrap();
    let (bus, old) = (w.node.home().bus(), temp.path().join("old"));
    w.append(30).await;
    w.node.stop("bus").await;
    copy(&bus.join("log"), &old);
    w.node.launch("bus").await;
    w.append(20).await;
    let signed = w.run().await.unwrap();
    assert_eq!(signed.size, 50);
    let signatures = w.keeper.lock().signed;

    w.node.expect_log("the log was rolled back or replaced");
    w.node.expect_log("the snapshot is not of this log");
    w.node.stop("bus").await;
    copy(&old, &bus.join("log"));
    let _ = fs::remove_dir_all(bus.join("index"));
    w.node.launch("bus").await;
    w.is(State::Degraded, "it is shorter than a signed checkpoint, which covers 50 events").await;
    refused(w.run().await, Kind::Corrupt, "WITNESS_DIVERGED");
    let event = w.recorded("witness.diverged", 1).await.remove(0);
    assert_eq!((event["size"].as_u64(), event["root"].as_str()), (Some(50), Some(signed.root.as_str())));

    // Grown again and read from nothing, it is as long as it was and still another one.
    w.append(40).await;
    for deleted in [false, true] {
        w.node.stop("witness").await;
        if deleted {
            fs::remove_dir_all(w.node.home().state("witness")).unwrap();
        }
        w.node.launch("witness").await;
        w.is(State::Degraded, "its first 50 events are not those of a signed checkpoint").await;
        refused(w.run().await, Kind::Corrupt, "WITNESS_DIVERGED");
        w.recorded("witness.diverged", 2).await;
    }
    assert_eq!((w.size().await, w.keeper.lock().signed), (50, signatures));
    w.node.finish().await;
}

#[tokio::test]
async fn a_keeper_that_signed_another_state_stops_the_signing() {
    let mut w = world("").await;
    w.node.expect_log("the keeper has signed another state");
    w.keeper.lock().forked = true;
    w.append(3).await;
    w.is(State::Degraded, "the keeper has signed another state").await;
    assert_eq!(w.recorded("witness.diverged", 1).await[0]["by"], "keeper");
    w.keeper.lock().forked = false;
    refused(w.run().await, Kind::Corrupt, "WITNESS_DIVERGED");
    w.node.stop("witness").await;
    w.node.launch("witness").await;
    w.run().await.unwrap();
    w.node.finish().await;
}

#[tokio::test]
async fn a_note_that_no_certified_key_signed_is_not_kept() {
    let w = world("").await;
    w.keeper.lock().lies = true;
    w.append(3).await;
    w.is(State::Degraded, "no key that the device key certifies").await;
    refused(w.run().await, Kind::Precondition, "WITNESS_NOTE_REFUSED");
    assert_eq!(fs::read_dir(w.notes()).unwrap().count(), 0);
    w.keeper.lock().lies = false;
    w.is(State::Serving, "").await;
    check_note(&w, &w.run().await.unwrap());
    w.node.finish().await;
}

#[tokio::test]
async fn a_checkpoint_that_nobody_signed_stops_nothing() {
    let mut w = world("").await;
    w.append(3).await;
    w.signed(3).await;
    w.node.stop("witness").await;
    let origin = w.origin();
    let text = format!("mirrordna/{origin}\n99\n{}\n", mirror_seal::base64(&[7; 32]));
    let name = format!("mirrordna/{}", origin.split('.').next().unwrap());
    let forged = sign_note(&NodeKey::generate().unwrap(), &name, &text).unwrap();
    let path = w.notes().join(format!("{:020}.note", 99));
    fs::write(&path, forged).unwrap();
    w.node.expect_log("no key of this device signed it");
    w.node.launch("witness").await;
    w.append(1).await;
    w.signed(4).await;
    assert!(!path.exists() && path.with_extension("note.bad").is_file());
    w.is(State::Serving, "").await;
    w.node.finish().await;
}

#[tokio::test]
async fn an_altered_log_of_the_keeper_is_told_of_once() {
    let mut w = world("").await;
    (0..3).for_each(|_| w.keeper.lock().record("sign", None));
    w.recorded("witness.keeper", 1).await;
    w.node.expect_log("the keeper's log is not the one that was read");
    let good = w.keeper.lock().records.clone();
    w.keeper.lock().records.pop();
    w.is(State::Degraded, "the keeper's log was altered or rolled back at record 3").await;
    w.recorded("witness.keeper.broken", 1).await;
    w.node.stop("witness").await;
    w.node.launch("witness").await;
    w.is(State::Degraded, "the keeper's log was altered").await;
    assert_eq!(w.events("witness.keeper.broken").await.len(), 1);
    w.keeper.lock().records = good;
    w.is(State::Serving, "").await;
    w.node.finish().await;
}

/// Changes a byte of a file's first event.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[60] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn damage_in_a_sealed_segment_is_found_and_recorded_once() {
    let mut w = world("").await;
    for _ in 0..5 {
        w.append(100).await;
    }
    w.run().await.unwrap();
    let clean = w.verify().await;
    assert_eq!((clean.events, clean.findings.len()), (w.head().await, 0));
    let segment = w.log().join(format!("{:020}.seg", 1));
    assert!(fs::read_dir(w.log()).unwrap().count() > 1, "the first segment is sealed");

    w.node.expect_log("the log is damaged");
    flip(&segment);
    let found = w.verify().await.findings;
    assert!(found.len() == 1 && found[0].starts_with("event 1: "), "{found:?}");
    w.is(State::Degraded, "the log is damaged: event 1: ").await;
    let event = w.recorded("witness.damage", 1).await.remove(0);
    assert_eq!((event["kind"].as_str(), event["first"].as_u64()), (Some("bad_crc"), Some(1)));
    assert_eq!(w.verify().await.findings, found);
    w.node.stop("witness").await;
    w.node.launch("witness").await;
    assert_eq!(w.verification().await.findings, found, "an earlier finding still stands");
    w.is(State::Degraded, "the log is damaged").await;
    w.verify().await;
    assert_eq!(w.events("witness.damage").await.len(), 1);

    flip(&segment);
    assert!(w.verify().await.findings.is_empty());
    w.is(State::Serving, "").await;
    w.node.finish().await;
}

#[tokio::test]
async fn a_checkpoint_that_is_not_of_the_log_on_disk_is_damage() {
    let mut w = world("").await;
    w.append(3).await;
    w.signed(3).await;
    w.append(3).await;
    w.run().await.unwrap();
    let path = w.notes().join(format!("{:020}.note", 3));
    let good = fs::read_to_string(&path).unwrap();
    let root = good.lines().nth(2).unwrap();
    fs::write(&path, good.replace(root, &mirror_seal::base64(&[7; 32]))).unwrap();
    w.node.expect_log("the log is damaged");
    let found = w.verify().await.findings;
    assert!(found.len() == 1 && found[0].contains("another root than this checkpoint"), "{found:?}");
    w.node.finish().await;
}
