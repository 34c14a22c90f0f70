//! The fold: the right edge of the Merkle tree over the log, and what signed checkpoints said of it before.
//!
//! Invariant: a checkpoint is agreed with only when the log, read up to its size, has its root.

use std::collections::VecDeque;

use mirror_seal::{Frontier, Hash};
use serde::{Deserialize, Serialize};

/// Most disagreements that are kept; one is enough to stop signing.
const CONFLICTS: usize = 16;

/// What a checkpoint says: the first `size` events have this root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Number of events.
    pub(crate) size: u64,
    /// Root of the tree over them.
    pub(crate) root: Hash,
}

/// A claim that the log does not bear out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// The claim.
    pub(crate) claim: Claim,
    /// Root that the log has at its size; none when the log is shorter.
    pub(crate) found: Option<Hash>,
}

/// A place in the keeper's own log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Number of the last record that the log tells of; 0 before the first.
    pub(crate) number: u64,
    /// Its hash, 64 hex digits; empty when it is not known.
    pub(crate) hash: String,
}

/// What the fold takes of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Leaf of the event.
    pub(crate) leaf: Hash,
    /// Whether the witness appended it.
    pub(crate) own: bool,
    /// How far into the keeper's log the event reaches, when it is of that kind.
    pub(crate) keeper: Option<Cursor>,
}

/// The state that the log alone determines, and the claims that it is held against.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Fold {
    frontier: Frontier,
    leaf: Option<Hash>,
    foreign: u64,
    keeper: Cursor,
    agreed: Option<Claim>,
    /// Claims of sizes not yet reached, the smallest first.
    ahead: VecDeque<Claim>,
    conflicts: Vec<Conflict>,
}

impl Fold {
    /// Returns a fold as it was saved.
    pub(crate) fn restored(
        frontier: Frontier,
        leaf: Option<Hash>,
        foreign: u64,
        keeper: Cursor,
        agreed: Option<Claim>,
    ) -> Self {
        Self { frontier, leaf, foreign, keeper, agreed, ..Self::default() }
    }

    /// Sets the claims, in order of size, that the log is held against as it is read.
    ///
    /// Returns false when the fold stands beyond the newest of them without having agreed with it: then only reading
    /// from the first event can tell.
    pub(crate) fn hold_against(&mut self, claims: impl IntoIterator<Item = Claim>) -> bool {
        let mut newest = None;
        self.ahead.clear();
        for claim in claims {
            newest = Some(claim);
            if claim.size > self.size() {
                self.ahead.push_back(claim);
            }
        }
        newest.is_none_or(|newest| newest.size > self.size() || self.agreed == Some(newest))
    }

    /// Takes the next event of the log.
    pub(crate) fn take(&mut self, seen: Seen) {
        self.frontier.push(seen.leaf);
        self.leaf = Some(seen.leaf);
        if !seen.own {
            self.foreign = self.size();
        }
        if let Some(keeper) = seen.keeper {
            self.keeper = keeper;
        }
        while let Some(claim) = self.ahead.pop_front_if(|claim| claim.size <= self.frontier.size()) {
            let root = self.frontier.root();
            if claim.root == root {
                self.agreed = Some(claim);
            } else {
                self.disagree(Conflict { claim, found: Some(root) });
            }
        }
    }

    /// Says that the log ends at `head`: a claim of a greater size cannot be borne out.
    pub(crate) fn ends_at(&mut self, head: u64) {
        while let Some(claim) = self.ahead.pop_back_if(|claim| claim.size > head) {
            self.disagree(Conflict { claim, found: None });
        }
    }

    fn disagree(&mut self, conflict: Conflict) {
        if self.conflicts.len() < CONFLICTS {
            self.conflicts.push(conflict);
        }
    }

    /// Returns a claim that the log does not bear out.
    pub(crate) fn conflict(&self) -> Option<Conflict> {
        self.conflicts.first().copied()
    }

    /// Forgets a claim that nobody signed.
    pub(crate) fn dismiss(&mut self, claim: Claim) {
        self.conflicts.retain(|conflict| conflict.claim != claim);
    }

