//! How often something may be acted on: three times in fifteen minutes, ten times a day, with growing pauses.
//!
//! The service remedy has limits of its own; these hold when its memory is lost.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

const WINDOW: u64 = 900_000;
const IN_WINDOW: usize = 3;
const DAY: u64 = 86_400_000;
const IN_DAY: usize = 10;
const PAUSE: u64 = 10_000;
const PAUSE_LIMIT: u64 = 300_000;

/// What was done to one target; times are of the boot clock, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// When actions were asked for, within a day.
    acted: VecDeque<u64>,
    /// Actions without ten minutes of health between them.
    attempts: u32,
    not_before: u64,
}

impl Limits {
    /// Returns the first instant at which another action may be asked for.
    pub(crate) fn next(&self) -> u64 {
        let nth = |n: usize| self.acted.len().checked_sub(n).and_then(|i| self.acted.get(i)).copied();
        let window = nth(IN_WINDOW).map_or(0, |at| at + WINDOW);
        let day = nth(IN_DAY).map_or(0, |at| at + DAY);
        self.not_before.max(window).max(day)
    }

    /// Takes a place for an action.
    pub(crate) fn take(&mut self, now: u64) {
        self.acted.push_back(now);
    }

    /// Gives the last place back: nothing was done.
    pub(crate) fn give_back(&mut self) {
        self.acted.pop_back();
    }

    /// Notes that an action has ended, and how long its effect needs at least.
    pub(crate) fn ended(&mut self, now: u64, grace: u64) {
        self.attempts = self.attempts.saturating_add(1);
        let pause = (PAUSE << (self.attempts - 1).min(5)).min(PAUSE_LIMIT);
        self.wait(now + pause.max(grace));
    }

    /// Puts the next action off.
    pub(crate) fn wait(&mut self, until: u64) {
        self.not_before = self.not_before.max(until);
    }

    /// Forgets the pauses, because it was well for long or somebody started it by hand.
    pub(crate) fn calm(&mut self) {
        self.attempts = 0;
        self.not_before = 0;
    }

    /// Drops what no limit counts any more.
    pub(crate) fn age(&mut self, now: u64) {
        while self.acted.front().is_some_and(|at| now.saturating_sub(*at) > DAY) {
            self.acted.pop_front();
        }
    }

    /// Counts what was done before the machine was started anew as if it were done just now.
    pub(crate) fn rebase(&mut self, now: u64) {
        for at in &mut self.acted {
            *at = now;
        }
        self.not_before = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_in_a_quarter_of_an_hour_and_ten_a_day() {
        let (mut limits, mut now, mut done) = (Limits::default(), 0, Vec::new());
        while now < DAY + 1 {
            limits.take(now);
            done.push(now);
            limits.calm();
            now = limits.next().max(now);
        }
        for at in &done {
            assert!(done.iter().filter(|d| (*at..at + WINDOW).contains(d)).count() <= IN_WINDOW);
            assert!(done.iter().filter(|d| (*at..at + DAY).contains(d)).count() <= IN_DAY);
        }
        assert!(done.len() > 10, "a day later there are new ones: {done:?}");
    }

    #[test]
    fn pauses_double_to_five_minutes_and_a_grace_is_longer() {
        let mut limits = Limits::default();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            limits.ended(0, 0);
            pauses.push(limits.not_before / 1000);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300]);
        let mut limits = Limits::default();
        limits.ended(5, 60_000);
        assert_eq!(limits.next(), 60_005);
    }

    #[test]
    fn what_was_not_done_counts_for_nothing() {
        let mut limits = Limits::default();
        for now in 0..10 {
            limits.take(now);
            limits.give_back();
        }
        assert_eq!(limits.next(), 0);
    }
}
