//! One target through its states: what each look, event and pause makes of it.

use super::*;

const NOW: Now = Now { boot: 1_000_000, wall: 50_000_000 };

fn target(name: &str, job: bool) -> Target {
    let spec = Spec {
        name: name.to_owned(),
        job,
        on_demand: false,
        criticality: Criticality::Useful,
        needs: Vec::new(),
        startup: 60_000,
        memory: 4 << 20,
        every: 0,
    };
    Target::new(spec, NOW, NOW.boot)
}

fn row(process: Process, exit: &str) -> Row {
    let running = process == Process::Running;
    Row {
        name: "leaf".to_owned(),
        desired: Desired::Running,
        reason: String::new(),
        process,
        pid: u32::from(running),
        started: running.then_some(NOW.wall - 600_000),
        next_start: None,
        last_exit: exit.to_owned(),
        last_ended: (!exit.is_empty()).then_some(NOW.wall),
        problem: String::new(),
    }
}

fn later(ms: u64) -> Now {
    Now { boot: NOW.boot + ms, wall: NOW.wall + ms }
}

#[track_caller]
fn cause(target: &Target, now: Now) -> Option<Cause> {
    match target.look(now, 2) {
        Seen::Failed { cause, .. } => Some(cause),
        _ => None,
    }
}

fn serving() -> Answer {
    Answer::Said(Said::Serving, String::new())
}

#[test]
fn another_process_in_its_place_is_named_and_not_fought() {
    let mut t = target("leaf", false);
    t.take_row(NOW, row(Process::Throttled, "exit code 73"), false);
    assert_eq!(cause(&t, later(3_000)), Some(Cause::TwoInstances));
    assert_eq!(Cause::TwoInstances.remedy(0), None);
    t.take_answer(NOW, serving());
    assert_eq!(cause(&t, later(3_000)), Some(Cause::TwoInstances), "the other one answers");
}

#[test]
fn an_answer_is_believed_for_three_questions_and_no_longer() {
    let mut t = target("leaf", false);
    t.take_row(NOW, row(Process::Running, ""), false);
    t.take_answer(NOW, serving());
    assert!(t.look(later(STALE), 2).is_fine());
    assert!(matches!(t.look(later(STALE + 1), 2), Seen::Unknown(_)));
}

#[test]
fn how_nobody_answers_tells_the_cause() {
    let mut t = target("leaf", false);
    t.take_row(NOW, row(Process::Running, ""), false);
    for (socket, lease, expected) in [
        (false, true, Cause::SocketMissing),
        (true, true, Cause::StaleSocket),
        (true, false, Cause::Unreachable),
        (false, false, Cause::Unreachable),
    ] {
        t.take_answer(NOW, serving());
        t.take_answer(NOW, Answer::Away { socket, lease });
        assert!(matches!(t.look(NOW, 2), Seen::Suspect(_)), "one is not believed");
        t.take_answer(NOW, Answer::Away { socket, lease });
        assert_eq!(cause(&t, NOW), Some(expected), "{socket} {lease}");
    }
    let mut t = target("supervisor", false);
    t.take_answer(NOW, Answer::Away { socket: true, lease: false });
    t.take_answer(NOW, Answer::Away { socket: true, lease: false });
    assert_eq!(cause(&t, NOW), Some(Cause::SupervisorAway));
}

#[test]
fn a_silence_that_this_process_slept_through_is_no_silence() {
    let mut t = target("leaf", false);
    t.take_row(NOW, row(Process::Running, ""), false);
    for _ in 0..9 {
        t.take_answer(NOW, Answer::Silent { late: true });
    }
    assert!(matches!(t.look(NOW, 2), Seen::Unknown(_)));
    t.take_answer(NOW, Answer::Silent { late: false });
    assert!(matches!(t.look(NOW, 4), Seen::Suspect(_)));
}

#[test]
fn a_start_far_away_is_of_a_clock_that_jumped() {
    let mut t = target("leaf", false);
    t.take_row(NOW, row(Process::Running, ""), false);
    let crash = Row { next_start: Some(NOW.wall + 3_600_000), ..row(Process::Throttled, "SIGKILL") };
    t.take_row(NOW, crash, false);
    let Seen::Failed { cause: Cause::Crashed, wait, .. } = t.look(NOW, 2) else { panic!("it crashed") };
    assert_eq!(wait, NOW.boot + FLOOR + 60_000);
}

#[test]
fn an_end_that_somebody_ordered_is_no_crash() {
    for exit in ["exit code 75", "SIGTERM", "exit code 0"] {
        let mut t = target("leaf", false);
        t.take_row(NOW, row(Process::Running, ""), false);
        t.take_row(NOW, row(Process::Throttled, exit), false);
        assert_eq!(cause(&t, NOW), None, "{exit}");
    }
    let mut t = target("leaf", false);
    t.take_row(NOW, row(Process::Running, ""), false);
    t.take_row(NOW, row(Process::Draining, ""), false);
    t.take_row(NOW, row(Process::Throttled, "SIGKILL"), false);
    assert_eq!(cause(&t, NOW), None, "it was told to end and was too slow");
    let mut t = target("leaf", false);
    t.take_row(NOW, row(Process::Running, ""), false);
    t.take_row(NOW, row(Process::Throttled, "SIGKILL"), true);
    assert_eq!(cause(&t, NOW), None, "our own remedy killed it");
}

#[test]
fn what_does_not_end_when_it_is_told_hangs() {
    let mut t = target("leaf", false);
    t.take_row(NOW, row(Process::Draining, ""), false);
    assert!(matches!(t.look(later(DRAIN), 2), Seen::Starting(_)));
    assert_eq!(cause(&t, later(DRAIN + 1)), Some(Cause::Hung));
}

#[test]
fn a_job_is_judged_by_its_last_run() {
    let mut t = target("job.verify-log", true);
    assert!(matches!(t.look(NOW, 2), Seen::Unknown(_)));
    for (process, exit, expected) in [
        (Process::Idle, "", None),
        (Process::Idle, "exit code 0", None),
        (Process::Idle, "exit code 74", Some(Cause::JobFailed)),
        (Process::Running, "exit code 74", None),
        (Process::NotLoaded, "", Some(Cause::NotLoaded)),
    ] {
        t.take_row(NOW, row(process, exit), false);
        assert_eq!(cause(&t, NOW), expected, "{process:?} {exit:?}");
        assert_eq!(expected.is_none(), t.look(NOW, 2).is_fine());
    }
}

#[test]
fn memory_counts_after_three_readings_and_a_flood_while_it_lasts() {
    let mut t = target("leaf", false);
    t.take_row(NOW, row(Process::Running, ""), false);
    t.take_answer(NOW, serving());
    t.heavy = 2;
    assert_eq!(cause(&t, NOW), None);
    t.heavy = 3;
    assert_eq!(cause(&t, NOW), Some(Cause::Memory));
    t.heavy = 0;
    t.flood = true;
    assert_eq!(cause(&t, NOW), Some(Cause::LogFlood));
}
