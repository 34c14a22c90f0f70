//! What the service answers with when it cannot do what was asked.

use mirror_errors::{Classify, Detail, Kind, Remote};
use tonic::Status;

/// Reasons; each has a page in `docs/errors/`.
pub(crate) const REASONS: &[&str] =
    &["PULSE_ENTRY_INVALID", "PULSE_ENTRY_MISSING", "PULSE_FULL", "PULSE_NOT_RECORDED"];

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: &'static str },
    #[error("nothing was put under {0:?}; put a text first")]
    Missing(String),
    #[error("all {0} names are taken; raise entries in the table pulse of mirror.toml")]
    Full(usize),
    #[error("the bus did not record the change: {0}; put it again")]
    NotRecorded(String),
}

impl Error {
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
            Self::Missing(_) => Kind::NotFound,
            Self::Full(_) => Kind::Precondition,
            Self::NotRecorded(_) => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "PULSE_ENTRY_INVALID",
            Self::Missing(_) => "PULSE_ENTRY_MISSING",
            Self::Full(_) => "PULSE_FULL",
            Self::NotRecorded(_) => "PULSE_NOT_RECORDED",
        }
    }

    fn details(&self) -> Vec<Detail> {
        match self {
            Self::Invalid { field, why } => vec![Detail::Field((*field).to_owned(), (*why).to_owned())],
            Self::Missing(name) => vec![Detail::Resource("entry", name.clone())],
            Self::Full(limit) => vec![Detail::Value("limit", limit.to_string())],
            Self::NotRecorded(_) => Vec::new(),
        }
    }
}
