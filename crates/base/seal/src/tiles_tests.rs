//! Tests of tiles.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

fn leaf_at(n: u64) -> Hash {
    crate::leaf(&n.to_be_bytes())
}

/// The tiles of a growing tree, as files would be.
type Files = BTreeMap<Tile, Vec<Hash>>;

fn grow(edge: &mut TileEdge, files: &mut Files, size: u64) {
    for n in edge.size()..size {
        let done: Result<(), Infallible> = edge.push(leaf_at(n), |tile, hashes| {
            assert!(files.insert(tile, hashes.to_vec()).is_none(), "{tile:?} is made once");
            Ok(())
        });
        done.unwrap();
    }
}

/// The hash at a place of a level by the specification: MTH(D[i * 256^l : (i + 1) * 256^l]).
fn defined(level: u8, at: u64) -> Hash {
    let span = 256_u64.pow(u32::from(level));
    let leaves: Vec<Hash> = (at * span..(at + 1) * span).map(leaf_at).collect();
    crate::merkle::naive(&leaves)
}

#[test]
fn paths_are_those_of_the_specification() {
    let path = |level, index, width| Tile { level, index, width }.path();
    assert_eq!(path(0, 1_234_067, 256), "tile/0/x001/x234/067");
    assert_eq!(path(2, 5, 256), "tile/2/005");
    assert_eq!(path(0, 999, 1), "tile/0/999.p/1");
    assert_eq!(path(1, 1000, 255), "tile/1/x001/000.p/255");
    assert_eq!(path(0, 0, 256), "tile/0/000");
}

#[test]
fn other_spellings_of_a_path_are_refused() {
    assert_eq!(Tile::parse("tile/0/x001/000"), Some(Tile { level: 0, index: 1000, width: 256 }));
    for bad in [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "tile/0/1",
        "tile/00/001",
        "tile/+1/001",
        "tile/8/001",
        "tile/0/x000/001",
        "tile/0/001/001",
        "tile/0/x001",
        "tile/0/001.p/0",
        "tile/0/001.p/256",
        "tile/0/001.p/01",
        "tile/0/001.p/",
        "tile/0/0001",
        "tile/0/x018/x446/x744/x073/x709/x551/x616/000",
        "tile/0/00a",
        "/tile/0/001",
        "tile/0/001/",
        "tile/0/../001",
    ] {
        assert_eq!(Tile::parse(bad), None, "{bad:?}");
    }
}

#[test]
fn a_tree_has_the_tiles_that_the_specification_counts() {
    let count = |size, level| tiles_of(size).filter(|tile| tile.level == level && tile.is_full()).count();
    assert_eq!((count(70_000, 0), count(70_000, 1), count(70_000, 2)), (273, 1, 0));
    let partial = |size| partial_tiles(size).map(|tile| (tile.level, tile.width)).collect::<Vec<_>>();
    assert_eq!(partial(70_000), [(0, 112), (1, 17), (2, 1)]);
    assert_eq!(partial(256), [(1, 1)]);
    assert_eq!(partial(65_536), [(2, 1)]);
    assert_eq!(partial(0), []);
    assert_eq!(tiles_of(0).count(), 0);
    assert_eq!(Tile::of(0, u64::MAX, u64::MAX), None);
    assert_eq!(partial(u64::MAX).len(), 8, "the largest size overflows nothing");
}

#[test]
fn a_tile_of_another_length_is_refused_and_a_longer_one_cut() {
    let hashes: Vec<Hash> = (0..7).map(leaf_at).collect();
    let bytes = Tile::encode(&hashes);
    let tile = |width| Tile { level: 0, index: 0, width };
    assert_eq!(tile(7).decode(&bytes), Some(hashes.clone()));
    assert_eq!(tile(5).decode(&bytes), Some(hashes[..5].to_vec()));
    assert_eq!(tile(8).decode(&bytes), None);
    assert_eq!(tile(7).decode(&bytes[..223]), None);
    assert_eq!(tile(1).decode(&vec![0; 257 * 32]), None);
}

#[test]
fn a_growing_tree_makes_the_tiles_that_are_defined() {
    let (mut edge, mut files) = (TileEdge::default(), Files::new());
    // Just past a full tile of level 1, so that each kind of border is crossed.
    let size = 65_536 + 256 + 3;
    grow(&mut edge, &mut files, size);
    let full: BTreeSet<Tile> = tiles_of(size).filter(|tile| tile.is_full()).collect();
    assert_eq!(files.keys().copied().collect::<BTreeSet<_>>(), full);
    for (tile, hashes) in &files {
        for (at, hash) in hashes.iter().enumerate().step_by(if tile.level == 0 { 17 } else { 85 }) {
            assert_eq!(*hash, defined(tile.level, tile.index * 256 + at as u64), "{tile:?} at {at}");
        }
    }
    let partials = edge.partials(size);
    assert_eq!(
        partials.iter().map(|(tile, _)| *tile).collect::<Vec<_>>(),
        partial_tiles(size).collect::<Vec<_>>()
    );
    assert_eq!(partials[2].1, [defined(2, 0)]);
}

proptest! {
    #[test]
    fn a_path_is_read_back(level in 0..8_u8, index in any::<u64>(), shift in 0..64_u32, width in 1..=256_usize) {
        let tile = Tile { level, index: index >> shift, width };
        prop_assert_eq!(Tile::parse(&tile.path()), Some(tile));
    }

    #[test]
    fn reading_any_path_never_panics(path in "(tile/)?[0-9x./p+-]{0,40}") {
        if let Some(tile) = Tile::parse(&path) {
            prop_assert_eq!(tile.path(), path);
        }
    }

    #[test]
    fn an_edge_goes_on_where_it_was_written_down(size in 0..3000_u64, cut in any::<prop::sample::Index>()) {
        let cut = cut.index(usize::try_from(size).unwrap() + 1) as u64;
        let (mut whole, mut files) = (TileEdge::default(), Files::new());
        grow(&mut whole, &mut files, size);
        // The partial tiles of a smaller size are those of the edge then, unless they have become full since.
        let (mut part, mut before) = (TileEdge::default(), Files::new());
        grow(&mut part, &mut before, cut);
        for (tile, hashes) in whole.partials(cut) {
            prop_assert!(part.partials(cut).contains(&(tile, hashes)));
        }
        let written: BTreeMap<Tile, Vec<Hash>> =
            part.partials(cut).into_iter().map(|(tile, hashes)| (tile, hashes.to_vec())).collect();
        let read = |tile: Tile| Ok::<_, Infallible>(written.get(&tile).cloned());
        let mut again = TileEdge::load(cut, read).unwrap().unwrap();
        prop_assert_eq!(&again, &part);
        grow(&mut again, &mut before, size);
        prop_assert_eq!(again, whole);
        prop_assert_eq!(before, files);
    }
}
