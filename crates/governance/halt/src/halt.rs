//! What the log proves about the halt, and what is to be thought of the files.
//!
//! It knows neither the bus nor the disk. Engaging needs no proof, and nothing here ever frees: whatever is not a sound
//! statement of the newest epoch is to be replaced by an engagement.
//! Invariant: the epoch that is proven never falls, however the files change.

use mirror_kit::{HaltStatement, HaltView, ReleaseKeys};
use mirror_seal::{Envelope, PublicKey};
use serde::{Deserialize, Serialize};

/// Subject of an engagement.
pub(crate) const ENGAGED: &str = "halt.engaged";
/// Subject of a release.
pub(crate) const RELEASED: &str = "halt.released";

/// Longest reason, in bytes.
pub(crate) const REASON: usize = 300;

/// Payload of `halt.engaged` and `halt.released`: the envelope as it lies in `halt/state`, with the keys by which it can be
/// verified from the log alone. What stands before them is for people, and believed by nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) epoch: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    /// Whether a key signed it that may; an engagement holds without.
    pub(crate) signed: bool,
    pub(crate) envelope: Envelope,
    /// What `halt/keys` held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keys: Option<Envelope>,
}

impl Recorded {
    /// Returns what the log keeps of a statement.
    pub(crate) fn new(
        statement: &HaltStatement,
        signed: bool,
        envelope: &Envelope,
        keys: Option<Envelope>,
    ) -> Self {
        Self {
            epoch: statement.epoch,
            reason: statement.reason.clone(),
            signed,
            envelope: envelope.clone(),
            keys,
        }
    }

    /// Returns the epoch that this proves; none when no key that may has signed it.
    pub(crate) fn proves(&self, device: PublicKey) -> Option<u64> {
        let claim = claim(&self.envelope)?;
        let keys = self.keys.as_ref().and_then(|keys| ReleaseKeys::open(keys, device)).unwrap_or_default();
        keys.trust(device, &self.envelope, &claim).then_some(claim.epoch)
    }
}

/// Returns what an envelope says, whoever signed it.
pub(crate) fn claim(envelope: &Envelope) -> Option<HaltStatement> {
    serde_json::from_slice(&envelope.peek()?).ok()
}

/// What is to be thought of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// A statement of the newest epoch, signed by a key that may make it.
    Sound,
    /// An engagement that no known key signed: in force, and to be signed.
    Unsigned(HaltStatement),
    /// Anything else, and what it is.
    Unsound(String),
}

/// Judges the files; `known` is the highest epoch that is known from anywhere.
pub(crate) fn judge(view: &HaltView, known: u64) -> Finding {
    match &view.statement {
        Some(statement) if statement.engaged && !view.trusted => Finding::Unsigned(statement.clone()),
        Some(statement) if view.trusted && view.floor.is_some() && statement.epoch >= known => Finding::Sound,
        Some(statement) if view.trusted && view.floor.is_some() => {
            let what = if statement.engaged { "an engagement" } else { "a release" };
            Finding::Unsound(format!(
                "halt/state held {what} of epoch {}, and epoch {known} was seen",
                statement.epoch
            ))
        }
        _ => Finding::Unsound(view.halted.clone().unwrap_or_else(|| "halt/seen is missing".to_owned())),
    }
}