    /// Says that the newest checkpoint is this one, made of this fold.
    pub(crate) fn agree(&mut self, claim: Claim) {
        self.agreed = Some(claim);
    }

    /// Returns the number of events.
    pub(crate) fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// Returns what a checkpoint made of the fold says.
    pub(crate) fn claim(&self) -> Claim {
        Claim { size: self.size(), root: self.frontier.root() }
    }

    /// Returns the tree's right edge.
    pub(crate) fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// Returns the leaf of the last event.
    pub(crate) fn leaf(&self) -> Option<Hash> {
        self.leaf
    }

    /// Returns the position of the last event that the witness did not append; 0 before the first.
    pub(crate) fn foreign(&self) -> u64 {
        self.foreign
    }

    /// Returns how far the log tells of the keeper's log.
    pub(crate) fn keeper(&self) -> &Cursor {
        &self.keeper
    }

    /// Returns the newest claim that the log bore out.
    pub(crate) fn agreed(&self) -> Option<Claim> {
        self.agreed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(n: u64) -> Seen {
        Seen { leaf: mirror_seal::leaf(&n.to_be_bytes()), own: n.is_multiple_of(3), keeper: None }
    }

    fn of(events: u64) -> Fold {
        let mut fold = Fold::default();
        (1..=events).for_each(|n| fold.take(seen(n)));
        fold
    }

    fn read_against(claims: &[Claim], events: u64) -> Fold {
        let mut fold = Fold::default();
        assert!(fold.hold_against(claims.iter().copied()));
        (1..=events).for_each(|n| fold.take(seen(n)));
        fold
    }

    #[test]
    fn the_log_is_held_against_each_claim_as_it_is_read() {
        let claims = [of(3).claim(), of(7).claim()];
        let fold = read_against(&claims, 9);
        assert_eq!((fold.conflict(), fold.agreed()), (None, Some(claims[1])));

        let forged = Claim { size: 7, root: [7; 32] };
        let fold = read_against(&[claims[0], forged], 9);
        let found = Some(claims[1].root);
        assert_eq!(
            (fold.conflict(), fold.agreed()),
            (Some(Conflict { claim: forged, found }), Some(claims[0]))
        );
    }

    #[test]
    fn a_log_that_is_shorter_than_a_claim_is_a_conflict_only_when_it_ends() {
        let claim = of(7).claim();
        let mut fold = read_against(&[of(3).claim(), claim], 5);
        assert_eq!(fold.conflict(), None);
        fold.ends_at(7);
        assert_eq!(fold.conflict(), None, "the rest is not read yet");
        fold.ends_at(6);
        assert_eq!(fold.conflict(), Some(Conflict { claim, found: None }));
        fold.dismiss(claim);
        assert_eq!(fold.conflict(), None);
    }

    #[test]
    fn a_fold_beyond_a_claim_that_it_never_agreed_with_must_begin_anew() {
        let claims = [of(3).claim(), of(7).claim()];
        let mut fold = of(9);
        assert!(fold.hold_against([]));
        assert!(!fold.hold_against(claims));
        fold.agree(claims[0]);
        assert!(!fold.hold_against(claims), "the newest counts");
        fold.agree(claims[1]);
        assert!(fold.hold_against(claims));
        assert!(of(5).hold_against(claims), "the newest is still to come");
    }

    #[test]
    fn only_events_of_others_move_the_head_for_a_checkpoint() {
        assert_eq!((of(0).foreign(), of(2).foreign(), of(3).foreign(), of(4).foreign()), (0, 2, 2, 4));
    }

    proptest! {
        #[test]
        fn a_fold_goes_on_where_it_was_saved(events in 0..200_u64, cut in any::<prop::sample::Index>()) {
            let whole = of(events);
            let part = of(cut.index(usize::try_from(events).unwrap() + 1) as u64);
            let mut fold = Fold::restored(
                part.frontier().clone(), part.leaf(), part.foreign(), part.keeper().clone(), part.agreed());
            prop_assert_eq!(&fold, &part);
            (part.size() + 1..=events).for_each(|n| fold.take(seen(n)));
            prop_assert_eq!(fold, whole);
        }
    }
}
