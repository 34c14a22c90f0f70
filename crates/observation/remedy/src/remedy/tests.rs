//! The ledger as the journal's lines tell it.

use super::*;
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

const NOW: Now = Now { wall_ms: 1_000_000, at: 400_000 };

fn action(id: &str, began_ms: u64) -> Action {
    let ask = Ask {
        id: id.to_owned(),
        remedy: Remedy::Restart,
        target: "bus".to_owned(),
        cause: "it hangs".to_owned(),
    };
    ask.action("svc:pulse", began_ms)
}

fn ended(id: &str, began_ms: u64, outcome: Outcome) -> Line {
    Line::Ended(action(id, began_ms).ended(outcome, "so".to_owned(), began_ms + 5))
}

fn ledger(lines: &[Line]) -> Ledger {
    let mut ledger = Ledger::default();
    for line in lines {
        ledger.apply(line.clone(), NOW);
    }
    ledger
}

/// Tells all events, and returns their subjects and ids.
fn tell(ledger: &mut Ledger) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(unsent) = ledger.unsent() {
        assert_eq!(unsent.action.ended_ms.is_some(), unsent.subject == "remedy.ended");
        told.push(unsent.event_id);
        ledger.apply(unsent.sent, NOW);
    }
    told
}

#[test]
fn each_action_is_told_twice_in_order_and_what_was_not_done_never() {
    let mut ledger = ledger(&[
        Line::Began(action("a", 1)),
        ended("n", 2, Outcome::NotNeeded),
        ended("h", 2, Outcome::HeldBack),
        ended("a", 1, Outcome::Healed),
        Line::Began(action("b", 3)),
    ]);
    assert_eq!(ledger.unsent_count(), 3);
    assert_eq!(tell(&mut ledger), ["remedy.began:a:1", "remedy.ended:a:1", "remedy.began:b:3"]);
    ledger.apply(ended("b", 3, Outcome::Unknown), NOW);
    assert_eq!(tell(&mut ledger), ["remedy.ended:b:3"]);
    assert_eq!(ledger.unsent_count(), 0);
}

#[test]
fn the_first_event_is_the_same_before_and_after_the_end() {
    let before = ledger(&[Line::Began(action("a", 1))]).unsent();
    let after = ledger(&[Line::Began(action("a", 1)), ended("a", 1, Outcome::Failed)]).unsent();
    assert_eq!(before, after);
}

#[test]
fn a_wall_time_in_the_future_counts_as_now() {
    let late =
        ledger(&[ended("a", NOW.wall_ms + 9_000, Outcome::Healed), ended("b", 990_000, Outcome::Healed)]);
    let begun: Vec<i64> = late.past().iter().map(|p| p.began).collect();
    assert_eq!(begun, [NOW.at, NOW.at - 10_000]);
    assert_eq!(NOW.wall(NOW.at + 30_000), NOW.wall_ms + 30_000);
    assert_eq!(NOW.wall(NOW.at - 30_000), NOW.wall_ms - 30_000);
}

#[test]
fn a_jump_of_the_wall_clock_while_it_runs_moves_no_action() {
    let mut ledger = ledger(&[Line::Began(action("a", NOW.wall_ms))]);
    let jumped = Now { wall_ms: NOW.wall_ms + 3_600_000, at: NOW.at + 2_000 };
    let end = action("a", NOW.wall_ms).ended(Outcome::Healed, String::new(), jumped.wall_ms);
    ledger.apply(Line::Ended(end), jumped);
    let past = ledger.past();
    assert_eq!((past[0].began, past[0].ended), (NOW.at, Some(NOW.at + 2_000)));
}

#[test]
fn newest_come_first_and_by_target() {
    let mut other = action("c", 3);
    other.target = "apple".to_owned();
    let ledger = ledger(&[Line::Began(action("a", 1)), Line::Began(action("b", 2)), Line::Began(other)]);
    let ids = |limit, target| ledger.newest(limit, target).into_iter().map(|a| a.id).collect::<Vec<_>>();
    assert_eq!(ids(2, ""), ["c", "b"]);
    assert_eq!(ids(9, "bus"), ["b", "a"]);
    assert!(ids(9, "pear").is_empty());
}

