//! Tests of proofs: against the recursive definitions, against published ones, and against what an attacker would try.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::merkle::naive;
use crate::tiles::TileEdge;
use crate::{hex, unhex};

fn leaf_at(n: u64) -> Hash {
    crate::leaf(&n.to_be_bytes())
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(leaf_at).collect()
}

/// PATH(m, D[n]) of RFC 6962 section 2.1.1.
fn path(m: usize, d: &[Hash]) -> Vec<Hash> {
    if d.len() == 1 {
        return Vec::new();
    }
    let k = d.len().next_power_of_two() / 2;
    let (mut path, aside) = if m < k { (path(m, &d[..k]), &d[k..]) } else { (path(m - k, &d[k..]), &d[..k]) };
    path.push(naive(aside));
    path
}

/// SUBPROOF(m, D[n], b) of RFC 6962 section 2.1.2.
fn subproof(m: usize, d: &[Hash], known: bool) -> Vec<Hash> {
    if m == d.len() {
        return if known { Vec::new() } else { vec![naive(d)] };
    }
    let k = d.len().next_power_of_two() / 2;
    let (mut proof, aside) = if m <= k {
        (subproof(m, &d[..k], known), &d[k..])
    } else {
        (subproof(m - k, &d[k..], false), &d[..k])
    };
    proof.push(naive(aside));
    proof
}

/// Computes each hash from all leaves.
struct Naive<'a>(&'a [Hash]);

impl HashReader for Naive<'_> {
    type Error = Infallible;

    fn hash(&mut self, height: u32, index: u64) -> Result<Hash, Infallible> {
        let span = 1 << height;
        let start = usize::try_from(index).unwrap() * span;
        Ok(naive(&self.0[start..start + span]))
    }
}

/// Tiles in memory, and how many were read.
struct Tiles<'a>(&'a BTreeMap<Tile, Vec<Hash>>, usize);

impl TileReader for Tiles<'_> {
    type Error = Tile;

    fn tile(&mut self, tile: Tile) -> Result<Vec<Hash>, Tile> {
        self.1 += 1;
        self.0.get(&tile).cloned().ok_or(tile)
    }
}

fn tiles(count: u64) -> BTreeMap<Tile, Vec<Hash>> {
    let (mut edge, mut files) = (TileEdge::default(), BTreeMap::new());
    for n in 0..count {
        let done: Result<(), Infallible> = edge.push(leaf_at(n), |tile, hashes| {
            files.insert(tile, hashes.to_vec());
            Ok(())
        });
        done.unwrap();
    }
    files.extend(edge.partials(count).into_iter().map(|(tile, hashes)| (tile, hashes.to_vec())));
    files
}

/// Returns which way a path turns at each step: what a verifier makes of index and size.
fn shape(index: u64, size: u64) -> Vec<bool> {
    let (mut turns, mut span) = (Vec::new(), 0..size);
    while span.end - span.start > 1 {
        let middle = span.start + split(span.end - span.start);
        let left = index < middle;
        turns.push(left);
        span = if left { span.start..middle } else { middle..span.end };
    }
    turns
}

#[test]
fn proofs_of_all_small_trees_are_those_of_the_definitions() {
    let all = leaves(130);
    for size in 1..=130 {
        let d = &all[..size];
        let (root, count) = (naive(d), size as u64);
        assert_eq!(tree_root(count, &mut Naive(d)), Ok(root));
        for m in 0..size {
            let proof = prove_inclusion(m as u64, count, &mut Naive(d)).unwrap().unwrap();
            assert_eq!(proof, path(m, d), "leaf {m} of {size}");
            assert!(verify_inclusion(&d[m], m as u64, count, &proof, &root), "leaf {m} of {size}");
        }
        for m in 1..=size {
            let proof = prove_consistency(m as u64, count, &mut Naive(d)).unwrap().unwrap();
            assert_eq!(proof, subproof(m, d, true), "{m} of {size}");
            assert!(verify_consistency(m as u64, count, &proof, &naive(&d[..m]), &root), "{m} of {size}");
        }
    }
}

