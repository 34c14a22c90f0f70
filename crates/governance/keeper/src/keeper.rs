//! Who may have what signed: the table of callers and types, and the rules for what is signed.
//!
//! It knows neither keys nor the disk. What is not in the table is refused.
//! Invariant: two checkpoints that were allowed one after the other never contradict each other.

use mirror_kit::{HALT_TYPE, HaltStatement};
use mirror_seal::unbase64;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Checkpoints of the log.
    Checkpoint,
    /// Engagements of the halt.
    Halt,
}

impl Purpose {
    /// Every purpose that has a key of its own; the device key is none of them, because it certifies theirs.
    pub(crate) const ALL: [Self; 2] = [Self::Checkpoint, Self::Halt];

    /// Returns the name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Halt => "halt",
        }
    }

    /// Reads a name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == name)
    }
}

/// Who may have checkpoints signed.
pub(crate) const NOTE_CALLER: &str = "svc:witness";

/// A line of the table: a caller may have payloads of a type signed by a key.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) caller: &'static str,
    pub(crate) payload_type: &'static str,
    pub(crate) purpose: Purpose,
    /// Returns what is wrong with a payload; `seen` is the highest epoch of the halt that was seen.
    pub(crate) check: fn(payload: &[u8], seen: u64) -> Result<(), &'static str>,
}

/// The table.
pub(crate) const TABLE: &[Rule] =
    &[Rule { caller: "svc:halt", payload_type: HALT_TYPE, purpose: Purpose::Halt, check: engagement }];

/// Returns the line of the table for a caller and a type.
pub(crate) fn rule(caller: &str, payload_type: &str) -> Option<&'static Rule> {
    TABLE.iter().find(|rule| rule.caller == caller && rule.payload_type == payload_type)
}

/// Takes an engagement of the next epoch or an earlier one: a release is the owner's, and an epoch far ahead would be
/// one that no release can follow.
fn engagement(payload: &[u8], seen: u64) -> Result<(), &'static str> {
    let statement: HaltStatement =
        serde_json::from_slice(payload).map_err(|_| "must be a statement of the halt in JSON")?;
    if serde_json::to_vec(&statement).ok().as_deref() != Some(payload) {
        return Err("must be the statement as this build writes it, without anything else");
    }
    if !statement.engaged {
        return Err("must engage the halt; a release is signed by the owner's recovery key");
    }
    if statement.epoch > seen.saturating_add(1) {
        return Err("must not be more than one epoch ahead of halt/seen");
    }
    Ok(())
}

/// A checkpoint: how large the tree is, and its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) size: u64,
    pub(crate) root: [u8; 32],
}

