//! The set of ids seen, as hashes in one open table.

use std::hash::{BuildHasher as _, RandomState};

use crate::findings::Place;

/// Ids beyond this are not remembered unless asked for, so that a log of any length is verified in bounded memory: a
/// table of 268 MB.
pub(crate) const LIMIT: u64 = 12_582_912;

/// Slots of the first table; each has 16 bytes.
const FIRST: usize = 1 << 10;

/// How many ids are looked up together: their slots lie anywhere, and memory is slow one at a time.
const TOGETHER: usize = 64;

/// Low bits of a slot, which hold the sequence of the event that has the id.
const SEQ_BITS: u32 = 40;

/// The hash that stands for an id, with room for a sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdKey(u128);

/// 64 bits of a hash with a random key, so that whoever writes ids cannot choose two that collide, and 24 bits of a CRC.
///
/// A slot holds the sequence too: an event that is read again is not taken for a second one.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    limit: u64,
    keyed: RandomState,
    /// A power of two of slots, ordered by hash but for collisions; 0 is free.
    slots: Vec<u128>,
    used: usize,
    /// Ids that are not looked up yet, each with the place of its event.
    waiting: Vec<(u128, Place)>,
    pub(crate) compared: u64,
}

impl Ids {
    /// Returns an empty set that remembers at most so many.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            keyed: RandomState::new(),
            slots: Vec::new(),
            used: 0,
            waiting: Vec::new(),
            compared: 0,
        }
    }

    /// Returns the hash that stands for an id.
    #[inline]
    pub(crate) fn key(&self, id: &[u8]) -> IdKey {
        let crc = crc32c::crc32c(id);
        IdKey((u128::from(self.keyed.hash_one(id)) << 64) | (u128::from(crc >> 8) << SEQ_BITS))
    }

    /// Makes room for so many ids, as far as they are remembered.
    pub(crate) fn expect(&mut self, ids: u64) {
        let ids = ids.min(self.limit);
        while self.slots.len() as u64 / 4 * 3 < ids {
            self.grow();
        }
    }

    /// Takes the id of an event; returns whether it is time to settle.
    #[inline]
    pub(crate) fn add(&mut self, IdKey(key): IdKey, seq: u64, place: Place) -> bool {
        // Sequences begin at 1, so that no slot in use is 0.
        let seq = (seq & ((1 << SEQ_BITS) - 1)).max(1);
        self.waiting.push((key | u128::from(seq), place));
        self.waiting.len() >= TOGETHER
    }

    /// Looks up the ids that wait; returns the events of which another one has the id, as far as the set remembers.
    pub(crate) fn settle(&mut self) -> Vec<(u64, Place)> {
        let mut again = Vec::new();
        let waiting = std::mem::take(&mut self.waiting);
        // Looked at once before they are needed, so that memory brings all of them at the same time.
        let slots = self.slots.len();
        let near = |entry: u128| self.slots.get(home(entry, slots)).copied().unwrap_or_default() as u64;
        std::hint::black_box(waiting.iter().fold(0, |sum, (entry, _)| sum ^ near(*entry)));
        for (entry, place) in &waiting {
            if !self.is_new(*entry) {
                again.push(((entry & ((1 << SEQ_BITS) - 1)) as u64, *place));
            }
        }
        self.waiting = waiting;
        self.waiting.clear();
        again
    }

    /// Forgets the ids that wait: their events are read again.
    pub(crate) fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    /// Returns whether no other event has the id, as far as the set remembers.
    #[inline]
    fn is_new(&mut self, entry: u128) -> bool {
        if self.used >= self.slots.len() / 4 * 3 && (self.used as u64) < self.limit {
            self.grow();
        }
        let place = self.find(entry);
        let Some(slot) = self.slots.get_mut(place) else { return true };
        if *slot != 0 {
            self.compared += 1;
            return *slot == entry;
        }
        if (self.used as u64) < self.limit {
            *slot = entry;
            self.used += 1;
            self.compared += 1;
        }
        true
    }

    /// Returns the slot of a hash, or the free one where it belongs.
    #[inline]
    fn find(&self, entry: u128) -> usize {
        let mask = self.slots.len().wrapping_sub(1);
        let mut place = home(entry, self.slots.len());
        // A quarter is free, so this ends.
        while let Some(slot) = self.slots.get(place) {
            if *slot == 0 || *slot >> SEQ_BITS == entry >> SEQ_BITS {
                break;
            }
            place = (place + 1) & mask;
        }
        place
    }

    #[cold]
    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(FIRST);
        let old = std::mem::replace(&mut self.slots, vec![0; size]);
        for entry in old.into_iter().filter(|entry| *entry != 0) {
            let place = self.find(entry);
            if let Some(slot) = self.slots.get_mut(place) {
                *slot = entry;
            }
        }
    }
}

/// Returns where a hash belongs: its upper bits, so that a table that grows is copied in order.
#[inline]
fn home(entry: u128, slots: usize) -> usize {
    let hash = (entry >> 64) as u64;
    let bits = slots.trailing_zeros();
    hash.checked_shr(64 - bits).unwrap_or_default() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { segment: 1, packed: false, offset: 0 };

    /// Takes an id at once; returns whether it is new.
    fn is_new(ids: &mut Ids, id: &[u8], seq: u64) -> bool {
        let key = ids.key(id);
        ids.add(key, seq, PLACE);
        let again = ids.settle();
        assert!(again.is_empty() || again == [(seq, PLACE)]);
        again.is_empty()
    }

    #[test]
    fn an_id_is_new_once_and_its_own_event_is_no_other() {
        let mut ids = Ids::new(LIMIT);
        ids.expect(5_000);
        for seq in 1..20_000_u64 {
            assert!(is_new(&mut ids, format!("id-{seq}").as_bytes(), seq));
        }
        for seq in 1..20_000_u64 {
            let id = format!("id-{seq}");
            assert!(is_new(&mut ids, id.as_bytes(), seq), "the same event is read again");
            assert!(!is_new(&mut ids, id.as_bytes(), seq + 1));
        }
    }

    #[test]
    fn ids_that_are_looked_up_together_are_compared_with_each_other() {
        let mut ids = Ids::new(LIMIT);
        let (a, b) = (ids.key(b"a"), ids.key(b"b"));
        for (key, seq) in [(a, 1), (b, 2), (a, 3)] {
            assert!(!ids.add(key, seq, PLACE));
        }
        assert_eq!(ids.settle(), [(3, PLACE)]);
        ids.add(b, 4, PLACE);
        ids.forget_waiting();
        assert_eq!(ids.settle(), []);
        assert!((1..TOGETHER as u64).all(|seq| !ids.add(a, seq, PLACE)));
        assert!(ids.add(a, 1, PLACE), "there are enough");
    }

    #[test]
    fn memory_is_bounded_and_what_fits_is_still_compared() {
        let mut ids = Ids::new(10_000);
        ids.expect(1 << 40);
        for seq in 1..40_000_u64 {
            assert!(is_new(&mut ids, &seq.to_le_bytes(), seq));
        }
        assert_eq!((ids.compared, ids.slots.len()), (10_000, 1 << 14));
        assert!(!is_new(&mut ids, &7_u64.to_le_bytes(), 50_000));
        assert!(is_new(&mut ids, &39_000_u64.to_le_bytes(), 50_000));
    }

    #[test]
    fn nothing_is_remembered_where_nothing_may_be() {
        let mut ids = Ids::new(0);
        ids.expect(9);
        assert!(is_new(&mut ids, b"a", 1) && is_new(&mut ids, b"a", 2));
        assert_eq!((ids.compared, ids.slots.len()), (0, 0));
    }
}
