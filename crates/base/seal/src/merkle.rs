//! The Merkle tree of RFC 6962 over the leaves of a log, of which only the right edge is kept.
//!
//! It refuses an edge that does not fit its size. Invariant: after n leaves there is one hash for each one bit of n,
//! so that a log of any length takes at most 64 hashes.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Hash, hex, sha256, unhex};

/// The roots of the full subtrees along the right edge of a tree that only grows, the largest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Frontier {
    size: u64,
    edge: Vec<Hash>,
}

/// The form on disk: the size, and the edge as lower-case hex.
#[derive(Serialize, Deserialize)]
struct Written {
    size: u64,
    edge: Vec<String>,
}

impl Frontier {
    /// Adds a leaf hash, which [`crate::leaf`] makes of an entry.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // Each one bit at the low end of the size is a full subtree of the same height as what is being added.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.edge.pop() {
                hash = node(&left, &hash);
            }
        }
        self.edge.push(hash);
        self.size += 1;
    }

    /// Returns the number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the root hash; that of the empty tree is SHA-256 of nothing.
    pub fn root(&self) -> Hash {
        let mut edge = self.edge.iter().rev();
        match edge.next() {
            Some(last) => edge.fold(*last, |right, left| node(left, &right)),
            None => sha256(&[]),
        }
    }
}

/// Returns the hash of the node over two others.
pub(crate) fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([0x01]).chain_update(left).chain_update(right).finalize().into()
}

impl From<Frontier> for Written {
    fn from(frontier: Frontier) -> Self {
        Self { size: frontier.size, edge: frontier.edge.iter().map(|hash| hex(hash)).collect() }
    }
}

impl TryFrom<Written> for Frontier {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        if written.edge.len() != written.size.count_ones() as usize {
            return Err("the edge does not have one hash for each one bit of the size");
        }
        let edge = written.edge.iter().map(|text| unhex(text)).collect::<Option<_>>();
        Ok(Self {
            size: written.size,
            edge: edge.ok_or("a hash of the edge is not 64 lower-case hex digits")?,
        })
    }
}

/// The tree hash as RFC 6962 section 2.1 defines it, over leaf hashes.
#[cfg(test)]
pub(crate) fn naive(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha256(&[]),
        [one] => *one,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            node(&naive(&leaves[..split]), &naive(&leaves[split..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf;
    use proptest::prelude::*;

    fn of(leaves: &[Hash]) -> Frontier {
        let mut frontier = Frontier::default();
        leaves.iter().for_each(|leaf| frontier.push(*leaf));
        frontier
    }

    #[test]
    fn the_roots_are_those_of_the_certificate_transparency_project() {
        let entries: [&[u8]; 8] =
            [b"", b"\0", b"\x10", b" !", b"01", b"@ABC", b"PQRSTUVW", b"`abcdefghijklmno"];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut frontier = Frontier::default();
        assert_eq!(hex(&frontier.root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        for (entry, root) in entries.into_iter().zip(roots) {
            frontier.push(leaf(entry));
            assert_eq!(hex(&frontier.root()), root, "{} leaves", frontier.size());
        }
    }

    #[test]
    fn an_edge_that_does_not_fit_its_size_is_refused() {
        let good = serde_json::to_string(&of(&[[1; 32], [2; 32], [3; 32]])).unwrap();
        assert!(serde_json::from_str::<Frontier>(&good).is_ok());
        for bad in [good.replace("\"size\":3", "\"size\":4"), good.replace("03", "0G")] {
            assert!(serde_json::from_str::<Frontier>(&bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn the_root_is_that_of_a_naive_tree_wherever_the_frontier_was_written_down(
            leaves in prop::collection::vec(any::<Hash>(), 0..300),
            cut in any::<prop::sample::Index>(),
        ) {
            let cut = cut.index(leaves.len() + 1);
            let written = serde_json::to_string(&of(&leaves[..cut])).unwrap();
            let mut frontier: Frontier = serde_json::from_str(&written).unwrap();
            leaves[cut..].iter().for_each(|leaf| frontier.push(*leaf));
            prop_assert_eq!(&frontier, &of(&leaves));
            prop_assert_eq!(frontier.root(), naive(&leaves));
            prop_assert_eq!(frontier.edge.len(), frontier.size.count_ones() as usize);
        }
    }
}