/// Returns a text as one line of at most [`REASON`] bytes.
pub(crate) fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut end = REASON.min(line.len());
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_kit::{HALT_KEYS_TYPE, HALT_TYPE, ReleaseKey};
    use mirror_seal::NodeKey;
    use proptest::prelude::*;

    fn statement(epoch: u64, engaged: bool) -> HaltStatement {
        HaltStatement { epoch, engaged, reason: String::new(), since_ms: 0 }
    }

    fn signed(key: &NodeKey, epoch: u64, engaged: bool) -> Envelope {
        Envelope::sign(key, HALT_TYPE, &serde_json::to_vec(&statement(epoch, engaged)).unwrap())
    }

    fn view(epoch: u64, engaged: bool, trusted: bool, floor: Option<u64>) -> HaltView {
        HaltView {
            halted: None,
            statement: Some(statement(epoch, engaged)),
            trusted,
            seen: floor.unwrap_or(0),
            floor,
            envelope: None,
        }
    }

    #[test]
    fn an_event_proves_an_epoch_only_by_a_key_that_the_device_names() {
        let keys = ["device", "keeper", "owner", "thief"].map(|_| NodeKey::generate().unwrap());
        let [device, keeper, owner, thief] = &keys;
        let named = |by: &NodeKey| {
            let row = |kind: &str, key: &NodeKey| ReleaseKey {
                kind: kind.into(),
                public_key: key.public().to_hex(),
            };
            let keys = ReleaseKeys { keys: vec![row("keeper", keeper), row("recovery", owner)] };
            Some(Envelope::sign(by, HALT_KEYS_TYPE, &serde_json::to_vec(&keys).unwrap()))
        };
        let proves = |by: &NodeKey, engaged: bool, keys: Option<Envelope>| {
            // The outer epoch lies, and nobody believes it.
            let recorded = Recorded {
                epoch: 99,
                ..Recorded::new(&statement(7, engaged), true, &signed(by, 7, engaged), keys)
            };
            recorded.proves(device.public())
        };
        assert_eq!(proves(keeper, true, named(device)), Some(7));
        assert_eq!(proves(owner, true, named(device)), Some(7));
        assert_eq!(proves(owner, false, named(device)), Some(7));
        assert_eq!(proves(device, true, None), Some(7));
        assert_eq!(proves(keeper, false, named(device)), None, "the keeper cannot release");
        assert_eq!(proves(device, false, named(device)), None, "nor can the machine");
        assert_eq!(proves(thief, true, named(device)), None);
        assert_eq!(proves(owner, false, named(thief)), None);
        assert_eq!(proves(owner, false, None), None);
    }

    #[test]
    fn only_a_trusted_statement_of_the_newest_epoch_is_sound() {
        assert_eq!(judge(&view(5, true, true, Some(5)), 5), Finding::Sound);
        assert_eq!(judge(&view(5, false, true, Some(5)), 5), Finding::Sound);
        assert_eq!(judge(&view(6, false, true, Some(5)), 5), Finding::Sound);
        assert_eq!(judge(&view(9, true, false, Some(5)), 5), Finding::Unsigned(statement(9, true)));
        for unsound in [
            view(4, false, true, Some(4)),
            view(4, true, true, Some(4)),
            view(6, false, false, Some(5)),
            view(5, false, true, None),
            view(5, true, true, None),
        ] {
            assert!(matches!(judge(&unsound, 5), Finding::Unsound(_)), "{unsound:?}");
        }
        let gone = HaltView {
            halted: Some("halt/state cannot be read".into()),
            statement: None,
            ..view(0, false, false, Some(5))
        };
        assert_eq!(judge(&gone, 5), Finding::Unsound("halt/state cannot be read".into()));
    }

    #[test]
    fn a_reason_is_cut_to_one_line() {
        assert_eq!(one_line("a\nb\u{1b}c"), "a b c");
        let long = one_line(&"\u{e9}".repeat(200));
        assert_eq!((long.len(), long.chars().count()), (300, 150));
        assert_eq!(one_line(&format!("x{}", "\u{e9}".repeat(200))).len(), 299);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_older_than_what_is_known_is_ever_sound(
            epoch in 0u64..9, engaged: bool, trusted: bool, floor in prop::option::of(0u64..9), known in 0u64..9
        ) {
            if judge(&view(epoch, engaged, trusted, floor), known) == Finding::Sound {
                prop_assert!(trusted && epoch >= known && floor.is_some());
            }
        }
    }
}
