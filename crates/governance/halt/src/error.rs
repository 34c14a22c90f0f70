//! What the service answers with when it cannot do what was asked.

use std::io;
use std::path::PathBuf;

use mirror_errors::{Classify, Detail, Kind};

/// Reasons; each has a page in `docs/errors/`.
pub(crate) const REASONS: &[&str] = &[
    "HALT_EPOCH_STALE",
    "HALT_NOT_RECORDED",
    "HALT_NO_RELEASE_KEY",
    "HALT_PROOF_INVALID",
    "HALT_REASON_INVALID",
    "HALT_STORAGE",
];

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("reason {0}")]
    Reason(&'static str),
    #[error("envelope {0}")]
    Proof(&'static str),
    #[error("the envelope is of epoch {found} and must be of epoch {wanted}; sign that one")]
    Stale { found: u64, wanted: u64 },
    #[error("no key can release the halt; make a recovery key with: mirror init")]
    NoKey,
    #[error("the log did not record the release: {0}; the halt stays engaged, release it again")]
    NotRecorded(String),
    #[error("cannot write {path:?}: {source}; free disk space or mend the permissions")]
    Storage {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Reason(_) => Kind::Invalid,
            Self::Proof(_) => Kind::Denied,
            Self::Stale { .. } => Kind::Conflict,
            Self::NoKey => Kind::Precondition,
            Self::NotRecorded(_) | Self::Storage { .. } => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Reason(_) => "HALT_REASON_INVALID",
            Self::Proof(_) => "HALT_PROOF_INVALID",
            Self::Stale { .. } => "HALT_EPOCH_STALE",
            Self::NoKey => "HALT_NO_RELEASE_KEY",
            Self::NotRecorded(_) => "HALT_NOT_RECORDED",
            Self::Storage { .. } => "HALT_STORAGE",
        }
    }

    fn details(&self) -> Vec<Detail> {
        match self {
            Self::Reason(why) => vec![Detail::Field("reason".to_owned(), (*why).to_owned())],
            Self::Proof(why) => vec![Detail::Field("envelope".to_owned(), (*why).to_owned())],
            Self::Stale { wanted, .. } => vec![Detail::Value("release_epoch", wanted.to_string())],
            Self::NoKey | Self::NotRecorded(_) | Self::Storage { .. } => Vec::new(),
        }
    }
}
