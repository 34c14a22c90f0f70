//! The fleet at rest, and an import of real transcripts.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use crate::machine::{Quiet, describe};

/// What the whole idle fleet may use.
const FLEET_MB: f64 = 50.0;
const FLEET_CPU_PERCENT: f64 = 0.5;
const HEALTHY: Duration = Duration::from_secs(2);

struct Fleet {
    up: Child,
    mirror: PathBuf,
    home: PathBuf,
    healthy: Duration,
    _temp: tempfile::TempDir,
}

impl Fleet {
    fn start(mirror: Option<PathBuf>) -> anyhow::Result<Self> {
        let mirror = match mirror {
            Some(mirror) => mirror,
            None => std::env::current_exe()?.with_file_name("mirror"),
        };
        let temp = tempfile::Builder::new().prefix("f").tempdir()?;
        let home = temp.path().join("h");
        let started = Instant::now();
        let up = Command::new(&mirror)
            .arg("up")
            .env("MIRROR_HOME", &home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", mirror.display()))?;
        let mut fleet = Self { up, mirror, home, healthy: Duration::ZERO, _temp: temp };
        loop {
            if fleet.run(&["status"])?.status.success() {
                fleet.healthy = started.elapsed();
                return Ok(fleet);
            }
            anyhow::ensure!(
                started.elapsed() < Duration::from_secs(20),
                "the fleet is not healthy after 20 s"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn run(&self, args: &[&str]) -> anyhow::Result<Output> {
        Ok(Command::new(&self.mirror)
            .args(args)
            .env("MIRROR_HOME", &self.home)
            .stdin(Stdio::null())
            .output()?)
    }

    fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let out = self.run(args)?;
        anyhow::ensure!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    /// Returns the services' names and processes, and the supervisor's.
    fn processes(&self) -> anyhow::Result<Vec<(String, u32)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.home.join("run/fleet"))? {
            let entry = entry?;
            let text = std::fs::read_to_string(entry.path())?;
            let pid = text
                .split_whitespace()
                .next()
                .and_then(|p| p.parse().ok())
                .context("a fleet row has a pid")?;
            found.push((entry.file_name().to_string_lossy().into_owned(), pid));
        }
        found.sort();
        // `up` is the supervisor, and has a row as such.
        if !found.iter().any(|(_, pid)| *pid == self.up.id()) {
            found.push(("mirror up".to_owned(), self.up.id()));
        }
        Ok(found)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.up.id().to_string()).status();
        let _ = self.up.wait();
    }
}

/// Returns the proportional set size in MB.
fn pss(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .context("read the memory of an undumpable process, which needs root")?;
    let kib: f64 = text
        .lines()
        .find_map(|l| l.strip_prefix("Pss:"))
        .and_then(|l| l.trim().strip_suffix(" kB"))
        .and_then(|n| n.trim().parse().ok())
        .context("smaps_rollup has a Pss line")?;
    Ok(kib / 1024.0)
}

/// Returns the CPU time of a process in ticks of 10 ms.
pub(crate) fn ticks(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    Ok(fields.get(11).context("utime")?.parse::<u64>()? + fields.get(12).context("stime")?.parse::<u64>()?)
}

pub(crate) fn idle(seconds: f64, mirror: Option<PathBuf>) -> anyhow::Result<()> {
    let quiet = Quiet::watch();
    let fleet = Fleet::start(mirror)?;
    let declared = fleet.run(&["services", "--json"])?.stdout;
    let declared: Vec<Value> =
        String::from_utf8(declared)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let ceiling = |name: &str| declared.iter().find(|r| r["name"] == name)?["memory_mb"].as_f64();
    // Past the start: allocators settle, the index stores what it gathered.
    std::thread::sleep(Duration::from_secs(3));
    let processes = fleet.processes()?;
    let before: Vec<u64> = processes.iter().map(|(_, pid)| ticks(*pid)).collect::<Result<_, _>>()?;
    let from = Instant::now();
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let span = from.elapsed().as_secs_f64();
    println!("{}\n", describe());
    println!(
        "Healthy after {:.0} ms (bar: {} ms).\n",
        fleet.healthy.as_secs_f64() * 1e3,
        HEALTHY.as_millis()
    );
    println!("| process | proportional memory, MB | declared, MB | CPU, % of one core |");
    println!("|---|---|---|---|");
    let (mut memory, mut cpu, mut allowed, mut over) = (0.0, 0.0, 0.0, Vec::new());
    for ((name, pid), before) in processes.iter().zip(before) {
        let (mb, share) = (pss(*pid)?, (ticks(*pid)? - before) as f64 / span);
        let limit = ceiling(name);
        memory += mb;
        cpu += share;
        allowed += limit.unwrap_or(0.0);
        if limit.is_some_and(|limit| mb > limit) {
            over.push(name.clone());
        }
        let limit = limit.map_or("-".to_owned(), |l| format!("{l:.0}"));
        println!("| {name} | {mb:.1} | {limit} | {share:.2} |");
    }
    println!(
        "| **all** | **{memory:.1}** (bar {FLEET_MB}) | {allowed:.0} | **{cpu:.2}** (bar {FLEET_CPU_PERCENT}) |"
    );
    println!("\nOver {span:.0} s; {}", quiet.note());
    anyhow::ensure!(over.is_empty(), "over their declared memory: {over:?}");
    anyhow::ensure!(memory < FLEET_MB, "the fleet uses {memory:.1} MB");
    anyhow::ensure!(!quiet.ok() || cpu < FLEET_CPU_PERCENT, "the idle fleet uses {cpu:.2} % CPU");
    anyhow::ensure!(
        !quiet.ok() || fleet.healthy < HEALTHY,
        "the fleet took {:?} to be healthy",
        fleet.healthy
    );
    Ok(())
}

/// Imports a folder twice and prints what both runs report.
pub(crate) fn import(path: &Path, mirror: Option<PathBuf>) -> anyhow::Result<()> {
    let quiet = Quiet::watch();
    let fleet = Fleet::start(mirror)?;
    let path = path.to_str().context("the path is UTF-8")?;
    println!("{}\n", describe());
    println!(
        "| run | rows | taken | skipped | quarantined | blobs | sessions | seconds | rows/s | machine |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for run in 1..=2 {
        let started = Instant::now();
        let report = fleet.json(&["import", path, "--json"])?;
        let took = started.elapsed().as_secs_f64();
        let get =
            |key: &str| report.get(key).map_or_else(|| "0".to_owned(), |v| v.to_string().replace('"', ""));
        let rows: f64 = get("rows").parse().unwrap_or_default();
        println!(
            "| {run} | {} | {} | {} | {} | {} | {} | {took:.2} | {:.0} | {} |",
            get("rows"),
            get("taken"),
            get("skipped"),
            get("quarantined"),
            get("blobs"),
            get("sessions"),
            rows / took,
            quiet.note()
        );
    }
    let verify = fleet.run(&["bus", "verify"])?;
    println!("\n```\n{}```", String::from_utf8_lossy(&verify.stdout));
    anyhow::ensure!(verify.status.success(), "verify failed");
    Ok(())
}