#[test]
fn what_has_no_proof_gets_none() {
    let d = leaves(5);
    let mut reader = Naive(&d);
    assert_eq!(prove_inclusion(5, 5, &mut reader), Ok(None));
    assert_eq!(prove_inclusion(0, 0, &mut reader), Ok(None));
    assert_eq!(prove_consistency(0, 5, &mut reader), Ok(None));
    assert_eq!(prove_consistency(6, 5, &mut reader), Ok(None));
    let root = naive(&d);
    assert!(!verify_inclusion(&root, 0, 0, &[], &root));
    assert!(!verify_consistency(0, 0, &[], &root, &root));
    assert!(!verify_consistency(0, 5, &[], &root, &root));
    assert!(!verify_consistency(6, 5, &[], &root, &root));
    assert!(verify_consistency(5, 5, &[], &root, &root));
    assert!(!verify_consistency(5, 5, &[root], &root, &root));
    assert!(!verify_consistency(5, 5, &[], &root, &leaf_at(0)));
}

/// The entries, roots and proofs of the Certificate Transparency project, in its Go module transparency-dev/merkle.
#[test]
fn the_proofs_of_the_certificate_transparency_project_hold() {
    let entries: [&[u8]; 8] = [b"", b"\0", b"\x10", b" !", b"01", b"@ABC", b"PQRSTUVW", b"`abcdefghijklmno"];
    let d: Vec<Hash> = entries.iter().map(|entry| crate::leaf(entry)).collect();
    let l0 = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
    let l1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7";
    let l4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b";
    let l6 = "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f";
    let n01 = "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125";
    let n23 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e";
    let n45 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a";
    let n67 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0";
    let n03 = "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7";
    let n47 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4";
    let inclusions: [(u64, u64, &[&str]); 5] = [
        (0, 1, &[]),
        (0, 8, &[l1, n23, n47]),
        (5, 8, &[l4, n67, n03]),
        (2, 3, &[n01]),
        (1, 5, &[l0, n23, l4]),
    ];
    let hexed = |proof: &[Hash]| proof.iter().map(|hash| hex(hash)).collect::<Vec<_>>();
    let root = |size: u64| naive(&d[..usize::try_from(size).unwrap()]);
    for (index, size, known) in inclusions {
        let proof = prove_inclusion(index, size, &mut Naive(&d)).unwrap().unwrap();
        assert_eq!(hexed(&proof), known, "{index} of {size}");
        let known: Vec<Hash> = known.iter().map(|text| unhex(text).unwrap()).collect();
        assert!(verify_inclusion(&d[usize::try_from(index).unwrap()], index, size, &known, &root(size)));
    }
    let growths: [(u64, u64, &[&str]); 5] = [
        (1, 1, &[]),
        (1, 8, &[l1, n23, n47]),
        (6, 8, &[n45, n67, n03]),
        (2, 5, &[n23, l4]),
        (6, 7, &[n45, l6, n03]),
    ];
    for (from, to, known) in growths {
        let proof = prove_consistency(from, to, &mut Naive(&d)).unwrap().unwrap();
        assert_eq!(hexed(&proof), known, "{from} to {to}");
        assert!(verify_consistency(from, to, &proof, &root(from), &root(to)));
    }
}

#[test]
fn tiles_give_the_proofs_that_leaves_give() {
    let all = leaves(1 << 10);
    let sizes: [u64; 12] = [1, 2, 255, 256, 257, 511, 512, 513, 700, 768, 1023, 1024];
    let files = tiles(1024);
    for size in sizes {
        let d = &all[..usize::try_from(size).unwrap()];
        for at in [0, 1, 254, 255, 256, 300, 511, 512, size - 1].into_iter().filter(|at| *at < size) {
            let at_once = usize::try_from(at).unwrap();
            let mut hashes = TileHashes::new(1024, Tiles(&files, 0));
            assert_eq!(prove_inclusion(at, size, &mut hashes).unwrap().unwrap(), path(at_once, d));
            let proof = prove_consistency(at + 1, size, &mut hashes).unwrap().unwrap();
            assert_eq!(proof, subproof(at_once + 1, d, true), "{at} of {size}");
            assert_eq!(tree_root(size, &mut hashes), Ok(naive(d)));
        }
    }
}

