//! Subject filters.

use crate::names::{NameError, SUBJECT_LIMIT, Subject};

const FILTER: &str = "a filter is a subject in which a token may be '*', and the last one '>'";

/// A pattern over subjects: `*` stands for one token, `>` at the end for one or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectFilter(Box<str>);

impl SubjectFilter {
    /// Checks a filter.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        // Before it is taken apart: a text of dots alone would take many times its length.
        if text.len() > SUBJECT_LIMIT {
            return Err(NameError::Long { len: text.len(), max: SUBJECT_LIMIT });
        }
        let tokens: Vec<&str> = text.split('.').collect();
        let mut plain = Vec::with_capacity(tokens.len());
        let mut at = 0;
        for (i, token) in tokens.iter().enumerate() {
            match *token {
                "*" => plain.push("x"),
                ">" if i + 1 == tokens.len() => plain.push("x"),
                ">" => return Err(NameError::Char { found: '>', at, allowed: FILTER }),
                other => plain.push(other),
            }
            at += token.len() + 1;
        }
        Subject::parse(&plain.join("."))?;
        Ok(Self(text.into()))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the part before the first wildcard, by which an ordered index can be narrowed.
    pub fn literal_prefix(&self) -> &str {
        match self.0.find(['*', '>']) {
            Some(at) => &self.0[..at],
            None => &self.0,
        }
    }

    /// Returns whether a subject matches.
    pub fn matches(&self, subject: &str) -> bool {
        let mut tokens = subject.split('.');
        for want in self.0.split('.') {
            match (want, tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (want, Some(token)) if want == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filter: &str, yes: &[&str], no: &[&str]) {
        let filter = SubjectFilter::parse(filter).unwrap();
        for subject in yes {
            assert!(filter.matches(subject), "{filter:?} must match {subject}");
        }
        for subject in no {
            assert!(!filter.matches(subject), "{filter:?} must not match {subject}");
        }
    }

    #[test]
    fn a_long_text_is_refused_by_its_length() {
        let dots = ".".repeat(5_745);
        assert_eq!(SubjectFilter::parse(&dots), Err(NameError::Long { len: 5_745, max: 255 }));
        let longest = format!("{}.>", "a".repeat(253));
        assert!(
            SubjectFilter::parse(&longest).is_ok() && SubjectFilter::parse(&format!("a{longest}")).is_err()
        );
    }

    #[test]
    fn wildcards() {
        check("a.b", &["a.b"], &["a", "a.b.c", "a.c"]);
        check("a.*", &["a.b", "a.c"], &["a", "a.b.c", "b.b"]);
        check("a.>", &["a.b", "a.b.c"], &["a", "b.a"]);
        check("*.b", &["a.b"], &["b", "a.c"]);
        check(">", &["a", "a.b.c"], &[]);
    }

    #[test]
    fn bad_filters_are_named() {
        assert!(SubjectFilter::parse("a.>.b").unwrap_err().to_string().contains("'>' at byte 2"));
        assert!(SubjectFilter::parse("").is_err());
        assert!(SubjectFilter::parse("a.b*").is_err());
        assert_eq!(SubjectFilter::parse("a.b.*.c").unwrap().literal_prefix(), "a.b.");
    }
}
