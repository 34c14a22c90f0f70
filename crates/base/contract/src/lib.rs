//! The contract between all services: generated messages, clients and servers, and what reflection serves.
//!
//! Nothing here is written by hand but the table's types. It refuses logic: conversions live in each service's
//! `wire.rs`.

#[expect(
    missing_docs,
    clippy::allow_attributes,
    reason = "generated code; comments come from the proto files"
)]
#[allow(
    unreachable_pub,
    clippy::large_enum_variant,
    clippy::allow_attributes_without_reason,
    clippy::doc_lazy_continuation,
    clippy::default_trait_access,
    clippy::disallowed_methods,
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    reason = "generated code"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mirror.rs"));
}

pub use generated::mirror;

/// The encoded `FileDescriptorSet` of the whole contract, with comments and custom options.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// One RPC with the options it declares; enum options by their names in the proto file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MethodSpec {
    /// Request path, `/mirror.bus.v1.BusService/Append`.
    pub path: &'static str,
    /// Full name of the service.
    pub service: &'static str,
    /// Name of the RPC.
    pub name: &'static str,
    /// The right a caller needs.
    pub scope: &'static str,
    /// What a call can harm.
    pub risk: &'static str,
    /// The request field that holds the action, when the risk is by action.
    pub action_field: &'static str,
    /// `ALLOW` or `REFUSE`.
    pub when_halted: &'static str,
    /// Whether a repeated call has no further effect.
    pub idempotent: bool,
    /// Longest time to the response's head in milliseconds; zero for none.
    pub deadline_ms: u32,
    /// Whether the client streams.
    pub client_streaming: bool,
    /// Whether the server streams.
    pub server_streaming: bool,
}

/// One service with the rule it declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Full name.
    pub name: &'static str,
    /// `DENY`, `HOLD` or `DEGRADE`: what callers do while it is away.
    pub when_away: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/methods.rs"));
include!(concat!(env!("OUT_DIR"), "/decoders.rs"));

/// Full name of a message, and whether some bytes are one.
#[doc(hidden)]
pub type Decoder = (&'static str, fn(&[u8]) -> bool);

/// Returns the message that some bytes are, if they are one; for fuzzing.
#[doc(hidden)]
pub fn decode<T: prost::Message + Default>(bytes: &[u8]) -> Option<T> {
    T::decode(bytes).ok()
}

/// Returns a wall time in milliseconds since 1970 as the contract writes it.
pub fn timestamp(ms: u64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        // Below a thousand million.
        nanos: i32::try_from(ms % 1000 * 1_000_000).unwrap_or_default(),
    }
}

/// Returns a wall time of the contract in milliseconds since 1970, or nothing when it lies before that or is malformed.
pub fn millis(timestamp: &prost_types::Timestamp) -> Option<u64> {
    let nanos = u64::try_from(timestamp.nanos).ok().filter(|n| *n < 1_000_000_000)?;
    u64::try_from(timestamp.seconds).ok()?.checked_mul(1000)?.checked_add(nanos / 1_000_000)
}

/// Returns the spec of a request path.
pub fn method(path: &str) -> Option<&'static MethodSpec> {
    METHODS.binary_search_by(|m| m.path.cmp(path)).ok().map(|i| &METHODS[i])
}
