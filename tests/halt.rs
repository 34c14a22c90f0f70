//! The kill switch against real processes: how soon acts stop, and what no attack on its files brings back.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test reports by panicking")]

use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mirror_clock::{Clock as _, SystemClock};
use mirror_contract::mirror::halt::v1::halt_service_client::HaltServiceClient;
use mirror_contract::mirror::halt::v1::{EngageHaltRequest, GetHaltRequest};
use mirror_contract::mirror::import::v1::RunImportRequest;
use mirror_contract::mirror::import::v1::import_service_client::ImportServiceClient;
use mirror_errors::Remote;
use mirror_kit::Channel;
use mirror_paths::write_atomic;
use mirror_testkit::fleet::Fleet;
use mirror_testkit::wait;
use tonic::Status;

/// How long after an engagement an act may still begin.
const LIMIT: Duration = Duration::from_millis(250);
const LOOPS: usize = 8;

/// Begins one act, an import of nothing, and says whether it was let through.
async fn act(channel: Channel, path: String) -> Result<(), Status> {
    let request = RunImportRequest { path, ..Default::default() };
    let mut progress = ImportServiceClient::new(channel).run_import(request).await?.into_inner();
    while progress.message().await?.is_some() {}
    Ok(())
}

fn is_halted(status: &Status) -> bool {
    Remote::from_status(status).reason == "KIT_HALTED"
}

/// Each act: when it was begun, and how it ended.
type Acts = Vec<(Instant, Result<(), Status>)>;

async fn keep_acting(channel: Channel, path: String, stop: Arc<AtomicBool>) -> Acts {
    let mut acts = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        acts.push((begun, act(channel.clone(), path.clone()).await));
    }
    acts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_act_begins_a_quarter_of_a_second_after_the_halt() {
    let mut fleet = Fleet::new(env!("CARGO_BIN_EXE_mirror"));
    fleet.up().await;
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().to_string_lossy().into_owned();
    let stop = Arc::new(AtomicBool::new(false));
    let loops: Vec<_> = (0..LOOPS)
        .map(|_| tokio::spawn(keep_acting(fleet.channel("import"), path.clone(), Arc::clone(&stop))))
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut halt = HaltServiceClient::new(fleet.channel("halt"));
    halt.engage_halt(EngageHaltRequest { reason: "a test".to_owned() }).await.unwrap();
    let engaged = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);

    let (mut before, mut refused, mut last) = (0, 0, Duration::ZERO);
    for acting in loops {
        for (begun, result) in acting.await.unwrap() {
            match result {
                Ok(()) if begun < engaged => before += 1,
                Ok(()) => last = last.max(begun - engaged),
                Err(status) if is_halted(&status) => refused += 1,
                // One import at a time: the others are told so, which is no act.
                Err(status) => assert_eq!(Remote::from_status(&status).reason, "IMPORT_BUSY", "{status:?}"),
            }
        }
    }
    assert!(before > 0 && refused > 0, "{before} acts before the halt, {refused} refused after it");
    assert!(last <= LIMIT, "an act was begun {last:?} after the halt");
    // Reading and recording go on.
    fleet.text(&["append", "local.note", "written under halt"]);
    fleet.down().await;
}

/// Releases the halt as the owner does.
fn release(fleet: &Fleet, passphrase: &str) -> bool {
    let mut child = fleet
        .command(&["halt", "release"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{passphrase}").unwrap();
    child.wait().unwrap().success()
}

async fn expect(fleet: &Fleet, halted: bool, what: &str) {
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().to_string_lossy().into_owned();
    wait(what, async || {
        let result = act(fleet.channel("import"), path.clone()).await;
        match &result {
            Ok(()) if !halted => Ok(()),
            Err(status) if halted && is_halted(status) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn engage(fleet: &Fleet) {
    let mut halt = HaltServiceClient::new(fleet.channel("halt"));
    wait("the halt is engaged and recorded", async || {
        let answer = halt.engage_halt(EngageHaltRequest { reason: "a test".to_owned() }).await;
        match answer {
            Ok(answer) if answer.get_ref().recorded => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn neither_deleting_nor_spoiling_nor_replaying_the_files_frees() {
    let mut fleet = Fleet::new(env!("CARGO_BIN_EXE_mirror"));
    mirror_kit::init(fleet.home()).unwrap();
    let draft = mirror_keeper::recovery::draft(fleet.home(), SystemClock.wall_ms()).unwrap();
    let passphrase = draft.passphrase().grouped().to_string();
    draft.commit().unwrap();
    fleet.up().await;
    wait("the halt can be released", async || {
        let answer = HaltServiceClient::new(fleet.channel("halt")).get_halt(GetHaltRequest {}).await;
        let halt = answer.map_err(|e| e.to_string())?.into_inner().halt.unwrap_or_default();
        if halt.releasable { Ok(()) } else { Err(format!("{halt:?}")) }
    })
    .await;
    expect(&fleet, false, "a new home is free").await;

    // What an attacker may have kept: the files of the new home, and of a home after a release.
    let (state, seen) = (fleet.home().halt().join("state"), fleet.home().halt().join("seen"));
    let keep = || (fs::read(&state).unwrap(), fs::read(&seen).unwrap());
    let first = keep();
    engage(&fleet).await;
    expect(&fleet, true, "the halt holds").await;
    assert!(!release(&fleet, "AAAAA-AAAAA-AAAAA-AAAAA-AAAAA-AAAAA"), "not with just any passphrase");
    expect(&fleet, true, "the halt holds after a wrong passphrase").await;
    assert!(release(&fleet, &passphrase));
    expect(&fleet, false, "the owner's passphrase frees").await;
    let second = keep();
    engage(&fleet).await;
    expect(&fleet, true, "the halt holds again").await;

    for (name, (old_state, old_seen)) in [("of the beginning", &first), ("of the release", &second)] {
        write_atomic(&state, old_state).unwrap();
        expect(&fleet, true, &format!("the state {name} does not free")).await;
        // Both files, and every process anew: only the log still knows.
        fleet.down().await;
        write_atomic(&state, old_state).unwrap();
        write_atomic(&seen, old_seen).unwrap();
        fleet.up().await;
        wait("the halt service has seen it", async || {
            let answer = HaltServiceClient::new(fleet.channel("halt")).get_halt(GetHaltRequest {}).await;
            let halt = answer.map_err(|e| e.to_string())?.into_inner().halt.unwrap_or_default();
            if halt.engaged { Ok(()) } else { Err(format!("{halt:?}")) }
        })
        .await;
        expect(&fleet, true, &format!("state and floor {name} do not free")).await;
    }
    for text in [&b""[..], b"{}", b"{\"payload\":\"", b"released"] {
        fs::write(&state, text).unwrap();
        expect(&fleet, true, &format!("{:?} does not free", String::from_utf8_lossy(text))).await;
    }
    fs::remove_file(&state).unwrap();
    expect(&fleet, true, "no state does not free").await;
    fs::remove_file(&seen).unwrap();
    expect(&fleet, true, "no floor does not free").await;
    fleet.down().await;
    for path in [&state, &seen] {
        let _ = fs::remove_file(path);
    }
    fleet.up().await;
    expect(&fleet, true, "a start with neither does not free").await;
    wait("the owner's passphrase still frees", async || {
        if release(&fleet, &passphrase) { Ok(()) } else { Err("refused".to_owned()) }
    })
    .await;
    expect(&fleet, false, "the owner is obeyed").await;
    fleet.down().await;
}
