//! Why a call is refused.

use std::time::Duration;

use mirror_errors::{Classify, Detail, Kind};

/// Every reason, each with a page in `docs/errors/`.
pub(crate) const REASONS: &[&str] =
    &["CHANGELOG_DAY_INVALID", "CHANGELOG_WRITER_INVALID", "CHANGELOG_NOT_READY"];

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A day is not one.
    #[error("{field}: {why}")]
    Day {
        /// Field of the request.
        field: &'static str,
        /// What is wrong, and what is right.
        why: String,
    },
    /// A writer cannot be one.
    #[error("writer: {0}")]
    Writer(&'static str),
    /// Nothing was read from the log yet.
    #[error("the changelog has not read the log yet, because {0}; try again in a moment")]
    NotReady(&'static str),
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Day { .. } | Self::Writer(_) => Kind::Invalid,
            Self::NotReady(_) => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Day { .. } => "CHANGELOG_DAY_INVALID",
            Self::Writer(_) => "CHANGELOG_WRITER_INVALID",
            Self::NotReady(_) => "CHANGELOG_NOT_READY",
        }
    }

    fn details(&self) -> Vec<Detail> {
        match self {
            Self::Day { field, why } => vec![Detail::Field((*field).to_owned(), why.clone())],
            Self::Writer(why) => vec![Detail::Field("writer".to_owned(), (*why).to_owned())],
            Self::NotReady(_) => vec![Detail::RetryAfter(Duration::from_secs(1))],
        }
    }
}