#[test]
fn what_the_log_tells_comes_before_what_is_known_and_not_twice() {
    let mut known = ledger(&[Line::Began(action("b", 7))]);
    let told = vec![
        action("a", 1).ended(Outcome::Healed, String::new(), 2),
        action("b", 3).ended(Outcome::Healed, String::new(), 4),
        action("x", 5),
    ];
    known.merge(told, NOW);
    let ids: Vec<_> = known.newest(9, "").into_iter().map(|a| (a.id, a.began_ms)).collect();
    assert_eq!(ids, [("b".to_owned(), 7), ("x".to_owned(), 5), ("a".to_owned(), 1)]);
    assert_eq!(tell(&mut known), ["remedy.began:b:7"], "the log has its own events");
}

#[test]
fn old_actions_are_forgotten_only_when_nobody_needs_them() {
    let now = Now { wall_ms: 10 * DAY.unsigned_abs(), at: 10 * DAY };
    let mut ledger = Ledger::default();
    let count = KEPT + 50;
    for n in 0..count {
        let line = ended(&format!("old{n}"), n as u64, Outcome::Healed);
        ledger.apply(line, now);
    }
    assert_eq!(ledger.prune(now), 0);
    assert_eq!(ledger.newest(BOUND, "").len(), count, "the bus does not have them yet");
    tell(&mut ledger);
    for n in 0..KEPT_UNDONE + 9 {
        ledger.apply(ended(&format!("held{n}"), now.wall_ms, Outcome::HeldBack), now);
    }
    let recent = ended("recent", now.wall_ms - 5, Outcome::Healed);
    ledger.apply(recent, now);
    assert_eq!(ledger.prune(now), 0);
    assert_eq!(ledger.newest(BOUND, "").len(), KEPT + KEPT_UNDONE);
    assert!(ledger.find("old49").is_none() && ledger.find("recent").is_some());
    assert!(ledger.find("held8").is_none() && ledger.find("held9").is_some());
}

#[test]
fn the_ledger_is_bounded_and_says_what_it_loses() {
    let mut ledger = Ledger::default();
    for n in 0..BOUND + 3 {
        ledger.apply(ended(&format!("a{n}"), NOW.wall_ms, Outcome::Healed), NOW);
    }
    assert_eq!(ledger.prune(NOW), 3);
    assert_eq!(ledger.newest(usize::MAX, "").len(), BOUND);
    assert!(ledger.find("a2").is_none() && ledger.find("a3").is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_lines_of_a_ledger_give_the_same_ledger_wherever_it_was_written_anew(
        steps in proptest::collection::vec((0..4_u64, 0..4_usize), 0..60),
        at in 0..60_usize,
    ) {
        let mut whole = Ledger::default();
        let mut anew = Ledger::default();
        let mut told = std::collections::BTreeSet::new();
        for (n, (id, what)) in steps.into_iter().enumerate() {
            if n == at {
                let text: Vec<String> = anew.lines().iter().map(|l| serde_json::to_string(l).unwrap()).collect();
                anew = ledger(&text.iter().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<_>>());
            }
            let name = format!("a{id}");
            let line = match what {
                0 => Line::Began(action(&name, id)),
                1 => ended(&name, id, Outcome::NotHealed),
                2 => ended(&format!("h{id}"), id, Outcome::HeldBack),
                _ => match whole.unsent() {
                    Some(unsent) => {
                        prop_assert!(told.insert(unsent.event_id), "an event is told once");
                        unsent.sent
                    }
                    None => Line::Rebuilt,
                },
            };
            whole.apply(line.clone(), NOW);
            anew.apply(line, NOW);
        }
        prop_assert_eq!(&whole, &anew);
    }
}
