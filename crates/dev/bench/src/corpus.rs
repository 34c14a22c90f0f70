//! A home with a long log: what a person's agents and services leave in months, written at once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use mirror_bus::bench::Engine;
use mirror_bus::{Config, RealDisk};
use mirror_paths::Home;
use mirror_types::{Origin, Subject};

/// Appends that wait for the same sync.
const TOGETHER: usize = 4096;
/// Rows of one session of a coding agent.
const SESSION: u64 = 400;
/// Length to which payloads are filled up.
const BYTES: usize = 256;

/// An event of the log.
pub(crate) struct Made {
    pub(crate) actor: &'static str,
    pub(crate) subject: &'static str,
    /// The caller's id; none for what people and scripts append.
    pub(crate) id: Option<String>,
    pub(crate) payload: String,
}

/// Returns the event of a position, from 1: of a hundred, 74 rows of sessions, 14 notes, 6 cards put or cleared, 3 marks of
/// the schedule, 3 incidents.
pub(crate) fn made(n: u64) -> Made {
    let id = |prefix: &str| Some(format!("{prefix}-{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    match n % 100 {
        0..74 => row(n, id("claude")),
        74..88 => {
            let head = format!("{{\"text\":\"note {n}: ");
            Made { actor: "local", subject: "local.note", id: None, payload: filled(&head, "\"}") }
        }
        88..92 => {
            let (card, head) = (n / 100 % 50, format!("build {n} is ready, "));
            let head = format!(
                "{{\"subject\":\"local.card-{card}\",\"urgency\":\"low\",\"by\":\"local\",\"title\":\"Build\",\"body\":\"{head}"
            );
            Made {
                actor: "svc:notify",
                subject: "notify.card",
                id: id("notify"),
                payload: filled(&head, "\"}"),
            }
        }
        92..94 => {
            let payload = format!("{{\"subject\":\"local.card-{}\"}}", n / 100 % 50);
            Made { actor: "svc:notify", subject: "notify.cleared", id: id("notify"), payload }
        }
        94..97 => {
            let payload = format!(
                "{{\"jobs\":[{{\"job\":\"bench-{}\",\"settled\":{},\"totals\":{{\"quiet\":{n},\"done\":0,\"failed\":0,\
                 \"missed\":0,\"skipped\":0}}}}]}}",
                n % 7,
                1_767_225_600_000 + n * 1000
            );
            Made { actor: "svc:schedule", subject: "schedule.settled", id: id("schedule"), payload }
        }
        _ => {
            let head = format!("{{\"state\":\"open\",\"n\":{n},\"text\":\"a leaf is late: ");
            Made {
                actor: "svc:pulse",
                subject: "pulse.incident",
                id: id("pulse"),
                payload: filled(&head, "\"}"),
            }
        }
    }
}

/// A row of a session of Claude Code; the sessions spread over four months of days.
fn row(n: u64, id: Option<String>) -> Made {
    let (session, within) = (n / SESSION, n % SESSION);
    let at = format!(
        "2026-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        1 + session / 28 % 4,
        1 + session % 28,
        8 + within / 60 % 12,
        within % 60,
        n % 60
    );
    let head =
        format!("{{\"source\":\"claude-code\",\"session\":\"s-{session:06}\",\"at\":\"{at}\",\"row\":{{");
    let (subject, payload) = match within % 8 {
        0 => {
            let head = format!(
                "{head}\"cwd\":\"/home/me/project-{}\",\"message\":{{\"content\":\"do {n}: ",
                session % 20
            );
            ("import.claude.prompt", filled(&head, "\"}}}"))
        }
        1..4 => {
            let head = format!(
                "{head}\"message\":{{\"id\":\"m{n}\",\"content\":[{{\"type\":\"tool_use\",\"name\":\"Edit\",\"input\":{{\"file_path\":\"/f{}",
                n % 97
            );
            ("import.claude.turn", filled(&head, "\"}}]}}}"))
        }
        _ => {
            let head =
                format!("{head}\"message\":{{\"id\":\"m{n}\",\"content\":[{{\"type\":\"text\",\"text\":\"");
            ("import.claude.turn", filled(&head, "\"}]}}}"))
        }
    };
    Made { actor: "svc:import", subject, id, payload }
}

fn filled(head: &str, tail: &str) -> String {
    let room = BYTES.saturating_sub(head.len() + tail.len());
    format!("{head}{}{tail}", "x".repeat(room))
}

/// Makes a home whose log has so many events.
pub(crate) fn build(mirror: &Path, root: PathBuf, events: u64) -> anyhow::Result<Home> {
    let home = Home::at(root)?;
    let origin = make(mirror, &home)?;
    let config = Config::default();
    let (engine, _) = Engine::open(&home.bus(), &origin, &config, Arc::new(RealDisk))
        .map_err(|e| anyhow::anyhow!("open the bus: {e}"))?;
    let first = engine.state().0 + 1;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result: anyhow::Result<()> = runtime.block_on(async {
        futures::stream::iter(first..=events)
            .map(|n| {
                let (engine, made) = (engine.clone(), made(n));
                async move {
                    let subject = Subject::parse(made.subject)?;
                    // An index that falls far behind makes appends wait, as it does in the service.
                    while engine.state().0 - engine.state().1 > config_lag() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    engine.append_as(made.actor, &subject, made.id.as_deref(), made.payload.into()).await?;
                    anyhow::Ok(())
                }
            })
            .buffered(TOGETHER)
            .try_collect()
            .await
    });
    engine.close();
    result?;
    Ok(home)
}

fn config_lag() -> u64 {
    Config::default().index_lag_limit / 2
}

/// Starts a bus once, so that the home has a key and a log; returns the log's name.
fn make(mirror: &Path, home: &Home) -> anyhow::Result<Origin> {
    let mut child = Command::new(mirror)
        .args(["serve", "bus"])
        .env("MIRROR_HOME", home.root())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("start {}", mirror.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ready = runtime.block_on(crate::bus::ready(home));
    crate::bus::end(&mut child);
    ready?;
    let logs = std::fs::read_dir(home.bus().join("log"))?;
    let name = logs.flatten().map(|log| log.file_name()).next().context("the bus made no log")?;
    Origin::parse(&name.to_string_lossy()).context("the log has another name than that of an origin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_json_of_the_size_that_is_told() {
        let mut subjects = std::collections::BTreeSet::new();
        for n in 1..=800 {
            let made = made(n);
            let value: serde_json::Value = serde_json::from_str(&made.payload).unwrap();
            assert!(value.is_object() && made.payload.len() <= BYTES, "{n}: {}", made.payload);
            assert!(Subject::parse(made.subject).is_ok());
            subjects.insert(made.subject);
        }
        assert_eq!(subjects.len(), 7, "{subjects:?}");
    }
}
