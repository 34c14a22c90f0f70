//! The domain: the cards that are shown, and what each channel did with them. Pure; it knows no clock and no wire.
//!
//! Invariant: the state depends on the sequence of events alone, and an event that comes again changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Most cleared cards that wait to be taken back by a server; more are forgotten, the oldest first.
const GONE_LIMIT: usize = 256;

/// How soon a card must be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Urgency {
    Min,
    Low,
    Default,
    High,
    Urgent,
}

/// A way to the owner besides the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Channel {
    Desktop,
    Ntfy,
}

impl Channel {
    /// Returns the name in the contract.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Desktop => "desktop",
            Self::Ntfy => "ntfy",
        }
    }

    /// Returns whether cards of an urgency go this way; a desktop cannot show one without interrupting.
    pub(crate) fn takes(self, urgency: Urgency) -> bool {
        self != Self::Desktop || urgency != Urgency::Min
    }
}

/// What a card says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    pub(crate) title: String,
    pub(crate) body: String,
    pub(crate) urgency: Urgency,
}

/// The payload of `notify.card`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Put {
    pub(crate) subject: String,
    #[serde(flatten)]
    pub(crate) content: Content,
    /// Who put it, as the bus names actors.
    pub(crate) by: String,
}

/// The payload of `notify.cleared`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cleared {
    pub(crate) subject: String,
}

/// What a channel did with a card, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) channel: Channel,
    /// Whether it took the card; else it failed and is not tried again.
    pub(crate) sent: bool,
    /// When, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// Why it failed; empty when it was sent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) detail: String,
}

/// The payload of `notify.delivered`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delivered {
    pub(crate) subject: String,
    /// Position of the card.
    pub(crate) of: u64,
    pub(crate) results: Vec<Outcome>,
}

/// The payload of `notify.retracted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retracted {
    pub(crate) subject: String,
    /// Position of what made the card one to take back.
    pub(crate) of: u64,
}

/// One event under `notify`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Put(Put),
    Cleared(Cleared),
    Delivered(Delivered),
    Retracted(Retracted),
}

/// A card that is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Card {
    pub(crate) content: Content,
    pub(crate) by: String,
    /// Position of its content.
    pub(crate) seq: u64,
    /// When the content was put, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    pub(crate) replaced: u32,
    /// What the channels did with this content, for good.
    pub(crate) done: BTreeMap<Channel, Outcome>,
    /// Channels that show this content or an earlier one.
    pub(crate) shown: BTreeSet<Channel>,
}

/// A cleared card that a server may still show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gone {
    /// Position of what made it one to take back.
    pub(crate) seq: u64,
    /// When that was, in milliseconds since 1970.
    pub(crate) at_ms: u64,
}

/// All cards.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Cards {
    shown: BTreeMap<String, Card>,
    gone: BTreeMap<String, Gone>,
}

impl Cards {
    /// Takes one change; `at_ms` is when it was recorded.
    pub(crate) fn apply(&mut self, seq: u64, at_ms: u64, change: Change) {
        match change {
            Change::Put(put) => self.put(seq, at_ms, put),
            Change::Cleared(Cleared { subject }) => {
                if let Some(card) = self.shown.remove(&subject)
                    && card.shown.contains(&Channel::Ntfy)
                {
                    self.take_back(subject, Gone { seq, at_ms });
                }
            }
            Change::Delivered(delivered) => self.delivered(seq, at_ms, delivered),
            Change::Retracted(Retracted { subject, of }) => {
                if self.gone.get(&subject).is_some_and(|gone| gone.seq == of) {
                    self.gone.remove(&subject);
                }
            }
        }
    }

    fn put(&mut self, seq: u64, at_ms: u64, put: Put) {
        let Put { subject, content, by } = put;
        let before = self.shown.get(&subject);
        if before.is_some_and(|card| card.content == content) {
            return;
        }
        let replaced = before.map_or(0, |card| card.replaced.saturating_add(1));
        let mut shown = before.map(|card| card.shown.clone()).unwrap_or_default();
        // The new card takes the place of one that a server still shows.
        if self.gone.remove(&subject).is_some() {
            shown.insert(Channel::Ntfy);
        }
        let card = Card { content, by, seq, at_ms, replaced, done: BTreeMap::new(), shown };
        self.shown.insert(subject, card);
    }

