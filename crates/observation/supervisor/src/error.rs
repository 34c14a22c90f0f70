//! What the service answers with when it cannot do what was asked.

use mirror_errors::{Classify, Detail, Kind};

/// Reasons; each has a page in `docs/errors/`.
pub(crate) const REASONS: &[&str] = &[
    "SUPERVISOR_AGENT_STOPPED",
    "SUPERVISOR_AGENT_UNKNOWN",
    "SUPERVISOR_BACKEND_FAILED",
    "SUPERVISOR_REASON_INVALID",
];

/// Most characters of a caller's name that an answer repeats.
const NAME_SHOWN: usize = 64;

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No agent has this name.
    #[error("name: no agent is called {0:?}; list the agents for their names")]
    Unknown(String),
    /// The agent is not to run, so it is not restarted.
    #[error("{agent} is {wish}; start it instead of restarting it")]
    Stopped {
        /// The agent.
        agent: String,
        /// What is wanted of it.
        wish: &'static str,
    },
    /// The reason of a stop cannot be kept.
    #[error("reason: {0}")]
    Reason(&'static str),
    /// What supervises did not do it.
    #[error("cannot {what}: {why}")]
    Backend {
        /// What was tried.
        what: String,
        /// Why it failed, and what to do.
        why: String,
    },
}

impl Error {
    /// Returns the refusal of a name, which is repeated only in part when it is long.
    pub fn unknown(name: &str) -> Self {
        Self::Unknown(name.chars().take(NAME_SHOWN).collect())
    }

    /// Returns a failure of what supervises.
    pub fn backend(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Backend { what: what.into(), why: why.to_string() }
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown(_) => Kind::NotFound,
            Self::Stopped { .. } => Kind::Precondition,
            Self::Reason(_) => Kind::Invalid,
            Self::Backend { .. } => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "SUPERVISOR_AGENT_UNKNOWN",
            Self::Stopped { .. } => "SUPERVISOR_AGENT_STOPPED",
            Self::Reason(_) => "SUPERVISOR_REASON_INVALID",
            Self::Backend { .. } => "SUPERVISOR_BACKEND_FAILED",
        }
    }

    fn details(&self) -> Vec<Detail> {
        match self {
            Self::Unknown(name) => vec![Detail::Resource("agent", name.clone())],
            Self::Stopped { .. } | Self::Reason(_) | Self::Backend { .. } => Vec::new(),
        }
    }
}
