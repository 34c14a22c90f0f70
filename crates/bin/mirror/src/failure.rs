//! How a command fails: one message, its reason, and what to do.

use std::io;
use std::path::Path;

use mirror_errors::{Classify, Detail, Kind, Remote};
use serde::Serialize;

use crate::out::{paint_error, say};

/// Exit code of a wrong command line.
pub(crate) const EXIT_USAGE: u8 = 64;
/// Exit code when a service that should serve does not.
pub(crate) const EXIT_AWAY: u8 = 69;
/// Exit code when a state does not allow it.
pub(crate) const EXIT_BLOCKED: u8 = 73;
/// Exit code of damage.
pub(crate) const EXIT_DAMAGE: u8 = 74;

/// Every exit code and its meaning.
pub(crate) const EXIT_CODES: &[(u8, &str)] = &[
    (0, "done; also when the reader of the output went away"),
    (EXIT_USAGE, "the command line is wrong"),
    (65, "the request or its data is invalid"),
    (66, "the thing asked for does not exist"),
    (EXIT_AWAY, "the fleet or a service is not running; status: a service that should serve does not"),
    (70, "a bug"),
    (EXIT_BLOCKED, "something is in the way: another process, other content, a state that does not allow it"),
    (EXIT_DAMAGE, "stored data is damaged"),
    (75, "a limit or a deadline was reached; try again"),
    (76, "this build does not know how"),
    (77, "a rule forbids it"),
];

/// Reasons of the command line itself; each has a page in `docs/errors/`.
pub const REASONS: &[&str] = &[
    "CLI_AGENT_UNHEALTHY",
    "CLI_BUG",
    "CLI_CARD_MISSING",
    "CLI_COPY_DAMAGED",
    "CLI_COPY_FORKED",
    "CLI_COPY_REFUSED",
    "CLI_FILE",
    "CLI_FLEET_AWAY",
    "CLI_HOME",
    "CLI_INPUT_INVALID",
    "CLI_INSTALL_FAILED",
    "CLI_INSTALL_UNSUPPORTED",
    "CLI_JOB_UNKNOWN",
    "CLI_METHOD_UNKNOWN",
    "CLI_PASSPHRASE_WRONG",
    "CLI_PROOF_INVALID",
    "CLI_SERVICE_AWAY",
    "CLI_SERVICE_UNKNOWN",
    "CLI_UP_BLOCKED",
    "CLI_UP_RUNNING",
];

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The reader of standard output went away, and wants no more.
    Quiet,
    /// Everything has been said; the code remains.
    Said(u8),
    /// An error.
    Error(Box<Report>),
}

/// An error as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) kind: Kind,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) hints: Vec<String>,
}

#[derive(Serialize)]
struct ReportJson<'a> {
    error: &'a str,
    kind: String,
    reason: &'a str,
    hints: &'a [String],
    exit_code: u8,
}

impl Failure {
    pub(crate) fn new(kind: Kind, reason: &str, message: impl Into<String>) -> Self {
        let report = Report { kind, reason: reason.to_owned(), message: message.into(), hints: Vec::new() };
        Self::Error(Box::new(report))
    }

