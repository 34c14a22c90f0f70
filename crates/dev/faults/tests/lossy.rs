//! A real bus on a file system that forgets what was not synced, and the power goes at random moments.
//!
//! `MIRROR_LOSSY_ROUNDS` is the number of power cuts, 60 unless it is set; `MIRROR_LOSSY_SEED` decides them.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed helper is a failed test; figures are printed"
)]

use mirror_contract::mirror::bus::v1::GetStatusRequest;
use mirror_faults::Rng;
use mirror_faults::lossy::Lossy;
use mirror_faults::rig::{CONFIG, Crowd, DRAINED, Machine, verify};
use mirror_testkit::wait;
use mirror_verify::Severity;

/// Power cuts after which a new home is begun, so that reading everything back stays quick.
const LIFE: u64 = 15;

fn number(name: &str, normal: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(normal)
}

/// Mounts a file system where the log is, or says loudly that it cannot.
fn mounted(machine: &Machine, seed: u64, honest: bool) -> Option<Lossy> {
    let at = machine.home().join("bus");
    mirror_paths::private_dir(&at).unwrap();
    match Lossy::mount(&at, seed, honest) {
        Ok(lossy) => Some(lossy),
        Err(e) => {
            assert!(
                std::env::var_os("MIRROR_LOSSY_REQUIRED").is_none(),
                "FUSE is required and not there: {e}"
            );
            println!(
                "SKIPPED: no file system can be mounted through FUSE here ({e}); NO POWER CUT WAS TESTED"
            );
            None
        }
    }
}

fn machine() -> Machine {
    Machine::new(env!("CARGO_BIN_EXE_mirror-faulty")).configured(CONFIG)
}

/// What a life came to.
#[derive(Debug, Default)]
struct Tally {
    cuts: u64,
    early: u64,
    acked: u64,
    duplicates: u64,
}

/// One home through several power cuts, and a clean end.
async fn life(seed: u64, cuts: u64, tally: &mut Tally) -> bool {
    let machine = machine();
    let Some(mut lossy) = mounted(&machine, seed, true) else { return false };
    let mut rng = Rng::new(seed);
    let mut crowd = Crowd::new("p", 12);
    for _ in 0..cuts {
        let mut served = machine.serve(false);
        let early = rng.one_in(4);
        if early {
            // While it starts, or recovers from the cut before.
            lossy.cut_after(rng.bits() % 60);
            tally.early += 1;
            wait("the power goes or the bus stands still", async || {
                if lossy.is_cut() || served.ended().is_some() || machine.answers().await {
                    return Ok(());
                }
                Err(format!("{} changes", lossy.changes()))
            })
            .await;
        } else {
            let mut client = machine.ready(&mut served).await;
            tally.duplicates += crowd.check(&mut client).await.duplicates;
            lossy.cut_after(rng.bits() % 400);
            crowd
                .press(&machine, async |_| {
                    wait("the power goes", async || if lossy.is_cut() { Ok(()) } else { Err(String::new()) })
                        .await;
                    served.kill();
                })
                .await;
        }
        lossy.cut();
        served.kill();
        lossy = lossy.after(rng.bits()).unwrap();
        tally.cuts += 1;
    }
    let mut served = machine.serve(false);
    let mut client = machine.ready(&mut served).await;
    tally.duplicates += crowd.check(&mut client).await.duplicates;
    tally.acked += crowd.acked();
    let status = served.stop().await;
    assert_eq!(status.code(), Some(DRAINED), "{status}: {}", served.said());
    let report = verify(&machine.home().join("bus"));
    assert!(report.severity() <= Severity::Notice, "{report:?}");
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_power_cuts() {
    let (rounds, first) = (number("MIRROR_LOSSY_ROUNDS", 60), number("MIRROR_LOSSY_SEED", 1));
    let mut tally = Tally::default();
    let mut seed = first;
    while tally.cuts < rounds {
        println!("seed {seed}");
        if !life(seed, LIFE.min(rounds - tally.cuts), &mut tally).await {
            return;
        }
        seed += 1;
    }
    let Tally { cuts, early, acked, duplicates } = tally;
    println!(
        "{cuts} power cuts ({early} while the bus started), seeds {first} to {}: {acked} acknowledged, 0 lost, {duplicates} \
         of unknown outcome were stored",
        seed - 1
    );
}

/// The instrument itself: on a disk whose syncs do nothing, what was acknowledged goes, and it shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_lies_is_found_out() {
    for seed in 1..=20 {
        let machine = machine();
        let Some(lossy) = mounted(&machine, seed, false) else { return };
        let mut served = machine.serve(false);
        machine.ready(&mut served).await;
        // The home itself was made long ago.
        lossy.settle();
        let mut crowd = Crowd::new("p", 4);
        crowd.press(&machine, async |p| p.more(50).await).await;
        lossy.cut();
        served.kill();
        let lossy = lossy.after(seed).unwrap();
        let mut served = machine.serve(false);
        let mut client = machine.ready(&mut served).await;
        let there = client.get_status(GetStatusRequest {}).await.unwrap();
        served.kill();
        drop(lossy);
        if there.into_inner().head < 50 {
            return;
        }
    }
    unreachable!("twenty power cuts lost nothing on a disk that keeps nothing");
}
