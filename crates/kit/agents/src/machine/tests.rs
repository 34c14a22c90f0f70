//! Tests of the machine: each rule by itself, then random schedules.

use super::*;
use proptest::prelude::*;

const fn s(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn loaded(rules: Rules) -> Machine {
    let mut machine = Machine::new(rules);
    machine.apply(s(100), Event::Load).unwrap();
    machine
}

const JOB: Rules =
    Rules { run_at_load: false, keep_alive: KeepAlive::Never, interval: None, ..Rules::SERVICE };

#[track_caller]
fn step(machine: &mut Machine, at: u64, event: Event, output: Option<Output>) {
    assert_eq!(machine.apply(s(at), event), Ok(output), "{event:?} at {at} s in {machine:?}");
}

#[test]
fn a_crash_is_followed_by_a_start_ten_seconds_after_the_last_one() {
    let mut m = Machine::new(Rules::SERVICE);
    step(&mut m, 100, Event::Load, Some(Output::Spawn));
    step(&mut m, 103, Event::Exit(Ended::Signal(9)), None);
    assert_eq!(m.state(), State::Throttled { until: s(110) });
    assert_eq!((m.next_tick(), m.next_start()), (Some(s(110)), Some(s(110))));
    step(&mut m, 109, Event::Tick, None);
    step(&mut m, 109, Event::Start, None);
    step(&mut m, 110, Event::Tick, Some(Output::Spawn));
    step(&mut m, 125, Event::Exit(Ended::Code(75)), Some(Output::Spawn));
    step(&mut m, 125, Event::Exit(Ended::Unstarted), None);
    assert_eq!(m.state(), State::Throttled { until: s(135) });
}

#[test]
fn exit_code_0_is_final_until_a_start() {
    let mut m = loaded(Rules::SERVICE);
    step(&mut m, 101, Event::Exit(Ended::Code(0)), None);
    assert_eq!((m.state(), m.next_tick()), (State::Idle, None));
    step(&mut m, 500, Event::Tick, None);
    step(&mut m, 500, Event::Start, Some(Output::Spawn));
}

#[test]
fn each_rule_of_keeping_decides_about_each_end() {
    let cases = [
        (KeepAlive::Never, false, false),
        (KeepAlive::Always, true, true),
        (KeepAlive::AfterFailure, false, true),
        (KeepAlive::AfterSuccess, true, false),
    ];
    for (keep_alive, after_success, after_failure) in cases {
        for (ended, again) in [(Ended::Code(0), after_success), (Ended::Code(1), after_failure)] {
            let mut m = loaded(Rules { keep_alive, ..Rules::SERVICE });
            step(&mut m, 200, Event::Exit(ended), again.then_some(Output::Spawn));
        }
    }
}

#[test]
fn a_stop_drains_then_kills_and_lasts_until_a_start() {
    let mut m = loaded(Rules::SERVICE);
    step(&mut m, 200, Event::Stop, Some(Output::Term));
    assert_eq!(m.state(), State::Draining { kill_at: Some(s(215)), after: After::Rest });
    step(&mut m, 214, Event::Tick, None);
    step(&mut m, 215, Event::Tick, Some(Output::Kill));
    step(&mut m, 230, Event::Tick, None);
    step(&mut m, 231, Event::Exit(Ended::Signal(9)), None);
    assert_eq!(m.state(), State::Idle);
    step(&mut m, 300, Event::CalendarDue, None);
    step(&mut m, 301, Event::Unload, Some(Output::Forget));
    step(&mut m, 302, Event::Load, None);
    assert_eq!(m.state(), State::Idle, "a load starts what was stopped");
    step(&mut m, 303, Event::Start, Some(Output::Spawn));

    let mut m = Machine::new(Rules::SERVICE);
    step(&mut m, 1, Event::Stop, None);
    step(&mut m, 2, Event::Load, None);
    assert_eq!(m.state(), State::Idle);
}

#[test]
fn a_kick_restarts_whatever_the_state() {
    let mut m = loaded(Rules::SERVICE);
    step(&mut m, 104, Event::Kick { kill: false }, Some(Output::Term));
    step(&mut m, 105, Event::Kick { kill: false }, None);
    step(&mut m, 106, Event::Kick { kill: true }, Some(Output::Kill));
    step(&mut m, 107, Event::Exit(Ended::Code(0)), None);
    assert_eq!(m.state(), State::Throttled { until: s(110) }, "a kick is no way round the throttle");
    step(&mut m, 108, Event::Kick { kill: true }, None);
    step(&mut m, 110, Event::Tick, Some(Output::Spawn));
    step(&mut m, 120, Event::Stop, Some(Output::Term));
    step(&mut m, 121, Event::Start, None);
    step(&mut m, 122, Event::Exit(Ended::Code(0)), Some(Output::Spawn));
    step(&mut m, 123, Event::Kick { kill: false }, Some(Output::Term));
    step(&mut m, 124, Event::Stop, None);
    step(&mut m, 125, Event::Exit(Ended::Code(0)), None);
    assert_eq!(m.state(), State::Idle);
}

#[test]
fn unloading_waits_for_the_process() {
    let mut m = loaded(Rules::SERVICE);
    assert_eq!(m.apply(s(101), Event::Load), Err(Refusal::Loaded));
    step(&mut m, 101, Event::Unload, Some(Output::Term));
    for event in [Event::Load, Event::Start, Event::Kick { kill: true }, Event::Unload] {
        assert_eq!(m.apply(s(102), event), Err(Refusal::Unloading), "{event:?}");
    }
    step(&mut m, 116, Event::Tick, Some(Output::Kill));
    step(&mut m, 117, Event::Exit(Ended::Signal(9)), Some(Output::Forget));
    for event in [Event::Unload, Event::Start, Event::Kick { kill: true }, Event::Signal(15), Event::Kill] {
        assert_eq!(m.apply(s(118), event), Err(Refusal::NotLoaded), "{event:?}");
    }
    step(&mut m, 118, Event::Disable, None);
    assert_eq!(m.apply(s(118), Event::Load), Err(Refusal::Disabled));
    step(&mut m, 118, Event::Enable, None);
    step(&mut m, 118, Event::Load, Some(Output::Spawn));
    step(&mut m, 119, Event::Signal(15), Some(Output::Signal(15)));
    step(&mut m, 120, Event::Exit(Ended::Code(0)), None);
    assert_eq!(m.apply(s(121), Event::Signal(15)), Err(Refusal::NoProcess));
}

#[test]
fn calendar_occurrences_within_a_run_are_one_run_after_it() {
    let mut m = loaded(JOB);
    assert_eq!(m.state(), State::Idle, "a job does not run when it is loaded");
    step(&mut m, 200, Event::CalendarDue, Some(Output::Spawn));
    step(&mut m, 203, Event::CalendarDue, None);
    step(&mut m, 204, Event::CalendarDue, None);
    step(&mut m, 205, Event::Exit(Ended::Code(0)), None);
    step(&mut m, 206, Event::CalendarDue, None);
    step(&mut m, 210, Event::Tick, Some(Output::Spawn));
    step(&mut m, 230, Event::Exit(Ended::Code(1)), None);
    assert_eq!(m.state(), State::Idle);
}

#[test]
fn interval_occurrences_are_missed_in_a_run_and_in_sleep() {
    let mut m = loaded(Rules { interval: Some(s(60)), ..JOB });
    assert_eq!(m.next_start(), Some(s(160)));
    step(&mut m, 160, Event::Tick, Some(Output::Spawn));
    assert_eq!(m.next_tick(), None, "nothing to wake up for");
    step(&mut m, 221, Event::Exit(Ended::Code(0)), None);
    assert_eq!(m.next_start(), Some(s(280)));
    step(&mut m, 281, Event::Tick, Some(Output::Spawn));
    step(&mut m, 282, Event::Exit(Ended::Code(0)), None);
    step(&mut m, 7_000, Event::Tick, None);
    assert_eq!(m.next_start(), Some(s(7_060)), "after sleep a whole interval passes");
}

fn events() -> impl Strategy<Value = Event> {
    let ended = prop_oneof![
        Just(Ended::Code(0)),
        Just(Ended::Code(75)),
        Just(Ended::Signal(9)),
        Just(Ended::Unstarted)
    ];
    prop_oneof![
        2 => Just(Event::Load),
        1 => Just(Event::Unload),
        1 => Just(Event::Enable),
        1 => Just(Event::Disable),
        3 => Just(Event::Start),
        2 => any::<bool>().prop_map(|kill| Event::Kick { kill }),
        1 => Just(Event::Stop),
        1 => Just(Event::Signal(15)),
        1 => Just(Event::Kill),
        8 => ended.prop_map(Event::Exit),
        2 => Just(Event::CalendarDue),
        4 => Just(Event::Tick),
    ]
}

fn rules() -> impl Strategy<Value = Rules> {
    let keep = prop_oneof![
        Just(KeepAlive::Never),
        Just(KeepAlive::Always),
        Just(KeepAlive::AfterFailure),
        Just(KeepAlive::AfterSuccess)
    ];
    (any::<bool>(), keep, 1..20_u64, proptest::option::of(1..20_u64), proptest::option::of(1..100_u64))
        .prop_map(|(run_at_load, keep_alive, throttle, exit, interval)| Rules {
            run_at_load,
            keep_alive,
            throttle: s(throttle),
            exit_time_out: exit.map(s),
            interval: interval.map(s),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12_000))]

    /// Whatever happens, in whatever order: two starts are a throttle apart, there is at most one process, a kill or
    /// a signal goes only to one that exists, and once everything is quiet the agent comes to rest where its rules say.
    #[test]
    fn any_schedule_keeps_the_throttle_and_converges(
        rules in rules(),
        schedule in proptest::collection::vec((0..15_000_u64, events()), 1..60),
    ) {
        let mut m = Machine::new(rules);
        let mut now = s(1_000);
        let mut process = false;
        let mut last_spawn: Option<Duration> = None;
        let check = |m: &Machine, output: Option<Output>, now: Duration, process: &mut bool, last: &mut Option<Duration>| {
            match output {
                Some(Output::Spawn) => {
                    prop_assert!(!*process, "a second process at {now:?}: {m:?}");
                    if let Some(last) = *last {
                        prop_assert!(now >= last + rules.throttle, "{last:?} then {now:?}: {m:?}");
                    }
                    *last = Some(now);
                    *process = true;
                }
                Some(Output::Term | Output::Kill | Output::Signal(_)) => prop_assert!(*process, "{m:?}"),
                Some(Output::Forget) => prop_assert!(!*process, "forgotten with a process"),
                None => {}
            }
            prop_assert_eq!(*process, m.has_process());
            prop_assert_eq!(m.state() == State::NotLoaded && *process, false);
            Ok(())
        };
        for (after, event) in schedule {
            now += Duration::from_millis(after);
            // An end without a process is what a late report looks like.
            let before = m.clone();
            let ends = matches!(event, Event::Exit(_)) && process;
            match m.apply(now, event) {
                Ok(output) => {
                    if ends {
                        process = false;
                    }
                    check(&m, output, now, &mut process, &mut last_spawn)?;
                }
                Err(_) => prop_assert_eq!(&before, &m, "a refusal changed something"),
            }
        }
        // From here on the process does as it is told: it ends on an order, and otherwise runs for ever.
        let mut quiet = 0;
        for _ in 0..64 {
            if matches!(m.state(), State::Draining { .. }) {
                process = false;
                let output = m.apply(now, Event::Exit(Ended::Signal(15))).unwrap();
                check(&m, output, now, &mut process, &mut last_spawn)?;
                continue;
            }
            let Some(at) = m.next_tick() else { break };
            now = now.max(at);
            let output = m.apply(now, Event::Tick).unwrap();
            check(&m, output, now, &mut process, &mut last_spawn)?;
            quiet = if output.is_none() { quiet + 1 } else { 0 };
            if quiet > 3 {
                break;
            }
        }
        prop_assert!(!matches!(m.state(), State::Throttled { .. } | State::Draining { .. }), "{m:?}");
        // A start always leads to a process within a throttle, whatever came before.
        if m.state() != State::NotLoaded {
            let output = m.apply(now, Event::Start).unwrap();
            check(&m, output, now, &mut process, &mut last_spawn)?;
            now += rules.throttle;
            let output = m.apply(now, Event::Tick).unwrap();
            check(&m, output, now, &mut process, &mut last_spawn)?;
            prop_assert!(process, "a start that led to nothing: {m:?}");
        }
    }
}
