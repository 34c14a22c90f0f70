//! What the service answers with when it cannot do what was asked.

use mirror_errors::{Classify, Detail, Kind};

/// Reasons; each has a page in `docs/errors/`.
pub(crate) const REASONS: &[&str] = &[
    "REMEDY_CALLER_DENIED",
    "REMEDY_CAUSE_INVALID",
    "REMEDY_ID_INVALID",
    "REMEDY_NOT_RECORDED",
    "REMEDY_TARGET_INVALID",
    "REMEDY_UNKNOWN",
];

/// Why a call was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0} may not run remedies; pulse and the owner's own commands may")]
    Caller(String),
    #[error("cause: {0}")]
    Cause(&'static str),
    #[error("id: {0}")]
    Id(&'static str),
    #[error(
        "the service ends; what came of the remedy is recorded when it is back, so ask again with the same id"
    )]
    Ends,
    #[error("nothing was done, because the intent could not be written down: {0}; mend that and ask again")]
    NotRecorded(String),
    #[error("target: {0}")]
    Target(&'static str),
    #[error("remedy: {0:?} is not in the catalogue; see docs/REMEDIES.md")]
    Unknown(String),
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Caller(_) => Kind::Denied,
            Self::Ends | Self::NotRecorded(_) => Kind::Unavailable,
            Self::Cause(_) | Self::Id(_) | Self::Target(_) | Self::Unknown(_) => Kind::Invalid,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Caller(_) => "REMEDY_CALLER_DENIED",
            Self::Cause(_) => "REMEDY_CAUSE_INVALID",
            Self::Id(_) => "REMEDY_ID_INVALID",
            Self::Ends | Self::NotRecorded(_) => "REMEDY_NOT_RECORDED",
            Self::Target(_) => "REMEDY_TARGET_INVALID",
            Self::Unknown(_) => "REMEDY_UNKNOWN",
        }
    }

    fn details(&self) -> Vec<Detail> {
        let field = |name: &str, why: &str| vec![Detail::Field(name.to_owned(), why.to_owned())];
        match self {
            Self::Cause(why) => field("cause", why),
            Self::Id(why) => field("id", why),
            Self::Target(why) => field("target", why),
            Self::Unknown(_) => field("remedy", "must be an id of the catalogue"),
            Self::Caller(_) | Self::Ends | Self::NotRecorded(_) => Vec::new(),
        }
    }
}
