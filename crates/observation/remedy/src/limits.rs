//! The guards: how often something may be done, and when nothing is done at all.
//!
//! It knows no clock: the caller says when each action was and what time it is, in milliseconds of one timeline that
//! never runs backwards. Nothing is counted apart from the actions, so that a restart forgets nothing.
//! Invariant: whatever is asked for when, the actions that are let through keep every limit.

use crate::catalogue::Remedy;
use crate::remedy::Outcome;

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
/// The longest window that any limit looks back over.
pub(crate) const DAY: i64 = 24 * 60 * MINUTE;

/// Shortest pause between an action and the next of the same kind on the same target; doubled by each.
pub(crate) const COOLDOWN: i64 = 10 * SECOND;
const COOLDOWN_LIMIT: i64 = 5 * MINUTE;
/// How long a target must have been left in peace, healthy, for its cooldown to start anew.
const HEALTHY: i64 = 10 * MINUTE;
/// Shortest time between the beginnings of any two actions.
const APART: i64 = 30 * SECOND;
/// How many may begin within a window: anywhere, and on one target.
const ANYWHERE: (usize, i64) = (5, 5 * MINUTE);
const TARGET_SHORT: (usize, i64) = (3, 15 * MINUTE);
const TARGET_DAY: (usize, i64) = (10, DAY);
/// After so many in a row that did not help, nothing is done for a while.
const IN_A_ROW: usize = 3;
const OBSERVING: i64 = 30 * MINUTE;

/// An action of the past, in order of their beginnings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past<'a> {
    pub(crate) remedy: Remedy,
    pub(crate) target: &'a str,
    pub(crate) began: i64,
    pub(crate) ended: Option<i64>,
    pub(crate) outcome: Outcome,
}

/// Why nothing is done, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) why: &'static str,
    pub(crate) until: i64,
}

