//! Services that an earlier `up` left behind when it was killed: they are stopped before new ones start.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use mirror_clock::{Clock as _, SystemClock};
use mirror_errors::Kind;
use mirror_kit::{Holder, holder};
use mirror_paths::Home;
use mirror_supervisor::rows;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{EXIT_TIME_OUT, OWN};
use crate::app::app;
use crate::failure::Failure;
use crate::out::say;

/// Longest wait for a process after SIGKILL, and for a lease whose holder is gone.
const AFTER_KILL: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(10);

/// Stops what an earlier `up` left, upper tiers first. The caller holds the lock of `up`.
///
/// A supervisor that lives is of launchd or systemd, and then so are the rows: nothing is touched.
pub(crate) async fn run(home: &Home) -> Result<(), Failure> {
    if app().service(OWN).is_some() {
        free(home, OWN).await?;
    }
    let mut names: BTreeSet<(Reverse<u8>, String)> =
        app().services.iter().map(|s| (Reverse(s.decl.tier), s.decl.name.to_owned())).collect();
    // Rows of jobs, and of services that this build does not have.
    let rows = std::fs::read_dir(home.fleet()).map_err(|e| Failure::file("read", &home.fleet(), &e))?;
    for name in rows.flatten().filter_map(|row| row.file_name().into_string().ok()) {
        if app().service(&name).is_none() {
            names.insert((Reverse(mirror_agents::JOB_TIER), name));
        }
    }
    let tiers: BTreeSet<Reverse<u8>> = names.iter().map(|(tier, _)| *tier).collect();
    for tier in tiers {
        let of_tier = names.iter().filter(|(t, _)| *t == tier);
        futures::future::join_all(of_tier.map(|(_, name)| stop(home, name))).await;
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

/// Checks that nobody holds the lease of a service. A process that an earlier `up` had just started when it was killed
/// has no row; what it was about to do says that the process is its own.
async fn free(home: &Home, name: &str) -> Result<(), Failure> {
    let held = || holder(home, name).map_err(|e| Failure::file("read", &home.lease(name), &e));
    if rows::is_intended(home, name) {
        // It says who it is once it has given up waiting for its row.
        until(AFTER_KILL, &async || !matches!(held(), Ok(Holder::Unknown))).await;
    }
    if let Holder::Process(info) = held()?
        && rows::was_intended(home, name, info.started_ms)
        && rows::write(home, name, info.pid).is_ok()
    {
        stop(home, name).await;
    }
    rows::settle(home, name);
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
