//! The same under `mirror up`, which starts the bus again by itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_faults::rig::{library, verify};
use mirror_testkit::fleet::Fleet;
use mirror_testkit::wait_for;
use mirror_verify::Severity;

/// Longest time until a service that ended is back: launchd's floor of ten seconds, twice, and a start.
const BACK: Duration = Duration::from_secs(40);

/// Replaces the plan of a home, and forgets what happened.
fn plan(home: &Path, rules: &str) {
    let _ = fs::remove_file(home.join("faults.plan.hits"));
    mirror_paths::write_atomic(&home.join("faults.plan"), rules.as_bytes()).unwrap();
}

fn hits(home: &Path) -> usize {
    fs::read_to_string(home.join("faults.plan.hits")).unwrap_or_default().lines().count()
}

async fn append(fleet: &Fleet, n: u64) -> Result<u64, String> {
    let event = pb::NewEvent {
        subject: "local.fault".to_owned(),
        payload: format!("{n}").into(),
        r#type: pb::PayloadType::Json.into(),
        id: format!("f-{n}"),
        ..Default::default()
    };
    let mut client = BusServiceClient::new(fleet.channel("bus"));
    let answer = client.append(pb::AppendRequest { event: Some(event), expect: None }).await;
    answer.map(|a| a.into_inner().ack.unwrap().seq).map_err(|e| e.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisoned_bus_is_started_again_and_checkpoints_go_on_when_the_disk_does() {
    let mut fleet = Fleet::new(env!("CARGO_BIN_EXE_mirror-faulty"));
    let home = fleet.home().root().to_owned();
    mirror_paths::private_dir(&home).unwrap();
    fs::write(home.join("faults.preload"), library().to_str().unwrap()).unwrap();
    plan(&home, "write checkpoints/ 1 0 EIO\n");
    fleet.up().await;
    let before = fleet.pid("bus").unwrap();
    let mut acked = BTreeMap::new();
    for n in 0..20 {
        acked.insert(n, append(&fleet, n).await.unwrap());
    }
    plan(&home, "write checkpoints/ 1 0 EIO\nfdatasync .seg$ 3 1 EIO\n");
    let mut n = 20;
    wait_for(BACK, "the bus was started again and appends are taken", async || {
        match append(&fleet, n).await {
            Ok(seq) => {
                acked.insert(n, seq);
                n += 1;
                if fleet.pid("bus").is_some_and(|pid| pid != before) {
                    Ok(())
                } else {
                    Err("it is the old one".into())
                }
            }
            Err(e) => {
                // What was lost on the way is tried again under its id.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(e)
            }
        }
    })
    .await;
    assert!(hits(&home) > 0, "the fault happened");
    plan(&home, "");
    wait_for(Duration::from_secs(100), "a checkpoint is made", async || {
        let dirs = fs::read_dir(home.join("bus/checkpoints")).map_err(|e| e.to_string())?;
        let notes = dirs.flatten().flat_map(|d| fs::read_dir(d.path()).into_iter().flatten()).count();
        tokio::time::sleep(Duration::from_millis(50)).await;
        if notes > 0 { Ok(()) } else { Err("there is none".to_owned()) }
    })
    .await;
    for (n, seq) in &acked {
        assert_eq!(append(&fleet, *n).await, Ok(*seq), "it was acknowledged, so it is a duplicate");
    }
    fleet.down().await;
    let report = verify(&home.join("bus"));
    assert!(report.severity() <= Severity::Notice, "{report:?}");
}
