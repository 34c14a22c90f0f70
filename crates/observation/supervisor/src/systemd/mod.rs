//! systemd's user manager, driven through `systemctl --user`.
//!
//! A changed definition needs no new process here: systemd reads it at the next start, so nothing is ended for it.
//! Invariant: only [`Manager::remove`] stops a unit; every other end of a process is a signal or a restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::manager::{Definition, Manager, ManagerError, Put, Shown};
use crate::manager::{Staged, remove_files, same_on_disk};
use crate::tool::{Answer, Tool};

/// What is asked of a unit.
const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,UnitFileState,MainPID,ExecMainCode,ExecMainStatus,NeedDaemonReload";

/// systemd, for units of this user.
#[derive(Debug)]
pub struct Systemd {
    tool: Arc<dyn Tool>,
    folder: PathBuf,
}

impl Systemd {
    /// Returns systemd with the units in `folder`, which is `~/.config/systemd/user`.
    pub fn new(tool: Arc<dyn Tool>, folder: PathBuf) -> Self {
        Self { tool, folder }
    }

    async fn verb(&self, doing: &'static str, unit: &str, args: &[&str]) -> Result<Answer, ManagerError> {
        let args: Vec<&str> =
            ["--user", "--no-ask-password"].into_iter().chain(args.iter().copied()).collect();
        let answer = self.tool.ask(&args).await.map_err(ManagerError::Tool)?;
        if answer.code == 0 { Ok(answer) } else { Err(ManagerError::refused(doing, unit, &answer)) }
    }

    async fn look(&self, unit: &str) -> Result<(Shown, Unit), ManagerError> {
        let answer = self.verb("looking at", unit, &["show", PROPERTIES, unit]).await?;
        Ok(parse(&answer.out))
    }

    async fn exchange(&self, definition: &Definition) -> Result<Put, ManagerError> {
        let trigger = definition.trigger.as_ref().unwrap_or(&definition.unit);
        let (shown, found) = self.look(trigger).await?;
        let same = same_on_disk(&self.folder, definition);
        if same && shown.loaded && found.enabled && !found.stale {
            return Ok(Put::Unchanged);
        }
        let before = if same { None } else { Some(Staged::write(&self.folder, definition)?.commit()?) };
        match self.take_up(trigger).await {
            Ok(()) => Ok(if shown.loaded { Put::Reread } else { Put::Loaded }),
            Err(error) => {
                if let Some(before) = before {
                    before.put_back()?;
                    // The first error is the one to tell.
                    let _ = self.verb("reading", trigger, &["daemon-reload"]).await;
                }
                Err(error)
            }
        }
    }

    async fn take_up(&self, unit: &str) -> Result<(), ManagerError> {
        self.verb("reading", unit, &["daemon-reload"]).await?;
        self.verb("enabling", unit, &["enable", unit]).await?;
        // What runs goes on running, with the old definition until its next start.
        self.verb("starting", unit, &["start", "--no-block", unit]).await?;
        Ok(())
    }
}

/// What is known of a unit besides its process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Unit {
    enabled: bool,
    stale: bool,
}

fn parse(text: &str) -> (Shown, Unit) {
    let get = |key: &str| {
        let line = text.lines().find_map(|line| line.split_once('=').filter(|(k, _)| *k == key));
        line.map_or("", |(_, value)| value.trim())
    };
    let pid = get("MainPID").parse().ok().filter(|pid| *pid != 0);
    let last_exit = match (get("ExecMainCode"), get("ExecMainStatus").parse::<i32>()) {
        // The numbers of waitid: 1 exited, 2 killed, 3 dumped.
        ("1" | "exited", Ok(code)) => format!("exit code {code}"),
        ("2" | "3" | "killed" | "dumped", Ok(n)) => nix::sys::signal::Signal::try_from(n)
            .map_or_else(|_| format!("signal {n}"), |s| s.as_str().to_owned()),
        _ => String::new(),
    };
    let shown = Shown {
        loaded: get("LoadState") == "loaded",
        pid,
        draining: get("SubState").starts_with("stop") || get("ActiveState") == "deactivating",
        waiting: get("SubState") == "auto-restart",
        last_exit: if pid.is_some() && get("ExecMainCode") == "0" { String::new() } else { last_exit },
    };
    let unit = Unit {
        enabled: matches!(get("UnitFileState"), "enabled" | "enabled-runtime" | "static"),
        stale: get("NeedDaemonReload") == "yes",
    };
    (shown, unit)
}

#[tonic::async_trait]
impl Manager for Systemd {
    fn name(&self) -> &'static str {
        "systemd"
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    async fn put(&self, definition: &Definition) -> Result<Put, ManagerError> {
        self.exchange(definition).await
    }

    async fn remove(&self, definition: &Definition) -> Result<bool, ManagerError> {
        let (unit, trigger) = (&definition.unit, definition.trigger.as_ref().unwrap_or(&definition.unit));
        let (shown, _) = self.look(trigger).await?;
        if shown.loaded {
            self.verb("stopping", trigger, &["disable", "--now", trigger]).await?;
            // What the timer started may be at work.
            self.verb("stopping", unit, &["stop", unit]).await?;
        }
        remove_files(&self.folder, definition)?;
        self.verb("reading", unit, &["daemon-reload"]).await?;
        Ok(shown.loaded)
    }

