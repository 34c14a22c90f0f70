//! Durable consumers of the log as a pure machine: what to deliver next, what to record, when to wake.
//!
//! There is no clock, no task and no file here: the caller brings the time in milliseconds, tells what stands in the
//! log, and stores the records. [`Book`] is the fold over the records and says which consumers there are and where each
//! stands; [`Consumer`] is one of them at work, made from its [`Standing`] when the process begins.
//! It refuses to let go of an event before its record is stored: until then it counts as not settled.
//! Invariants: an event is in one pair of hands at a time; what a stored record settles is never delivered again; an
//! event that was delivered ends acknowledged or as a dead letter; the k-th attempt begins after k-1 failed ones, and
//! none begins after the last that the configuration allows.

mod batch;
mod book;
mod consumer;
mod ranges;
mod record;
mod settle;
mod token;

pub use batch::Batch;
pub use book::{Book, Standing};
pub use consumer::{Consumer, Counts, Demand, PullerId, Taken};
pub use ranges::Ranges;
pub use record::{
    CREATED, Config, Created, DEAD, DELETED, DeadLetter, Deleted, Failed, FilterSpec, Record, RecordError,
    SETTLED, Settled,
};
pub use settle::{Outcome, Verdict};
pub use token::Token;

/// Consumers of one log.
pub const LIMIT: usize = 1_024;

/// Longest wait between two attempts, in milliseconds.
pub const WAIT_LIMIT_MS: u64 = 86_400_000;

/// Settlements of one record.
pub const RECORD_LIMIT: usize = 256;

/// Dead letters that are stored along with one record.
pub const LETTER_LIMIT: usize = 64;

/// Events of the log after which a consumer that only passed over events records how far it is, so that a later process
/// need not pass over them again.
pub const WATERMARK_STEP: u64 = 10_000;

/// Wait before a dead letter that could not be stored is stored again, in milliseconds.
pub const LETTER_RETRY_MS: u64 = 30_000;
