//! Tiles that are missing, spoilt or forged, and a witness that dies while it writes them.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::fs;
use std::path::Path;

use mirror_client::follow::Place;
use mirror_contract::mirror::witness::v1 as pb;
use mirror_errors::Kind;
use mirror_kit::{SnapshotFile, SnapshotForm};
use mirror_seal::Frontier;

use super::{at, with_checkpoints};
use crate::world::{World, copy, world};
use crate::{Hash, check_note, leaves, mth, refused};

const SPOILT: &str = "the tiles do not fit what was signed";

fn flip(path: &Path, byte: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[byte] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Checks proofs that need every tile.
async fn check_all(w: &World, d: &[Hash], sizes: &[u64], notes: &[String]) {
    let (size, note) = (*sizes.last().unwrap(), notes.last().unwrap());
    for seq in (1..=size).step_by(97).chain([size]) {
        w.check_inclusion(d, seq, size, note).await;
    }
    w.check_growth(d, [sizes[0], size], [&notes[0], note]).await;
}

#[tokio::test]
async fn a_spoilt_tile_is_made_again_and_no_wrong_proof_is_handed_out() {
    let sizes = [100, 300, 1030, 1100];
    let (mut w, d, notes) = with_checkpoints(&sizes).await;
    w.node.expect_log(SPOILT);
    for tile in ["tile/0/000", "tile/0/003", "tile/0/004.p/76", "tile/1/000.p/4"] {
        for byte in [0, 33, 70] {
            flip(&w.tiles().join(tile), byte);
            check_all(&w, &d, &sizes, &notes).await;
            w.check_tiles(&d, &sizes);
        }
        for cut in [0, 31, 64] {
            let path = w.tiles().join(tile);
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..cut]).unwrap();
            check_all(&w, &d, &sizes, &notes).await;
            w.check_tiles(&d, &sizes);
        }
        fs::remove_file(w.tiles().join(tile)).unwrap();
        check_all(&w, &d, &sizes, &notes).await;
        w.check_tiles(&d, &sizes);
    }
    w.node.finish().await;
}

#[tokio::test]
async fn forged_tiles_that_fit_each_other_are_made_again() {
    let sizes = [100, 300, 1030, 1100];
    let (mut w, d, notes) = with_checkpoints(&sizes).await;
    let mut forged = d.clone();
    forged[300] = [7; 32];
    for (path, bytes) in super::defined(&forged) {
        fs::write(w.tiles().join(path), bytes).unwrap();
    }
    w.node.expect_log(SPOILT);
    w.check_inclusion(&d, 301, 1100, &notes[3]).await;
    w.check_tiles(&d, &sizes);
    check_all(&w, &d, &sizes, &notes).await;
    w.node.finish().await;
}

#[tokio::test]
async fn a_folder_that_is_gone_is_made_again_with_and_without_a_restart() {
    let sizes = [100, 300, 1030, 1100];
    let (mut w, d, notes) = with_checkpoints(&sizes).await;
    for restart in [false, true] {
        if restart {
            w.node.stop("witness").await;
        } else {
            w.node.expect_log(SPOILT);
        }
        fs::remove_dir_all(w.tiles()).unwrap();
        if restart {
            w.node.launch("witness").await;
        }
        check_all(&w, &d, &sizes, &notes).await;
        w.check_tiles(&d, &sizes);
    }
    w.node.finish().await;
}

#[tokio::test]
async fn without_the_bus_whole_tiles_still_prove_and_spoilt_ones_do_not() {
    let sizes = [100, 600];
    let (mut w, d, notes) = with_checkpoints(&sizes).await;
    w.node.stop("bus").await;
    check_all(&w, &d, &sizes, &notes).await;
    w.node.expect_log(SPOILT);
    flip(&w.tiles().join("tile/0/001"), 7);
    let error = w.inclusion(300, 0).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (Kind::Unavailable, "WITNESS_BUS_AWAY"), "{error}");
    w.node.launch("bus").await;
    w.node
        .wait("the tiles are made again", async || match w.inclusion(300, 0).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        })
        .await;
    check_all(&w, &d, &sizes, &notes).await;
    w.node.finish().await;
}

#[tokio::test]
async fn a_witness_that_dies_between_two_files_goes_on() {
    let mut sizes = vec![100, 250];
    let (mut w, _, _) = with_checkpoints(&sizes).await;
    // Each is what a kill leaves that came between two files of the next checkpoint: the full tile is there and its
    // partial ones still are; they are gone and the level above is not there; only a part of a file is there.
    for step in 0..4 {
        w.node.stop("witness").await;
        let head = w.append(300).await;
        let d = leaves(&w);
        let known = super::defined(&d[..at(*sizes.last().unwrap())]);
        let full: Vec<_> = super::defined(&d[..at(head)])
            .into_iter()
            .filter(|(path, _)| {
                path.starts_with("tile/0/") && !path.contains(".p/") && !known.contains_key(path)
            })
            .collect();
        let (path, bytes) = &full[0];
        match step {
            0 => fs::write(w.tiles().join(path), bytes).unwrap(),
            1 => {
                fs::write(w.tiles().join(path), bytes).unwrap();
                fs::remove_dir_all(w.tiles().join(format!("{path}.p"))).unwrap();
            }
            2 => fs::write(w.tiles().join(path).with_file_name(".009.77.tmp"), &bytes[..100]).unwrap(),
            _ => {}
        }
        w.node.launch("witness").await;
        let signed = w.run().await.unwrap();
        assert_eq!(signed.size, head);
        check_note(&w, &signed);
        sizes.push(head);
        w.check_tiles(&d, &sizes);
        w.check_inclusion(&d, head - 200, head, &signed.note).await;
    }
    w.node.finish().await;
}

