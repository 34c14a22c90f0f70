//! Which remedies a look calls for, and which look shows that one helped.

use super::*;
use mirror_contract::timestamp;

const OLD: u32 = 7;

/// Returns a service that serves and is a minute old.
fn sound() -> Facts {
    let agent = Agent {
        name: "apple".to_owned(),
        desired: AgentDesired::Running.into(),
        state: AgentState::Running.into(),
        pid: OLD,
        started: Some(timestamp(1_000_000)),
        starts: 1,
        ..Agent::default()
    };
    Facts {
        agent,
        health: Some(Health::Ready { pid: OLD }),
        was_ready: true,
        is_owned: true,
        has_socket: true,
        is_answered: true,
        resident_mb: Some(20),
        ceiling_mb: 4,
        startup_ms: 60_000,
        failed_starts: 0,
        unhelped: 0,
        wall_ms: 1_060_000,
    }
}

fn with(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = sound();
    change(&mut facts);
    facts
}

fn down(state: AgentState) -> Facts {
    with(|f| {
        f.agent.state = state.into();
        (f.agent.pid, f.agent.started) = (0, None);
        f.health = Some(silent());
        (f.is_owned, f.is_answered, f.was_ready) = (false, false, false);
    })
}

fn silent() -> Health {
    Health::Silent { why: "no answer within 2 s".to_owned() }
}

/// Checks which remedies of one process a look calls for.
#[track_caller]
fn check(facts: &Facts, called: &[Remedy]) {
    for remedy in Remedy::ALL {
        let answer = facts.calls_for(remedy);
        assert_eq!(answer.is_ok(), called.contains(&remedy), "{remedy:?}: {answer:?}");
    }
}

#[test]
fn a_sound_service_calls_for_nothing() {
    check(&sound(), &[]);
}

#[test]
fn a_missing_process_calls_for_a_start_unless_one_is_due_or_not_wanted() {
    check(&with(|f| *f = Facts { has_socket: false, ..down(AgentState::Idle) }), &[Remedy::Start]);
    check(&Facts { has_socket: false, ..down(AgentState::Throttled) }, &[]);
    check(&Facts { has_socket: false, ..down(AgentState::NotLoaded) }, &[Remedy::Reload]);
    for desired in [AgentDesired::Stopped, AgentDesired::Quarantined, AgentDesired::Unspecified] {
        let mut facts = down(AgentState::Idle);
        facts.agent.desired = desired.into();
        facts.failed_starts = 9;
        check(&facts, &[]);
    }
}

#[test]
fn a_silent_process_is_killed_or_restarted_and_one_that_says_why_is_restarted() {
    check(&with(|f| f.health = Some(silent())), &[Remedy::Restart, Remedy::RestartKill]);
    let unready = Health::Unready { why: "the index is damaged".to_owned() };
    check(&with(|f| f.health = Some(unready)), &[Remedy::Restart]);
    check(&with(|f| f.health = Some(Health::Starting { pid: OLD })), &[Remedy::Restart]);
    check(&with(|f| f.has_socket = false), &[Remedy::Restart]);
    check(&with(|f| f.resident_mb = Some(4 + MEMORY_SLACK_MB)), &[]);
    check(&with(|f| f.resident_mb = Some(5 + MEMORY_SLACK_MB)), &[Remedy::Restart]);
    check(&with(|f| f.resident_mb = None), &[]);
}

#[test]
fn a_slow_start_and_a_drain_are_left_alone() {
    let young = |f: &mut Facts| {
        f.health = Some(silent());
        f.was_ready = false;
        f.wall_ms = 1_000_000 + 59_999;
    };
    check(&with(young), &[]);
    let grown = |f: &mut Facts| {
        young(f);
        f.wall_ms += 1;
    };
    check(&with(grown), &[Remedy::Restart, Remedy::RestartKill]);
    let ready_before = |f: &mut Facts| {
        young(f);
        f.was_ready = true;
    };
    check(&with(ready_before), &[Remedy::Restart, Remedy::RestartKill]);
    let drains = |f: &mut Facts| {
        f.health = Some(silent());
        f.agent.state = AgentState::Draining.into();
    };
    check(&with(drains), &[]);
}

#[test]
fn what_keeps_failing_is_shown_by_facts_and_not_by_the_caller() {
    check(&with(|f| f.failed_starts = 2), &[]);
    check(&with(|f| f.failed_starts = 3), &[Remedy::Quarantine]);
    check(&with(|f| f.unhelped = 2), &[]);
    let unhelped = |f: &mut Facts| {
        f.unhelped = 2;
        f.health = Some(Health::Unready { why: "x".to_owned() });
    };
    check(&with(unhelped), &[Remedy::Restart, Remedy::Quarantine]);
    let mut throttled = down(AgentState::Throttled);
    throttled.has_socket = false;
    throttled.agent.starts = 3;
    check(&throttled, &[Remedy::Quarantine]);
}

#[test]
fn a_socket_is_stale_only_when_nobody_can_own_it() {
    let stale = down(AgentState::Idle);
    check(&stale, &[Remedy::Start, Remedy::ClearStaleSocket]);
    check(&Facts { is_owned: true, ..stale.clone() }, &[Remedy::Start]);
    check(&Facts { is_answered: true, ..stale.clone() }, &[Remedy::Start]);
    check(&Facts { has_socket: false, ..stale }, &[Remedy::Start]);
}

#[test]
fn a_restart_helped_when_a_new_process_serves_and_the_cause_is_gone() {
    let before = sound().process().unwrap();
    let new = |change: fn(&mut Facts)| {
        let mut facts = sound();
        facts.agent.pid = 8;
        facts.health = Some(Health::Ready { pid: 8 });
        change(&mut facts);
        facts.shows_that_it_helped(Remedy::Restart, Some(&before))
    };
    assert_eq!(new(|_| {}), Ok(()));
    assert!(sound().shows_that_it_helped(Remedy::Restart, Some(&before)).is_err(), "the same process");
    assert!(new(|f| f.health = Some(Health::Ready { pid: OLD })).is_err(), "another process answers");
    assert!(new(|f| f.health = Some(Health::Starting { pid: 8 })).is_err());
    assert!(new(|f| f.has_socket = false).is_err());
    assert!(new(|f| f.resident_mb = Some(999)).is_err());
    assert_eq!(
        with(|f| f.agent.started = Some(timestamp(2_000_000)))
            .shows_that_it_helped(Remedy::Restart, Some(&before)),
        Ok(()),
        "the same pid, started later, is a new process"
    );
}

#[test]
fn quarantine_and_render_are_checked_by_what_they_change() {
    let helped = |f: &Facts, remedy| f.shows_that_it_helped(remedy, None).is_ok();
    let mut facts = down(AgentState::Idle);
    assert!(!helped(&facts, Remedy::Quarantine));
    facts.agent.desired = AgentDesired::Quarantined.into();
    assert!(helped(&facts, Remedy::Quarantine));
    assert!(helped(&facts, Remedy::Reload), "what is not to run need not serve");
    facts.agent.problem = "it was edited".to_owned();
    assert!(!helped(&facts, Remedy::Render));
    assert!(!helped(&down(AgentState::Idle), Remedy::Render), "it should run and does not");
    assert!(helped(&Facts { health: None, ..down(AgentState::Idle) }, Remedy::Render), "a job need not");
}
