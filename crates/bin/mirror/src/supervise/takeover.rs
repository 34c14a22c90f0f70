//! Services that an earlier `up` left behind when it was killed: they are stopped before new ones start.

use std::collections::BTreeSet;
use std::time::Duration;

use mirror_clock::{Clock as _, SystemClock};
use mirror_errors::Kind;
use mirror_kit::{Holder, holder};
use mirror_paths::Home;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::EXIT_TIME_OUT;
use super::rows;
use crate::app::app;
use crate::failure::Failure;
use crate::out::say;

/// Longest wait for a process after SIGKILL, and for a lease whose holder is gone.
const AFTER_KILL: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(10);

/// Stops what an earlier `up` left, upper tiers first. The caller holds the lock of `up`.
pub(crate) async fn run(home: &Home) -> Result<(), Failure> {
    let tiers: BTreeSet<u8> = app().services.iter().map(|s| s.decl.tier).collect();
    for tier in tiers.into_iter().rev() {
        let names = app().services.iter().filter(|s| s.decl.tier == tier).map(|s| s.decl.name);
        futures::future::join_all(names.map(|name| stop(home, name))).await;
    }
    for service in app().services {
        free(home, service.decl.name).await?;
    }
    Ok(())
}

/// Stops the process of a fleet row. The row and the start time say that it is the one, not a later one with its id.
async fn stop(home: &Home, name: &str) {
    let Some(pid) = rows::living(home, name) else { return };
    say(&format!("{name} (pid {pid}) was left behind by an earlier up; it is stopped"));
    send(pid, Signal::SIGTERM);
    let gone = async || rows::living(home, name) != Some(pid);
    if !until(EXIT_TIME_OUT, &gone).await {
        say(&format!("{name} (pid {pid}) did not end within {} s; it is killed", EXIT_TIME_OUT.as_secs()));
        send(pid, Signal::SIGKILL);
        until(AFTER_KILL, &gone).await;
    }
    rows::remove(home, name, pid);
}

/// Checks that nobody holds the lease of a service.
async fn free(home: &Home, name: &str) -> Result<(), Failure> {
    let held = || holder(home, name).map_err(|e| Failure::file("read", &home.lease(name), &e));
    // A process that only looks holds it for an instant.
    until(Duration::from_secs(1), &async || matches!(held(), Ok(Holder::Nobody))).await;
    let who = match held()? {
        Holder::Nobody => return Ok(()),
        Holder::Process(info) => info.pid.to_string(),
        Holder::Unknown => "unknown".to_owned(),
    };
    let message = format!("{name} is served by a process (pid {who}) that no fleet started");
    Err(Failure::new(Kind::Precondition, "CLI_UP_BLOCKED", message).hint(format!("stop it with: kill {who}")))
}

async fn until(limit: Duration, condition: &impl AsyncFn() -> bool) -> bool {
    let clock = SystemClock;
    let end = clock.boot() + limit;
    loop {
        if condition().await {
            return true;
        }
        if clock.boot() >= end {
            return false;
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Sends a signal; a process that has ended meanwhile needs none.
pub(super) fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}