impl Checkpoint {
    /// Reads the text of a note, which must be a checkpoint of a log and nothing else.
    pub(crate) fn parse(text: &str, origin: &str) -> Result<Self, &'static str> {
        let mut lines = text.split('\n');
        if lines.next() != Some(origin) {
            return Err("the first line must be mirrordna/ and the origin of this device's log");
        }
        let size = lines.next().unwrap_or_default();
        let number: u64 = size.parse().map_err(|_| "the second line must be the size in decimal")?;
        if number.to_string() != size {
            return Err("the size must have no sign and no leading zeros");
        }
        let root = lines.next().and_then(unbase64).and_then(|root| <[u8; 32]>::try_from(root).ok());
        let root = root.ok_or("the third line must be the root hash, 32 bytes in base64")?;
        if (lines.next(), lines.next()) != (Some(""), None) {
            return Err("the text must be three lines, each with a newline, and nothing else");
        }
        Ok(Self { size: number, root })
    }

    /// Returns whether this checkpoint may be signed after another one.
    pub(crate) fn may_follow(&self, last: &Self) -> bool {
        self.size > last.size || self == last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_seal::base64;
    use proptest::prelude::*;

    const ORIGIN: &str = "mirrordna/0123456789abcdef.1";

    fn text(size: &str, root: &[u8]) -> String {
        format!("{ORIGIN}\n{size}\n{}\n", base64(root))
    }

    #[test]
    fn the_table_denies_by_default() {
        let callers =
            ["svc:halt", "svc:witness", "svc:bus", "svc:keeper", "svc:", "halt", "local", "uid:0", ""];
        let types = [
            HALT_TYPE,
            mirror_kit::HALT_KEYS_TYPE,
            crate::recovery::RECOVERY_TYPE,
            crate::CERTIFICATE_TYPE,
            "",
            "text/plain",
        ];
        for caller in callers {
            for payload_type in types {
                let allowed = caller == "svc:halt" && payload_type == HALT_TYPE;
                assert_eq!(rule(caller, payload_type).is_some(), allowed, "{caller} {payload_type}");
            }
        }
    }

    #[test]
    fn only_an_engagement_that_a_release_can_follow_is_signed() {
        #[track_caller]
        fn check(payload: &str, seen: u64, part: Option<&str>) {
            let found =
                rule("svc:halt", HALT_TYPE).map(|rule| (rule.check)(payload.as_bytes(), seen)).unwrap();
            assert_eq!(found.is_err(), part.is_some(), "{payload}: {found:?}");
            assert!(found.err().unwrap_or_default().contains(part.unwrap_or_default()), "{payload}");
        }
        check(r#"{"epoch":5,"engaged":true,"reason":"x","since_ms":9}"#, 4, None);
        check(r#"{"epoch":4,"engaged":true}"#, 4, None);
        check(r#"{"epoch":6,"engaged":true}"#, 4, Some("one epoch ahead"));
        check(&format!(r#"{{"epoch":{},"engaged":true}}"#, u64::MAX), 4, Some("one epoch ahead"));
        check(r#"{"epoch":5,"engaged":false}"#, 4, Some("recovery key"));
        check(r#"{"epoch":5,"engaged":true,"also":1}"#, 4, Some("without anything else"));
        check(r#"{"engaged":true,"epoch":5}"#, 4, Some("without anything else"));
        check(r#"{"epoch":5,"engaged":true} "#, 4, Some("without anything else"));
        check(r#"{"epoch":5,"engaged":true,"engaged":false}"#, 4, Some("in JSON"));
        check("", 4, Some("in JSON"));
    }

    #[test]
    fn a_checkpoint_is_three_lines_of_this_log() {
        let root = [7; 32];
        assert_eq!(Checkpoint::parse(&text("12", &root), ORIGIN), Ok(Checkpoint { size: 12, root }));
        assert!(Checkpoint::parse(&text("0", &root), ORIGIN).is_ok());
        for size in ["", "012", "+1", "-1", " 1", "1 ", "1x", "18446744073709551616"] {
            assert!(Checkpoint::parse(&text(size, &root), ORIGIN).is_err(), "{size:?}");
        }
        assert!(Checkpoint::parse(&text("1", &[7; 31]), ORIGIN).is_err());
        assert!(Checkpoint::parse(&text("1", &[7; 33]), ORIGIN).is_err());
        assert!(Checkpoint::parse(&text("1", &root), "mirrordna/0123456789abcdef.2").is_err());
        let good = text("1", &root);
        for bad in [
            good.trim_end(),
            &format!("{good}\n"),
            &format!("{good}extension\n"),
            &good.replace('\n', "\r\n"),
            "",
        ] {
            assert!(Checkpoint::parse(bad, ORIGIN).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn checkpoints_that_follow_each_other_never_contradict(steps in prop::collection::vec((0u64..6, 0u8..3), 1..40)) {
            let mut last: Option<Checkpoint> = None;
            let mut signed = std::collections::HashMap::new();
            for (size, root) in steps {
                let next = Checkpoint { size, root: [root; 32] };
                if last.is_none_or(|last| next.may_follow(&last)) {
                    prop_assert!(last.is_none_or(|last| size >= last.size));
                    prop_assert_eq!(*signed.entry(size).or_insert(root), root, "two roots of one size");
                    last = Some(next);
                }
            }
        }
    }
}
