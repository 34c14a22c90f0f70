//! What the service answers with when it cannot do what was asked.

use mirror_errors::{Classify, Detail, Kind, Remote};
use tonic::Status;

/// Reasons; each has a page in `docs/errors/`.
pub(crate) const REASONS: &[&str] = &["NOTIFY_CARD_INVALID", "NOTIFY_FULL", "NOTIFY_NOT_RECORDED"];

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: String },
    #[error(
        "{0} cards are shown, the most there may be; clear one, or raise cards in the table notify of mirror.toml"
    )]
    Full(usize),
    #[error("the bus did not record the change: {0}; try it again")]
    NotRecorded(String),
}

impl Error {
    pub(crate) fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { field, why: why.into() }
    }

    pub(crate) fn not_recorded(why: &dyn std::error::Error) -> Self {
        Self::NotRecorded(why.to_string())
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::not_recorded(&Remote::from_status(&status))
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } => Kind::Invalid,
            Self::Full(_) => Kind::Precondition,
            Self::NotRecorded(_) => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "NOTIFY_CARD_INVALID",
            Self::Full(_) => "NOTIFY_FULL",
            Self::NotRecorded(_) => "NOTIFY_NOT_RECORDED",
        }
    }

    fn details(&self) -> Vec<Detail> {
        match self {
            Self::Invalid { field, why } => vec![Detail::Field((*field).to_owned(), why.clone())],
            Self::Full(limit) => vec![Detail::Value("limit", limit.to_string())],
            Self::NotRecorded(_) => Vec::new(),
        }
    }
}
