//! The engine over real processes: shell scripts in property lists, on a clock that the test moves.

#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]

mod lists;
mod stage;
mod times;

use std::fs;

use mirror_agents::machine::KeepAlive;
use mirror_kit::desired::{self, Wish};
use mirror_kit::process_start;
use mirror_supervisor::{AgentState, Backend as _, Error, rows};
use mirror_testkit::wait;

use self::stage::Stage;

const SLEEP: &str = "exec sleep 1000";

fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    process_start(pid).is_ok() && !stat.contains(") Z ")
}

async fn gone(pid: u32) {
    wait(&format!("{pid} is gone"), async || if lives(pid) { Err("it lives".into()) } else { Ok(()) }).await;
}

#[tokio::test]
async fn a_crash_is_followed_by_a_start_at_the_floor() {
    let mut stage = Stage::new();
    stage.add("a", "echo x >> $HERE/starts; exit 3", |_| {});
    let up = stage.up().await;
    for starts in 1..4 {
        let row =
            up.until("a", "throttled", |r| r.state == AgentState::Throttled && r.starts == starts).await;
        assert_eq!((row.pid, row.last_exit.as_str()), (0, "exit code 3"));
        assert_eq!(row.next_start_ms, row.last_ended_ms + 10_000);
        stage.pass(9);
        up.settle().await;
        assert_eq!(up.row("a").starts, starts, "started below the floor");
        stage.pass(1);
    }
    up.until("a", "started thrice again", |r| r.starts == 4).await;
    wait("as many processes as starts", async || match stage.file("starts").lines().count() {
        4 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    assert!(stage.said().contains("a ended with exit code 3 after 0.0 s; it starts again in 10.0 s"));
    up.end().await;
}

#[tokio::test]
async fn exit_code_0_is_final_and_shown_until_somebody_starts_it() {
    let mut stage = Stage::new();
    stage.add("a", "echo x >> $HERE/starts; exit 0", |_| {});
    let up = stage.up().await;
    let row = up.until("a", "ended", |r| r.state == AgentState::Idle && r.starts == 1).await;
    assert_eq!((row.wish, row.last_exit.as_str(), row.next_start_ms), (Wish::Running, "exit code 0", 0));
    stage.pass(3_600);
    up.settle().await;
    assert_eq!(up.row("a").starts, 1);
    assert!(
        stage.said().contains("a ended by itself and stays down until it is started"),
        "{}",
        stage.said()
    );
    up.handle.start("a").await.unwrap();
    up.until("a", "started again", |r| r.starts == 2).await;
    up.end().await;
}

#[tokio::test]
async fn a_stop_drains_then_kills_and_outlives_the_engine() {
    let mut stage = Stage::new();
    stage.add("deaf", "trap '' TERM; echo ready > $HERE/ready; exec sleep 1000", |_| {});
    let up = stage.up().await;
    let row = up.running("deaf", 1).await;
    wait("it is deaf", async || if stage.file("ready").is_empty() { Err("not yet".into()) } else { Ok(()) })
        .await;
    let stopping = up.handle.stop("deaf", Wish::Stopped, "for a backup");
    let passing = async {
        up.state("deaf", AgentState::Draining).await;
        assert_eq!(desired::read(&stage.home, "deaf"), (Wish::Stopped, "for a backup".into()));
        stage.pass(14);
        up.settle().await;
        assert_eq!(up.row("deaf").pid, row.pid, "killed before its time");
        stage.pass(1);
    };
    let (stopped, ()) = futures::future::join(stopping, passing).await;
    let stopped = stopped.unwrap();
    assert_eq!((stopped.pid, stopped.state, stopped.last_exit.as_str()), (0, AgentState::Idle, "SIGKILL"));
    assert_eq!((stopped.wish, stopped.reason.as_str()), (Wish::Stopped, "for a backup"));
    assert!(stage.said().contains("deaf did not end within 15 s; it is killed"), "{}", stage.said());
    let refused = up.handle.restart("deaf", false).await.unwrap_err();
    assert_eq!(refused, Error::Stopped { agent: "deaf".into(), wish: "stopped" });
    up.end().await;

    let up = stage.up().await;
    stage.pass(3_600);
    up.settle().await;
    assert_eq!((up.row("deaf").state, up.row("deaf").starts), (AgentState::Idle, 0));
    let row = up.handle.start("deaf").await.unwrap();
    assert_eq!(row.wish, Wish::Running);
    up.running("deaf", 1).await;
    up.end().await;
}

#[tokio::test]
async fn a_restart_is_another_process_within_the_floor() {
    let mut stage = Stage::new();
    stage.add("a", SLEEP, |_| {});
    stage.add("b", "trap '' TERM; exec sleep 1000", |_| {});
    let up = stage.up().await;
    let (a, b) = (up.running("a", 1).await, up.running("b", 1).await);
    let row = up.handle.restart("a", false).await.unwrap();
    assert_eq!((row.state, row.last_exit.as_str()), (AgentState::Throttled, "SIGTERM"));
    up.handle.restart("b", true).await.unwrap();
    stage.pass(10);
    for (name, old) in [("a", a), ("b", b)] {
        let row = up.running(name, 2).await;
        assert_ne!(row.pid, old.pid);
        assert!(!lives(old.pid));
    }
    assert!(!stage.said().contains("ended with"), "an end that was ordered is no news: {}", stage.said());
    up.end().await;
}

#[tokio::test]
async fn what_cannot_be_started_is_tried_at_the_floor_with_the_reason() {
    let mut stage = Stage::new();
    stage.add("a", "", |list| list.program = format!("{}/no-such-program", list.environment["HERE"]));
    stage.add("b", SLEEP, |list| list.stderr = Some("/proc/no-such-folder/x".into()));
    stage.add("job.c", "", |list| {
        list.program = "/no/such/program".into();
        (list.keep_alive, list.run_at_load) = (KeepAlive::Never, true);
    });
    let up = stage.up().await;
    for (name, part) in [("a", "No such file"), ("b", "/proc/no-such-folder/x")] {
        let row = up.state(name, AgentState::Throttled).await;
        assert!(row.last_exit.starts_with("not started: ") && row.last_exit.contains(part), "{row:?}");
        assert_eq!((row.pid, row.starts), (0, 1));
    }
    assert_eq!(up.row("job.c").state, AgentState::Idle);
    assert!(stage.said().contains("it is tried again in 10.0 s"), "{}", stage.said());
    let program = stage.home.root().join("no-such-program");
    mirror_testkit::write_program(&program, &fs::read("/bin/sleep").unwrap());
    stage.pass(10);
    up.until("a", "a start that worked", |r| r.starts == 2 && !r.last_exit.starts_with("not")).await;
    up.end().await;
}

#[tokio::test]
async fn a_process_gets_what_its_list_says_and_leaves_nothing_behind() {
    let mut stage = Stage::new();
    let script = "umask; ulimit -n; env; pwd; echo oops >&2; sleep 1000 & echo $! > $HERE/kid; exit 0";
    stage.add("a", script, |list| {
        list.files = Some(77);
        list.environment.insert("GIVEN".into(), "yes & no".into());
        list.stdout = list.stdout.as_ref().map(|path| path.replace(".err", ".out"));
        list.working_directory = Some("/usr".into());
    });
    fs::write(stage.home.log().join("a.out"), "before\n").unwrap();
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let up = stage.up().await;
    up.until("a", "ended", |r| r.state == AgentState::Idle && r.starts == 1).await;
    let out = stage.file("log/a.out");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], lines[1], lines[2]), ("before", "0077", "77"), "{out}");
    for line in ["GIVEN=yes & no", "MIRROR_SUPERVISED=1", "PATH=/usr/bin:/bin:/usr/sbin:/sbin", "/usr"] {
        assert!(lines.contains(&line), "{line} in {out}");
    }
    assert!(!out.contains("CARGO"), "the environment of the supervisor leaked: {out}");
    assert_eq!(stage.file("log/a.err"), "oops\n");
    gone(stage.file("kid").trim().parse().unwrap()).await;
    let after = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(limit, after, "the engine kept a limit that was its child's");
    up.end().await;
}