/// Returns until when only to observe, if so.
pub(crate) fn observing(past: &[Past<'_>], now: i64) -> Option<i64> {
    let (mut row, mut until) = (0, None);
    for action in past {
        match action.outcome {
            Outcome::Healed => row = 0,
            Outcome::NotHealed | Outcome::Failed => row += 1,
            _ => {}
        }
        if row == IN_A_ROW {
            row = 0;
            until = Some(action.ended.unwrap_or(action.began) + OBSERVING);
        }
    }
    until.filter(|until| *until > now)
}

/// Returns what holds an action back for the longest time; nothing when it may begin.
pub(crate) fn hold(past: &[Past<'_>], remedy: Remedy, target: &str, now: i64) -> Option<Hold> {
    // After a restart the places come from the wall clock, which may have run backwards between two actions.
    let sorted = |mut begun: Vec<i64>| {
        begun.sort_unstable();
        begun
    };
    let all = sorted(past.iter().map(|p| p.began).collect());
    let same = sorted(past.iter().filter(|p| p.target == target).map(|p| p.began).collect());
    let holds = [
        ("the last three remedies did not help, so this service only observes", observing(past, now)),
        ("remedies are at least 30 s apart", all.last().map(|last| last + APART)),
        ("five remedies began within five minutes", full(&all, ANYWHERE)),
        ("three remedies of this target began within 15 minutes", full(&same, TARGET_SHORT)),
        ("ten remedies of this target began within a day", full(&same, TARGET_DAY)),
        ("this remedy of this target cools down", cooling(past, remedy, target, now)),
    ];
    let holds = holds.into_iter().filter_map(|(why, until)| Some(Hold { why, until: until? }));
    holds.filter(|hold| hold.until > now).max_by_key(|hold| hold.until)
}

/// Returns when the window has room again, given that it is full whenever its last `limit` beginnings lie in it.
fn full(begun: &[i64], (limit, window): (usize, i64)) -> Option<i64> {
    begun.iter().rev().nth(limit - 1).map(|first| first + window)
}

/// Returns when a remedy of a target has cooled down.
fn cooling(past: &[Past<'_>], remedy: Remedy, target: &str, now: i64) -> Option<i64> {
    let mut run = 0_u32;
    let mut last: Option<(i64, bool)> = None;
    let rested = |last: Option<(i64, bool)>, at: i64| last.is_some_and(|(end, ok)| ok && at - end >= HEALTHY);
    for action in past.iter().filter(|p| p.remedy == remedy && p.target == target) {
        run = if rested(last, action.began) { 1 } else { run + 1 };
        last = Some((action.ended.unwrap_or(action.began), action.outcome == Outcome::Healed));
    }
    let (end, _) = last.filter(|_| !rested(last, now))?;
    let pause = COOLDOWN << run.saturating_sub(1).min(10);
    Some(end + pause.min(COOLDOWN_LIMIT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    fn past(target: &str, began: i64, outcome: Outcome) -> Past<'_> {
        Past { remedy: Remedy::Restart, target, began, ended: Some(began + SECOND), outcome }
    }

    fn until(past: &[Past<'_>], target: &str, now: i64) -> Option<i64> {
        hold(past, Remedy::Restart, target, now).map(|h| h.until)
    }

    #[test]
    fn the_first_of_a_quiet_period_is_free_and_the_next_is_30_seconds_later() {
        assert_eq!(until(&[], "a", 0), None);
        let one = [past("a", 0, Outcome::Healed)];
        assert_eq!(until(&one, "b", 29_999), Some(30_000));
        assert_eq!(until(&one, "b", 30_000), None);
    }

    #[test]
    fn a_target_has_three_in_15_minutes_and_ten_a_day() {
        let three = [0, 2, 7].map(|m| past("a", m * MINUTE, Outcome::Healed));
        assert_eq!(until(&three, "a", 9 * MINUTE), Some(15 * MINUTE));
        assert_eq!(until(&three, "b", 9 * MINUTE), None);
        let ten: Vec<_> = (0..10).map(|n| past("a", n * 60 * MINUTE, Outcome::Healed)).collect();
        assert_eq!(until(&ten, "a", 12 * 60 * MINUTE), Some(DAY));
        assert_eq!(until(&ten, "a", DAY), None);
    }

    #[test]
    fn five_begin_anywhere_within_five_minutes() {
        let names = ["a", "b", "c", "d", "e"];
        let five: Vec<_> = (0..).zip(names).map(|(n, t)| past(t, n * APART, Outcome::Healed)).collect();
        assert_eq!(until(&five, "f", 3 * MINUTE), Some(5 * MINUTE));
        assert_eq!(until(&five, "f", 5 * MINUTE), None);
    }

    #[test]
    fn a_cooldown_doubles_to_five_minutes_and_ends_after_ten_healthy_ones() {
        let mut actions: Vec<Past<'_>> = Vec::new();
        let mut now = 0;
        for pause in [10, 20, 40, 80, 160, 300, 300] {
            actions.push(past("a", now, Outcome::NotHealed));
            let end = now + SECOND;
            assert_eq!(cooling(&actions, Remedy::Restart, "a", end), Some(end + pause * SECOND));
            assert_eq!(cooling(&actions, Remedy::Start, "a", end), None);
            now = end + pause * SECOND;
        }
        assert!(cooling(&actions, Remedy::Restart, "a", now + HEALTHY).is_some(), "it never was healthy");
        actions.push(past("a", now, Outcome::Healed));
        let end = now + SECOND;
        assert_eq!(cooling(&actions, Remedy::Restart, "a", end + HEALTHY), None);
        actions.push(past("a", end + HEALTHY, Outcome::Healed));
        let again = end + HEALTHY + SECOND;
        assert_eq!(cooling(&actions, Remedy::Restart, "a", again), Some(again + COOLDOWN));
    }

    #[test]
    fn three_in_a_row_that_did_not_help_end_in_observing_and_the_row_begins_anew() {
        let bad =
            |n: i64| past("a", n * MINUTE, if n % 2 == 0 { Outcome::Failed } else { Outcome::NotHealed });
        let row = [bad(0), bad(1), bad(2)];
        let end = 2 * MINUTE + SECOND + OBSERVING;
        assert_eq!(observing(&row, 3 * MINUTE), Some(end));
        assert_eq!(until(&row, "z", 3 * MINUTE), Some(end), "whatever the target");
        assert_eq!(observing(&row, end), None);
        assert_eq!(observing(&[bad(0), bad(1), bad(2), bad(60), bad(61)], 62 * MINUTE), None);
        let broken = [bad(0), bad(1), past("b", 2 * MINUTE, Outcome::Healed), bad(3)];
        assert_eq!(observing(&broken, 4 * MINUTE), None);
        let unknown = [bad(0), bad(1), past("b", 2 * MINUTE, Outcome::Unknown), bad(3)];
        assert!(observing(&unknown, 4 * MINUTE).is_some(), "an unknown one does not show that it helps");
    }

    /// Returns the most beginnings in any window.
    fn most(begun: &[i64], window: i64) -> usize {
        let within = |from: &i64| begun.iter().filter(|at| (*from..from + window).contains(at)).count();
        begun.iter().map(within).max().unwrap_or_default()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_asked_for_when_the_limits_hold(
            asks in proptest::collection::vec((0..400_000_i64, 0..3_usize, 0..3_usize, 0..4_usize, 0..90_000_i64), 1..250),
        ) {
            const TARGETS: [&str; 3] = ["a", "b", "fleet"];
            const REMEDIES: [Remedy; 3] = [Remedy::Restart, Remedy::Start, Remedy::RotateLogs];
            const OUTCOMES: [Outcome; 4] =
                [Outcome::Healed, Outcome::NotHealed, Outcome::Failed, Outcome::Unknown];
            let mut done: Vec<Past<'_>> = Vec::new();
            let mut now = 0_i64;
            for (pause, target, remedy, outcome, took) in asks {
                now += pause;
                let (target, remedy) = (TARGETS[target], REMEDIES[remedy]);
                let held = hold(&done, remedy, target, now);
                if let Some(held) = held {
                    prop_assert!(held.until > now && held.until <= now + DAY);
                    prop_assert_eq!(hold(&done, remedy, target, held.until), None, "it ends when it says");
                    continue;
                }
                let outcome = OUTCOMES[outcome];
                done.push(Past { remedy, target, began: now, ended: Some(now + took), outcome });
                now += took;
            }
            let all: Vec<i64> = done.iter().map(|p| p.began).collect();
            prop_assert!(all.windows(2).all(|w| w[1] - w[0] >= APART));
            prop_assert!(most(&all, ANYWHERE.1) <= ANYWHERE.0);
            for target in TARGETS {
                let same: Vec<i64> = done.iter().filter(|p| p.target == target).map(|p| p.began).collect();
                prop_assert!(most(&same, TARGET_SHORT.1) <= TARGET_SHORT.0);
                prop_assert!(most(&same, TARGET_DAY.1) <= TARGET_DAY.0);
            }
            let (mut row, mut free) = (0, i64::MIN);
            for action in &done {
                prop_assert!(action.began >= free, "nothing is done while it only observes");
                row = match action.outcome {
                    Outcome::Healed => 0,
                    Outcome::Unknown => row,
                    _ => row + 1,
                };
                if row == 3 {
                    (row, free) = (0, action.ended.unwrap_or_default() + 30 * MINUTE);
                }
            }
        }
    }
}
