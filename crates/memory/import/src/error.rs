//! What an import answers with when it cannot go on.

use std::io;
use std::time::Duration;

use mirror_errors::{Classify, Detail, Kind, Remote};
use tonic::Status;

use crate::walk::WalkError;

/// Reasons; each has a page in `docs/errors/`.
pub(crate) const REASONS: &[&str] = &[
    "IMPORT_PATH_INVALID",
    "IMPORT_PATH_MISSING",
    "IMPORT_FORMAT_UNKNOWN",
    "IMPORT_BUSY",
    "IMPORT_READ",
    "IMPORT_BUS_AWAY",
    "IMPORT_BLOBS_AWAY",
];

/// Why an import was refused or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("path: {0}")]
    PathInvalid(String),
    #[error("path: there is nothing at {0:?}")]
    PathMissing(String),
    #[error("format: {0}")]
    FormatUnknown(String),
    #[error("another import is running; wait for it to end")]
    Busy,
    #[error("{what}: {source}")]
    Read { what: String, source: io::Error },
    #[error("the bus takes no events: {0}; start the import again, rows that are stored are skipped")]
    BusAway(String),
    #[error("blobs takes no content: {0}; start the import again, rows that are stored are skipped")]
    BlobsAway(String),
}

impl Error {
    pub(crate) fn read(what: impl Into<String>, source: io::Error) -> Self {
        Self::Read { what: what.into(), source }
    }

    pub(crate) fn walk(error: WalkError, path: &str) -> Self {
        match error {
            WalkError::Missing => Self::PathMissing(path.to_owned()),
            WalkError::Special | WalkError::TooMany => Self::PathInvalid(error.to_string()),
            WalkError::Io(source) => Self::read(format!("cannot read {path:?}"), source),
        }
    }

    pub(crate) fn bus(status: &Status) -> Self {
        Self::BusAway(Remote::from_status(status).to_string())
    }

    pub(crate) fn blobs(status: &Status) -> Self {
        Self::BlobsAway(Remote::from_status(status).to_string())
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::PathInvalid(_) => Kind::Invalid,
            Self::PathMissing(_) => Kind::NotFound,
            Self::FormatUnknown(_) => Kind::Unsupported,
            Self::Busy => Kind::Exhausted,
            Self::Read { .. } => Kind::Precondition,
            Self::BusAway(_) | Self::BlobsAway(_) => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::PathInvalid(_) => "IMPORT_PATH_INVALID",
            Self::PathMissing(_) => "IMPORT_PATH_MISSING",
            Self::FormatUnknown(_) => "IMPORT_FORMAT_UNKNOWN",
            Self::Busy => "IMPORT_BUSY",
            Self::Read { .. } => "IMPORT_READ",
            Self::BusAway(_) => "IMPORT_BUS_AWAY",
            Self::BlobsAway(_) => "IMPORT_BLOBS_AWAY",
        }
    }

    fn details(&self) -> Vec<Detail> {
        match self {
            Self::PathInvalid(why) => vec![Detail::Field("path".into(), why.clone())],
            Self::PathMissing(path) => vec![Detail::Resource("path", path.clone())],
            Self::FormatUnknown(why) => vec![Detail::Field("format".into(), why.clone())],
            Self::Busy => vec![Detail::RetryAfter(Duration::from_secs(2))],
            Self::Read { .. } | Self::BusAway(_) | Self::BlobsAway(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_declared_reason_and_no_full_stop() {
        let status = mirror_errors::reject(Error::Busy);
        for error in [
            Error::PathInvalid("x".into()),
            Error::PathMissing("/x".into()),
            Error::FormatUnknown("x".into()),
            Error::Busy,
            Error::read("x", io::Error::other("y")),
            Error::bus(&status),
            Error::blobs(&status),
        ] {
            assert!(REASONS.contains(&error.reason()));
            assert!(!error.to_string().ends_with('.'), "{error}");
        }
    }
}
