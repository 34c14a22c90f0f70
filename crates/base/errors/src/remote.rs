//! Errors as a client receives them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::Kind;

/// An error that a service answered, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Kind, from the gRPC code.
    pub kind: Kind,
    /// Stable reason; empty when the answer did not come from a service of ours.
    pub reason: String,
    /// Domain, `mirror.<service>`; empty as above.
    pub domain: String,
    /// One sentence.
    pub message: String,
    /// Request fields that were refused, each with why.
    pub fields: Vec<(String, String)>,
    /// Named values.
    pub values: BTreeMap<String, String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl Remote {
    /// Decodes a status.
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        Self {
            kind: if gave_up(status) { Kind::Timeout } else { Kind::from_code(status.code()) },
            reason: info.map(|i| i.reason.clone()).unwrap_or_default(),
            domain: info.map(|i| i.domain.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            fields: details
                .bad_request()
                .map(|b| {
                    b.field_violations.iter().map(|v| (v.field.clone(), v.description.clone())).collect()
                })
                .unwrap_or_default(),
            values: info
                .map(|i| i.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
                .unwrap_or_default(),
            retry_after: details.retry_info().and_then(|r| r.retry_delay),
        }
    }

    /// Returns whether the peer could not be reached, or went away during the call.
    ///
    /// Our own errors carry a reason; a connection that breaks shows as Unknown or Internal without one.
    pub fn is_away(status: &Status) -> bool {
        match status.code() {
            Code::Unavailable | Code::Cancelled => !gave_up(status),
            Code::Unknown | Code::Internal => status.get_error_details().error_info().is_none(),
            _ => false,
        }
    }
}

/// Returns whether the caller's own deadline ended the call, which tonic reports as cancelled.
fn gave_up(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    false
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_empty() {
            write!(f, "{}: {}", self.kind, self.message)
        } else {
            write!(f, "{} ({})", self.message, self.reason)
        }
    }
}

impl std::error::Error for Remote {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_of_the_callers_own_is_no_absence_of_the_peer() {
        let expired = Status::from_error(Box::new(tonic::TimeoutExpired(())));
        assert_eq!(Remote::from_status(&expired).kind, Kind::Timeout);
        assert!(!Remote::is_away(&expired));
        assert!(Remote::is_away(&Status::cancelled("reset")));
    }
}
