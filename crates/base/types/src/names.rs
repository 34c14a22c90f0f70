//! Names: subjects, ids, labels, models, origins, causes.

use std::fmt;

/// Why a name was refused: what was wrong, where, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("is empty; {0}")]
    Empty(&'static str),
    /// Too many bytes.
    #[error("has {len} bytes, at most {max} are allowed")]
    Long {
        /// How many.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A character outside the allowed set.
    #[error("has {found:?} at byte {at}; {allowed}")]
    Char {
        /// The character.
        found: char,
        /// Its byte offset.
        at: usize,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A token is empty.
    #[error("has an empty token at byte {at}; {allowed}")]
    EmptyToken {
        /// Byte offset.
        at: usize,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Too many tokens.
    #[error("has {0} tokens, at most 8 are allowed")]
    Tokens(usize),
    /// Not of the form.
    #[error("is not of the form {0}")]
    Form(&'static str),
}

/// Longest subject, and longest filter, in bytes.
pub(crate) const SUBJECT_LIMIT: usize = 255;

const SUBJECT: &str = "a subject is 1 to 8 tokens of [a-z0-9-] joined by dots, at most 255 bytes";
const ID: &str = "an id is 1 to 128 of [A-Za-z0-9_.:-]";
const MODEL: &str = "a model is 1 to 128 of [A-Za-z0-9_.:/@-]";
const LABEL: &str = "a label is 1 to 64 of [a-z0-9-] with single dots between words";

fn check(
    text: &str,
    max: usize,
    rule: &'static str,
    allowed: impl Fn(char) -> bool,
) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty(rule));
    }
    if text.len() > max {
        return Err(NameError::Long { len: text.len(), max });
    }
    match text.char_indices().find(|(_, c)| !allowed(*c)) {
        Some((at, found)) => Err(NameError::Char { found, at, allowed: rule }),
        None => Ok(()),
    }
}

fn no_empty_token(text: &str, rule: &'static str) -> Result<usize, NameError> {
    let mut at = 0;
    let mut count = 0;
    for token in text.split('.') {
        if token.is_empty() {
            return Err(NameError::EmptyToken { at, allowed: rule });
        }
        at += token.len() + 1;
        count += 1;
    }
    Ok(count)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// What an event is about, `import.claude.turn`: 1 to 8 tokens of `[a-z0-9-]` joined by dots.
    Subject
}

name! {
    /// Idempotency id of an event.
    EventId
}

name! {
    /// Model that caused an event.
    Model
}

name! {
    /// Label of an event; it travels with the value.
    Label
}

impl Subject {
    /// Checks a subject.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text, SUBJECT_LIMIT, SUBJECT, |c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.'))?;
        match no_empty_token(text, SUBJECT)? {
            1..=8 => Ok(Self(text.into())),
            n => Err(NameError::Tokens(n)),
        }
    }

    /// Returns the first token, which has one owner.
    pub fn prefix(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }
}

impl EventId {
    /// Checks an id.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text, 128, ID, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '-'))?;
        Ok(Self(text.into()))
    }
}

impl Model {
    /// Checks a model's name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text, 128, MODEL, |c| {
            c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '/' | '@' | '-')
        })?;
        Ok(Self(text.into()))
    }
}

impl Label {
    /// Checks a label.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text, 64, LABEL, |c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.'))?;
        no_empty_token(text, LABEL)?;
        Ok(Self(text.into()))
    }
}

/// A log: the key fingerprint of the device and the epoch, `3f0c9a1b2c4d5e6f.1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    text: Box<str>,
    epoch: u32,
}

impl Origin {
    /// Returns the origin of a device and an epoch.
    pub fn new(fingerprint: &str, epoch: u32) -> Result<Self, NameError> {
        Self::parse(&format!("{fingerprint}.{epoch}"))
    }

    /// Checks an origin.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        const FORM: NameError = NameError::Form("<16 lower-case hex digits>.<epoch from 1>");
        let (fingerprint, epoch) = text.split_once('.').ok_or(FORM)?;
        let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        let number: u32 = epoch.parse().map_err(|_| FORM)?;
        let valid = fingerprint.len() == 16
            && fingerprint.chars().all(hex)
            && number > 0
            && number.to_string() == epoch;
        if valid { Ok(Self { text: text.into(), epoch: number }) } else { Err(FORM) }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the epoch, from 1.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An event named by its place, `<origin>/<seq>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cause(Box<str>);

impl Cause {
    /// Checks a cause.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        const FORM: NameError = NameError::Form("<origin>/<sequence from 1>");
        let (origin, seq) = text.split_once('/').ok_or(FORM)?;
        Origin::parse(origin)?;
        let number: u64 = seq.parse().map_err(|_| FORM)?;
        if number > 0 && number.to_string() == seq { Ok(Self(text.into())) } else { Err(FORM) }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects() {
        for good in ["a", "import.claude.turn", "a-b.0", "1.2.3.4.5.6.7.8"] {
            assert_eq!(Subject::parse(good).unwrap().as_str(), good);
        }
        let why = |text: &str| Subject::parse(text).unwrap_err().to_string();
        assert!(why("").contains("is empty"));
        assert!(why("a..b").contains("empty token at byte 2"));
        assert!(why(".a").contains("empty token at byte 0"));
        assert!(why("a.").contains("empty token at byte 2"));
        assert!(why("a.*").contains("'*' at byte 2"));
        assert!(why("aB").contains("'B' at byte 1"));
        assert!(why("a b").contains("' ' at byte 1"));
        assert!(why(&"x".repeat(256)).contains("256 bytes"));
        assert!(why("1.2.3.4.5.6.7.8.9").contains("9 tokens"));
    }

    #[test]
    fn ids_models_labels() {
        assert!(EventId::parse("evt_01.A:b-c").is_ok());
        assert!(EventId::parse("a/b").is_err());
        assert!(EventId::parse(&"x".repeat(129)).is_err());
        assert!(Model::parse("anthropic/claude-opus-4@2026").is_ok());
        assert!(Model::parse("a b").is_err());
        assert!(Label::parse("untrusted.web").is_ok());
        assert!(Label::parse("untrusted..web").is_err());
        assert!(Label::parse("Private").is_err());
    }

    #[test]
    fn origins_and_causes() {
        assert_eq!(Origin::parse("0123456789abcdef.3").unwrap().epoch(), 3);
        for bad in ["", "0123456789abcdef", "0123456789ABCDEF.1", "0123456789abcdef.0", "0123456789abcdef.01"]
        {
            assert!(Origin::parse(bad).is_err(), "{bad}");
        }
        assert!(Cause::parse("0123456789abcdef.1/42").is_ok());
        assert!(Cause::parse("0123456789abcdef.1/0").is_err());
        assert!(Cause::parse("0123456789abcdef.1/+4").is_err());
    }
}
