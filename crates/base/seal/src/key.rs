//! The device key.

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{Hash, SealError, hex, sha256, unhex};

/// The private half of the device key.
///
/// `Debug` shows only the fingerprint.
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// Makes a new key from the system's random source.
    pub fn generate() -> Result<Self, SealError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|e| SealError::Random(e.to_string()))?;
        Ok(Self::from_seed(&seed))
    }

    /// Returns the key of a seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Reads a key from its seed as 64 lower-case hex digits.
    pub fn from_hex(seed: &str) -> Result<Self, SealError> {
        let mut seed = unhex::<32>(seed.trim_end()).ok_or(SealError::Key("64 lower-case hex digits"))?;
        let key = Self::from_seed(&seed);
        seed.zeroize();
        Ok(key)
    }

    /// Returns the seed as 64 lower-case hex digits, for the key file and nothing else; it is wiped when it is dropped.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex(self.0.as_bytes()))
    }

    /// Returns the seed, for its encrypted copy and nothing else; it is wiped when it is dropped.
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// Returns the public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeKey({})", self.public().fingerprint())
    }
}

/// The public half of the device key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a public key from 64 lower-case hex digits; weak keys are refused.
    pub fn from_hex(text: &str) -> Result<Self, SealError> {
        let bytes = unhex::<32>(text.trim_end()).ok_or(SealError::Key("64 lower-case hex digits"))?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| SealError::Key("a point on the curve"))?;
        if key.is_weak() { Err(SealError::Key("of full order")) } else { Ok(Self(key)) }
    }

    /// Returns the key as 64 lower-case hex digits.
    pub fn to_hex(self) -> String {
        hex(self.0.as_bytes())
    }

    /// Returns SHA-256 of the raw key.
    pub fn digest(self) -> Hash {
        sha256(self.0.as_bytes())
    }

    /// Returns the first 16 hex digits of the digest: how people and logs name the key.
    pub fn fingerprint(self) -> String {
        hex(&self.digest()[..8])
    }

    /// Returns the raw key.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0.to_bytes()
    }

    pub(crate) fn verify(self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file() {
        let key = NodeKey::generate().unwrap();
        let again = NodeKey::from_hex(&format!("{}\n", *key.to_hex())).unwrap();
        assert_eq!(key.public(), again.public());
        assert_eq!(PublicKey::from_hex(&key.public().to_hex()).unwrap(), key.public());
    }

    #[test]
    fn debug_does_not_show_the_seed() {
        let key = NodeKey::generate().unwrap();
        assert!(!format!("{key:?}").contains(key.to_hex().as_str()));
    }

    #[test]
    fn a_weak_key_is_refused() {
        let identity = format!("01{}", "00".repeat(31));
        assert_eq!(PublicKey::from_hex(&identity), Err(SealError::Key("of full order")));
    }
}
