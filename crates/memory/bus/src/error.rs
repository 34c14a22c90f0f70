//! Errors of the bus.

use std::time::Duration;

use mirror_errors::{Classify, Detail, Kind};

/// Reasons that the bus answers with.
pub(crate) const REASONS: &[&str] = &[
    "BUS_EVENT_INVALID",
    "BUS_SUBJECT_RESERVED",
    "BUS_SUBJECT_OWNED",
    "BUS_ID_REUSED",
    "BUS_EXPECTATION_FAILED",
    "BUS_QUEUE_FULL",
    "BUS_DISK_RESERVE",
    "BUS_OUTCOME_UNKNOWN",
    "BUS_LOG_DAMAGED",
    "BUS_BATCH_INVALID",
    "BUS_EVENT_MISSING",
    "BUS_POSITION_OUT_OF_RANGE",
    "BUS_FILTER_INVALID",
    "BUS_READ_FAILED",
];

/// Why the bus refused or failed a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// A field of an event is malformed.
    #[error("{field} {why}")]
    Event {
        /// The field.
        field: String,
        /// What is wrong, where, and what is allowed.
        why: String,
    },
    /// The subject's prefix is the bus's own.
    #[error("subject {0:?} is reserved: the prefixes bus and dead are written by the bus alone")]
    Reserved(String),
    /// The subject's prefix belongs to somebody else.
    #[error("subject {subject:?} belongs to {owner}; {caller} may append under {allowed}")]
    Owned {
        /// The subject.
        subject: String,
        /// Who owns it.
        owner: String,
        /// Who asked.
        caller: String,
        /// What the caller may write.
        allowed: String,
    },
    /// The id is that of another event.
    #[error("id {id:?} is that of event {seq}, which has other content; use a new id")]
    Reused {
        /// The id.
        id: String,
        /// Sequence of the stored event.
        seq: u64,
        /// Digest of the stored content, hex.
        stored: String,
        /// Digest of the given content, hex.
        given: String,
    },
    /// What was expected does not hold.
    #[error("expected {expected}, but {actual}; read again, then decide")]
    Expectation {
        /// What was expected.
        expected: String,
        /// What is so.
        actual: String,
        /// The actual sequence.
        seq: u64,
    },
    /// Too much waits for the writer.
    #[error("the writer's queue is full; try again in a moment, or append through AppendStream, which waits")]
    QueueFull,
    /// The volume is nearly full.
    #[error("the volume has {free} bytes free and {reserve} are kept in reserve; free some space")]
    DiskReserve {
        /// Free bytes.
        free: u64,
        /// Reserve in bytes.
        reserve: u64,
    },
    /// A write or sync failed.
    #[error(
        "the write failed and its outcome is unknown; the bus restarts into recovery, retry with the same id"
    )]
    OutcomeUnknown,
    /// Stored events are damaged.
    #[error("{0}; see docs/runbooks/bus-damaged.md, and run: mirror bus verify")]
    Damaged(String),
    /// A batch has no, too many or too large events.
    #[error("events {0}")]
    Batch(String),
    /// There is no such event.
    #[error("there is no event {0}")]
    Missing(String),
    /// The position is not in the log.
    #[error("{field} is {asked}, and the log holds {oldest} to {head}")]
    Position {
        /// The field.
        field: &'static str,
        /// What was asked for.
        asked: u64,
        /// First position.
        oldest: u64,
        /// Last position.
        head: u64,
    },
    /// A filter is malformed.
    #[error("{field} {why}")]
    Filter {
        /// The field.
        field: String,
        /// What is wrong.
        why: String,
    },
    /// The log could not be read.
    #[error("the log could not be read: {0}")]
    Read(String),
}

impl Classify for BusError {
    fn kind(&self) -> Kind {
        match self {
            Self::Event { .. } | Self::Reserved(_) | Self::Batch(_) | Self::Filter { .. } => Kind::Invalid,
            Self::Owned { .. } => Kind::Denied,
            Self::Reused { .. } => Kind::Exists,
            Self::Expectation { .. } => Kind::Conflict,
            Self::QueueFull | Self::DiskReserve { .. } => Kind::Exhausted,
            Self::OutcomeUnknown | Self::Damaged(_) => Kind::Corrupt,
            Self::Missing(_) => Kind::NotFound,
            Self::Position { .. } => Kind::Range,
            Self::Read(_) => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Event { .. } => "BUS_EVENT_INVALID",
            Self::Reserved(_) => "BUS_SUBJECT_RESERVED",
            Self::Owned { .. } => "BUS_SUBJECT_OWNED",
            Self::Reused { .. } => "BUS_ID_REUSED",
            Self::Expectation { .. } => "BUS_EXPECTATION_FAILED",
            Self::QueueFull => "BUS_QUEUE_FULL",
            Self::DiskReserve { .. } => "BUS_DISK_RESERVE",
            Self::OutcomeUnknown => "BUS_OUTCOME_UNKNOWN",
            Self::Damaged(_) => "BUS_LOG_DAMAGED",
            Self::Batch(_) => "BUS_BATCH_INVALID",
            Self::Missing(_) => "BUS_EVENT_MISSING",
            Self::Position { .. } => "BUS_POSITION_OUT_OF_RANGE",
            Self::Filter { .. } => "BUS_FILTER_INVALID",
            Self::Read(_) => "BUS_READ_FAILED",
        }
    }

    fn details(&self) -> Vec<Detail> {
        match self {
            Self::Event { field, why } | Self::Filter { field, why } => {
                vec![Detail::Field(field.clone(), why.clone())]
            }
            Self::Reserved(_) => vec![Detail::Field("subject".into(), self.to_string())],
            Self::Batch(why) => vec![Detail::Field("events".into(), why.clone())],
            Self::Owned { owner, .. } => vec![Detail::Value("owner", owner.clone())],
            Self::Reused { id, seq, stored, given } => vec![
                Detail::Resource("event", id.clone()),
                Detail::Value("seq", seq.to_string()),
                Detail::Value("stored", stored.clone()),
                Detail::Value("given", given.clone()),
            ],
            Self::Expectation { expected, actual, seq } => vec![
                Detail::Expected(expected.clone(), actual.clone()),
                Detail::Value("actual_seq", seq.to_string()),
            ],
            Self::QueueFull => vec![Detail::RetryAfter(Duration::from_millis(50))],
            Self::DiskReserve { free, reserve } => vec![
                Detail::RetryAfter(Duration::from_secs(10)),
                Detail::Value("free_bytes", free.to_string()),
                Detail::Value("reserve_bytes", reserve.to_string()),
            ],
            Self::Missing(what) => vec![Detail::Resource("event", what.clone())],
            Self::Position { field, oldest, head, .. } => vec![
                Detail::Field((*field).into(), self.to_string()),
                Detail::Value("oldest", oldest.to_string()),
                Detail::Value("head", head.to_string()),
            ],
            Self::OutcomeUnknown | Self::Damaged(_) | Self::Read(_) => Vec::new(),
        }
    }
}
