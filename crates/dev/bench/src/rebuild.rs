//! How long it takes to make everything again from the log alone: the index, and each service's state.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mirror_client::{Channel, SocketDial, channel};
use mirror_contract::mirror::bus::v1 as bus;
use mirror_contract::mirror::changelog::v1 as changelog;
use mirror_contract::mirror::fold::v1 as fold;
use mirror_contract::mirror::kit::v1 as kit;
use mirror_contract::mirror::witness::v1 as witness;
use mirror_paths::Home;

use crate::corpus;
use crate::machine::{Quiet, describe};

/// How often is looked.
const LOOK: Duration = Duration::from_millis(100);
/// Time without work after which a process is done.
const QUIET: Duration = Duration::from_secs(3);
/// Longest time that is waited for all.
const PATIENCE: Duration = Duration::from_secs(900);
/// Ticks of 10 ms in one look below which a process is idle.
const IDLE: u64 = 1;

/// What a process used up to now.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    /// CPU time in ticks of 10 ms.
    ticks: u64,
    /// Highest resident set in KiB.
    peak: u64,
}

fn used(pid: u32) -> anyhow::Result<Used> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse().ok()).context("VmHWM")?;
    Ok(Used { ticks: crate::fleet::ticks(pid)?, peak })
}

pub(crate) fn run(events: u64, mirror: Option<PathBuf>) -> anyhow::Result<()> {
    let mirror = crate::bus::binary(mirror)?;
    let quiet = Quiet::watch();
    let temp = tempfile::Builder::new().prefix("r").tempdir()?;
    let started = Instant::now();
    let home = corpus::build(&mirror, temp.path().join("h"), events)?;
    println!("{}\n", describe());
    println!("A log of {events} events, written in {:.1} s.\n", started.elapsed().as_secs_f64());
    println!("| what | process | done after, s | how seen | CPU s | peak resident MB | events/s |");
    println!("|---|---|---|---|---|---|---|");
    index(&mirror, &home, events, "start with the index in place")?;
    std::fs::remove_dir_all(home.bus().join("index"))?;
    index(&mirror, &home, events, "rebuild of the index")?;
    folds(&mirror, &home, events)?;
    println!("\n{}", quiet.note());
    Ok(())
}

fn start(mirror: &Path, home: &Home, args: &[&str]) -> anyhow::Result<Child> {
    Command::new(mirror)
        .args(args)
        .env("MIRROR_HOME", home.root())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("start {}", mirror.display()))
}

fn row(what: &str, process: &str, done: Option<f64>, how: &str, used: Used, events: u64) {
    let rate = done.map_or("-".to_owned(), |done| format!("{:.0}", events as f64 / done));
    println!(
        "| {what} | {process} | {} | {how} | {:.2} | {:.1} | {rate} |",
        done.map_or("-".to_owned(), |done| format!("{done:.2}")),
        used.ticks as f64 / 100.0,
        used.peak as f64 / 1024.0
    );
}

/// Starts a bus and waits until its index has reached the head.
fn index(mirror: &Path, home: &Home, events: u64, what: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut child = start(mirror, home, &["serve", "bus"])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reached: anyhow::Result<f64> = runtime.block_on(async {
        let mut client = crate::bus::client(home);
        while started.elapsed() < PATIENCE {
            if let Ok(status) = client.get_status(bus::GetStatusRequest {}).await
                && status.get_ref().head >= events
                && status.get_ref().index_upto == status.get_ref().head
            {
                return Ok(started.elapsed().as_secs_f64());
            }
            tokio::time::sleep(LOOK / 10).await;
        }
        anyhow::bail!("the index did not reach the head within {PATIENCE:?}")
    });
    let used = used(child.id());
    crate::bus::end(&mut child);
    row(what, "bus", Some(reached?), "index_upto is the head", used?, events);
    Ok(())
}

