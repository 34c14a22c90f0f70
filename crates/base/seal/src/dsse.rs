//! DSSE envelopes, after the Dead Simple Signing Envelope protocol 1.0.2 (secure-systems-lab).

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::{BASE64, NodeKey, PublicKey, SealError};

/// Signed bytes with their type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Base64 of the signed bytes.
    payload: String,
    /// What the bytes are, a media type.
    #[serde(rename = "payloadType")]
    payload_type: String,
    /// One or more signatures.
    signatures: Vec<Signature>,
}

/// One signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Fingerprint of the key; a hint, never trusted.
    keyid: String,
    /// Base64 of the Ed25519 signature.
    sig: String,
}

impl Envelope {
    /// Signs `payload` as `payload_type`.
    pub fn sign(key: &NodeKey, payload_type: &str, payload: &[u8]) -> Self {
        let sig = key.sign(&pre_authentication(payload_type, payload));
        Self {
            payload: BASE64.encode(payload),
            payload_type: payload_type.to_owned(),
            signatures: vec![Signature { keyid: key.public().fingerprint(), sig: BASE64.encode(sig) }],
        }
    }

    /// Reads an envelope from its JSON.
    pub fn from_json(bytes: &[u8]) -> Result<Self, SealError> {
        serde_json::from_slice(bytes).map_err(|e| SealError::Envelope(e.to_string()))
    }

    /// Returns the envelope as JSON on one line.
    pub fn to_json(&self) -> String {
        // A struct of strings always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Returns the bytes without looking at any signature; nothing that they claim may be believed.
    pub fn peek(&self) -> Option<Vec<u8>> {
        BASE64.decode(&self.payload).ok()
    }

    /// Returns the type that the envelope names.
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// Returns the signed bytes if one signature is by `key` and the type is `payload_type`.
    pub fn open(&self, key: PublicKey, payload_type: &str) -> Result<Vec<u8>, SealError> {
        if self.payload_type != payload_type {
            let (got, want) = (self.payload_type.clone(), payload_type.to_owned());
            return Err(SealError::Type { got, want });
        }
        let payload =
            BASE64.decode(&self.payload).map_err(|e| SealError::Envelope(format!("payload: {e}")))?;
        let message = pre_authentication(payload_type, &payload);
        let valid = self.signatures.iter().any(|s| {
            BASE64
                .decode(&s.sig)
                .ok()
                .and_then(|bytes| <[u8; 64]>::try_from(bytes).ok())
                .is_some_and(|sig| key.verify(&message, &sig))
        });
        if valid { Ok(payload) } else { Err(SealError::Signature(key.fingerprint())) }
    }
}

fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pre_authentication_encoding_is_that_of_the_protocol() {
        // The example of the DSSE protocol document.
        let encoded = pre_authentication("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn an_envelope_opens_for_its_key_and_type_only() {
        let key = NodeKey::generate().unwrap();
        let other = NodeKey::generate().unwrap();
        let text = Envelope::sign(&key, "application/x", b"abc").to_json();
        let envelope = Envelope::from_json(text.as_bytes()).unwrap();
        assert_eq!(envelope.open(key.public(), "application/x").unwrap(), b"abc");
        assert!(matches!(envelope.open(key.public(), "application/y"), Err(SealError::Type { .. })));
        assert!(matches!(envelope.open(other.public(), "application/x"), Err(SealError::Signature(_))));
    }

    #[test]
    fn a_changed_payload_does_not_open() {
        let key = NodeKey::generate().unwrap();
        let mut envelope = Envelope::sign(&key, "t", b"{\"epoch\":0}");
        envelope.payload = BASE64.encode(b"{\"epoch\":9}");
        assert!(matches!(envelope.open(key.public(), "t"), Err(SealError::Signature(_))));
    }
}
