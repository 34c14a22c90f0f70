//! One agent breaks; nobody else may be touched.

use std::fs;
use std::time::Duration;

use mirror_contract::mirror::kit::v1::get_state_response::State;
use mirror_contract::mirror::supervisor::v1::{AgentDesired, RestartAgentRequest};
use mirror_drill::{LEAVES, Order, clear, give};
use mirror_testkit::wait_for;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::stage::{Expected, Stage, row};

const LEAF: &str = LEAVES[0];

fn expected(leaf: usize, causes: &'static [&'static str], remedy: &'static str) -> Expected {
    Expected { causes, remedy, touched: &LEAVES[leaf..=leaf], within: Duration::from_secs(180) }
}

#[tokio::test]
async fn processes_that_end_by_themselves() {
    // A leaf for each fault: whoever crashes five times within ten minutes is taken out.
    let stage = Stage::new(5).await;
    let home = stage.fleet.home().clone();
    let order = |leaf: usize, order: Order| give(&home, LEAVES[leaf], &order).unwrap();
    let kill = |leaf: usize| stage.fleet.strike(LEAVES[leaf], Signal::SIGKILL);
    let crash = |leaf| expected(leaf, &["crashed"], "");

    stage.drill("kill -9 of a leaf", LEAVES[0], &crash(0), async || kill(0)).await;
    stage.drill("abort", LEAVES[1], &crash(1), async || order(1, Order::Abort)).await;
    stage.drill("exit with an error", LEAVES[2], &crash(2), async || order(2, Order::Exit(74))).await;
    // The process is younger than launchd's floor when it ends, so that the whole of the floor is waited for.
    let floor = async || {
        let before = stage.pids().await[LEAVES[3]];
        kill(3);
        wait_for(Duration::from_secs(5), "the successor serves", async || {
            tokio::time::sleep(Duration::from_millis(50)).await;
            match stage.state(LEAVES[3]).await? {
                (State::Serving, pid) if pid != before => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        kill(3);
    };
    let floored = expected(3, &["crashed"], "");
    stage.drill("kill -9 right after a start", LEAVES[3], &floored, floor).await;
    let exited = expected(4, &["exited"], "start");
    stage.drill("exit 0 though wanted", LEAVES[4], &exited, async || order(4, Order::Exit(0))).await;
    stage.end().await;
}

#[tokio::test]
async fn processes_that_stand_still() {
    let stage = Stage::new(4).await;
    let home = stage.fleet.home().clone();
    let order = |leaf: usize, order: Order| give(&home, LEAVES[leaf], &order).unwrap();
    let hung = |leaf| expected(leaf, &["hung"], "restart-kill");
    stage
        .drill("SIGSTOP", LEAVES[0], &hung(0), async || stage.fleet.strike(LEAVES[0], Signal::SIGSTOP))
        .await;
    stage.drill("executor hangs", LEAVES[1], &hung(1), async || order(1, Order::Hang)).await;
    // Whoever is connected is still answered; a service that can accept nobody gives up after ten seconds.
    let deaf = expected(2, &["crashed"], "");
    let files = async || {
        order(2, Order::Files);
        wait_for(Duration::from_secs(5), "nobody new is answered", async || {
            tokio::time::sleep(Duration::from_millis(100)).await;
            stage.state(LEAVES[2]).await.map_or_else(|_| Ok(()), |_| Err("it answers".to_owned()))
        })
        .await;
    };
    stage.drill("out of file descriptors", LEAVES[2], &deaf, files).await;

    // SIGTERM ignored: the supervisor's own rule, without a remedy.
    let leaf = LEAVES[3];
    stage.well(Duration::from_secs(60)).await;
    let before = stage.agent(leaf).await;
    order(3, Order::Hang);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    let request = RestartAgentRequest { name: leaf.to_owned(), kill: false };
    stage.supervisor().restart_agent(request).await.unwrap();
    wait_for(Duration::from_secs(40), "another process serves", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        match stage.state(leaf).await {
            Ok((_, pid)) if pid != before.pid => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    row(&json!({
        "fault": "SIGTERM ignored at a restart", "target": leaf, "verdict": "draining", "causes": [], "remedies": [],
        "detect_ms": null, "recover_ms": began.elapsed().as_millis(), "collateral": 0,
    }));
    stage.well(Duration::from_secs(60)).await;
    stage.end().await;
}

#[tokio::test]
async fn what_only_looks_like_a_fault() {
    let stage = Stage::new(2).await;
    let home = stage.fleet.home().clone();
    give(&home, LEAF, &Order::SlowStart(40_000)).unwrap();
    let slow = expected(0, &["crashed"], "");
    stage.drill("slow start of 40 s", LEAF, &slow, async || stage.fleet.strike(LEAF, Signal::SIGKILL)).await;
    clear(&home, LEAF);

    // A second instance gives way by itself; the first does not notice.
    let before = stage.pids().await;
    let incidents = stage.incidents("").await.len();
    let second = stage.fleet.command(&["serve", LEAF]).env_remove("MIRROR_SUPERVISED").output().unwrap();
    assert_eq!(second.status.code(), Some(73), "{second:?}");
    // Long enough for the fast lane to have seen it, were there anything to see.
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(stage.pids().await, before);
    assert_eq!(stage.incidents("").await.len(), incidents);
    row(&json!({
        "fault": "second instance", "target": LEAF, "verdict": "ok", "causes": [], "remedies": [],
        "detect_ms": null, "recover_ms": 0, "collateral": 0,
    }));

    // The lease names a process that is gone; a lock dies with its process, the text does not.
    let dead = json!({"pid": 4_194_303, "started_ms": 1, "build": "x", "state": "serving", "detail": ""});
    let lease = home.lease(LEAF);
    stage
        .drill("lock of a dead pid", LEAF, &expected(0, &["crashed"], ""), async || {
            stage.fleet.strike(LEAF, Signal::SIGKILL);
            fs::write(&lease, dead.to_string()).unwrap();
        })
        .await;
    stage.end().await;
}

/// Waits until the leaf is quarantined, and writes the row.
async fn quarantined(stage: &Stage, fault: &str, causes: &[&str], limit: Duration, began: Instant) {
    let mut detected = None;
    let mut reason = String::new();
    let mut seen = Vec::new();
    wait_for(limit, "the leaf is quarantined with the reason", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let incidents = stage.incidents(LEAF).await;
        if !incidents.is_empty() && detected.is_none() {
            detected = Some(began.elapsed());
        }
        seen = incidents.iter().map(|i| i.cause.clone()).collect();
        let agent = stage.agent(LEAF).await;
        reason = agent.reason.clone();
        let is = agent.desired() == AgentDesired::Quarantined && agent.pid == 0 && !reason.is_empty();
        if is { Ok(()) } else { Err(format!("{agent:?}, {incidents:?}")) }
    })
    .await;
    row(&json!({
        "fault": fault, "target": LEAF, "verdict": format!("quarantined: {reason}"), "causes": seen, "remedies": ["quarantine"],
        "detect_ms": detected.map(|d| d.as_millis()), "recover_ms": began.elapsed().as_millis(), "collateral": 0,
    }));
    assert!(seen.iter().any(|c| causes.contains(&c.as_str())), "{seen:?}");
}

#[tokio::test]
async fn what_fails_again_and_again_is_taken_out() {
    let stage = Stage::new(2).await;
    let home = stage.fleet.home().clone();
    stage.seasoned().await;
    let mut before = stage.pids().await;
    before.remove(LEAF);
    give(&home, LEAF, &Order::ExitAtStart(3)).unwrap();
    stage.fleet.strike(LEAF, Signal::SIGKILL);
    let causes = ["crash-loop", "flapping", "crashed", "quarantined"];
    quarantined(&stage, "crash loop", &causes, Duration::from_secs(180), Instant::now()).await;

    // Whoever mends it starts it again, and that is the end of it.
    clear(&home, LEAF);
    stage.fleet.text(&["start", LEAF]);
    stage.well(Duration::from_secs(180)).await;
    let mut after = stage.pids().await;
    after.remove(LEAF);
    assert_eq!(after, before, "nobody else was restarted");
    stage.end().await;
}

#[tokio::test]
async fn what_flaps_is_taken_out() {
    let stage = Stage::new(2).await;
    stage.seasoned().await;
    give(stage.fleet.home(), LEAF, &Order::ExitAfter(3, 14_000)).unwrap();
    let causes = ["crash-loop", "flapping", "crashed", "quarantined"];
    quarantined(&stage, "flapping", &causes, Duration::from_secs(300), Instant::now()).await;
    stage.end().await;
}

#[tokio::test]
async fn a_wrong_configuration_and_a_missing_binary() {
    let stage = Stage::new(2).await;
    let home = stage.fleet.home().clone();
    stage.seasoned().await;
    let starts = stage.agent(LEAF).await.starts;
    give(&home, LEAF, &Order::BadConfig).unwrap();
    let began = Instant::now();
    stage.fleet.strike(LEAF, Signal::SIGKILL);
    let mut detected = Duration::ZERO;
    wait_for(Duration::from_secs(60), "pulse names the configuration", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        detected = began.elapsed();
        let incidents = stage.incidents(LEAF).await;
        if incidents.iter().any(|i| i.cause == "config") { Ok(()) } else { Err(format!("{incidents:?}")) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(stage.agent(LEAF).await.starts, starts + 1, "it is told, not tried again");
    clear(&home, LEAF);
    stage.fleet.text(&["restart", LEAF]);
    stage.well(Duration::from_secs(60)).await;
    row(&json!({
        "fault": "wrong configuration", "target": LEAF, "verdict": "failed until mended, one start", "causes": ["config"],
        "remedies": [], "detect_ms": detected.as_millis(), "recover_ms": null, "collateral": 0,
    }));

    let link = home.bin().join(format!("mirror-{LEAF}"));
    let aside = home.bin().join("aside");
    fs::rename(&link, &aside).unwrap();
    let began = Instant::now();
    stage.fleet.strike(LEAF, Signal::SIGKILL);
    let mut seen = Vec::new();
    wait_for(Duration::from_secs(120), "pulse has an incident about it", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        seen = stage
            .incidents(LEAF)
            .await
            .iter()
            .filter(|i| i.recovered.is_none())
            .map(|i| i.cause.clone())
            .collect();
        if seen.is_empty() { Err("none".to_owned()) } else { Ok(()) }
    })
    .await;
    let detected = began.elapsed();
    fs::rename(&aside, &link).unwrap();
    stage.fleet.run(&["start", LEAF]);
    stage.well(Duration::from_secs(120)).await;
    row(&json!({
        "fault": "binary missing", "target": LEAF, "verdict": "failed until it is back", "causes": seen, "remedies": [],
        "detect_ms": detected.as_millis(), "recover_ms": null, "collateral": 0,
    }));
    stage.end().await;
}
