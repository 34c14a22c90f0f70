//! The Merkle tree of RFC 6962 over the leaves of a log, of which only the right edge is kept.

use sha2::block_api::compress256;
use sha2::{Digest as _, Sha256};

pub(crate) type Hash = [u8; 32];

/// The state that SHA-256 begins with (FIPS 180-4, 5.3.3).
const BEGIN: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Returns SHA-256 of two texts, one after the other.
///
/// Each event needs three of them, of a few hundred bytes: filling their blocks here, and handing over all of them at
/// once, is faster than what a hasher does that does not know the length.
#[inline]
pub(crate) fn sha256(first: &[u8], second: &[u8]) -> Hash {
    // A bit ends the text, and its length in 64 bits the last block.
    match (first.len() + second.len() + 9).div_ceil(64) {
        ..=2 => filled::<2>(first, second),
        3..=6 => filled::<6>(first, second),
        7..=10 => filled::<10>(first, second),
        _ => Sha256::new().chain_update(first).chain_update(second).finalize().into(),
    }
}

/// Returns SHA-256 of two texts that fit into so many blocks.
#[inline]
fn filled<const BLOCKS: usize>(first: &[u8], second: &[u8]) -> Hash {
    let len = first.len() + second.len();
    let mut blocks = [[0_u8; 64]; BLOCKS];
    let used = &mut blocks[..(len + 9).div_ceil(64)];
    let bytes = used.as_flattened_mut();
    let end = bytes.len();
    bytes[..first.len()].copy_from_slice(first);
    bytes[first.len()..len].copy_from_slice(second);
    bytes[len] = 0x80;
    bytes[end - 8..].copy_from_slice(&(8 * len as u64).to_be_bytes());
    let mut state = BEGIN;
    compress256(&mut state, used);
    let mut hash = [0; 32];
    for (to, word) in hash.chunks_exact_mut(4).zip(state) {
        to.copy_from_slice(&word.to_be_bytes());
    }
    hash
}

/// Returns the leaf of an event: SHA-256(0x00 ‖ header).
#[inline]
pub(crate) fn leaf(header: &[u8]) -> Hash {
    sha256(&[0], header)
}

#[inline]
fn node(left: &Hash, right: &Hash) -> Hash {
    let mut first = [1; 33];
    first[1..].copy_from_slice(left);
    sha256(&first, right)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_that_of_the_library_at_every_length() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1_000).collect();
        for at in [0, 1, 16, 33, 64] {
            for end in at..bytes.len() {
                let expected: Hash = Sha256::digest(&bytes[..end]).into();
                assert_eq!(sha256(&bytes[..at], &bytes[at..end]), expected, "{at} of {end}");
            }
        }
    }
}
