//! Why a call fails.

use std::io;
use std::time::Duration;

use mirror_errors::{Classify, Detail, Kind};

use crate::blob::Digest;

/// Reasons; each has a page in `docs/errors/`.
pub(crate) const REASONS: &[&str] = &[
    "BLOBS_BUSY",
    "BLOBS_CHUNK_INVALID",
    "BLOBS_CORRUPT",
    "BLOBS_DIGEST_INVALID",
    "BLOBS_DIGEST_MISMATCH",
    "BLOBS_DISK_RESERVE",
    "BLOBS_MISSING",
    "BLOBS_STALLED",
    "BLOBS_STORAGE",
    "BLOBS_TOO_LARGE",
];

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobsError {
    #[error("{what} in progress are as many as this service takes; try again in a moment")]
    Busy { what: &'static str },
    #[error("chunk {0}")]
    Chunk(String),
    #[error("the content of {digest} is damaged and must not be used; {}", fate(.unmoved.is_none()))]
    Corrupt {
        digest: Digest,
        #[source]
        unmoved: Option<io::Error>,
    },
    #[error("{field} must be 64 lower-case hex digits, {why}")]
    Digest { field: &'static str, why: String },
    #[error(
        "expect_digest is {expected} and the content has {actual}; read the source again, nothing was kept"
    )]
    Mismatch { expected: Digest, actual: Digest },
    #[error(
        "the disk has {available} bytes left and {reserve} are kept in reserve; free some space, nothing was kept"
    )]
    DiskReserve { available: u64, reserve: u64 },
    #[error("no blob {0} is stored; put its content first")]
    Missing(Digest),
    #[error("the upload sent nothing for {} s and was given up; put the content again, nothing was kept", .0.as_secs())]
    Stalled(Duration),
    #[error("cannot {what}; the log of the service has the details")]
    Storage {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(
        "chunk: the content is larger than {limit} bytes; split it or raise blobs.max_mib, nothing was kept"
    )]
    TooLarge { limit: u64 },
}

fn fate(moved: bool) -> &'static str {
    if moved {
        "its file was moved to quarantine/blobs, put the content again or restore it from a backup"
    } else {
        "its file could not be moved to quarantine, the log of the service has the details"
    }
}

impl BlobsError {
    /// Returns what makes a system error ours; a full disk counts as an eaten reserve.
    pub(crate) fn storage(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskReserve { available: 0, reserve: 0 }
            }
            _ => Self::Storage { what, source },
        }
    }
}

impl Classify for BlobsError {
    fn kind(&self) -> Kind {
        match self {
            Self::Busy { .. } | Self::DiskReserve { .. } => Kind::Exhausted,
            Self::Chunk(_) | Self::Digest { .. } | Self::Mismatch { .. } | Self::TooLarge { .. } => {
                Kind::Invalid
            }
            Self::Corrupt { .. } => Kind::Corrupt,
            Self::Missing(_) => Kind::NotFound,
            Self::Stalled(_) => Kind::Timeout,
            Self::Storage { .. } => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "BLOBS_BUSY",
            Self::Chunk(_) => "BLOBS_CHUNK_INVALID",
            Self::Corrupt { .. } => "BLOBS_CORRUPT",
            Self::Digest { .. } => "BLOBS_DIGEST_INVALID",
            Self::Mismatch { .. } => "BLOBS_DIGEST_MISMATCH",
            Self::DiskReserve { .. } => "BLOBS_DISK_RESERVE",
            Self::Missing(_) => "BLOBS_MISSING",
            Self::Stalled(_) => "BLOBS_STALLED",
            Self::Storage { .. } => "BLOBS_STORAGE",
            Self::TooLarge { .. } => "BLOBS_TOO_LARGE",
        }
    }

    fn details(&self) -> Vec<Detail> {
        match self {
            Self::Busy { .. } => vec![Detail::RetryAfter(Duration::from_millis(250))],
            Self::Chunk(why) => vec![Detail::Field("chunk".to_owned(), why.clone())],
            Self::Corrupt { digest, .. } | Self::Missing(digest) => {
                vec![Detail::Resource("blob", digest.to_string())]
            }
            Self::Digest { field, why } => vec![Detail::Field((*field).to_owned(), why.clone())],
            Self::Mismatch { actual, .. } => vec![
                Detail::Field("expect_digest".to_owned(), "not the digest of the content".to_owned()),
                Detail::Value("actual", actual.to_string()),
            ],
            Self::DiskReserve { available, reserve } => vec![
                Detail::RetryAfter(Duration::from_secs(60)),
                Detail::Value("available_bytes", available.to_string()),
                Detail::Value("reserve_bytes", reserve.to_string()),
            ],
            Self::Stalled(_) | Self::Storage { .. } => Vec::new(),
            Self::TooLarge { limit } => vec![
                Detail::Field("chunk".to_owned(), "the content is too large".to_owned()),
                Detail::Value("limit_bytes", limit.to_string()),
            ],
        }
    }
}