#[test]
fn a_missing_or_short_tile_is_an_error_and_no_proof() {
    let mut files = tiles(700);
    let gone = Tile { level: 0, index: 1, width: 256 };
    let kept = files.remove(&gone).unwrap();
    let read = |files: &BTreeMap<Tile, Vec<Hash>>| {
        prove_inclusion(300, 700, &mut TileHashes::new(700, Tiles(files, 0)))
    };
    assert_eq!(read(&files), Err(TileError::Read(gone)));
    files.insert(gone, kept[..40].to_vec());
    assert_eq!(read(&files), Err(TileError::Missing));
    let beyond = TileHashes::new(700, Tiles(&files, 0)).hash(0, 700);
    assert_eq!(beyond, Err(TileError::Missing));
    assert_eq!(TileHashes::new(700, Tiles(&files, 0)).hash(63, u64::MAX), Err(TileError::Missing));
    assert_eq!(TileHashes::new(u64::MAX, Tiles(&files, 0)).hash(64, 0), Err(TileError::Missing));
}

/// Returns what an attacker could make of a list of hashes.
fn mutants(proof: &[Hash], bit: usize) -> Vec<Vec<Hash>> {
    let mut found = vec![[proof, &[leaf_at(9)]].concat(), [&[leaf_at(9)], proof].concat()];
    for at in 0..proof.len() {
        let changed = |change: &dyn Fn(&mut Vec<Hash>)| {
            let mut mutant = proof.to_vec();
            change(&mut mutant);
            mutant
        };
        found.push(changed(&|mutant| mutant[at][bit / 8 % 32] ^= 1 << (bit % 8)));
        found.push(changed(&|mutant| {
            mutant.remove(at);
        }));
        found.push(changed(&|mutant| mutant.insert(at, proof[at])));
        if at > 0 {
            found.push(changed(&|mutant| mutant.swap(at, at - 1)));
        }
    }
    found
}

fn check_inclusion(index: u64, size: u64, leaf: &Hash, proof: &[Hash], root: &Hash, bit: usize) {
    assert!(verify_inclusion(leaf, index, size, proof, root));
    for mutant in mutants(proof, bit) {
        assert!(!verify_inclusion(leaf, index, size, &mutant, root), "{index} of {size}: {mutant:?}");
    }
    let other = |hash: &Hash| {
        let mut other = *hash;
        other[bit / 8 % 32] ^= 1 << (bit % 8);
        other
    };
    assert!(!verify_inclusion(&other(leaf), index, size, proof, root));
    assert!(!verify_inclusion(leaf, index, size, proof, &other(root)));
    let near = index.saturating_sub(3)..index.saturating_add(4);
    for wrong in near.chain([index ^ (1 << (bit % 20)), size, u64::MAX]).filter(|wrong| *wrong != index) {
        assert!(!verify_inclusion(leaf, wrong, size, proof, root), "{index} as {wrong} of {size}");
    }
    for wrong in [size - 1, size + 1, size / 2, size * 2, size ^ (1 << (bit % 20)), 0, u64::MAX] {
        // A size that turns the path the same ways is not told apart: size and root are signed together.
        if wrong != size && (index >= wrong || shape(index, wrong) != shape(index, size)) {
            assert!(!verify_inclusion(leaf, index, wrong, proof, root), "{index} of {size} as {wrong}");
        }
    }
}

fn check_consistency(from: u64, to: u64, proof: &[Hash], roots: [&Hash; 2], bit: usize) {
    let [old, new] = roots;
    assert!(verify_consistency(from, to, proof, old, new));
    for mutant in mutants(proof, bit) {
        assert!(!verify_consistency(from, to, &mutant, old, new), "{from} to {to}: {mutant:?}");
    }
    let mut other = *old;
    other[bit / 8 % 32] ^= 1 << (bit % 8);
    assert!(!verify_consistency(from, to, proof, &other, new));
    assert!(!verify_consistency(from, to, proof, old, &other));
    if from < to {
        assert!(!verify_consistency(from, to, proof, new, old), "the roots are swapped");
        assert!(!verify_consistency(from, to, &[], old, new));
    }
    for wrong in [from - 1, from + 1, from * 2, from / 2, from ^ (1 << (bit % 20)), to].into_iter() {
        if wrong != from {
            assert!(!verify_consistency(wrong, to, proof, old, new), "{from} as {wrong} to {to}");
        }
    }
    for wrong in [to * 2, to / 2, from - 1, 0] {
        if wrong != to {
            assert!(!verify_consistency(from, wrong, proof, old, new), "{from} to {to} as {wrong}");
        }
    }
}

