//! What `up` prints: a line for each service as it settles, then what to do next.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use mirror_clock::{Clock as _, SystemClock};
use mirror_kit::Decl;
use mirror_paths::Home;
use mirror_supervisor::Rows;
use serde_json::json;
use tokio::sync::watch;

use super::health::{self, Settled};
use crate::app::BUILD;
use crate::ctx::Ctx;
use crate::out::{BAD, DIM, GOOD, HEAD, ODD, Out};

/// What `up` prints.
pub(crate) struct Show<'a> {
    pub(crate) ctx: &'a Ctx,
    pub(crate) out: &'a mut Out,
    pub(crate) home: &'a Home,
    pub(crate) main: &'a Path,
    /// The services, in the order in which they start.
    pub(crate) services: &'a [&'static Decl],
    pub(crate) rows: watch::Receiver<Rows>,
}

impl Show<'_> {
    /// Prints a line for each service as it settles, then what to do next.
    pub(crate) async fn announce(&mut self, begun: Duration) {
        let (home, rows) = (self.home, self.rows.clone());
        let settled =
            |decl: &'static Decl| async { (decl.name, health::settled(home, decl, rows.clone()).await) };
        let mut waiting: FuturesUnordered<_> = self.services.iter().map(|decl| settled(decl)).collect();
        let mut fine = true;
        while let Some((name, settled)) = waiting.next().await {
            fine &= settled.fine;
            self.line(name, &settled);
        }
        drop(waiting);
        let after = SystemClock.boot().saturating_sub(begun);
        self.ready(after, fine);
    }

    fn line(&mut self, name: &str, settled: &Settled) {
        let socket = self.home.socket(name).unwrap_or_default();
        let ms = u64::try_from(settled.after.as_millis()).unwrap_or(u64::MAX);
        if self.out.json_wanted() {
            let _ = self.out.json(&json!({
                "event": "service",
                "service": name,
                "state": settled.state,
                "detail": settled.detail,
                "pid": (settled.pid != 0).then_some(settled.pid),
                "healthy_ms": ms,
                "socket": socket,
            }));
        } else {
            let width = self.services.iter().map(|decl| decl.name.len()).max().unwrap_or(0);
            let style = match settled.state {
                "serving" => GOOD,
                "not serving" | "not healthy" | "not loaded" | "ended" => BAD,
                _ => ODD,
            };
            let mut line =
                format!("{name:<width$}  {}", self.out.paint(style, &format!("{:<11}", settled.state)));
            if settled.pid != 0 {
                let socket = self.out.paint(DIM, &socket.display().to_string());
                line.push_str(&format!("  pid {:<7}  {ms:>5} ms  {socket}", settled.pid));
            }
            if !settled.detail.is_empty() {
                line.push_str(&format!("  {}", crate::text::block(&settled.detail)));
            }
            let _ = self.out.line(line.trim_end());
        }
        let _ = self.out.flush();
    }

    fn ready(&mut self, after: Duration, fine: bool) {
        let (ms, commands) = (after.as_millis(), self.commands());
        if self.out.json_wanted() {
            let lines: Vec<&str> = commands.iter().map(|(_, line)| line.as_str()).collect();
            let value = json!({"event": "ready", "fine": fine, "ms": ms, "build": BUILD, "next": lines});
            let _ = self.out.json(&value);
        } else {
            let what = if fine { "the fleet is up" } else { "the fleet is up in part" };
            let _ = self.out.line(&format!("\n{} after {ms} ms, build {BUILD}", self.out.paint(HEAD, what)));
            let _ = self.out.line("next, in another terminal:\n");
            for (what, line) in &commands {
                let _ =
                    self.out.line(&format!("  {}\n  {line}\n", self.out.paint(DIM, &format!("# {what}"))));
            }
            let _ = self.out.line("Ctrl-C here drains the fleet.");
        }
        let _ = self.out.flush();
    }

    fn commands(&self) -> Vec<(&'static str, String)> {
        let command = |rest: &str| self.ctx.command(self.home, self.main, rest);
        let socket = self.home.socket("bus").unwrap_or_default();
        let socket = crate::text::shell_word(&socket.to_string_lossy());
        vec![
            ("bring in what your coding agents wrote down", command(&format!("import {}", transcripts()))),
            ("see events as they come", command("log -f")),
            ("see what happened, by day", command("changelog")),
            ("check every byte of the log", command("bus verify")),
            ("see what runs", command("status")),
            (
                "look with any gRPC client",
                format!("grpcurl -plaintext -authority localhost unix://{socket} list"),
            ),
        ]
    }
}

/// Returns transcripts to begin with: the user's own, else the samples where the source tree is.
fn transcripts() -> String {
    let own = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".claude/projects"));
    let samples = std::env::current_dir().map(|dir| dir.join("tests/samples"));
    match (own.filter(|dir| dir.is_dir()), samples.ok().filter(|dir| dir.is_dir())) {
        (None, Some(samples)) => crate::text::shell_word(&samples.to_string_lossy()),
        _ => "~/.claude/projects".to_owned(),
    }
}
