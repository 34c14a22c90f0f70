//! What the service answers with when it cannot do what was asked.

use std::io;
use std::path::PathBuf;

use mirror_errors::{Classify, Detail, Kind};

use crate::log::LogError;

/// Reasons; each has a page in `docs/errors/`.
pub(crate) const REASONS: &[&str] = &[
    "KEEPER_CALLER_DENIED",
    "KEEPER_KEY_MISSING",
    "KEEPER_NOTE_FORKED",
    "KEEPER_NOTE_INVALID",
    "KEEPER_PAYLOAD_INVALID",
    "KEEPER_PROOF_INVALID",
    "KEEPER_PURPOSE_UNKNOWN",
    "KEEPER_STORAGE",
];

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{caller} may not have {what} signed; the keeper's table of callers and types does not allow it")]
    CallerDenied { caller: String, what: String },
    #[error("text {0}; send a checkpoint of this device's log")]
    Note(&'static str),
    #[error(
        "a checkpoint of {signed} events is signed already, and this one of {asked} contradicts it; verify the log"
    )]
    Forked { signed: u64, asked: u64 },
    #[error("payload {0}")]
    Payload(&'static str),
    #[error("there is no {0} key in use; rotate it with the recovery passphrase to make a new one")]
    KeyMissing(&'static str),
    #[error("no key has the purpose {0:?}; checkpoint and halt can be rotated")]
    Purpose(String),
    #[error("proof {0}")]
    Proof(&'static str),
    #[error("cannot use {path:?}: {source}; free disk space or mend the permissions, nothing was signed")]
    Storage {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Log(#[from] LogError),
}

impl Error {
    pub(crate) fn storage(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Storage { path, source }
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::CallerDenied { .. } | Self::Proof(_) => Kind::Denied,
            Self::Note(_) | Self::Payload(_) => Kind::Invalid,
            Self::Forked { .. } | Self::KeyMissing(_) => Kind::Precondition,
            Self::Purpose(_) => Kind::NotFound,
            Self::Storage { .. } => Kind::Unavailable,
            Self::Log(_) => Kind::Corrupt,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::CallerDenied { .. } => "KEEPER_CALLER_DENIED",
            Self::Note(_) => "KEEPER_NOTE_INVALID",
            Self::Forked { .. } => "KEEPER_NOTE_FORKED",
            Self::Payload(_) => "KEEPER_PAYLOAD_INVALID",
            Self::KeyMissing(_) => "KEEPER_KEY_MISSING",
            Self::Purpose(_) => "KEEPER_PURPOSE_UNKNOWN",
            Self::Proof(_) => "KEEPER_PROOF_INVALID",
            Self::Storage { .. } | Self::Log(_) => "KEEPER_STORAGE",
        }
    }

    fn details(&self) -> Vec<Detail> {
        let field = |name: &str, why: &str| vec![Detail::Field(name.to_owned(), why.to_owned())];
        match self {
            Self::Note(why) => field("text", why),
            Self::Payload(why) => field("payload", why),
            Self::Proof(why) => field("proof", why),
            Self::Purpose(name) => vec![Detail::Resource("key", name.clone())],
            Self::Forked { signed, .. } => vec![Detail::Value("signed", signed.to_string())],
            Self::CallerDenied { .. } | Self::KeyMissing(_) | Self::Storage { .. } | Self::Log(_) => {
                Vec::new()
            }
        }
    }
}
