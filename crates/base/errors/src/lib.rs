//! The closed set of error kinds, and the only place that turns an error into a gRPC status and back.
//!
//! It refuses free-form codes: each [`Kind`] has one gRPC code, one retry rule and one detail message, and each
//! error a stable reason with a page in `docs/errors/`.
//! Invariant: a `Bug` tells its caller a reason and nothing else.

mod remote;

use std::fmt;
use std::time::Duration;

pub use remote::Remote;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What went wrong, seen from the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is malformed; never retry it.
    Invalid,
    /// The position is outside of what exists; ask within the range given.
    Range,
    /// The thing asked for does not exist.
    NotFound,
    /// The thing exists already, with other content.
    Exists,
    /// Somebody else was first; read again, then decide.
    Conflict,
    /// The system is not in the state the call needs.
    Precondition,
    /// A rule forbids it.
    Denied,
    /// The caller did not prove who it is.
    Stranger,
    /// A bound is reached; retry after the hint.
    Exhausted,
    /// A part that the call needs is away; retry with backoff.
    Unavailable,
    /// The deadline passed; the caller decides whether to retry.
    Timeout,
    /// Stored data is damaged or its fate unknown.
    Corrupt,
    /// This build does not know the thing asked for.
    Unsupported,
    /// Our fault.
    Bug,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::Invalid,
        Self::Range,
        Self::NotFound,
        Self::Exists,
        Self::Conflict,
        Self::Precondition,
        Self::Denied,
        Self::Stranger,
        Self::Exhausted,
        Self::Unavailable,
        Self::Timeout,
        Self::Corrupt,
        Self::Unsupported,
        Self::Bug,
    ];

    /// Returns the gRPC code of the kind.
    pub fn code(self) -> Code {
        match self {
            Self::Invalid => Code::InvalidArgument,
            Self::Range => Code::OutOfRange,
            Self::NotFound => Code::NotFound,
            Self::Exists => Code::AlreadyExists,
            Self::Conflict => Code::Aborted,
            Self::Precondition => Code::FailedPrecondition,
            Self::Denied => Code::PermissionDenied,
            Self::Stranger => Code::Unauthenticated,
            Self::Exhausted => Code::ResourceExhausted,
            Self::Unavailable => Code::Unavailable,
            Self::Timeout => Code::DeadlineExceeded,
            Self::Corrupt => Code::DataLoss,
            Self::Unsupported => Code::Unimplemented,
            Self::Bug => Code::Internal,
        }
    }

    /// Returns the kind that a gRPC code stands for; codes that we never send map to the nearest kind.
    pub fn from_code(code: Code) -> Self {
        match code {
            Code::InvalidArgument => Self::Invalid,
            Code::OutOfRange => Self::Range,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::Exists,
            Code::Aborted => Self::Conflict,
            Code::FailedPrecondition => Self::Precondition,
            Code::PermissionDenied => Self::Denied,
            Code::Unauthenticated => Self::Stranger,
            Code::ResourceExhausted => Self::Exhausted,
            Code::Unavailable | Code::Cancelled => Self::Unavailable,
            Code::DeadlineExceeded => Self::Timeout,
            Code::DataLoss => Self::Corrupt,
            Code::Unimplemented => Self::Unsupported,
            Code::Ok | Code::Unknown | Code::Internal => Self::Bug,
        }
    }

    /// Returns whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Exhausted | Self::Unavailable)
    }

    /// Returns the exit code of a command that ends with this kind, after `sysexits.h`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Invalid | Self::Range => 65,
            Self::NotFound => 66,
            Self::Unavailable => 69,
            Self::Bug => 70,
            Self::Exists | Self::Conflict | Self::Precondition => 73,
            Self::Corrupt => 74,
            Self::Exhausted | Self::Timeout => 75,
            Self::Unsupported => 76,
            Self::Denied | Self::Stranger => 77,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Invalid => "invalid",
            Self::Range => "out of range",
            Self::NotFound => "not found",
            Self::Exists => "exists",
            Self::Conflict => "conflict",
            Self::Precondition => "precondition",
            Self::Denied => "denied",
            Self::Stranger => "stranger",
            Self::Exhausted => "exhausted",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::Bug => "bug",
        };
        f.write_str(name)
    }
}

