//! What the service answers with when it cannot do what was asked.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use mirror_errors::{Classify, Detail, Kind};

/// Reasons; each has a page in `docs/errors/`.
pub(crate) const REASONS: &[&str] = &["REGISTRY_SERVICE_UNKNOWN", "REGISTRY_STORAGE"];

/// Most bytes of a caller's name that an answer repeats.
const NAME_SHOWN: usize = 64;

/// Why a call was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Error {
    #[error("no service is called {0:?}; list the services for their names")]
    Unknown(String),
    #[error("cannot read {path:?}; mend its permissions, whether its service runs is unknown until then")]
    Storage {
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
}

impl Error {
    /// Returns the refusal of a name, which is repeated only in part when it is long.
    pub(crate) fn unknown(name: &str) -> Self {
        Self::Unknown(name.chars().take(NAME_SHOWN).collect())
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown(_) => Kind::NotFound,
            Self::Storage { .. } => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "REGISTRY_SERVICE_UNKNOWN",
            Self::Storage { .. } => "REGISTRY_STORAGE",
        }
    }

    fn details(&self) -> Vec<Detail> {
        match self {
            Self::Unknown(name) => vec![Detail::Resource("service", name.clone())],
            Self::Storage { .. } => Vec::new(),
        }
    }
}
