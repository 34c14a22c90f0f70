//! Proofs that a log holds an entry, and that it only grew, after RFC 6962 sections 2.1.1 and 2.1.2.
//!
//! Proofs are made from whatever has the hashes of whole subtrees, such as tiles, and verified from nothing but
//! themselves by the algorithms of RFC 9162 sections 2.1.3.2 and 2.1.4.2. A verifier refuses a proof with a hash too few
//! or too many. What it cannot refuse is a size that gives the path the same shape: root and size belong together, and
//! only a signed checkpoint says that they do.
//! Invariant: what is verified follows from the roots that were given, whoever made the proof.

use std::ops::Range;

use crate::merkle::node;
use crate::tiles::{TILE_WIDTH, Tile, subtree};
use crate::{Hash, sha256};

/// Has the hashes of whole subtrees of a tree.
pub trait HashReader {
    /// Why a hash cannot be had.
    type Error;

    /// Returns the root over the leaves `index << height` to `(index + 1) << height`, all of which the tree has.
    ///
    /// # Errors
    ///
    /// When the hash cannot be had.
    fn hash(&mut self, height: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// Has the tiles of a tree.
pub trait TileReader {
    /// Why a tile cannot be had.
    type Error;

    /// Returns the hashes of a tile, exactly as many as its width says.
    ///
    /// # Errors
    ///
    /// When the tile is missing or has fewer.
    fn tile(&mut self, tile: Tile) -> Result<Vec<Hash>, Self::Error>;
}

/// The hashes of a tree of which the tiles are read; the last tile of each level is kept.
#[derive(Debug)]
pub struct TileHashes<R> {
    size: u64,
    reader: R,
    kept: [Option<(Tile, Vec<Hash>)>; 8],
}

/// Why a hash cannot be had from tiles.
#[derive(Debug, PartialEq, Eq)]
pub enum TileError<E> {
    /// The reader failed.
    Read(E),
    /// The tree has no such hash, or a tile had fewer hashes than it was asked for.
    Missing,
}

impl<R: TileReader> TileHashes<R> {
    /// Returns the hashes of a tree of `size` leaves.
    pub fn new(size: u64, reader: R) -> Self {
        Self { size, reader, kept: Default::default() }
    }
}

impl<R: TileReader> HashReader for TileHashes<R> {
    type Error = TileError<R::Error>;

    fn hash(&mut self, height: u32, index: u64) -> Result<Hash, Self::Error> {
        let level = u8::try_from(height / 8).map_err(|_| TileError::Missing)?;
        // A tile is a subtree of height 8: the hash is over 2^(height mod 8) of those in it.
        let within = height % 8;
        let first = index.checked_shl(within).filter(|first| first >> within == index);
        let first = first.ok_or(TileError::Missing)?;
        let tile = Tile::of(level, first / TILE_WIDTH as u64, self.size).ok_or(TileError::Missing)?;
        let kept = self.kept.get_mut(usize::from(level)).ok_or(TileError::Missing)?;
        let hashes = match kept {
            Some((name, hashes)) if *name == tile => hashes,
            _ => &mut kept.insert((tile, self.reader.tile(tile).map_err(TileError::Read)?)).1,
        };
        let at = usize::try_from(first % TILE_WIDTH as u64).map_err(|_| TileError::Missing)?;
        hashes.get(at..at + (1 << within)).and_then(subtree).ok_or(TileError::Missing)
    }
}

/// Returns the largest power of two that is smaller than a number of leaves, which is at least 2.
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// Returns the root over some leaves, the first of which begins a subtree at least as high as they need.
fn range_root<R: HashReader>(leaves: Range<u64>, reader: &mut R) -> Result<Hash, R::Error> {
    let count = leaves.end - leaves.start;
    if count.is_power_of_two() {
        let height = count.ilog2();
        return reader.hash(height, leaves.start >> height);
    }
    let middle = leaves.start + split(count);
    let left = range_root(leaves.start..middle, reader)?;
    Ok(node(&left, &range_root(middle..leaves.end, reader)?))
}

/// Returns the root of a tree when it had `size` leaves; that of the empty tree is SHA-256 of nothing.
///
/// # Errors
///
/// Whatever the reader fails with.
pub fn tree_root<R: HashReader>(size: u64, reader: &mut R) -> Result<Hash, R::Error> {
    if size == 0 { Ok(sha256(&[])) } else { range_root(0..size, reader) }
}

/// Returns the path from the leaf at `index`, from 0, to the root of the tree of `size` leaves: RFC 6962 section 2.1.1.
///
/// None when the tree has no such leaf.
///
/// # Errors
///
/// Whatever the reader fails with.
pub fn prove_inclusion<R: HashReader>(
    index: u64,
    size: u64,
    reader: &mut R,
) -> Result<Option<Vec<Hash>>, R::Error> {
    if index >= size {
        return Ok(None);
    }
    let mut path = Vec::new();
    let mut leaves = 0..size;
    while leaves.end - leaves.start > 1 {
        let middle = leaves.start + split(leaves.end - leaves.start);
        let (down, aside) = if index < middle {
            (leaves.start..middle, middle..leaves.end)
        } else {
            (middle..leaves.end, leaves.start..middle)
        };
        path.push(range_root(aside, reader)?);
        leaves = down;
    }
    path.reverse();
    Ok(Some(path))
}

/// Returns the proof that the tree of `to` leaves begins with that of `from` leaves: RFC 6962 section 2.1.2.
///
/// None when there is no such proof: `from` must be 1 to `to`.
///
/// # Errors
///
/// Whatever the reader fails with.
pub fn prove_consistency<R: HashReader>(
    from: u64,
    to: u64,
    reader: &mut R,
) -> Result<Option<Vec<Hash>>, R::Error> {
    if from == 0 || from > to {
        return Ok(None);
    }
    let mut proof = Vec::new();
    let mut leaves = 0..to;
    while leaves.end != from {
        let middle = leaves.start + split(leaves.end - leaves.start);
        let (down, aside) = if from <= middle {
            (leaves.start..middle, middle..leaves.end)
        } else {
            (middle..leaves.end, leaves.start..middle)
        };
        proof.push(range_root(aside, reader)?);
        leaves = down;
    }
    // Where the smaller tree is a subtree of the greater, its root is known already.
    if leaves.start > 0 {
        proof.push(range_root(leaves, reader)?);
    }
    proof.reverse();
    Ok(Some(proof))
}

/// Returns whether the leaf at `index`, from 0, is in the tree of `size` leaves with this root.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    // Where the node is among those of its height, and where the last of them is.
    let (mut at, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at % 2 == 1 || at == last {
            hash = node(sibling, &hash);
            // The last node may have no sibling for some heights: it is its own parent there.
            while at % 2 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node(&hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Returns whether the tree of `to` leaves with one root begins with the tree of `from` leaves with the other.
///
/// `from` must be 1 to `to`: that every tree begins with the empty one is no statement about it.
pub fn verify_consistency(from: u64, to: u64, proof: &[Hash], from_root: &Hash, to_root: &Hash) -> bool {
    if from == 0 || from > to {
        return false;
    }
    if from == to {
        return proof.is_empty() && from_root == to_root;
    }
    let (first, rest) = match proof {
        [] => return false,
        whole if from.is_power_of_two() => (from_root, whole),
        [first, rest @ ..] => (first, rest),
    };
    // The greatest subtree that ends with the last leaf of the smaller tree is where both roots begin.
    let shift = (from - 1).trailing_ones();
    let (mut at, mut last) = ((from - 1) >> shift, (to - 1) >> shift);
    let (mut smaller, mut greater) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if at % 2 == 1 || at == last {
            smaller = node(sibling, &smaller);
            greater = node(sibling, &greater);
            while at % 2 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            greater = node(&greater, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && smaller == *from_root && greater == *to_root
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
