//! Sets of positions as ranges that neither touch nor overlap.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A set of positions, kept as its maximal ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds the positions from `first` to `last`; nothing when `last` is smaller.
    pub fn insert(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        let (mut first, mut last) = (first, last);
        while let Some((&start, &end)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            first = first.min(start);
            last = last.max(end);
            self.0.remove(&start);
        }
        self.0.insert(first, last);
    }

    /// Returns whether a position is in the set.
    pub fn contains(&self, seq: u64) -> bool {
        self.0.range(..=seq).next_back().is_some_and(|(_, end)| seq <= *end)
    }

    /// Takes out everything up to `upto`, and what then touches it; returns the last position that was taken out.
    pub fn raise(&mut self, upto: u64) -> u64 {
        let mut upto = upto;
        while let Some(range) = self.0.first_entry() {
            if *range.key() > upto.saturating_add(1) {
                break;
            }
            upto = upto.max(range.remove());
        }
        upto
    }

    /// Returns the ranges in order, first and last position each.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(first, last)| (*first, *last))
    }

    /// Returns how many ranges there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the highest position.
    pub fn last(&self) -> Option<u64> {
        self.0.last_key_value().map(|(_, last)| *last)
    }
}

impl From<Vec<(u64, u64)>> for Ranges {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut ranges = Self::default();
        pairs.into_iter().for_each(|(first, last)| ranges.insert(first, last));
        ranges
    }
}

impl From<Ranges> for Vec<(u64, u64)> {
    fn from(ranges: Ranges) -> Self {
        ranges.iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ranges_are_the_set_they_stand_for() {
        // Every order of insertions of short ranges over eleven positions, by a small generator.
        let mut dice = 1_u64;
        let mut roll = |sides: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % sides
        };
        for _ in 0..2_000 {
            let (mut ranges, mut naive) = (Ranges::default(), BTreeSet::new());
            for _ in 0..roll(8) {
                let first = roll(12);
                let last = (first + roll(4)).saturating_sub(1);
                ranges.insert(first, last);
                naive.extend(first..=last);
            }
            for seq in 0..20 {
                assert_eq!(ranges.contains(seq), naive.contains(&seq), "{seq} in {ranges:?}");
            }
            let pairs: Vec<_> = ranges.iter().collect();
            assert!(pairs.windows(2).all(|w| w[0].1 + 1 < w[1].0), "{pairs:?} are not maximal");
            assert_eq!(Ranges::from(pairs), ranges);
            let from = roll(14);
            let mut upto = from;
            while naive.contains(&(upto + 1)) {
                upto += 1;
            }
            assert_eq!(ranges.raise(from), upto);
            assert!((0..20).all(|s| ranges.contains(s) == (s > upto && naive.contains(&s))), "{ranges:?}");
        }
    }

    #[test]
    fn the_end_of_numbers_is_no_overflow() {
        let mut ranges = Ranges::from(vec![(u64::MAX, u64::MAX), (5, 4)]);
        ranges.insert(u64::MAX - 1, u64::MAX - 1);
        assert_eq!((ranges.len(), ranges.last()), (1, Some(u64::MAX)));
        assert_eq!(ranges.raise(u64::MAX), u64::MAX);
        assert!(ranges.is_empty());
    }
}