    async fn show(&self, unit: &str) -> Result<Shown, ManagerError> {
        Ok(self.look(unit).await?.0)
    }

    async fn list(&self, units: &[&str]) -> Result<Vec<Shown>, ManagerError> {
        let args: Vec<&str> = ["show", PROPERTIES].into_iter().chain(units.iter().copied()).collect();
        let answer = self.verb("listing", "all units", &args).await?;
        // One paragraph a unit, in the order in which they were named.
        let shown: Vec<Shown> = answer.out.split("\n\n").map(|text| parse(text).0).collect();
        if shown.len() == units.len() {
            return Ok(shown);
        }
        Err(ManagerError::refused("listing", "all units", &answer))
    }

    async fn start(&self, unit: &str) -> Result<(), ManagerError> {
        self.verb("starting", unit, &["start", "--no-block", unit]).await.map(|_| ())
    }

    async fn kick(&self, unit: &str) -> Result<(), ManagerError> {
        self.verb("restarting", unit, &["restart", "--no-block", unit]).await.map(|_| ())
    }

    async fn signal(&self, unit: &str, signal: &str) -> Result<(), ManagerError> {
        if self.look(unit).await?.0.pid.is_none() {
            return Ok(());
        }
        let signal = format!("--signal={signal}");
        self.verb("signalling", unit, &["kill", "--kill-whom=main", &signal, unit]).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: &str = "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nMainPID=4711\n\
        ExecMainCode=0\nExecMainStatus=0\nNeedDaemonReload=no\n";

    #[test]
    fn properties_are_read() {
        let (shown, unit) = parse(RUNNING);
        assert_eq!(shown, Shown { loaded: true, pid: Some(4711), ..Shown::default() });
        assert_eq!(unit, Unit { enabled: true, stale: false });
        let text =
            RUNNING.replace("running", "auto-restart").replace("4711", "0").replace("Code=0", "Code=2");
        let shown = parse(&text.replace("Status=0", "Status=9")).0;
        assert_eq!((shown.waiting, shown.pid, shown.last_exit.as_str()), (true, None, "SIGKILL"));
        assert_eq!(parse("").0, Shown::default());
    }

    /// A systemctl that says what it is told to, and remembers what it was asked.
    #[derive(Debug, Default)]
    struct Script {
        shown: std::sync::Mutex<String>,
        asked: std::sync::Mutex<Vec<String>>,
        refused: std::sync::Mutex<Option<&'static str>>,
    }

    #[tonic::async_trait]
    impl Tool for Script {
        async fn ask(&self, args: &[&str]) -> std::io::Result<Answer> {
            let words =
                args[2..].iter().filter(|a| !a.starts_with("--")).copied().collect::<Vec<_>>().join(" ");
            let refused = self.refused.lock().unwrap().is_some_and(|verb| args.contains(&verb));
            if args.contains(&"show") {
                return Ok(Answer { out: self.shown.lock().unwrap().clone(), ..Answer::default() });
            }
            self.asked.lock().unwrap().push(words);
            Ok(Answer { err: "no".into(), ..Answer::code(i32::from(refused)) })
        }
    }

    fn job() -> Definition {
        Definition {
            unit: "mirror-job.sweep.service".into(),
            trigger: Some("mirror-job.sweep.timer".into()),
            files: vec![
                ("mirror-job.sweep.service".into(), "[Service]\n".into()),
                ("mirror-job.sweep.timer".into(), "[Timer]\n".into()),
            ],
        }
    }

    #[tokio::test]
    async fn a_timer_is_enabled_and_a_definition_that_is_refused_is_put_back() {
        let temp = tempfile::tempdir().unwrap();
        let script = Arc::new(Script::default());
        let systemd = Systemd::new(Arc::<Script>::clone(&script), temp.path().join("user"));
        let asked = || std::mem::take(&mut *script.asked.lock().unwrap());

        *script.shown.lock().unwrap() = "LoadState=not-found\n".into();
        assert_eq!(systemd.put(&job()).await.unwrap(), Put::Loaded);
        assert_eq!(
            asked(),
            ["daemon-reload", "enable mirror-job.sweep.timer", "start mirror-job.sweep.timer"]
        );
        *script.shown.lock().unwrap() = RUNNING.into();
        assert_eq!(systemd.put(&job()).await.unwrap(), Put::Unchanged);
        assert!(asked().is_empty());

        let mut other = job();
        other.files[0].1 = "[Service]\nNice=1\n".into();
        *script.refused.lock().unwrap() = Some("enable");
        let error = systemd.put(&other).await.unwrap_err().to_string();
        assert!(error.contains("enabling mirror-job.sweep.timer failed with exit code 1: no"), "{error}");
        let text = || std::fs::read_to_string(temp.path().join("user/mirror-job.sweep.service"));
        assert_eq!(text().unwrap(), "[Service]\n");
        *script.refused.lock().unwrap() = None;
        asked();
        assert_eq!(systemd.put(&other).await.unwrap(), Put::Reread, "nothing is ended for a new definition");
        asked();

        assert!(systemd.remove(&other).await.unwrap());
        let stopped = ["disable mirror-job.sweep.timer", "stop mirror-job.sweep.service", "daemon-reload"];
        assert_eq!(asked(), stopped);
        assert!(text().is_err());
    }
}
