//! What the owner signs to have payloads erased.

use serde::{Deserialize, Serialize};

/// Type of the envelope over a [`RedactionStatement`].
pub const REDACTION_TYPE: &str = "application/vnd.mirrordna.redaction.v1+json";

/// Which payloads are to be erased; its JSON is what is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedactionStatement {
    /// Form of the statement: 1.
    pub v: u32,
    /// Log that holds the events.
    pub origin: String,
    /// The events, in order of position.
    pub events: Vec<RedactionTarget>,
    /// Why, one line; it is stored for ever.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When it was signed, in milliseconds since 1970.
    #[serde(default)]
    pub at_ms: u64,
}

/// An event whose payload is to be erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedactionTarget {
    /// Its position.
    pub seq: u64,
    /// Its leaf hash, 64 hex digits.
    pub leaf: String,
}
