//! The desktop: a fixed command, to which a card goes as arguments and never as a part of a script.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::health::Health;
use crate::notify::{Content, Urgency};

/// Longest time that the command may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What shows a card on the desktop.
#[derive(Debug, Clone)]
pub(crate) struct Desktop {
    program: PathBuf,
    macos: bool,
}

impl Desktop {
    /// Returns the desktop of this machine; without one, the state says so.
    pub(crate) fn find(health: &Health) -> Option<Self> {
        if cfg!(target_os = "macos") {
            return Some(Self { program: "/usr/bin/osascript".into(), macos: true });
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        // A service manager may start the process without the folders of a person's shell.
        let folders = std::env::split_paths(&path).chain(["/usr/local/bin".into(), "/usr/bin".into()]);
        let program = folders.map(|folder| folder.join("notify-send")).find(|program| program.is_file());
        if program.is_none() {
            health
                .desktop("desktop: notify-send is not installed; install it, or set notify.desktop = false");
        }
        program.map(|program| Self { program, macos: false })
    }

    /// Shows a card; the error is one clause.
    pub(crate) async fn show(&self, content: &Content) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        command.args(self.arguments(content)).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let ran = tokio::time::timeout(LIMIT, command.status()).await;
        match ran {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("{} ended with {status}", self.program.display())),
            Ok(Err(error)) => Err(format!("{} cannot be started: {error}", self.program.display())),
            Err(_) => Err(format!("{} took longer than 10 seconds", self.program.display())),
        }
    }

    fn arguments(&self, content: &Content) -> Vec<OsString> {
        if self.macos {
            return [
                "-e",
                "on run argv",
                "-e",
                "display notification (item 3 of argv) with title (item 2 of argv)",
                "-e",
                "end run",
                // Options end at the first word that is none, so that no text is taken for one.
                "mirror",
                &content.title,
                &content.body,
            ]
            .map(OsString::from)
            .into();
        }
        let urgency = match content.urgency {
            Urgency::Min | Urgency::Low => "low",
            Urgency::Default | Urgency::High => "normal",
            Urgency::Urgent => "critical",
        };
        // The text of a notification is markup there, in which a link or an image must not come from a card.
        let body = content.body.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        ["--app-name=MirrorDNA", &format!("--urgency={urgency}"), "--", &content.title, &body]
            .map(OsString::from)
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(title: &str, body: &str) -> Content {
        Content { title: title.into(), body: body.into(), urgency: Urgency::Urgent }
    }

    /// A program that writes its arguments into a file beside it, one a line.
    fn program(dir: &tempfile::TempDir, end: &str) -> PathBuf {
        let path = dir.path().join("notify-send");
        let script = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" > \"{}/said\"\n{end}\n", dir.path().display());
        mirror_testkit::write_program(&path, script.as_bytes());
        path
    }

    #[tokio::test]
    async fn a_card_is_arguments_and_never_a_script() {
        let dir = tempfile::tempdir().unwrap();
        let desktop = Desktop { program: program(&dir, "exit 0"), macos: false };
        let hostile = content("--help; $(touch x) `id`", "<a href=x>&\" & (do shell script \"id\")");
        desktop.show(&hostile).await.unwrap();
        let said = std::fs::read_to_string(dir.path().join("said")).unwrap();
        assert_eq!(
            said,
            "--app-name=MirrorDNA\n--urgency=critical\n--\n--help; $(touch x) `id`\n\
             &lt;a href=x&gt;&amp;\" &amp; (do shell script \"id\")\n"
        );
        let macos = Desktop { macos: true, ..desktop }.arguments(&hostile);
        assert_eq!(macos[6], "mirror");
        assert_eq!(macos[7..], ["--help; $(touch x) `id`", "<a href=x>&\" & (do shell script \"id\")"]);
        assert!(!macos[..6].iter().any(|part| part.to_string_lossy().contains("touch")));
    }

    #[tokio::test]
    async fn a_command_that_fails_says_how_and_not_what() {
        let dir = tempfile::tempdir().unwrap();
        let failing = Desktop { program: program(&dir, "exit 3"), macos: false };
        let why = failing.show(&content("secret", "")).await.unwrap_err();
        assert!(why.contains("exit status: 3") && !why.contains("secret"), "{why}");
        let missing = Desktop { program: dir.path().join("none"), macos: false };
        assert!(missing.show(&content("x", "")).await.unwrap_err().contains("cannot be started"));
    }
}
