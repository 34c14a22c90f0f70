//! What the service answers with when it cannot do what was asked.

use std::io;
use std::path::PathBuf;

use mirror_errors::{Classify, Detail, Kind};

/// Reasons; each has a page in `docs/errors/`.
pub(crate) const REASONS: &[&str] = &[
    "WITNESS_BUS_AWAY",
    "WITNESS_DIVERGED",
    "WITNESS_KEEPER_AWAY",
    "WITNESS_LIMIT_INVALID",
    "WITNESS_NOTE_REFUSED",
    "WITNESS_NO_CHECKPOINT",
    "WITNESS_RANGE_INVALID",
    "WITNESS_STORAGE",
];

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: &'static str },
    #[error(
        "there is no checkpoint yet: the log has no event, or its first checkpoint is on the way; ask again"
    )]
    NoCheckpoint,
    #[error("the head cannot be signed: the keeper is away ({0}); see `mirror status`, then ask again")]
    KeeperAway(String),
    #[error(
        "the head cannot be signed: the keeper gave no valid signature ({0}); see the witness's and its log"
    )]
    NoteRefused(String),
    #[error("the head cannot be signed: the bus is away ({0}); see `mirror status`, then ask again")]
    BusAway(String),
    #[error("{0}")]
    Diverged(String),
    #[error("{field}: {why}")]
    Range { field: &'static str, why: &'static str },
    #[error(
        "there is no checkpoint of {size} events: the newest covers {signed} events; run `mirror checkpoint --now` first"
    )]
    NotCovered { size: u64, signed: u64 },
    #[error("the tiles cannot be made from the log: {0}; see `mirror status`, then ask again")]
    LogUnread(String),
    #[error(
        "no proof of the first {size} events holds, not even after their tiles were made from the log: the log is not \
         the one that was signed; restore it from a backup or a peer"
    )]
    Unproven { size: u64 },
    #[error("cannot read or write {path:?}; mend its permissions or free space on the disk, then ask again")]
    Storage {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Returns the failure of a folder.
    pub(crate) fn storage(path: &std::path::Path, source: io::Error) -> Self {
        Self::Storage { path: path.to_owned(), source }
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } | Self::Range { .. } => Kind::Invalid,
            Self::NoCheckpoint | Self::NotCovered { .. } => Kind::NotFound,
            Self::KeeperAway(_) | Self::BusAway(_) | Self::LogUnread(_) | Self::Storage { .. } => {
                Kind::Unavailable
            }
            Self::NoteRefused(_) => Kind::Precondition,
            Self::Diverged(_) | Self::Unproven { .. } => Kind::Corrupt,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "WITNESS_LIMIT_INVALID",
            Self::Range { .. } => "WITNESS_RANGE_INVALID",
            Self::NoCheckpoint | Self::NotCovered { .. } => "WITNESS_NO_CHECKPOINT",
            Self::KeeperAway(_) => "WITNESS_KEEPER_AWAY",
            Self::NoteRefused(_) => "WITNESS_NOTE_REFUSED",
            Self::BusAway(_) | Self::LogUnread(_) => "WITNESS_BUS_AWAY",
            Self::Diverged(_) | Self::Unproven { .. } => "WITNESS_DIVERGED",
            Self::Storage { .. } => "WITNESS_STORAGE",
        }
    }

    fn details(&self) -> Vec<Detail> {
        match self {
            Self::Invalid { field, why } | Self::Range { field, why } => {
                vec![Detail::Field((*field).to_owned(), (*why).to_owned())]
            }
            Self::NoCheckpoint => vec![Detail::Resource("checkpoint", String::new())],
            Self::NotCovered { size, .. } => vec![Detail::Resource("checkpoint", size.to_string())],
            _ => Vec::new(),
        }
    }
}
