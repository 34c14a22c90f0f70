//! What the agents stand on breaks: disk, folders, memory, time, processor.

use std::fs;
use std::process::Command;
use std::time::Duration;

use mirror_drill::{LEAVES, Order, clear, give};
use mirror_paths::private_dir;
use mirror_testkit::fleet::{Fleet, send};
use mirror_testkit::wait_for;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::stage::{Expected, Stage, bad, row};

const LEAF: &str = LEAVES[0];

#[tokio::test]
async fn sockets_and_folders_go() {
    let stage = Stage::new(3).await;
    let home = stage.fleet.home().clone();
    let socket = home.socket(LEAF).unwrap();
    stage.seasoned().await;
    let (before, began) = (stage.pids().await, Instant::now());
    fs::remove_file(&socket).unwrap();
    wait_for(Duration::from_secs(60), "the socket is bound again", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stage.state(LEAF).await.map(|_| ())
    })
    .await;
    row(&json!({
        "fault": "socket file removed", "target": LEAF, "verdict": "the service binds it again", "causes": [], "remedies": [],
        "detect_ms": null, "recover_ms": began.elapsed().as_millis(), "collateral": 0,
    }));
    stage.well(Duration::from_secs(120)).await;
    assert_eq!(stage.pids().await, before, "nobody was restarted");

    // A file that is no socket stands where a dead process had its socket.
    let stale = async || {
        stage.fleet.strike(LEAF, Signal::SIGKILL);
        let _ = fs::remove_file(&socket);
        fs::write(&socket, "stale").unwrap();
    };
    let crash =
        Expected { causes: &["crashed"], remedy: "", touched: &[LEAF], within: Duration::from_secs(180) };
    stage.drill("stale socket file", LEAF, &crash, stale).await;

    let plist = home.agents().join(format!("dev.mirrordna.{LEAF}.plist"));
    let edit = async || {
        let text = fs::read_to_string(&plist).unwrap();
        fs::write(&plist, text.replace("<key>RunAtLoad</key>", "<key>RunAtLoda</key>")).unwrap();
        stage.fleet.run(&["pulse", "--sweep"]);
    };
    let drift = Expected {
        causes: &["plist-drift"],
        remedy: "render",
        touched: &[LEAF],
        within: Duration::from_secs(330),
    };
    stage.drill("property list edited", LEAF, &drift, edit).await;
    stage.end().await;
}

#[tokio::test]
async fn the_folder_of_sockets_goes() {
    let stage = Stage::new(2).await;
    stage.seasoned().await;
    let (before, began) = (stage.pids().await, Instant::now());
    fs::remove_dir_all(stage.fleet.home().run()).unwrap();
    wait_for(Duration::from_secs(60), "every service answers on its socket and has its row", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for (name, pid) in &before {
            stage.state(name).await.map_err(|e| format!("{name}: {e}"))?;
            if stage.fleet.pid(name) != Some(*pid) {
                return Err(format!("{name} has no row"));
            }
        }
        Ok(())
    })
    .await;
    let recovered = began.elapsed();
    stage.well(Duration::from_secs(180)).await;
    let after = stage.pids().await;
    let collateral = before.iter().filter(|(name, pid)| after.get(*name) != Some(pid)).count();
    let causes: Vec<String> = stage.incidents("").await.into_iter().map(|i| i.cause).collect();
    row(&json!({
        "fault": "socket folder removed", "target": "fleet", "verdict": "the services bind again", "causes": causes,
        "remedies": stage.actions().await.iter().map(|a| format!("{} {}", a.remedy, a.target)).collect::<Vec<_>>(),
        "detect_ms": null, "recover_ms": recovered.as_millis(), "collateral": collateral,
    }));
    assert_eq!(collateral, 0, "nobody had to be restarted");
    stage.fleet.text(&["append", "local.note", "after the folder"]);
    stage.end().await;
}