/// What is known of one process of the fleet.
#[derive(Debug)]
struct Watched {
    pid: u32,
    used: Used,
    /// When it had read the log, and how that was seen.
    reached: Option<(f64, &'static str)>,
    /// When it was last busy.
    busy: f64,
}

/// Starts the fleet without any state and waits until each service has read the log.
fn folds(mirror: &Path, home: &Home, events: u64) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(home.state_root()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let started = Instant::now();
    let mut up = start(mirror, home, &["up"])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let watched = runtime.block_on(watch(home, events, started));
    let _ = Command::new("kill").arg(up.id().to_string()).status();
    let _ = up.wait();
    let watched = watched?;
    let last = watched.values().map(|w| w.busy).fold(0.0, f64::max);
    for (name, w) in &watched {
        let what = "all state anew, the fleet together";
        match w.reached {
            Some((done, how)) => row(what, name, Some(done), how, w.used, events),
            // It reads no log, or only what is its own.
            None => row(what, name, None, "-", w.used, events),
        }
    }
    println!("\nThe last process was busy until {last:.1} s after the start.");
    Ok(())
}

async fn watch(home: &Home, events: u64, started: Instant) -> anyhow::Result<BTreeMap<String, Watched>> {
    let mut all: BTreeMap<String, Watched> = BTreeMap::new();
    let dial = Arc::new(SocketDial::new(home.clone()));
    loop {
        tokio::time::sleep(LOOK).await;
        let now = started.elapsed().as_secs_f64();
        for (name, pid) in rows(home) {
            let Ok(used) = used(pid) else { continue };
            let known = all.entry(name.clone()).or_insert(Watched {
                pid,
                used: Used::default(),
                reached: None,
                busy: 0.0,
            });
            anyhow::ensure!(known.pid == pid, "{name} was started again while it was watched");
            if used.ticks > known.used.ticks + IDLE {
                known.busy = now;
            }
            known.used = used;
        }
        // All at once, and none longer than a moment: one that does not answer yet must not hide when the others are done.
        let asked = all.iter_mut().filter(|(_, known)| known.reached.is_none()).map(async |(name, known)| {
            let to = channel(dial.clone(), name);
            let how = tokio::time::timeout(LOOK, reached(to, name, events)).await.ok().flatten();
            known.reached = how.map(|how| (started.elapsed().as_secs_f64(), how));
        });
        futures::future::join_all(asked).await;
        let idle = |w: &Watched| now - w.busy > QUIET.as_secs_f64();
        if now > QUIET.as_secs_f64() && !all.is_empty() && all.values().all(idle) {
            return Ok(all);
        }
        anyhow::ensure!(started.elapsed() < PATIENCE, "the fleet is still at work after {PATIENCE:?}");
    }
}

/// Returns the fleet's processes by the supervisor's rows.
fn rows(home: &Home) -> Vec<(String, u32)> {
    let rows = std::fs::read_dir(home.fleet()).into_iter().flatten().flatten();
    let pid = |row: &std::fs::DirEntry| {
        let text = std::fs::read_to_string(row.path()).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    rows.filter_map(|row| Some((row.file_name().to_string_lossy().into_owned(), pid(&row)?))).collect()
}

/// Returns how it was seen that a service has read the log; nothing while it has not, or when it cannot be seen.
async fn reached(to: Channel, name: &str, events: u64) -> Option<&'static str> {
    let mut folds = fold::fold_service_client::FoldServiceClient::new(to.clone());
    if let Ok(answer) = folds.get_fold(fold::GetFoldRequest {}).await {
        return (answer.get_ref().upto >= events).then_some("GetFold");
    }
    match name {
        "changelog" => {
            let mut client = changelog::changelog_service_client::ChangelogServiceClient::new(to);
            let request = changelog::GetChangelogRequest { days: 1, ..Default::default() };
            let answer = client.get_changelog(request).await.ok()?;
            (answer.get_ref().upto >= events).then_some("GetChangelog")
        }
        "witness" => {
            let mut client = witness::witness_service_client::WitnessServiceClient::new(to);
            let answer = client.get_checkpoint(witness::GetCheckpointRequest {}).await.ok()?;
            let checkpoint = answer.into_inner().checkpoint?;
            (checkpoint.size >= events).then_some("checkpoint signed")
        }
        // These two serve when they have read the log.
        "schedule" | "halt" => {
            let mut client = kit::kit_service_client::KitServiceClient::new(to);
            let answer = client.get_state(kit::GetStateRequest {}).await.ok()?;
            (answer.get_ref().state() == kit::get_state_response::State::Serving).then_some("serves")
        }
        _ => None,
    }
}
