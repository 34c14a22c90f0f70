//! The set of ids seen, as 16-byte hashes.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};

/// Ids beyond this are not remembered unless asked for, so that a log of any length is verified in bounded memory (about
/// 300 MB).
pub(crate) const LIMIT: u64 = 14_000_000;

/// The hash that stands for an id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdKey(u128);

/// Hands on the low half of a value that is a hash already.
#[derive(Debug, Clone, Copy, Default)]
struct Through(u64);

impl Hasher for Through {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, value: u128) {
        self.0 = (value & u128::from(u64::MAX)) as u64;
    }
}

/// Two keyed hashes of 64 bits with random keys: whoever writes ids cannot choose two that collide.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    limit: u64,
    low: RandomState,
    high: RandomState,
    seen: HashSet<u128, BuildHasherDefault<Through>>,
    pub(crate) compared: u64,
}

impl Ids {
    /// Returns an empty set that remembers at most so many.
    pub(crate) fn new(limit: u64) -> Self {
        let (low, high) = (RandomState::new(), RandomState::new());
        Self { limit, low, high, seen: HashSet::default(), compared: 0 }
    }

    /// Returns the hash that stands for an id.
    pub(crate) fn key(&self, id: &[u8]) -> IdKey {
        IdKey(u128::from(self.low.hash_one(id)) | (u128::from(self.high.hash_one(id)) << 64))
    }

    /// Returns whether the id is new, as far as the set remembers.
    pub(crate) fn is_new(&mut self, IdKey(key): IdKey) -> bool {
        if self.seen.len() as u64 >= self.limit {
            return !self.seen.contains(&key);
        }
        self.compared += 1;
        self.seen.insert(key)
    }
}