/// One thing that a client may act on without reading the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// A request field and why it was refused.
    Field(String, String),
    /// A resource: its type and name.
    Resource(&'static str, String),
    /// A named value, such as the actual sequence.
    Value(&'static str, String),
    /// When to try again.
    RetryAfter(Duration),
    /// What was expected of which subject, and what is so.
    Expected(String, String),
}

/// An error of a service, classified.
///
/// `Display` is one lower-case sentence without a full stop that names the remedy; it never includes the source.
pub trait Classify: std::error::Error {
    /// Returns the kind.
    fn kind(&self) -> Kind;
    /// Returns the stable reason, `UPPER_SNAKE`, with a page in `docs/errors/`.
    fn reason(&self) -> &'static str;
    /// Returns what a client may act on.
    fn details(&self) -> Vec<Detail> {
        Vec::new()
    }
}

/// Turns an error into the status that the caller gets.
///
/// A [`Kind::Bug`] is logged here with its chain, and its text kept from the caller.
#[expect(clippy::needless_pass_by_value, reason = "so that it can stand in map_err")]
pub fn reject<E: Classify>(error: E) -> Status {
    let (kind, reason) = (error.kind(), error.reason());
    let mut details = ErrorDetails::new();
    let mut metadata = std::collections::HashMap::new();
    for detail in error.details() {
        match detail {
            Detail::Field(field, why) => {
                details.add_bad_request_violation(field, why);
            }
            Detail::Resource(kind, name) => {
                details.set_resource_info(kind, name, "", "");
            }
            Detail::Value(name, value) => {
                metadata.insert(name.to_owned(), value);
            }
            Detail::RetryAfter(after) => {
                details.set_retry_info(Some(after));
            }
            Detail::Expected(subject, description) => {
                details.add_precondition_failure_violation("STATE", subject, description);
            }
        }
    }
    let domain = reason.split('_').next().unwrap_or_default().to_ascii_lowercase();
    details.set_error_info(reason, format!("mirror.{domain}"), metadata);
    let message = if kind == Kind::Bug {
        tracing::error!(reason, error = %Chain(&error), "bug");
        format!("internal error ({reason}); the log of the service has the details")
    } else {
        error.to_string()
    };
    Status::with_error_details(kind.code(), message, details)
}

/// Shows an error with all its sources, `a: b: c`.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("seq must be at least 1, got 0")]
    struct BadSeq(Kind);

    impl Classify for BadSeq {
        fn kind(&self) -> Kind {
            self.0
        }
        fn reason(&self) -> &'static str {
            "BUS_EVENT_INVALID"
        }
        fn details(&self) -> Vec<Detail> {
            vec![
                Detail::Field("seq".into(), "at least 1".into()),
                Detail::Value("head", "7".into()),
                Detail::RetryAfter(Duration::from_millis(250)),
            ]
        }
    }

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in Kind::ALL {
            let remote = Remote::from_status(&reject(BadSeq(kind)));
            assert_eq!(remote.kind, kind);
            assert_eq!(remote.reason, "BUS_EVENT_INVALID");
        }
    }

    #[test]
    fn details_survive_the_wire() {
        let remote = Remote::from_status(&reject(BadSeq(Kind::Invalid)));
        assert_eq!(remote.fields, [("seq".to_owned(), "at least 1".to_owned())]);
        assert_eq!(remote.values.get("head").map(String::as_str), Some("7"));
        assert_eq!(remote.retry_after, Some(Duration::from_millis(250)));
        assert_eq!(remote.domain, "mirror.bus");
    }

    #[test]
    fn a_bug_keeps_its_text_to_itself() {
        let status = reject(BadSeq(Kind::Bug));
        assert!(!status.message().contains("seq"), "{}", status.message());
        assert!(status.message().contains("BUS_EVENT_INVALID"));
    }

    #[test]
    fn exit_codes_are_sysexits() {
        for kind in Kind::ALL {
            assert!((64..=78).contains(&kind.exit_code()), "{kind}");
        }
    }
}
