//! What a blob is: its digest, where it lies, and how content is taken in.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::BlobsError;

/// Beginning of the names of uploads in progress.
const TEMPORARY: &str = ".put-";

/// Number of hex digits that follow it.
const TEMPORARY_DIGITS: usize = 16;

/// A BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Digest([u8; 32]);

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl Digest {
    /// Reads 64 lower-case hex digits; the error says what is wrong with the text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let digits = text.as_bytes();
        let nibble = |at: usize| match digits[at] {
            digit @ b'0'..=b'9' => Ok(digit - b'0'),
            digit @ b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(format!("got something else at position {}", at + 1)),
        };
        if digits.len() != 64 {
            return Err(format!("got {} bytes", digits.len()));
        }
        let mut bytes = [0; 32];
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = (nibble(2 * n)? << 4) | nibble(2 * n + 1)?;
        }
        Ok(Self(bytes))
    }

    /// Returns the name of the folder that the blob lies in: the first two digits.
    pub(crate) fn shard(&self) -> String {
        format!("{:02x}", self.0[0])
    }

    /// Returns the digest of what a hasher was given.
    pub(crate) fn of(hasher: &blake3::Hasher) -> Self {
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    /// Digest.
    pub(crate) digest: Digest,
    /// Size in bytes.
    pub(crate) size: u64,
}

/// Content on its way in: hashed, counted and bounded, however it is cut into chunks.
#[derive(Debug)]
pub(crate) struct Intake {
    hasher: blake3::Hasher,
    size: u64,
    limit: u64,
    expected: Option<Digest>,
}

impl Intake {
    /// Returns an intake of at most `limit` bytes.
    pub(crate) fn new(limit: u64, expected: Option<Digest>) -> Self {
        Self { hasher: blake3::Hasher::new(), size: 0, limit, expected }
    }

    /// Takes the next bytes.
    pub(crate) fn take(&mut self, chunk: &[u8]) -> Result<(), BlobsError> {
        let size = self.size.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if size > self.limit {
            return Err(BlobsError::TooLarge { limit: self.limit });
        }
        self.size = size;
        self.hasher.update(chunk);
        Ok(())
    }

    /// Returns what was taken, which must be what the caller expected.
    pub(crate) fn finish(&self) -> Result<Content, BlobsError> {
        let digest = Digest::of(&self.hasher);
        match self.expected {
            Some(expected) if expected != digest => Err(BlobsError::Mismatch { expected, actual: digest }),
            _ => Ok(Content { digest, size: self.size }),
        }
    }
}

/// Returns the name of an upload in progress.
pub(crate) fn temporary_name(random: [u8; TEMPORARY_DIGITS / 2]) -> String {
    format!("{TEMPORARY}{:016x}", u64::from_be_bytes(random))
}

/// Returns whether a name is one that [`temporary_name`] makes.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.strip_prefix(TEMPORARY).is_some_and(|digits| {
        digits.len() == TEMPORARY_DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

    /// Digest of nothing, from the BLAKE3 paper's test vectors.
    const EMPTY: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    fn taken(content: &[u8], chunk: usize) -> Content {
        let mut intake = Intake::new(u64::MAX, None);
        content.chunks(chunk).for_each(|part| intake.take(part).unwrap());
        intake.finish().unwrap()
    }

    #[test]
    fn nothing_has_the_published_digest() {
        let content = taken(b"", 1);
        assert_eq!((content.digest.to_string().as_str(), content.size), (EMPTY, 0));
        assert_eq!(content.digest.shard(), "af");
    }

    #[test]
    fn a_malformed_digest_is_refused_without_being_repeated() {
        #[track_caller]
        fn check(text: &str, part: &str) {
            let why = Digest::parse(text).unwrap_err();
            assert!(why.contains(part) && why.len() < 64, "{why}");
        }
        check("", "got 0 bytes");
        check(&EMPTY[1..], "got 63 bytes");
        check(&format!("{EMPTY}0"), "got 65 bytes");
        check(&EMPTY.to_uppercase(), "position 1");
        check(&format!("{}g", &EMPTY[..63]), "position 64");
        check(&"é".repeat(32), "position 1");
        check(&format!(" {}", &EMPTY[1..]), "position 1");
    }

    #[test]
    fn the_limit_is_the_last_size_that_is_taken() {
        let mut intake = Intake::new(4, None);
        intake.take(b"abcd").unwrap();
        assert!(matches!(intake.take(b"e"), Err(BlobsError::TooLarge { limit: 4 })));
        assert_eq!(intake.finish().unwrap(), taken(b"abcd", 1));
    }

    #[test]
    fn content_other_than_expected_is_refused() {
        let expected = taken(b"one", 1).digest;
        let mut intake = Intake::new(9, Some(expected));
        intake.take(b"two").unwrap();
        let Err(BlobsError::Mismatch { actual, .. }) = intake.finish() else { panic!("it was taken") };
        assert_eq!(actual, taken(b"two", 3).digest);
    }

    #[test]
    fn only_own_names_are_temporary() {
        assert!(is_temporary(&temporary_name([0; 8])));
        for name in
            ["af", ".put-", ".put-0", ".put-000000000000000G", ".put-00000000000000000", ".DS_Store", EMPTY]
        {
            assert!(!is_temporary(name), "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn parsing_and_printing_are_inverse(bytes in any::<[u8; 32]>()) {
            let digest = Digest(bytes);
            prop_assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
        }

        #[test]
        fn the_cut_into_chunks_does_not_matter(content in any::<Vec<u8>>(), a in 1_usize..40, b in 1_usize..40) {
            prop_assert_eq!(taken(&content, a), taken(&content, b));
        }

        #[test]
        fn every_made_name_is_known_again(random in any::<[u8; 8]>()) {
            prop_assert!(is_temporary(&temporary_name(random)));
        }
    }
}