    /// Adds one sentence on what to do.
    #[must_use]
    pub(crate) fn hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Error(report) = &mut self {
            report.hints.push(text.into());
        }
        self
    }

    /// Adds the likeliest remedy, before the others.
    #[must_use]
    pub(crate) fn hint_first(mut self, text: impl Into<String>) -> Self {
        if let Self::Error(report) = &mut self {
            report.hints.insert(0, text.into());
        }
        self
    }

    /// Returns an error that should not be possible.
    pub(crate) fn bug(message: impl Into<String>) -> Self {
        Self::new(Kind::Bug, "CLI_BUG", message)
    }

    /// Returns an error about an argument or the data behind it.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, "CLI_INPUT_INVALID", message)
    }

    /// Returns an error about a file.
    pub(crate) fn file(doing: &str, path: &Path, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::PermissionDenied => Kind::Denied,
            _ => Kind::Precondition,
        };
        Self::new(kind, "CLI_FILE", format!("cannot {doing} {}: {error}", path.display()))
    }

    /// Returns an error about the home folder.
    pub(crate) fn home(error: &dyn std::error::Error) -> Self {
        Self::new(Kind::Precondition, "CLI_HOME", mirror_errors::Chain(error).to_string())
    }

    /// Returns an error about a name that is in no catalogue.
    pub(crate) fn service_unknown(name: &str, known: &str) -> Self {
        Self::new(Kind::NotFound, "CLI_SERVICE_UNKNOWN", format!("there is no service {name:?}"))
            .hint(format!("services: {known}"))
    }

    /// Returns what a service answered.
    pub(crate) fn of_remote(remote: &Remote) -> Self {
        let mut failure = Self::new(remote.kind, &remote.reason, remote.message.clone());
        for (field, why) in &remote.fields {
            if !remote.message.contains(field.as_str()) || !remote.message.contains(why.as_str()) {
                failure = failure.hint(format!("{field}: {why}"));
            }
        }
        if let Some(after) = remote.retry_after {
            failure = failure.hint(format!("try again in {} ms", after.as_millis()));
        }
        failure
    }

    /// Returns an error of a library crate.
    pub(crate) fn of(error: &(impl Classify + 'static)) -> Self {
        let message = mirror_errors::Chain(error).to_string();
        let mut failure = Self::new(error.kind(), error.reason(), message);
        for detail in error.details() {
            if let Detail::Field(field, why) = detail {
                failure = failure.hint(format!("{field}: {why}"));
            }
        }
        failure
    }

    /// Says it on standard error and returns the exit code.
    pub(crate) fn show(&self, json: bool) -> u8 {
        let report = match self {
            Self::Quiet => return 0,
            Self::Said(code) => return *code,
            Self::Error(report) => report,
        };
        let exit_code = report.kind.exit_code();
        if json {
            let kind = report.kind.to_string();
            let (error, reason, hints) = (&report.message, &report.reason, &report.hints);
            let line = ReportJson { error, kind, reason, hints, exit_code };
            say(&serde_json::to_string(&line).unwrap_or_default());
            return exit_code;
        }
        say(&format!("{} {}", paint_error("error:"), crate::text::block(&report.message)));
        if !report.reason.is_empty() {
            say(&format!("reason: {}", report.reason));
            say(&format!("see: docs/errors/{}.md", report.reason));
        }
        for hint in &report.hints {
            say(&format!("hint: {}", crate::text::block(hint)));
        }
        exit_code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_documented_exit_code() {
        for kind in Kind::ALL {
            assert!(EXIT_CODES.iter().any(|(code, _)| *code == kind.exit_code()), "{kind}");
        }
        assert!(EXIT_CODES.is_sorted_by_key(|(code, _)| *code));
    }

    #[test]
    fn every_reason_has_a_page() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/errors");
        for reason in REASONS {
            let page = std::fs::read_to_string(folder.join(format!("{reason}.md"))).unwrap_or_default();
            assert!(page.starts_with(&format!("# {reason}\n\nKind: ")), "{reason} has no page");
        }
    }

    #[test]
    fn a_field_is_not_said_twice() {
        let remote = Remote {
            kind: Kind::Invalid,
            reason: "BUS_EVENT_INVALID".into(),
            domain: "mirror.bus".into(),
            message: "subject is empty".into(),
            fields: vec![("subject".into(), "is empty".into()), ("id".into(), "has 200 bytes".into())],
            values: std::collections::BTreeMap::new(),
            retry_after: None,
        };
        let Failure::Error(report) = Failure::of_remote(&remote) else { panic!("an error") };
        assert_eq!(report.hints, ["id: has 200 bytes"]);
        assert_eq!(report.kind.exit_code(), 65);
    }
}
