//! Keys, fingerprints, DSSE envelopes, signed notes, Merkle leaves, roots, tiles and proofs.
//!
//! It refuses weak keys and lenient verification, and it never signs bare bytes: an envelope names its type, a note
//! its signer.
//! Invariant: what is verified is the bytes that were signed, never a re-encoding of them.

mod dsse;
mod key;
mod merkle;
mod note;
mod proof;
mod tiles;

use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine};
pub use dsse::{Envelope, Signature};
pub use key::{NodeKey, PublicKey};
pub use merkle::Frontier;
pub use note::{note_key_id, open_note, sign_note};
pub use proof::{
    HashReader, TileHashes, TileReader, prove_consistency, prove_inclusion, tree_root, verify_consistency,
    verify_inclusion,
};
use sha2::{Digest as _, Sha256};
pub use tiles::{TILE_WIDTH, Tile, TileEdge, partial_tiles, subtree, tiles_of};

/// Standard base64 with padding, canonical: unused bits must be zero, padding must be there.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Standard base64 without padding, canonical.
pub const BASE64_UNPADDED: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// Why a key or an envelope was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// Not a key.
    #[error("the key is not {0}")]
    Key(&'static str),
    /// Not an envelope.
    #[error("the envelope is malformed: {0}")]
    Envelope(String),
    /// Not a signed note, or not a text or name that one may have.
    #[error("the note is malformed: {0}")]
    Note(&'static str),
    /// The envelope holds something else.
    #[error("the envelope is of type {got:?}, expected {want:?}")]
    Type {
        /// The type it names.
        got: String,
        /// The type asked for.
        want: String,
    },
    /// No signature is by the given key.
    #[error("no valid signature by key {0}")]
    Signature(String),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
}

/// Returns the RFC 6962 leaf hash of a log entry: SHA-256(0x00 ‖ entry).
pub fn leaf(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0x00]).chain_update(entry).finalize().into()
}

/// Returns SHA-256(salt ‖ payload), by which a header commits to a payload that may be erased.
pub fn salted(salt: &[u8], payload: &[u8]) -> Hash {
    Sha256::new().chain_update(salt).chain_update(payload).finalize().into()
}

/// Returns SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// Returns lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Reads lower-case hex of exactly `N` bytes.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let value = |d: u8| match d {
        b'0'..=b'9' => Some(d - b'0'),
        b'a'..=b'f' => Some(d - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = (value(digits[2 * i])? << 4) | value(digits[2 * i + 1])?;
    }
    Some(bytes)
}

/// Encodes as canonical padded base64.
pub fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Decodes canonical padded base64.
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    Engine::decode(&BASE64, text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_leaf_is_that_of_rfc_6962() {
        // The hash of an empty entry, from the test vectors of the certificate-transparency project.
        assert_eq!(hex(&leaf(b"")), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    }

    #[test]
    fn hex_is_strict() {
        assert_eq!(unhex::<2>("0aff"), Some([10, 255]));
        assert_eq!(unhex::<2>("0AFF"), None);
        assert_eq!(unhex::<2>("0af"), None);
        assert_eq!(unhex::<1>("0g"), None);
    }

    #[test]
    fn base64_is_canonical() {
        assert_eq!(unbase64("QQ=="), Some(vec![0x41]));
        assert_eq!(unbase64("QR=="), None, "unused bits are set");
        assert_eq!(unbase64("QQ"), None, "padding is missing");
    }
}