#[tokio::test]
async fn an_agent_takes_too_much() {
    let stage = Stage::new(2).await;
    let home = stage.fleet.home().clone();
    let hog = Expected {
        causes: &["memory"],
        remedy: "restart",
        touched: &[LEAF],
        within: Duration::from_secs(400),
    };
    stage
        .drill("memory hog", LEAF, &hog, async || {
            give(&home, LEAF, &Order::Memory(200)).unwrap();
            tokio::time::sleep(Duration::from_secs(2)).await;
            // Three checks in a row must agree.
            for _ in 0..3 {
                stage.fleet.run(&["pulse", "--sweep"]);
            }
        })
        .await;

    stage.seasoned().await;
    stage.well(Duration::from_secs(60)).await;
    let (acted, began) = (stage.actions().await.len(), Instant::now());
    give(&home, LEAF, &Order::Flood(5)).unwrap();
    let mut detected = None;
    let mut causes = Vec::new();
    wait_for(Duration::from_secs(400), "the log is rotated", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let incidents = stage.incidents(LEAF).await;
        causes = incidents.iter().map(|i| i.cause.clone()).collect();
        if detected.is_none() && causes.iter().any(|c| c == "log-flood") {
            detected = Some(began.elapsed());
            clear(&home, LEAF);
        }
        if detected.is_none() {
            // The sweep of every five minutes, brought forward.
            tokio::time::sleep(Duration::from_secs(5)).await;
            stage.fleet.run(&["pulse", "--sweep"]);
        }
        let done = stage.actions().await.iter().skip(acted).any(|a| a.remedy == "rotate-logs");
        if done { Ok(()) } else { Err(format!("{incidents:?}")) }
    })
    .await;
    clear(&home, LEAF);
    stage.well(Duration::from_secs(400)).await;
    row(&json!({
        "fault": "log flood", "target": LEAF, "verdict": "failed", "causes": causes, "remedies": ["rotate-logs"],
        "detect_ms": detected.map(|d| d.as_millis()), "recover_ms": began.elapsed().as_millis(), "collateral": 0,
    }));
    stage.end().await;
}

