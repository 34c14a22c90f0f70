//! Services of the product break: the bus, pulse, remedy, the supervisor itself, and what they keep on disk.

use std::fs;
use std::time::Duration;

use mirror_drill::{LEAVES, Order, give};
use mirror_testkit::wait_for;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::stage::{Expected, Stage, row};

const LEAF: &str = LEAVES[0];

#[tokio::test]
async fn the_bus_dies_hangs_and_loses_its_index() {
    let stage = Stage::new(1).await;
    let home = stage.fleet.home().clone();
    let expected =
        |causes, remedy| Expected { causes, remedy, touched: &["bus"], within: Duration::from_secs(180) };
    let crash = expected(&["crashed"], "");
    stage
        .drill("kill -9 of the bus", "bus", &crash, async || stage.fleet.strike("bus", Signal::SIGKILL))
        .await;
    let hung = expected(&["hung"], "restart-kill");
    stage.drill("the bus hangs", "bus", &hung, async || stage.fleet.strike("bus", Signal::SIGSTOP)).await;
    let spoil = async || {
        stage.fleet.strike("bus", Signal::SIGKILL);
        for entry in fs::read_dir(home.bus().join("index")).unwrap().flatten() {
            if entry.file_type().unwrap().is_file() {
                fs::write(entry.path(), b"not an index").unwrap();
            }
        }
    };
    stage.drill("index of the bus corrupt", "bus", &crash, spoil).await;
    let verdict = stage.fleet.text(&["bus", "verify"]);
    assert!(verdict.ends_with("verdict: intact\n"), "{verdict}");
    stage.end().await;
}

#[tokio::test]
async fn state_that_was_spoilt_is_built_anew() {
    let stage = Stage::new(1).await;
    let home = stage.fleet.home().clone();
    for (fault, service, text) in [
        ("snapshot corrupt", "changelog", &b"\0\x01garbage\xff"[..]),
        ("half-written JSON", "schedule", b"{\"version\":1,\"jobs\":[{\"na"),
        ("half-written JSON of pulse", "pulse", b"{\"open\":[{\"id\":\"x"),
    ] {
        let touched: &'static [&'static str] = match service {
            "changelog" => &["changelog"],
            "schedule" => &["schedule"],
            _ => &["pulse"],
        };
        // Pulse tells of its own death only once it lives again, and may tell nothing at all.
        let causes: &'static [&'static str] = if service == "pulse" { &[] } else { &["crashed"] };
        let expected = Expected { causes, remedy: "", touched, within: Duration::from_secs(180) };
        stage
            .drill(fault, service, &expected, async || {
                stage.fleet.strike(service, Signal::SIGKILL);
                for entry in fs::read_dir(home.state(service)).into_iter().flatten().flatten() {
                    if entry.file_type().unwrap().is_file() {
                        fs::write(entry.path(), text).unwrap();
                    }
                }
            })
            .await;
    }
    stage.end().await;
}

#[tokio::test]
async fn who_heals_is_healed() {
    let stage = Stage::new(1).await;
    let home = stage.fleet.home().clone();

    // Remedy hangs: pulse asks the supervisor itself.
    stage.seasoned().await;
    let (before, began) = (stage.pids().await, Instant::now());
    stage.fleet.strike("remedy", Signal::SIGSTOP);
    wait_for(Duration::from_secs(45), "another remedy serves", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        match stage.state("remedy").await {
            Ok((_, pid)) if pid != before["remedy"] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let recovered = began.elapsed();
    stage.well(Duration::from_secs(90)).await;
    let causes: Vec<String> = stage.incidents("remedy").await.into_iter().map(|i| i.cause).collect();
    row(&json!({
        "fault": "remedy hangs", "target": "remedy", "verdict": "failed", "causes": causes, "remedies": ["by the supervisor"],
        "detect_ms": null, "recover_ms": recovered.as_millis(), "collateral": 0,
    }));

    // Pulse is killed while a remedy that it asked for is under way: it is done once.
    stage.seasoned().await;
    let (starts, acted) = (stage.agent(LEAF).await.starts, stage.actions().await.len());
    let began = Instant::now();
    stage.fleet.strike(LEAF, Signal::SIGSTOP);
    wait_for(Duration::from_secs(45), "a remedy is under way", async || {
        if stage.actions().await.len() > acted { Ok(()) } else { Err("none yet".to_owned()) }
    })
    .await;
    stage.fleet.strike("pulse", Signal::SIGKILL);
    stage.well(Duration::from_secs(90)).await;
    let recovered = began.elapsed();
    let actions = stage.actions().await;
    let new: Vec<String> = actions.iter().skip(acted).map(|a| format!("{} {}", a.remedy, a.target)).collect();
    assert_eq!(new, [format!("restart-kill {LEAF}")]);
    assert_eq!(stage.agent(LEAF).await.starts, starts + 1, "it was restarted once");
    row(&json!({
        "fault": "pulse killed in mid-remedy", "target": LEAF, "verdict": "failed", "causes": ["hung"], "remedies": new,
        "detect_ms": null, "recover_ms": recovered.as_millis(), "collateral": 0,
    }));

    // Pulse itself hangs: the dead-man job sees that its heart stands still.
    stage.seasoned().await;
    let before = stage.pids().await;
    stage.fleet.strike("pulse", Signal::SIGSTOP);
    let beat = fs::File::options().write(true).open(home.run().join("pulse.beat")).unwrap();
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    beat.set_modified(old).unwrap();
    let began = Instant::now();
    let job = stage.fleet.run(&["job", "dead-man"]);
    wait_for(Duration::from_secs(30), "another pulse serves", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        match stage.state("pulse").await {
            Ok((_, pid)) if pid != before["pulse"] => Ok(()),
            other => Err(format!("{other:?} {job:?}")),
        }
    })
    .await;
    row(&json!({
        "fault": "pulse hangs (from the dead-man job on)", "target": "pulse", "verdict": "no heartbeat", "causes": [],
        "remedies": ["restart by dead-man"], "detect_ms": null, "recover_ms": began.elapsed().as_millis(), "collateral": 0,
    }));
    stage.well(Duration::from_secs(90)).await;
    stage.end().await;
}

#[tokio::test]
async fn the_supervisor_is_killed() {
    let mut stage = Stage::new(3).await;
    give(stage.fleet.home(), LEAF, &Order::NotServing).unwrap();
    mirror_drill::clear(stage.fleet.home(), LEAF);
    let began = Instant::now();
    stage.fleet.kill().await;
    stage.fleet.up().await;
    stage.well(Duration::from_secs(90)).await;
    row(&json!({
        "fault": "kill -9 of the supervisor (mirror up), started again", "target": "fleet", "verdict": "taken over",
        "causes": [], "remedies": [], "detect_ms": null, "recover_ms": began.elapsed().as_millis(), "collateral": 0,
    }));
    assert!(stage.actions().await.is_empty(), "{:?}", stage.actions().await);
    stage.end().await;
}
