//! Many fail at once, or because of one.

use std::time::Duration;

use mirror_drill::{DEPENDENTS, HUB, LEAVES, Order, give};
use mirror_testkit::wait_for;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::stage::{Expected, Stage, row};

#[tokio::test]
async fn ten_dependents_fail_with_the_one_that_they_need() {
    let stage = Stage::new(2).await;
    let home = stage.fleet.home().clone();
    let crash =
        Expected { causes: &["crashed"], remedy: "", touched: &[HUB], within: Duration::from_secs(180) };
    stage.drill("kill -9 of a hub", HUB, &crash, async || stage.fleet.strike(HUB, Signal::SIGKILL)).await;

    let hang = Expected {
        remedy: "restart-kill",
        causes: &["hung"],
        touched: &[HUB],
        within: Duration::from_secs(180),
    };
    let known: Vec<String> = stage.incidents("").await.into_iter().map(|i| i.id).collect();
    stage
        .drill("dependency hangs, ten dependents", HUB, &hang, async || {
            give(&home, HUB, &Order::Hang).unwrap()
        })
        .await;
    let mut new = stage.incidents("").await;
    new.retain(|i| !known.contains(&i.id));
    assert!(new.iter().all(|i| i.root == HUB), "one root: {new:?}");
    assert!(new.iter().any(|i| i.shadowed.len() == DEPENDENTS.len()), "ten are shadowed: {new:?}");
    stage.well(Duration::from_secs(60)).await;
    stage.end().await;
}

#[tokio::test]
async fn twenty_fail_at_once() {
    let stage = Stage::new(24).await;
    stage.seasoned().await;
    let (before, acted) = (stage.pids().await, stage.actions().await.len());
    let began = Instant::now();
    for leaf in &LEAVES[..20] {
        stage.fleet.strike(leaf, Signal::SIGKILL);
    }
    let mut detected = None;
    wait_for(Duration::from_secs(40), "all twenty serve again", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let pulse = stage.pulse().await?;
        if detected.is_none() && !pulse.incidents.is_empty() {
            detected = Some((began.elapsed(), pulse.incidents[0].cause.clone()));
        }
        for leaf in &LEAVES[..20] {
            let (_, pid) = stage.state(leaf).await?;
            if before[*leaf] == pid {
                return Err((*leaf).to_owned());
            }
        }
        Ok(())
    })
    .await;
    let recovered = began.elapsed();
    stage.well(Duration::from_secs(90)).await;
    let after = stage.pids().await;
    let collateral =
        before.iter().filter(|(n, pid)| !LEAVES[..20].contains(&n.as_str()) && after.get(*n) != Some(pid));
    let remedies: Vec<String> =
        stage.actions().await.iter().skip(acted).map(|a| format!("{} {}", a.remedy, a.target)).collect();
    row(&json!({
        "fault": "twenty at once", "target": "20 leaves", "verdict": "failed together",
        "causes": detected.iter().map(|(_, c)| c.clone()).collect::<Vec<_>>(), "remedies": remedies,
        "detect_ms": detected.as_ref().map(|(d, _)| d.as_millis()), "recover_ms": recovered.as_millis(),
        "collateral": collateral.count(),
    }));
    assert!(remedies.is_empty(), "the supervisor brings them back, and nobody pushes: {remedies:?}");
    stage.end().await;
}

#[tokio::test]
async fn nothing_happens() {
    let stage = Stage::new(30).await;
    stage.seasoned().await;
    let (before, acted, known) =
        (stage.pids().await, stage.actions().await.len(), stage.incidents("").await.len());
    let secs = std::env::var("MIRROR_SOAK_SECS").ok().and_then(|s| s.parse().ok()).unwrap_or(120);
    tokio::time::sleep(Duration::from_secs(secs)).await;
    assert_eq!(stage.actions().await.len(), acted, "{:?}", stage.actions().await);
    assert_eq!(stage.incidents("").await.len(), known, "{:?}", stage.incidents("").await);
    assert_eq!(stage.pids().await, before);
    row(&json!({
        "fault": format!("none, for {secs} s"), "target": "fleet", "verdict": "ok", "causes": [], "remedies": [],
        "detect_ms": null, "recover_ms": 0, "collateral": 0,
    }));
    stage.end().await;
}