#[tokio::test]
async fn kills_at_any_time_leave_tiles_that_fit() {
    let mut w = world("checkpoint_events = 40\n").await;
    for round in 0..8_usize {
        w.append(60 + round * 7).await;
        w.node.kill("witness").await;
        w.append(11).await;
        w.node.launch("witness").await;
    }
    let signed = w.run().await.unwrap();
    let d = leaves(&w);
    assert_eq!(signed.size, d.len() as u64);
    let listed = w
        .witness()
        .list_checkpoints(pb::ListCheckpointsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .checkpoints;
    for checkpoint in &listed {
        check_note(&w, checkpoint);
        w.check_inclusion(&d, checkpoint.size, signed.size, &signed.note).await;
        let notes = [checkpoint.note.as_str(), signed.note.as_str()];
        w.check_growth(&d, [checkpoint.size, signed.size], notes).await;
    }
    for (path, bytes) in super::defined(&d) {
        assert_eq!(fs::read(w.tiles().join(&path)).unwrap(), bytes, "{path}");
    }
    w.node.finish().await;
}

/// Changes the tree in the snapshot of a stopped witness so that nothing but a proof can notice it.
fn forge_snapshot(w: &World, change: impl FnOnce(&mut Place, &mut serde_json::Value)) {
    let dir = w.node.home().state("witness");
    let text = fs::read_to_string(dir.join("snapshot.json")).unwrap();
    let fold = serde_json::from_str::<serde_json::Value>(&text).unwrap()["fold"].as_u64().unwrap();
    let form = SnapshotForm { name: "snapshot.json", fold: u32::try_from(fold).unwrap(), limit: 1 << 20 };
    let file = SnapshotFile::new(&dir, &w.origin(), form);
    let (mut content, mut place) = file.load::<serde_json::Value>().loaded().unwrap();
    change(&mut place, &mut content);
    file.save(|| (place, content)).unwrap();
}

#[tokio::test]
async fn a_fold_that_is_not_of_the_log_is_refused_by_the_proof_and_nothing_is_signed() {
    let (mut w, d, notes) = with_checkpoints(&[100, 512]).await;
    let signatures = w.keeper.lock().signed;
    w.node.stop("witness").await;
    // The tree of 512 events has one hash on its edge: its root.
    forge_snapshot(&w, |_, content| {
        let tree = &mut content["tree"];
        assert_eq!(tree["edge"], serde_json::json!([mirror_seal::hex(&mth(&d))]));
        tree["edge"] = serde_json::json!(["07".repeat(32)]);
    });
    w.node.expect_log(SPOILT);
    w.node.expect_log("no proof leads from the last checkpoint");
    w.node.launch("witness").await;
    w.append(9).await;
    refused(w.run().await, Kind::Corrupt, "WITNESS_DIVERGED");
    let event = w.recorded("witness.diverged", 1).await.remove(0);
    assert_eq!((event["by"].as_str(), event["size"].as_u64()), (Some("proof"), Some(521)));
    assert_eq!((w.size().await, w.keeper.lock().signed), (512, signatures));
    w.check_inclusion(&d, 77, 512, &notes[1]).await;

    w.node.stop("witness").await;
    fs::remove_dir_all(w.node.home().state("witness")).unwrap();
    w.node.launch("witness").await;
    let signed = w.run().await.unwrap();
    check_note(&w, &signed);
    let notes = [notes[1].as_str(), signed.note.as_str()];
    w.check_growth(&leaves(&w), [512, signed.size], notes).await;
    w.node.finish().await;
}

#[tokio::test]
async fn another_log_under_a_forged_snapshot_is_refused_by_the_proof() {
    let mut w = world("").await;
    let temp = tempfile::tempdir().unwrap();
    let (bus, old) = (w.node.home().bus(), temp.path().join("old"));
    w.append(30).await;
    w.node.stop("bus").await;
    copy(&bus.join("log"), &old);
    w.node.launch("bus").await;
    w.append(20).await;
    let signed = w.run().await.unwrap();
    let signatures = w.keeper.lock().signed;
    w.node.stop("witness").await;
    w.node.stop("bus").await;
    copy(&old, &bus.join("log"));
    let _ = fs::remove_dir_all(bus.join("index"));
    w.node.launch("bus").await;
    w.append(40).await;
    // The snapshot says that the log, as it is now, was agreed with the checkpoint of the log as it was.
    let d = leaves(&w);
    forge_snapshot(&w, |place, content| {
        let mut tree = Frontier::default();
        d.iter().for_each(|leaf| tree.push(*leaf));
        let head = tree.size();
        *place = Place { upto: head, seq: head, leaf: mirror_seal::hex(d.last().unwrap()) };
        content["tree"] = serde_json::to_value(tree).unwrap();
        assert_eq!(content["agreed"], serde_json::json!([50, signed.root]));
    });
    w.node.expect_log(SPOILT);
    w.node.expect_log("no proof leads from the last checkpoint");
    w.node.launch("witness").await;
    w.append(1).await;
    refused(w.run().await, Kind::Corrupt, "WITNESS_DIVERGED");
    let error = w.inclusion(40, 50).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (Kind::Corrupt, "WITNESS_DIVERGED"), "{error}");
    assert_eq!((w.size().await, w.keeper.lock().signed), (50, signatures));
    w.node.finish().await;
}
