//! The Merkle tree of RFC 6962 over the leaves of a log, of which only the right edge is kept.

use sha2::{Digest as _, Sha256};

pub(crate) type Hash = [u8; 32];

/// Returns the leaf of an event: SHA-256(0x00 ‖ header).
#[inline]
pub(crate) fn leaf(header: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(header).finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The roots of the full subtrees along the right edge, the largest first: at most 64.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frontier {
    size: u64,
    edge: Vec<Hash>,
}

impl Frontier {
    #[inline]
    pub(crate) fn push(&mut self, leaf: Hash) {
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

    pub(crate) fn root(&self) -> Hash {
        let mut edge = self.edge.iter().rev();
        match edge.next() {
            Some(last) => edge.fold(*last, |right, left| node(left, &right)),
            None => Sha256::digest([]).into(),
        }
    }
}

/// Returns lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
