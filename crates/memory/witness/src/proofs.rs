//! Proofs from tiles, each verified before it is handed out.
//!
//! It refuses to hand out what does not lead to the signed root. Invariant: a root that it names is that of the log up
//! to there, because a proof leads from it to the root of the newest checkpoint.

use mirror_seal::{
    Hash, TileHashes, prove_consistency, prove_inclusion, tree_root, verify_consistency, verify_inclusion,
};

use crate::error::Error;
use crate::tiles::Tiles;
use crate::witness::Claim;

/// The hashes of the tree, from its tiles on disk.
type Hashes<'a> = TileHashes<&'a Tiles>;

/// What proves that the log held an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inclusion {
    /// Leaf of the event.
    pub(crate) leaf: Hash,
    /// The tree that it is in.
    pub(crate) tree: Claim,
    /// The path to the root.
    pub(crate) path: Vec<Hash>,
}

/// What proves that the log only grew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Growth {
    /// The smaller tree.
    pub(crate) from: Claim,
    /// The greater one.
    pub(crate) to: Claim,
    /// The proof.
    pub(crate) proof: Vec<Hash>,
}

/// Returns whether the tiles prove that the tree of one claim begins with that of another.
pub(crate) fn leads(hashes: &mut Hashes<'_>, from: Claim, to: Claim) -> bool {
    let proof = prove_consistency(from.size, to.size, hashes).ok().flatten();
    proof.is_some_and(|proof| verify_consistency(from.size, to.size, &proof, &from.root, &to.root))
}

/// Returns the tree of a size; none when the tiles do not lead from it to the signed one.
fn tree(hashes: &mut Hashes<'_>, size: u64, signed: Claim) -> Option<Claim> {
    let claim = Claim { size, root: tree_root(size, hashes).ok()? };
    leads(hashes, claim, signed).then_some(claim)
}

/// Returns the proof that an event is among the first `size`; none when the tiles have none that holds.
pub(crate) fn inclusion(tiles: &Tiles, seq: u64, size: u64, signed: Claim) -> Option<Inclusion> {
    let mut hashes = TileHashes::new(signed.size, tiles);
    let tree = tree(&mut hashes, size, signed)?;
    let index = seq.checked_sub(1)?;
    let leaf = mirror_seal::HashReader::hash(&mut hashes, 0, index).ok()?;
    let path = prove_inclusion(index, size, &mut hashes).ok()??;
    verify_inclusion(&leaf, index, size, &path, &tree.root).then_some(Inclusion { leaf, tree, path })
}

/// Returns the proof that the log only grew from one size to another; none when the tiles have none that holds.
pub(crate) fn growth(tiles: &Tiles, from: u64, to: u64, signed: Claim) -> Option<Growth> {
    let mut hashes = TileHashes::new(signed.size, tiles);
    let (from, to) = (tree(&mut hashes, from, signed)?, tree(&mut hashes, to, signed)?);
    let proof = prove_consistency(from.size, to.size, &mut hashes).ok()??;
    verify_consistency(from.size, to.size, &proof, &from.root, &to.root).then_some(Growth { from, to, proof })
}

/// Returns the size that is meant: 0 is that of the newest checkpoint, and there is no tree beyond it.
fn size(given: u64, signed: Claim) -> Result<u64, Error> {
    match given {
        0 => Ok(signed.size),
        size if size > signed.size => Err(Error::NotCovered { size, signed: signed.size }),
        size => Ok(size),
    }
}

/// Returns the event and the size that a proof is asked of, when there can be one.
pub(crate) fn asked_inclusion(seq: u64, given: u64, signed: Claim) -> Result<(u64, u64), Error> {
    if seq == 0 {
        return Err(Error::Range { field: "seq", why: "must be the position of an event, from 1" });
    }
    if seq > signed.size {
        return Err(Error::NotCovered { size: seq, signed: signed.size });
    }
    let size = size(given, signed)?;
    if seq > size {
        return Err(Error::Range { field: "size", why: "must be at least the position of the event" });
    }
    Ok((seq, size))
}

/// Returns the two sizes that a proof is asked of, when there can be one.
pub(crate) fn asked_growth(from: u64, given: u64, signed: Claim) -> Result<(u64, u64), Error> {
    if from == 0 {
        return Err(Error::Range { field: "from_size", why: "must be at least 1" });
    }
    let to = size(given, signed)?;
    if from > signed.size {
        return Err(Error::NotCovered { size: from, signed: signed.size });
    }
    if from > to {
        return Err(Error::Range { field: "to_size", why: "must be at least from_size" });
    }
    Ok((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: Claim = Claim { size: 100, root: [7; 32] };

    #[test]
    fn zero_means_the_newest_checkpoint() {
        assert_eq!(asked_inclusion(7, 0, SIGNED).unwrap(), (7, 100));
        assert_eq!(asked_inclusion(7, 7, SIGNED).unwrap(), (7, 7));
        assert_eq!(asked_growth(7, 0, SIGNED).unwrap(), (7, 100));
        assert_eq!(asked_growth(100, 100, SIGNED).unwrap(), (100, 100));
    }

    #[test]
    fn what_cannot_be_proven_is_refused_by_name() {
        #[track_caller]
        fn refused(answer: Result<(u64, u64), Error>, part: &str) {
            let why = answer.unwrap_err().to_string();
            assert!(why.contains(part), "{why}");
        }
        refused(asked_inclusion(0, 0, SIGNED), "seq");
        refused(asked_inclusion(8, 7, SIGNED), "size");
        refused(asked_inclusion(101, 0, SIGNED), "covers 100 events");
        refused(asked_inclusion(7, 101, SIGNED), "covers 100 events");
        refused(asked_growth(0, 0, SIGNED), "from_size");
        refused(asked_growth(8, 7, SIGNED), "to_size");
        refused(asked_growth(101, 0, SIGNED), "covers 100 events");
        refused(asked_growth(7, u64::MAX, SIGNED), "covers 100 events");
    }
}
