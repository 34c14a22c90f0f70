//! What the service answers with when it cannot do what was asked.

use mirror_errors::{Classify, Detail, Kind, Remote};
use tonic::Status;

/// Reasons; each has a page in `docs/errors/`.
pub(crate) const REASONS: &[&str] =
    &["PULSE_MAINTENANCE_INVALID", "PULSE_NOT_RECORDED", "PULSE_SWEEP_RUNNING"];

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: &'static str },
    #[error("the bus did not record the maintenance: {0}; ask again")]
    NotRecorded(String),
    #[error("a sweep is under way; wait for its end, it takes at most ten seconds")]
    Sweeping,
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::NotRecorded(Remote::from_status(&status).to_string())
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } => Kind::Invalid,
            Self::NotRecorded(_) => Kind::Unavailable,
            Self::Sweeping => Kind::Precondition,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "PULSE_MAINTENANCE_INVALID",
            Self::NotRecorded(_) => "PULSE_NOT_RECORDED",
            Self::Sweeping => "PULSE_SWEEP_RUNNING",
        }
    }

    fn details(&self) -> Vec<Detail> {
        match self {
            Self::Invalid { field, why } => vec![Detail::Field((*field).to_owned(), (*why).to_owned())],
            Self::NotRecorded(_) | Self::Sweeping => Vec::new(),
        }
    }
}
