//! The entries: short texts by name, as the log tells them.
//!
//! It knows neither the bus nor the disk.
//! Invariant: the same events give the same entries, wherever the fold began.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A change, as the payload of an event `witness.put` holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Put {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A text and the position of the change that put it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) text: String,
    pub(crate) seq: u64,
}

/// The fold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entries {
    /// Every event up to this position is in here.
    upto: u64,
    /// Position of the last erasure that the entries reflect.
    erased: u64,
    entries: BTreeMap<String, Entry>,
}

impl Entries {
    /// Returns the fold before the first event, for a rebuild after the erasure at a position.
    ///
    /// An erased change counts as one that never was. What it had changed is unknown once it is erased, so the fold
    /// starts again; erasures are rare.
    pub(crate) fn rebuilt_after(erased: u64) -> Self {
        Self { erased, ..Self::default() }
    }

    /// Returns the position that the fold reflects.
    pub(crate) fn upto(&self) -> u64 {
        self.upto
    }

    /// Returns whether the fold was built after the erasure at a position.
    pub(crate) fn reflects_erasure(&self, seq: u64) -> bool {
        seq <= self.erased
    }

    /// Takes one change.
    pub(crate) fn apply(&mut self, seq: u64, put: Put) {
        if seq > self.upto {
            self.entries.insert(put.name, Entry { text: put.text, seq });
            self.upto = seq;
        }
    }

    /// Notes that nothing up to a position is left to take.
    pub(crate) fn skip_to(&mut self, upto: u64) {
        self.upto = self.upto.max(upto);
    }

    /// Returns an entry.
    pub(crate) fn get(&self, name: &str) -> Result<&Entry, Error> {
        self.entries.get(name).ok_or_else(|| Error::Missing(name.to_owned()))
    }

    /// Returns where the very text was put before, or nothing when the change is to be recorded.
    pub(crate) fn find(&self, put: &Put, limit: usize) -> Result<Option<u64>, Error> {
        match self.entries.get(&put.name) {
            Some(entry) if entry.text == put.text => Ok(Some(entry.seq)),
            Some(_) => Ok(None),
            None if self.entries.len() >= limit => Err(Error::Full(limit)),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};

    fn put(name: &str, text: &str) -> Put {
        Put { name: name.to_owned(), text: text.to_owned() }
    }

    fn folded(events: &[(u64, Put)]) -> Entries {
        let mut entries = Entries::default();
        for (seq, put) in events {
            entries.apply(*seq, put.clone());
        }
        entries
    }

    #[test]
    fn the_last_change_of_a_name_holds() {
        let entries = folded(&[(1, put("a", "one")), (2, put("b", "two")), (5, put("a", "three"))]);
        assert_eq!(entries.get("a").unwrap(), &Entry { text: "three".to_owned(), seq: 5 });
        assert_eq!(entries.upto(), 5);
        assert!(matches!(entries.get("c"), Err(Error::Missing(_))));
    }

    #[test]
    fn an_event_that_comes_twice_is_taken_once() {
        let once = folded(&[(1, put("a", "one")), (2, put("a", "two"))]);
        let mut twice = once.clone();
        twice.apply(1, put("a", "one"));
        assert_eq!(twice, once);
    }

    #[test]
    fn the_limit_holds_for_new_names_only() {
        let entries = folded(&[(1, put("a", "one"))]);
        assert_eq!(entries.find(&put("a", "one"), 1).unwrap(), Some(1));
        assert_eq!(entries.find(&put("a", "two"), 1).unwrap(), None);
        assert!(matches!(entries.find(&put("b", "one"), 1), Err(Error::Full(1))));
        assert_eq!(entries.find(&put("b", "one"), 2).unwrap(), None);
    }

    #[test]
    fn a_rebuild_knows_the_erasure_it_follows() {
        let entries = Entries::rebuilt_after(7);
        assert!(entries.reflects_erasure(7) && !entries.reflects_erasure(8));
        assert_eq!(entries.upto(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_same_events_give_the_same_entries_wherever_the_fold_began(
            texts in proptest::collection::vec(("[a-c]", "[xy]"), 0..20),
            at in 0_usize..20,
            overlap in 0_usize..5,
        ) {
            let events: Vec<(u64, Put)> = (1..).zip(texts.iter().map(|(n, t)| put(n, t))).collect();
            let at = at.min(events.len());
            let saved = serde_json::to_vec(&folded(&events[..at])).unwrap();
            let mut resumed: Entries = serde_json::from_slice(&saved).unwrap();
            for (seq, put) in &events[at.saturating_sub(overlap)..] {
                resumed.apply(*seq, put.clone());
            }
            prop_assert_eq!(resumed, folded(&events));
        }
    }
}
