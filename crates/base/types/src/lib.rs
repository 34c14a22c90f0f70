//! Validated names and numbers that all services share.
//!
//! It refuses to hold an invalid value: whoever has a [`Subject`] need not check it again.
//! Invariant: parsing and printing a value are inverse.

mod filter;
mod hlc;
mod names;

pub use filter::SubjectFilter;
pub use hlc::Hlc;
pub use names::{Cause, EventId, Label, Model, NameError, Origin, Subject};

/// Largest payload of an event in bytes as stored; larger content goes into a blob.
pub const PAYLOAD_LIMIT: usize = 65_536;

/// Most causes, and most labels, of one event.
pub const LIST_LIMIT: usize = 16;
