//! Jobs: calendars and intervals over gaps of sleep and jumps of the wall clock.

use mirror_agents::calendar::Moment;
use mirror_agents::machine::KeepAlive;
use mirror_supervisor::AgentState;
use mirror_testkit::START_MS;

use crate::stage::{Stage, Up};

const JOB: &str = "job.sweep";
const HOUR: u64 = 3_600;

fn stage(script: &str, interval_secs: Option<u32>, calendar: &[Moment]) -> Stage {
    let mut stage = Stage::new();
    stage.add(JOB, &format!("echo x >> $HERE/runs; {script}"), |list| {
        (list.keep_alive, list.run_at_load) = (KeepAlive::Never, false);
        (list.interval_secs, list.calendar) = (interval_secs, calendar.to_vec());
    });
    stage
}

async fn rested(up: &Up, runs: u64) -> u64 {
    let rested = |r: &mirror_supervisor::AgentRow| r.state == AgentState::Idle && r.starts == runs;
    up.until(JOB, &format!("rests after {runs} runs"), rested).await.next_start_ms
}

const HOURLY: Moment = Moment { minute: Some(0), hour: None, day: None, weekday: None, month: None };

#[tokio::test]
async fn what_was_slept_through_runs_once_after_waking() {
    let stage = stage("", None, &[HOURLY]);
    let up = stage.up().await;
    let next = rested(&up, 0).await;
    assert!(next > START_MS && next <= START_MS + HOUR * 1_000, "{next}");
    stage.pass(30 * HOUR);
    rested(&up, 1).await;
    stage.pass(10);
    up.settle().await;
    assert_eq!(rested(&up, 1).await, next + 30 * HOUR * 1_000, "the next is an hour later");
    stage.pass(HOUR);
    rested(&up, 2).await;
    assert_eq!(stage.file("runs").lines().count(), 2);
    up.end().await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_repeats_nothing_and_one_set_forward_runs_once() {
    let stage = stage("", None, &[HOURLY]);
    let up = stage.up().await;
    rested(&up, 0).await;
    stage.pass(HOUR);
    rested(&up, 1).await;
    stage.pass(10);
    let now = START_MS + (HOUR + 10) * 1_000;
    stage.clock.set_wall_ms(now - HOUR * 1_000 / 2);
    stage.pass(HOUR / 2);
    up.settle().await;
    rested(&up, 1).await;
    stage.clock.set_wall_ms(now + 48 * HOUR * 1_000);
    stage.pass(60);
    rested(&up, 2).await;
    // A clock that was days ahead must not silence the job for days.
    stage.clock.set_wall_ms(now);
    stage.pass(1);
    up.settle().await;
    stage.pass(HOUR);
    rested(&up, 3).await;
    up.end().await;
}

#[tokio::test]
async fn occurrences_within_a_run_are_one_run_after_it() {
    let stage = stage("test -e $HERE/go || exec sleep 1000", None, &[HOURLY]);
    let up = stage.up().await;
    stage.pass(HOUR);
    let pid = up.running(JOB, 1).await.pid;
    for _ in 0..3 {
        stage.pass(HOUR);
        up.settle().await;
    }
    assert_eq!((up.row(JOB).starts, up.row(JOB).pid), (1, pid));
    std::fs::write(stage.home.root().join("go"), "").unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::SIGKILL).unwrap();
    rested(&up, 2).await;
    assert!(stage.said().contains("job.sweep ended with SIGKILL after"), "{}", stage.said());
    up.end().await;
}

#[tokio::test]
async fn an_interval_is_missed_in_sleep_and_a_job_that_fails_waits_for_its_time() {
    let stage = stage("exit 1", Some(300), &[]);
    let up = stage.up().await;
    assert_eq!(rested(&up, 0).await, START_MS + 300_000);
    stage.pass(300);
    assert_eq!(rested(&up, 1).await, START_MS + 600_000);
    stage.pass(2 * HOUR);
    up.settle().await;
    let next = rested(&up, 1).await;
    assert_eq!(next, START_MS + (300 + 2 * HOUR + 300) * 1_000);
    stage.pass(300);
    rested(&up, 2).await;
    up.end().await;
}

#[tokio::test]
async fn a_job_that_is_stopped_skips_its_times_until_it_is_started() {
    use mirror_kit::desired::Wish;
    use mirror_supervisor::Backend as _;
    let stage = stage("", None, &[HOURLY]);
    let up = stage.up().await;
    let row = up.handle.stop(JOB, Wish::Stopped, "").await.unwrap();
    assert_eq!((row.state, row.next_start_ms), (AgentState::Idle, 0));
    stage.pass(5 * HOUR);
    up.settle().await;
    rested(&up, 0).await;
    up.handle.start(JOB).await.unwrap();
    rested(&up, 1).await;
    stage.pass(HOUR);
    rested(&up, 2).await;
    up.end().await;
}