    fn delivered(&mut self, seq: u64, at_ms: u64, delivered: Delivered) {
        let Delivered { subject, of, results } = delivered;
        let Some(card) = self.shown.get_mut(&subject) else {
            // It was cleared while it was on its way.
            if results.iter().any(|r| r.sent && r.channel == Channel::Ntfy) {
                self.take_back(subject, Gone { seq, at_ms });
            }
            return;
        };
        for result in results {
            if result.sent {
                card.shown.insert(result.channel);
            }
            if card.seq == of {
                card.done.insert(result.channel, result);
            }
        }
    }

    fn take_back(&mut self, subject: String, gone: Gone) {
        self.gone.insert(subject, gone);
        while self.gone.len() > GONE_LIMIT {
            let oldest =
                self.gone.iter().min_by_key(|(_, gone)| gone.seq).map(|(subject, _)| subject.clone());
            oldest.map(|subject| self.gone.remove(&subject));
        }
    }

    /// Returns the card of a subject.
    pub(crate) fn get(&self, subject: &str) -> Option<&Card> {
        self.shown.get(subject)
    }

    /// Returns all cards by subject.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Card)> {
        self.shown.iter()
    }

    /// Returns the cleared cards that a server may still show.
    pub(crate) fn gone(&self) -> impl Iterator<Item = (&String, &Gone)> {
        self.gone.iter()
    }

    /// Returns whether a card says anything new; refuses one more subject than the limit.
    pub(crate) fn is_news(&self, put: &Put, limit: usize) -> Result<bool, Error> {
        match self.shown.get(&put.subject) {
            Some(card) => Ok(card.content != put.content),
            None if self.shown.len() >= limit => Err(Error::Full(limit)),
            None => Ok(true),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::{Just, ProptestConfig, Strategy, prop_assert_eq, prop_oneof, proptest};

    pub(crate) fn put(subject: &str, title: &str) -> Change {
        let content = Content { title: title.to_owned(), body: String::new(), urgency: Urgency::Default };
        Change::Put(Put { subject: subject.to_owned(), content, by: "local".to_owned() })
    }

    fn cleared(subject: &str) -> Change {
        Change::Cleared(Cleared { subject: subject.to_owned() })
    }

    pub(crate) fn delivered(subject: &str, of: u64, sent: bool) -> Change {
        let result = Outcome { channel: Channel::Ntfy, sent, at_ms: 7, detail: String::new() };
        Change::Delivered(Delivered { subject: subject.to_owned(), of, results: vec![result] })
    }

    fn retracted(subject: &str, of: u64) -> Change {
        Change::Retracted(Retracted { subject: subject.to_owned(), of })
    }

    pub(crate) fn folded(changes: impl IntoIterator<Item = Change>) -> Cards {
        let mut cards = Cards::default();
        for (seq, change) in (1..).zip(changes) {
            cards.apply(seq, seq * 1000, change);
        }
        cards
    }

    fn gone(cards: &Cards) -> Vec<(&str, u64)> {
        cards.gone().map(|(subject, gone)| (subject.as_str(), gone.seq)).collect()
    }

    #[test]
    fn a_card_replaces_the_one_before_and_has_to_be_delivered_anew() {
        let cards = folded([put("a", "one"), delivered("a", 1, true), put("b", "x"), put("a", "two")]);
        let card = cards.get("a").unwrap();
        assert_eq!((card.content.title.as_str(), card.seq, card.at_ms, card.replaced), ("two", 4, 4000, 1));
        assert!(card.done.is_empty() && card.shown.contains(&Channel::Ntfy));
        assert_eq!(cards.iter().count(), 2);
    }

    #[test]
    fn the_same_content_again_changes_nothing() {
        let cards = folded([put("a", "one"), delivered("a", 1, true), put("a", "one")]);
        assert_eq!(cards, folded([put("a", "one"), delivered("a", 1, true)]));
    }

    #[test]
    fn the_outcome_of_an_older_content_does_not_count_for_the_newer() {
        let cards = folded([put("a", "one"), put("a", "two"), delivered("a", 1, true)]);
        let card = cards.get("a").unwrap();
        assert!(card.done.is_empty() && card.shown.contains(&Channel::Ntfy));
    }

    #[test]
    fn a_card_is_taken_back_where_a_server_shows_it() {
        let sent = folded([put("a", "one"), delivered("a", 1, true), cleared("a")]);
        assert_eq!(gone(&sent), [("a", 3)]);
        let failed = folded([put("a", "one"), delivered("a", 1, false), cleared("a")]);
        assert_eq!(gone(&failed), []);
        let on_its_way = folded([put("a", "one"), cleared("a"), delivered("a", 1, true)]);
        assert_eq!(gone(&on_its_way), [("a", 3)]);
        let replaced = folded([put("a", "one"), delivered("a", 1, true), put("a", "two"), cleared("a")]);
        assert_eq!(gone(&replaced), [("a", 4)]);
    }

    #[test]
    fn what_was_taken_back_is_done_with_and_a_new_card_takes_its_place() {
        let cleared = || vec![put("a", "one"), delivered("a", 1, true), cleared("a")];
        let of = |of| folded(cleared().into_iter().chain([retracted("a", of)]));
        assert_eq!(gone(&of(3)), []);
        assert_eq!(gone(&of(1)), [("a", 3)], "an older clearing was meant");
        let again = folded(cleared().into_iter().chain([put("a", "one")]));
        assert_eq!(gone(&again), []);
        assert!(again.get("a").unwrap().shown.contains(&Channel::Ntfy));
    }

    #[test]
    fn what_is_to_be_taken_back_has_a_bound() {
        let names: Vec<String> = (0..300).map(|n| format!("s{n}")).collect();
        let mut cards = Cards::default();
        for (n, name) in (1..).zip(&names) {
            cards.apply(n, 0, delivered(name, n, true));
        }
        let kept = gone(&cards);
        assert_eq!(kept.len(), GONE_LIMIT);
        assert!(kept.iter().all(|(_, seq)| *seq > 300 - GONE_LIMIT as u64));
    }

    #[test]
    fn the_limit_holds_for_new_subjects_only() {
        let cards = folded([put("a", "one")]);
        let asked = |subject, title| match put(subject, title) {
            Change::Put(put) => cards.is_news(&put, 1),
            _ => unreachable!(),
        };
        assert!(!asked("a", "one").unwrap());
        assert!(asked("a", "two").unwrap());
        assert!(matches!(asked("b", "one"), Err(Error::Full(1))));
    }

    #[test]
    fn a_desktop_does_not_show_what_must_not_interrupt() {
        assert!(!Channel::Desktop.takes(Urgency::Min) && Channel::Desktop.takes(Urgency::Low));
        assert!(Channel::Ntfy.takes(Urgency::Min));
    }

    fn any_change() -> impl Strategy<Value = Change> {
        let subject = prop_oneof![Just("a"), Just("b")];
        (subject, 0..4_u8, 1..20_u64).prop_map(|(subject, kind, of)| match kind {
            0 => put(subject, if of % 2 == 0 { "even" } else { "odd" }),
            1 => cleared(subject),
            2 => delivered(subject, of, of % 3 > 0),
            _ => retracted(subject, of),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_snapshot_anywhere_gives_the_same_cards(
            changes in proptest::collection::vec(any_change(), 0..30), at in 0_usize..30,
        ) {
            let at = at.min(changes.len());
            let saved = serde_json::to_vec(&folded(changes[..at].to_vec())).unwrap();
            let mut resumed: Cards = serde_json::from_slice(&saved).unwrap();
            for (seq, change) in (1..).zip(&changes).skip(at) {
                resumed.apply(seq, seq * 1000, change.clone());
            }
            prop_assert_eq!(resumed, folded(changes));
        }
    }
}
