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
    "BUS_COPY_INVALID",
    "BUS_COPY_UNFIT",
    "BUS_CONSUMER_INVALID",
    "BUS_CONSUMER_EXISTS",
    "BUS_CONSUMER_LIMIT",
    "BUS_CONSUMER_MISSING",
    "BUS_CONSUMER_OWNED",
    "BUS_REDACTION_INVALID",
    "BUS_REDACTION_UNSIGNED",
    "BUS_SEALED",
    "BUS_SEAL_UNCONFIRMED",
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
    /// A field of a consumer, or of a request about one, is malformed.
    #[error("{field} {why}")]
    Consumer {
        /// The field.
        field: String,
        /// What is wrong, and what is allowed.
        why: String,
    },
    /// Another consumer has the name.
    #[error("the name {name:?} is that of a consumer of {owner} that is not the same in every field")]
    ConsumerExists {
        /// The name.
        name: String,
        /// Who made the one that has it.
        owner: String,
    },
    /// There are too many consumers.
    #[error("there are {0} consumers, which is the limit; delete one that nobody uses")]
    ConsumerLimit(usize),
    /// There is no such consumer.
    #[error("there is no consumer {0:?}")]
    ConsumerMissing(String),
    /// The consumer belongs to somebody else.
    #[error("the consumer {name:?} belongs to {owner}, and {caller} asked")]
    ConsumerOwned {
        /// The name.
        name: String,
        /// Who made it.
        owner: String,
        /// Who asked.
        caller: String,
    },
    /// The folder named for a repair holds no copy of this log.
    #[error("from {0}")]
    CopyInvalid(String),
    /// The copy does not hold what is damaged, or not as it was.
    #[error("the copy does not fit: {0}")]
    CopyUnfit(String),
    /// The log could not be read.
    #[error("the log could not be read: {0}")]
    Read(String),
    /// A redaction is malformed, or names what cannot be erased.
    #[error("{field} {why}; nothing was erased")]
    Redaction {
        /// The field.
        field: String,
        /// What is wrong.
        why: String,
    },
    /// No key that may has signed a redaction.
    #[error("no key of halt/keys that may release has signed the redaction; sign it with: mirror bus redact")]
    Unsigned,
    /// The log was ended.
    #[error("the log was sealed by event {seq} and takes no more events; see docs/errors/BUS_SEALED.md")]
    Sealed {
        /// Sequence of the event that sealed it.
        seq: u64,
    },
    /// A seal is malformed, or for another log.
    #[error("{field} {why}; nothing was sealed")]
    Unconfirmed {
        /// The field.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl Classify for BusError {
    fn kind(&self) -> Kind {
        match self {
            Self::Event { .. }
            | Self::CopyInvalid(_)
            | Self::Reserved(_)
            | Self::Batch(_)
            | Self::Filter { .. }
            | Self::Redaction { .. }
            | Self::Unconfirmed { .. } => Kind::Invalid,
            Self::Owned { .. } | Self::Unsigned => Kind::Denied,
            Self::Sealed { .. } => Kind::Precondition,
            Self::Consumer { .. } => Kind::Invalid,
            Self::ConsumerOwned { .. } => Kind::Denied,
            Self::ConsumerLimit(_) => Kind::Exhausted,
            Self::ConsumerMissing(_) => Kind::NotFound,
            Self::Reused { .. } | Self::ConsumerExists { .. } => Kind::Exists,
            Self::Expectation { .. } | Self::CopyUnfit(_) => Kind::Conflict,
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
            Self::CopyInvalid(_) => "BUS_COPY_INVALID",
            Self::CopyUnfit(_) => "BUS_COPY_UNFIT",
            Self::Consumer { .. } => "BUS_CONSUMER_INVALID",
            Self::ConsumerExists { .. } => "BUS_CONSUMER_EXISTS",
            Self::ConsumerLimit(_) => "BUS_CONSUMER_LIMIT",
            Self::ConsumerMissing(_) => "BUS_CONSUMER_MISSING",
            Self::ConsumerOwned { .. } => "BUS_CONSUMER_OWNED",
            Self::Redaction { .. } => "BUS_REDACTION_INVALID",
            Self::Unsigned => "BUS_REDACTION_UNSIGNED",
            Self::Sealed { .. } => "BUS_SEALED",
            Self::Unconfirmed { .. } => "BUS_SEAL_UNCONFIRMED",
        }
    }

    fn details(&self) -> Vec<Detail> {
        match self {
            Self::Event { field, why } | Self::Filter { field, why } | Self::Consumer { field, why } => {
                vec![Detail::Field(field.clone(), why.clone())]
            }
            Self::CopyInvalid(why) => vec![Detail::Field("from".into(), why.clone())],
            Self::Reserved(_) => vec![Detail::Field("subject".into(), self.to_string())],
            Self::Batch(why) => vec![Detail::Field("events".into(), why.clone())],
            Self::Owned { owner, .. } => vec![Detail::Value("owner", owner.clone())],
            Self::ConsumerExists { name, owner } | Self::ConsumerOwned { name, owner, .. } => {
                vec![Detail::Resource("consumer", name.clone()), Detail::Value("owner", owner.clone())]
            }
            Self::ConsumerLimit(limit) => vec![Detail::Value("limit", limit.to_string())],
            Self::ConsumerMissing(name) => vec![Detail::Resource("consumer", name.clone())],
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
            Self::Redaction { field, why } => vec![Detail::Field(field.clone(), why.clone())],
            Self::Unsigned => vec![Detail::Field("envelope".into(), self.to_string())],
            Self::Sealed { seq } => vec![Detail::Value("sealed_by", seq.to_string())],
            Self::Unconfirmed { field, why } => vec![Detail::Field((*field).into(), why.clone())],
            Self::OutcomeUnknown | Self::Damaged(_) | Self::Read(_) | Self::CopyUnfit(_) => Vec::new(),
        }
    }
}
