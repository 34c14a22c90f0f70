//! The command-line tool of a service manager: `launchctl` or `systemctl`, run with a deadline.
//!
//! It refuses to guess: an answer is an exit code and text, and what they mean stands beside each verb.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a tool answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Answer {
    /// Returns an answer without text.
    pub fn code(code: i32) -> Self {
        Self { code, ..Self::default() }
    }

    /// Returns what it said, on one line of at most 200 characters.
    pub fn said(&self) -> String {
        let text = if self.err.trim().is_empty() { &self.out } else { &self.err };
        let line: Vec<&str> = text.split_whitespace().collect();
        line.join(" ").chars().take(200).collect()
    }
}

/// A tool that answers; tests put their own in its place.
#[tonic::async_trait]
pub trait Tool: Send + Sync + fmt::Debug {
    /// Runs it once.
    async fn ask(&self, args: &[&str]) -> io::Result<Answer>;
}

/// A tool that is a program.
#[derive(Debug, Clone)]
pub struct Program(PathBuf);

impl Program {
    /// Returns `launchctl`; `MIRROR_LAUNCHCTL` names another one for tests.
    pub fn launchctl() -> Self {
        Self::at("MIRROR_LAUNCHCTL", "/bin/launchctl")
    }

    /// Returns `systemctl`; `MIRROR_SYSTEMCTL` names another one for tests.
    pub fn systemctl() -> Self {
        Self::at("MIRROR_SYSTEMCTL", "/usr/bin/systemctl")
    }

    fn at(variable: &str, path: &str) -> Self {
        let named = std::env::var_os(variable).filter(|v| !v.is_empty());
        Self(named.map_or_else(|| path.into(), PathBuf::from))
    }

    /// Returns whether there is such a program.
    pub fn exists(&self) -> bool {
        self.0.is_file()
    }
}

#[tonic::async_trait]
impl Tool for Program {
    async fn ask(&self, args: &[&str]) -> io::Result<Answer> {
        let mut command = tokio::process::Command::new(&self.0);
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", self.0.display()));
        let output = tokio::time::timeout(PATIENCE, command.output())
            .await
            .map_err(|_| named(io::ErrorKind::TimedOut.into()))?
            .map_err(named)?;
        Ok(Answer {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_one_short_line() {
        let answer =
            Answer { code: 5, out: "out".into(), err: "Bootstrap failed:\n 5: Input/output error\n".into() };
        assert_eq!(answer.said(), "Bootstrap failed: 5: Input/output error");
        let long = Answer { code: 5, out: "x".repeat(900), err: " \n".into() };
        assert_eq!(long.said().len(), 200);
    }

    #[tokio::test]
    async fn a_program_answers_with_its_code_and_a_missing_one_is_named() {
        let answer = Program("/bin/sh".into()).ask(&["-c", "echo one; echo two >&2; exit 37"]).await.unwrap();
        assert_eq!(answer, Answer { code: 37, out: "one\n".into(), err: "two\n".into() });
        let error = Program("/nowhere/launchctl".into()).ask(&["list"]).await.unwrap_err().to_string();
        assert!(error.contains("/nowhere/launchctl"), "{error}");
    }
}