#[test]
fn every_mutant_of_every_proof_of_a_small_tree_is_refused() {
    let all = leaves(40);
    for size in 1..=40_usize {
        let (d, count) = (&all[..size], size as u64);
        let root = naive(d);
        for m in 0..size {
            check_inclusion(m as u64, count, &d[m], &path(m, d), &root, m * 31 + size);
            let proof = subproof(m + 1, d, true);
            check_consistency(m as u64 + 1, count, &proof, [&naive(&d[..=m]), &root], m * 31 + size);
        }
    }
}

proptest! {
    #[test]
    fn every_bit_of_a_proof_counts(size in 2..500_u64, at in any::<prop::sample::Index>()) {
        let d = leaves(size);
        let m = at.index(d.len());
        let (proof, root) = (path(m, &d), naive(&d));
        for (nth, bit) in (0..proof.len()).flat_map(|nth| (0..256).map(move |bit| (nth, bit))) {
            let mut mutant = proof.clone();
            mutant[nth][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!verify_inclusion(&d[m], m as u64, size, &mutant, &root));
        }
    }

    #[test]
    fn garbage_is_refused_and_panics_nobody(
        sizes in any::<[u64; 2]>(),
        proof in prop::collection::vec(any::<Hash>(), 0..70),
        roots in any::<[Hash; 2]>(),
    ) {
        let single = sizes == [0, 1] && proof.is_empty() && roots[0] == roots[1];
        prop_assert_eq!(verify_inclusion(&roots[0], sizes[0], sizes[1], &proof, &roots[1]), single);
        prop_assert!(!verify_consistency(sizes[0], sizes[1], &proof, &roots[0], &roots[1]) || sizes[0] == sizes[1]);
    }
}

/// A tree of 2^20 leaves, in tiles that are made once.
fn great() -> &'static BTreeMap<Tile, Vec<Hash>> {
    static TILES: std::sync::OnceLock<BTreeMap<Tile, Vec<Hash>>> = std::sync::OnceLock::new();
    TILES.get_or_init(|| tiles(1 << 20))
}

/// Computes the root over some leaves of the great tree, from the leaves themselves.
fn great_root(span: Range<u64>) -> Hash {
    naive(&span.map(leaf_at).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn proofs_of_great_trees_hold_and_their_mutants_do_not(
        sizes in any::<[prop::sample::Index; 3]>(),
        bit in 0..256_usize,
    ) {
        let all = 1 << 20;
        let to = sizes[0].index(all) as u64 + 1;
        let from = sizes[1].index(usize::try_from(to).unwrap()) as u64 + 1;
        let index = sizes[2].index(usize::try_from(from).unwrap()) as u64;
        let mut hashes = TileHashes::new(all as u64, Tiles(great(), 0));
        let (old, new) = (tree_root(from, &mut hashes).unwrap(), tree_root(to, &mut hashes).unwrap());
        let growth = prove_consistency(from, to, &mut hashes).unwrap().unwrap();
        check_consistency(from, to, &growth, [&old, &new], bit);
        let mut hashes = TileHashes::new(all as u64, Tiles(great(), 0));
        let proof = prove_inclusion(index, from, &mut hashes).unwrap().unwrap();
        check_inclusion(index, from, &leaf_at(index), &proof, &old, bit);
        prop_assert!(proof.len() <= 20 && hashes.reader.1 <= 3 + 20, "{} tiles were read", hashes.reader.1);
    }
}

#[test]
fn the_root_from_tiles_is_that_of_all_leaves() {
    for size in [65_536, 65_537, 100_000] {
        let mut hashes = TileHashes::new(1 << 20, Tiles(great(), 0));
        assert_eq!(tree_root(size, &mut hashes), Ok(great_root(0..size)), "{size}");
    }
}
