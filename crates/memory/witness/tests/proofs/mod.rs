//! Tiles and proofs: what is handed out is what the definitions say, whatever happens to the files.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod spoilt;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use mirror_contract::mirror::witness::v1 as pb;
use mirror_errors::{Kind, Remote};

use crate::world::{World, world};
use crate::{Hash, check_note, leaves, mth};

/// PATH(m, D[n]) of RFC 6962 section 2.1.1.
fn path(m: usize, d: &[Hash]) -> Vec<Hash> {
    if d.len() == 1 {
        return Vec::new();
    }
    let k = d.len().next_power_of_two() / 2;
    let (mut path, aside) = if m < k { (path(m, &d[..k]), &d[k..]) } else { (path(m - k, &d[k..]), &d[..k]) };
    path.push(mth(aside));
    path
}

/// SUBPROOF(m, D[n], b) of RFC 6962 section 2.1.2.
fn subproof(m: usize, d: &[Hash], known: bool) -> Vec<Hash> {
    if m == d.len() {
        return if known { Vec::new() } else { vec![mth(d)] };
    }
    let k = d.len().next_power_of_two() / 2;
    let (mut proof, aside) = if m <= k {
        (subproof(m, &d[..k], known), &d[k..])
    } else {
        (subproof(m - k, &d[k..], false), &d[..k])
    };
    proof.push(mth(aside));
    proof
}

fn hex(hash: &Hash) -> String {
    mirror_seal::hex(hash)
}

fn hexed(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(hex).collect()
}

fn at(n: u64) -> usize {
    usize::try_from(n).unwrap()
}

/// The path of a tile and its bytes, by the specification: MTH(D[(n * 256 + i) * 256^l : (n * 256 + i + 1) * 256^l]).
fn defined(d: &[Hash]) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let (mut row, mut level) = (d.to_vec(), 0);
    while !row.is_empty() {
        for (index, tile) in row.chunks(256).enumerate() {
            assert!(index < 1000, "the test knows short names only");
            let part = if tile.len() < 256 { format!(".p/{}", tile.len()) } else { String::new() };
            found.insert(format!("tile/{level}/{index:03}{part}"), tile.concat());
        }
        row = row.chunks_exact(256).map(mth).collect();
        level += 1;
    }
    found
}

impl World {
    fn tiles(&self) -> PathBuf {
        self.node.home().bus().join("tiles").join(self.origin())
    }

    /// Has the head signed, once the witness has read the log up to it.
    async fn run_when_read(&self) -> pb::Checkpoint {
        let mut signed = None;
        self.node
            .wait("the head is signed", async || match self.run().await {
                Ok(checkpoint) => {
                    signed = Some(checkpoint);
                    Ok(())
                }
                Err(error) => Err(error.to_string()),
            })
            .await;
        signed.unwrap()
    }

    async fn inclusion(&self, seq: u64, size: u64) -> Result<pb::ProveInclusionResponse, Remote> {
        let answer = self.witness().prove_inclusion(pb::ProveInclusionRequest { seq, size }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| Remote::from_status(&status))
    }

    async fn growth(&self, from_size: u64, to_size: u64) -> Result<pb::ProveConsistencyResponse, Remote> {
        let request = pb::ProveConsistencyRequest { from_size, to_size };
        let answer = self.witness().prove_consistency(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| Remote::from_status(&status))
    }

    /// Checks the proof of an event against its definition over the log on disk.
    async fn check_inclusion(&self, d: &[Hash], seq: u64, size: u64, note: &str) {
        let found = self.inclusion(seq, size).await.unwrap();
        let tree = &d[..at(size)];
        let expected = pb::ProveInclusionResponse {
            seq,
            leaf: hex(&d[at(seq) - 1]),
            size,
            root: hex(&mth(tree)),
            hashes: hexed(&path(at(seq) - 1, tree)),
            note: note.to_owned(),
        };
        assert_eq!(found, expected, "event {seq} of {size}");
    }

    /// Checks the proof of growth against its definition over the log on disk.
    async fn check_growth(&self, d: &[Hash], [from, to]: [u64; 2], [old, new]: [&str; 2]) {
        let found = self.growth(from, to).await.unwrap();
        let expected = pb::ProveConsistencyResponse {
            from_size: from,
            from_root: hex(&mth(&d[..at(from)])),
            to_size: to,
            to_root: hex(&mth(&d[..at(to)])),
            hashes: hexed(&subproof(at(from), &d[..at(to)], true)),
            from_note: old.to_owned(),
            to_note: new.to_owned(),
        };
        assert_eq!(found, expected, "{from} to {to}");
    }

    /// Checks the files of all tiles that the checkpoints of some sizes need, and that no others are there.
    fn check_tiles(&self, d: &[Hash], sizes: &[u64]) {
        let newest = defined(&d[..at(*sizes.iter().max().unwrap())]);
        let mut expected = newest.clone();
        for size in sizes {
            for (path, bytes) in defined(&d[..at(*size)]) {
                let whole = path.split(".p/").next().unwrap();
                if !newest.contains_key(whole) {
                    expected.insert(path, bytes);
                }
            }
        }
        let mut found = BTreeMap::new();
        let mut folders = vec![self.tiles()];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                let name = path.strip_prefix(self.tiles()).unwrap().to_str().unwrap().to_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if !name.ends_with(".tmp") {
                    found.insert(name, fs::read(path).unwrap());
                }
            }
        }
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected));
        assert!(found == expected, "a tile has other hashes");
    }
}

