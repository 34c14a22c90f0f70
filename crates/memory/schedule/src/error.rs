//! What the service answers with when it cannot do what was asked.

use mirror_errors::{Classify, Detail, Kind};

/// Reasons; each has a page in `docs/errors/`.
pub(crate) const REASONS: &[&str] = &[
    "SCHEDULE_FULL",
    "SCHEDULE_JOB_INVALID",
    "SCHEDULE_JOB_MISSING",
    "SCHEDULE_JOB_OWNED",
    "SCHEDULE_NOT_DUE",
    "SCHEDULE_NOT_RECORDED",
    "SCHEDULE_NOT_STARTED",
    "SCHEDULE_OCCURRENCE_ENDED",
    "SCHEDULE_REPORT_INVALID",
];

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{field}: {why}")]
    Job { field: &'static str, why: &'static str },
    #[error("{field}: {why}")]
    Report { field: &'static str, why: &'static str },
    #[error("there is no job {0:?}; put it first")]
    Missing(String),
    #[error("the job {job:?} belongs to {owner}; use a name of your own")]
    Owned { job: String, owner: String },
    #[error("all {0} jobs are taken; delete one that is not needed")]
    Full(usize),
    #[error("this occurrence of {job:?} cannot be started: {why}")]
    NotDue { job: String, why: &'static str },
    #[error("this occurrence of {0:?} was not started; start it before it is reported")]
    NotStarted(String),
    #[error("this occurrence of {0:?} has ended before, in another way; the first report stands")]
    Ended(String),
    #[error("nothing was recorded: {0}; try again")]
    NotRecorded(String),
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Job { .. } | Self::Report { .. } => Kind::Invalid,
            Self::Missing(_) => Kind::NotFound,
            Self::Owned { .. } => Kind::Denied,
            Self::Full(_) | Self::NotDue { .. } | Self::NotStarted(_) | Self::Ended(_) => Kind::Precondition,
            Self::NotRecorded(_) => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Job { .. } => "SCHEDULE_JOB_INVALID",
            Self::Report { .. } => "SCHEDULE_REPORT_INVALID",
            Self::Missing(_) => "SCHEDULE_JOB_MISSING",
            Self::Owned { .. } => "SCHEDULE_JOB_OWNED",
            Self::Full(_) => "SCHEDULE_FULL",
            Self::NotDue { .. } => "SCHEDULE_NOT_DUE",
            Self::NotStarted(_) => "SCHEDULE_NOT_STARTED",
            Self::Ended(_) => "SCHEDULE_OCCURRENCE_ENDED",
            Self::NotRecorded(_) => "SCHEDULE_NOT_RECORDED",
        }
    }

    fn details(&self) -> Vec<Detail> {
        match self {
            Self::Job { field, why } | Self::Report { field, why } => {
                vec![Detail::Field((*field).to_owned(), (*why).to_owned())]
            }
            Self::Missing(name) => vec![Detail::Resource("job", name.clone())],
            Self::Owned { owner, .. } => vec![Detail::Value("owner", owner.clone())],
            Self::Full(limit) => vec![Detail::Value("limit", limit.to_string())],
            Self::NotDue { .. } | Self::NotStarted(_) | Self::Ended(_) => Vec::new(),
            Self::NotRecorded(_) => vec![Detail::RetryAfter(std::time::Duration::from_secs(1))],
        }
    }
}