#[tokio::test]
async fn the_processor_starves() {
    let stage = Stage::new(10).await;
    stage.seasoned().await;
    let (before, acted, known) =
        (stage.pids().await, stage.actions().await.len(), stage.incidents("").await.len());
    let mut busy: Vec<_> = (0..20)
        .map(|_| Command::new("/bin/sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
        .collect();
    tokio::time::sleep(Duration::from_secs(60)).await;
    for child in &mut busy {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(stage.pids().await, before, "nobody was restarted");
    assert_eq!(stage.actions().await.len(), acted);
    let false_alarms = stage.incidents("").await.len() - known;
    row(&json!({
        "fault": "load of 20 for 60 s", "target": "fleet", "verdict": "ok", "causes": [], "remedies": [],
        "detect_ms": null, "recover_ms": 0, "collateral": 0,
    }));
    assert_eq!(false_alarms, 0, "{:?}", stage.incidents("").await);
    stage.end().await;
}

#[tokio::test]
async fn everything_stands_still_and_wakes() {
    let stage = Stage::new(2).await;
    stage.seasoned().await;
    let (before, acted) = (stage.pids().await, stage.actions().await.len());
    // The machine does not sleep here; its processes do, the supervisor's too.
    let mut pids: Vec<u32> = before.values().copied().filter(|pid| *pid != 0).collect();
    pids.sort_unstable();
    for pid in &pids {
        send(*pid, Signal::SIGSTOP);
    }
    stage.fleet.signal(Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_secs(90)).await;
    stage.fleet.signal(Signal::SIGCONT);
    for pid in &pids {
        send(*pid, Signal::SIGCONT);
    }
    stage.well(Duration::from_secs(120)).await;
    assert_eq!(stage.pids().await, before, "nobody was restarted");
    assert_eq!(stage.actions().await.len(), acted);
    row(&json!({
        "fault": "all processes frozen for 90 s", "target": "fleet", "verdict": "woke", "causes": [], "remedies": [],
        "detect_ms": null, "recover_ms": 0, "collateral": 0,
    }));
    stage.end().await;
}

/// A home on a small file system of its own; nothing where this user may not mount one.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    fn mount(mib: u32) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("m").tempdir().unwrap();
        let size = format!("size={mib}m,mode=0700");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "mirror-drill"]).arg(dir.path()).status();
        if mounted.is_ok_and(|s| s.success()) { Some(Self { dir }) } else { None }
    }

    /// Makes the home read-only for whatever is opened from here on, as a file system with errors does.
    fn freeze(&self) {
        let home = self.dir.path().join("h");
        let mount = |args: &[&str]| Command::new("mount").args(args).arg(&home).status().unwrap().success();
        let bound = Command::new("mount").arg("--bind").arg(&home).arg(&home).status().unwrap().success();
        assert!(bound && mount(&["-o", "remount,bind,ro"]));
    }

    fn thaw(&self) {
        assert!(Command::new("umount").arg("-l").arg(self.dir.path().join("h")).status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

#[tokio::test]
async fn the_disk_is_full_and_then_read_only() {
    let Some(small) = Small::mount(160) else {
        println!("SKIPPED: this user may not mount a tmpfs; full disk and read-only disk were NOT tried");
        return;
    };
    let fleet = Fleet::at(env!("CARGO_BIN_EXE_mirror-drill"), &small.dir.path().join("h"));
    // A file system this small has less free than the default asks for.
    private_dir(fleet.home().root()).unwrap();
    fs::write(fleet.home().config(), "[pulse]\ndisk_free_mib = 16\n").unwrap();
    let stage = Stage::with(fleet, 1).await;
    stage.seasoned().await;
    for (fault, cause) in [("disk full", "disk-full"), ("file system read-only", "home-unusable")] {
        stage.well(Duration::from_secs(90)).await;
        let (before, acted, began) = (stage.pids().await, stage.actions().await.len(), Instant::now());
        let fill = small.dir.path().join("fill");
        if cause == "disk-full" {
            // Until there is nothing left; the last write fails, and that is meant.
            let _ = fs::write(&fill, vec![1; 400 << 20]);
        } else {
            small.freeze();
        }
        let mut detected = Duration::ZERO;
        wait_for(Duration::from_secs(60), "pulse names it", async || {
            stage.fleet.run(&["pulse", "--sweep"]);
            detected = began.elapsed();
            let pulse = stage.pulse().await?;
            let named = pulse.incidents.iter().any(|i| i.cause == cause);
            if named { Ok(()) } else { Err(format!("{:?} {:?}", pulse.incidents, bad(&pulse))) }
        })
        .await;
        if cause == "disk-full" {
            fs::remove_file(&fill).unwrap();
        } else {
            small.thaw();
        }
        let freed = Instant::now();
        wait_for(Duration::from_secs(120), "all is well again", async || {
            stage.fleet.run(&["pulse", "--sweep"]);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let pulse = stage.pulse().await?;
            let ok = pulse.verdict() == mirror_contract::mirror::pulse::v1::Health::Ok
                && pulse.incidents.is_empty();
            if ok { Ok(()) } else { Err(format!("{:?} {:?}", pulse.incidents, bad(&pulse))) }
        })
        .await;
        let after = stage.pids().await;
        let collateral = before.iter().filter(|(name, pid)| after.get(*name) != Some(pid)).count();
        row(&json!({
            "fault": fault, "target": "fleet", "verdict": "failed until freed", "causes": [cause],
            "remedies": stage.actions().await.iter().skip(acted).map(|a| a.remedy.clone()).collect::<Vec<_>>(),
            "detect_ms": detected.as_millis(), "recover_ms": freed.elapsed().as_millis(), "collateral": collateral,
        }));
    }
    stage.fleet.text(&["append", "local.note", "after the disk"]);
    stage.end().await;
}