/// A log with checkpoints of these sizes, and their notes.
async fn with_checkpoints(sizes: &[u64]) -> (World, Vec<Hash>, Vec<String>) {
    let w = world("checkpoint_events = 1000000\n").await;
    let (mut head, mut notes) = (0, Vec::new());
    for size in sizes {
        while head < *size {
            head = w.append(at(size - head).min(1000)).await;
        }
        let signed = w.run_when_read().await;
        assert_eq!(signed.size, *size);
        check_note(&w, &signed);
        notes.push(signed.note);
    }
    let d = leaves(&w);
    (w, d, notes)
}

#[tokio::test]
async fn proofs_between_all_checkpoints_and_of_events_in_each_are_those_of_the_definitions() {
    let sizes = [1, 2, 255, 256, 257, 700, 1200];
    let (w, d, notes) = with_checkpoints(&sizes).await;
    for (size, note) in sizes.iter().zip(&notes) {
        for seq in [1, 2, 128, 255, 256, 257, 512, 513, size / 2, size - 1, *size] {
            if (1..=*size).contains(&seq) {
                w.check_inclusion(&d, seq, *size, note).await;
            }
        }
        for (smaller, older) in sizes.iter().zip(&notes).filter(|(smaller, _)| *smaller <= size) {
            w.check_growth(&d, [*smaller, *size], [older, note]).await;
        }
    }
    w.check_tiles(&d, &sizes);
    w.node.finish().await;
}

#[tokio::test]
async fn a_size_that_was_never_signed_is_proven_without_a_note_and_zero_is_the_newest() {
    let (w, d, notes) = with_checkpoints(&[300, 600]).await;
    w.append(5).await;
    w.check_inclusion(&d, 17, 299, "").await;
    w.check_inclusion(&d, 299, 513, "").await;
    w.check_growth(&d, [299, 600], ["", &notes[1]]).await;
    w.check_growth(&d, [255, 511], ["", ""]).await;
    assert_eq!(w.inclusion(17, 0).await.unwrap(), w.inclusion(17, 600).await.unwrap());
    assert_eq!(w.growth(17, 0).await.unwrap(), w.growth(17, 600).await.unwrap());
    // A note that somebody put there is not handed out as that of a tree that it is not of.
    let other = notes[0].replace("\n300\n", "\n299\n");
    fs::write(w.notes().join(format!("{:020}.note", 299)), other).unwrap();
    w.check_inclusion(&d, 17, 299, "").await;
    w.node.finish().await;
}

#[tokio::test]
async fn what_no_checkpoint_covers_is_refused() {
    let w = world("").await;
    let none = w.inclusion(1, 0).await.unwrap_err();
    assert_eq!((none.kind, none.reason.as_str()), (Kind::NotFound, "WITNESS_NO_CHECKPOINT"));
    w.append(7).await;
    w.run().await.unwrap();
    w.append(3).await;
    for (seq, size, kind, reason) in [
        (0, 0, Kind::Invalid, "WITNESS_RANGE_INVALID"),
        (5, 4, Kind::Invalid, "WITNESS_RANGE_INVALID"),
        (8, 0, Kind::NotFound, "WITNESS_NO_CHECKPOINT"),
        (1, 8, Kind::NotFound, "WITNESS_NO_CHECKPOINT"),
        (u64::MAX, u64::MAX, Kind::NotFound, "WITNESS_NO_CHECKPOINT"),
    ] {
        let error = w.inclusion(seq, size).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_str()), (kind, reason), "event {seq} of {size}");
    }
    for (from, to, kind, reason) in [
        (0, 0, Kind::Invalid, "WITNESS_RANGE_INVALID"),
        (5, 4, Kind::Invalid, "WITNESS_RANGE_INVALID"),
        (8, 0, Kind::NotFound, "WITNESS_NO_CHECKPOINT"),
        (1, 8, Kind::NotFound, "WITNESS_NO_CHECKPOINT"),
    ] {
        let error = w.growth(from, to).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_str()), (kind, reason), "{from} to {to}");
    }
    w.node.finish().await;
}

#[tokio::test]
async fn a_log_that_outgrows_what_may_wait_has_all_its_tiles() {
    let mut sizes = vec![3, 9000];
    let (mut w, _, _) = with_checkpoints(&sizes).await;
    // The state is gone, the tiles are not; then the other way round.
    for folder in [w.node.home().state("witness"), w.tiles()] {
        w.node.stop("witness").await;
        fs::remove_dir_all(&folder).unwrap();
        w.node.launch("witness").await;
        let head = w.append(40).await;
        let signed = w.run_when_read().await;
        assert_eq!(signed.size, head);
        sizes.push(head);
        w.check_tiles(&leaves(&w), &sizes);
    }
    let d = leaves(&w);
    let note = w.run().await.unwrap().note;
    for seq in [1, 4096, 4097, 9000, 9080] {
        w.check_inclusion(&d, seq, 9080, &note).await;
    }
    w.node.finish().await;
}
