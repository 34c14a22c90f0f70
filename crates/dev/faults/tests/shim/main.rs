//! A real bus whose file operations fail, stop short or kill it, at every kind of call and place.
//!
//! `MIRROR_FAULTS_DEPTH` says up to which call of a kind each fault is tried; 3 unless it is set.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed helper is a failed test; figures are printed"
)]

mod cases;
mod fleet;

use std::fs;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use futures::StreamExt as _;
use mirror_faults::rig::{CONFIG, Count, Crowd, DRAINED, Machine, Served, verify};
use mirror_testkit::wait;
use mirror_verify::Severity;

use self::cases::{Case, Outcome};

/// Processes at once; each mostly waits for the disk.
const AT_ONCE: usize = 4;

fn machine() -> Machine {
    Machine::new(env!("CARGO_BIN_EXE_mirror-faulty")).configured(CONFIG)
}

/// Starts without faults, checks every promise, and what the other reader says of the log that a clean end leaves.
async fn check(machine: &Machine, crowd: &mut Crowd, case: &str) -> Count {
    let mut served = machine.serve(false);
    let mut client = machine.ready(&mut served).await;
    let count = crowd.check(&mut client).await;
    let status = served.stop().await;
    assert_eq!(status.code(), Some(DRAINED), "{case}: {status}: {}", served.said());
    let report = verify(&machine.home().join("bus"));
    assert!(report.severity() <= Severity::Notice, "{case}: {report:?}");
    count
}

/// A fault while producers append.
async fn under_load(case: &Case, depth: u64) -> Count {
    let (machine, what) = (machine(), format!("{case:?}"));
    machine.plan(&[]);
    let mut served = machine.serve(true);
    machine.ready(&mut served).await;
    let mut crowd = Crowd::new("c", 6);
    crowd.press(&machine, async |p| p.more(5).await).await;
    machine.plan(&[&case.rule]);
    match case.outcome {
        Outcome::Ends => {
            // No more events than a few segments hold may be needed to come to the fault.
            let why = crowd.press(&machine, async |p| p.more(150 + 60 * depth).await).await;
            assert!(machine.hits() > 0, "{what} never happens");
            let status = served.end().await;
            assert!(!status.success(), "{what}: {status}");
            let known = ["AWAY", "BUS_OUTCOME_UNKNOWN", "KIT_DRAINING"];
            assert!(why.iter().all(|w| known.contains(&w.as_str())), "{what}: {why:?}");
            assert!(case.rule.ends_with("KILL") || why.contains("BUS_OUTCOME_UNKNOWN"), "{what}: {why:?}");
        }
        Outcome::Goes => {
            let why = crowd.press(&machine, async |p| p.more(150).await).await;
            assert!(why.is_empty(), "{what}: {why:?}: {}", served.said());
            assert!(machine.hits() > 0, "{what} never happens");
            assert_eq!(served.ended(), None, "{what}: {}", served.said());
            served.stop().await;
        }
        Outcome::Refuses => {
            let why = crowd
                .press(&machine, async |p| {
                    p.refusal().await;
                    assert!(machine.hits() > 0, "{what} never happens");
                    machine.plan(&[]);
                    p.more(60).await;
                })
                .await;
            assert!(why.is_empty(), "{what}: {why:?}: {}", served.said());
            assert_eq!(served.ended(), None, "{what}: {}", served.said());
            served.stop().await;
        }
        Outcome::Any => {
            crowd.press(&machine, async |p| p.more(150).await).await;
            assert!(machine.hits() > 0, "{what} never happens");
            served.stop().await;
        }
    }
    check(&machine, &mut crowd, &what).await
}

/// A fault while the bus starts for the first time: it starts the next time as if nothing had been.
async fn at_first_start(rule: &str) -> Count {
    let machine = machine();
    machine.plan(&[rule]);
    let mut served = machine.serve(true);
    fails(&machine, &mut served, rule).await;
    let mut crowd = Crowd::new("c", 2);
    check(&machine, &mut crowd, rule).await
}

/// Waits until a start has failed because of the fault.
async fn fails(machine: &Machine, served: &mut Served, rule: &str) {
    wait("the start fails", async || match served.ended() {
        Some(status) => {
            assert!(!status.success() && machine.hits() > 0, "{rule}: {status}, {} hits", machine.hits());
            Ok(())
        }
        None if machine.answers().await => panic!("{rule}: it serves, {} hits", machine.hits()),
        None => Err("it starts".to_owned()),
    })
    .await;
}

/// A fault while the bus recovers from a torn tail: it does not start, and starts the next time with everything.
async fn at_recovery(rule: &str) -> Count {
    let machine = machine();
    let mut served = machine.serve(false);
    machine.ready(&mut served).await;
    let mut crowd = Crowd::new("c", 6);
    crowd.press(&machine, async |p| p.more(80).await).await;
    served.kill();
    tear(&machine);
    machine.plan(&[rule]);
    let mut served = machine.serve(true);
    fails(&machine, &mut served, rule).await;
    let count = check(&machine, &mut crowd, rule).await;
    let aside = fs::read_dir(machine.home().join("bus/quarantine")).unwrap().count();
    assert!(aside > 0, "{rule}: what was cut is kept");
    count
}

/// Leaves half a line after the last event.
fn tear(machine: &Machine) {
    let mut segments: Vec<_> = fs::read_dir(machine.log()).unwrap().map(|e| e.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|e| e == "seg"));
    let last = segments.iter().max().unwrap();
    let mut bytes = fs::read(last).unwrap();
    let end = bytes.iter().rposition(|b| *b != b'\n').map_or(0, |at| at + 2);
    let half = b"E 0badc0de 312 {\"v\":1,\"o\":\"";
    bytes.truncate(bytes.len().max(end + half.len()));
    bytes.resize(bytes.len().max(end + half.len()), b'\n');
    bytes[end..end + half.len()].copy_from_slice(half);
    fs::File::create(last).unwrap().write_all(&bytes).unwrap();
}

async fn all<F: Future<Output = Count>>(what: &str, runs: Vec<F>) {
    let (acked, duplicates, cases) = (AtomicU64::new(0), AtomicU64::new(0), runs.len());
    futures::stream::iter(runs)
        .for_each_concurrent(AT_ONCE, async |run| {
            let count = run.await;
            acked.fetch_add(count.acked, SeqCst);
            duplicates.fetch_add(count.duplicates, SeqCst);
        })
        .await;
    let (acked, duplicates) = (acked.into_inner(), duplicates.into_inner());
    println!(
        "{what}: {cases} faults, {acked} acknowledged, 0 lost, {duplicates} of unknown outcome were stored"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_under_load_nothing_acknowledged_is_lost() {
    let depth = std::env::var("MIRROR_FAULTS_DEPTH").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let cases = cases::under_load(depth);
    all("under load", cases.iter().map(|case| under_load(case, depth)).collect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_that_fails_is_begun_again() {
    all("at the first start", cases::FIRST_START.iter().map(|rule| at_first_start(rule)).collect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_fails_is_begun_again() {
    all("in recovery", cases::RECOVERY.iter().map(|rule| at_recovery(rule)).collect()).await;
}