#[tokio::test]
async fn a_row_names_the_process_while_it_lives() {
    let mut stage = Stage::new();
    stage.add("a", SLEEP, |_| {});
    let up = stage.up().await;
    let row = up.running("a", 1).await;
    assert_eq!(rows::living(&stage.home, "a"), Some(row.pid));
    assert!(!stage.home.run().join(".start-a").exists(), "an intent outlived its start");
    up.end().await;
    assert_eq!(fs::read_dir(stage.home.fleet()).unwrap().count(), 0);
    gone(row.pid).await;
}

#[tokio::test]
async fn an_agent_that_quarantines_itself_is_shown_with_its_reason() {
    let mut stage = Stage::new();
    stage.add("a", "echo 'quarantined fails too often' > $HERE/desired/a; exit 0", |_| {});
    let up = stage.up().await;
    let row = up.until("a", "quarantined", |r| r.wish == Wish::Quarantined).await;
    assert_eq!((row.state, row.reason.as_str()), (AgentState::Idle, "fails too often"));
    assert!(stage.said().contains("a is quarantined: fails too often"), "{}", stage.said());
    up.end().await;
}

#[tokio::test]
async fn a_drain_ends_one_tier_and_starts_nothing_again() {
    let mut stage = Stage::new();
    stage.add("low", SLEEP, |_| {});
    stage.add("high", SLEEP, |_| {});
    stage.agents[1].tier = 3;
    let up = stage.up().await;
    let (low, high) = (up.running("low", 1).await, up.running("high", 1).await);
    up.handle.drain(3).await;
    assert_eq!((up.row("high").pid, up.row("low").pid), (0, low.pid));
    assert!(!lives(high.pid) && lives(low.pid));
    for refused in [up.handle.start("high").await, up.handle.restart("low", true).await] {
        assert!(refused.unwrap_err().to_string().contains("the fleet is being ended"));
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(low.pid.cast_signed()), nix::sys::signal::SIGKILL)
        .unwrap();
    up.until("low", "gone", |r| r.pid == 0).await;
    stage.pass(60);
    up.settle().await;
    assert_eq!(up.row("low").starts, 1, "started in a fleet that is being ended");
    up.end().await;
}

#[tokio::test]
async fn an_engine_that_nobody_steers_any_more_ends_its_processes() {
    let mut stage = Stage::new();
    stage.add("a", SLEEP, |_| {});
    let up = stage.up().await;
    let pid = up.running("a", 1).await.pid;
    up.abandon().await;
    gone(pid).await;
}

#[tokio::test]
async fn the_supervisor_is_an_agent_that_it_does_not_stop() {
    let mut stage = Stage::new();
    stage.add("supervisor", SLEEP, |_| {});
    stage.agents[0].own = true;
    let up = stage.up().await;
    let row = up.row("supervisor");
    assert_eq!((row.pid, row.state, row.starts), (std::process::id(), AgentState::Running, 1));
    for refused in
        [up.handle.stop("supervisor", Wish::Stopped, "").await, up.handle.restart("supervisor", true).await]
    {
        assert!(refused.unwrap_err().to_string().contains("Ctrl-C"));
    }
    assert_eq!(desired::read(&stage.home, "supervisor").0, Wish::Running, "a wish that cannot come true");
    up.handle.start("supervisor").await.unwrap();
    up.end().await;
}
