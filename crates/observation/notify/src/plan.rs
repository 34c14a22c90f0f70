//! When a card goes to a channel: at once, later and why, and when a channel is tried again. Pure.

use std::time::Duration;

use crate::notify::{Card, Urgency};

/// Shortest time between two cards of one subject on one channel, in milliseconds; an urgent one does not wait.
const SUBJECT_EVERY_MS: u64 = 60_000;
/// How old a card may be when a channel is given up, in milliseconds.
const AGE_LIMIT_MS: u64 = 24 * 3_600_000;
/// First pause after a failure.
const PAUSE: Duration = Duration::from_secs(10);
/// Longest pause that grows by failures.
const PAUSE_LIMIT: Duration = Duration::from_secs(300);
/// Longest pause while an urgent card waits.
const PAUSE_URGENT: Duration = Duration::from_secs(30);
/// Longest pause that a server may ask for.
const TOLD_LIMIT: Duration = Duration::from_secs(3600);

/// What to do with a card on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send it.
    Send,
    /// Wait for so long, and why.
    Wait(Duration, String),
}

/// A channel that may fail: how often it did, and how long it is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Line {
    failures: u32,
    last: Duration,
    told: Option<Duration>,
    why: String,
}

impl Line {
    /// Notes that the channel works.
    pub(crate) fn works(&mut self) {
        *self = Self::default();
    }

    /// Notes a failure at a boot time; `told` is how long the other side asked to be left alone.
    pub(crate) fn failed(&mut self, now: Duration, told: Option<Duration>, why: &str) {
        self.failures = self.failures.saturating_add(1);
        self.last = now;
        self.told = told.map(|told| told.min(TOLD_LIMIT));
        why.clone_into(&mut self.why);
    }

    /// Returns how long the channel is to be left alone yet; nothing when it may be tried.
    pub(crate) fn pause(&self, now: Duration, urgent: bool) -> Option<Duration> {
        if self.failures == 0 {
            return None;
        }
        let limit = if urgent { PAUSE_URGENT } else { PAUSE_LIMIT };
        let grown = PAUSE.saturating_mul(1 << self.failures.saturating_sub(1).min(10)).min(limit);
        let until = self.last + self.told.map_or(grown, |told| told.max(grown));
        until.checked_sub(now).filter(|left| !left.is_zero())
    }
}

/// Returns what to do with a card now.
///
/// `quiet_until` and `last_sent` (of the subject, on this channel) are wall times in milliseconds, `boot` is the boot
/// time.
pub(crate) fn step(
    card: &Card,
    now_ms: u64,
    boot: Duration,
    quiet_until: Option<u64>,
    last_sent: Option<u64>,
    line: &Line,
) -> Step {
    let urgent = card.content.urgency == Urgency::Urgent;
    let wait = |ms: u64, why: &str| Step::Wait(Duration::from_millis(ms), why.to_owned());
    if let Some(until) = quiet_until.filter(|until| !urgent && *until > now_ms) {
        return wait(until - now_ms, "quiet hours");
    }
    // A last time in the future is one of a clock that was wrong.
    let since = last_sent.and_then(|last| now_ms.checked_sub(last));
    if let Some(since) = since.filter(|since| !urgent && *since < SUBJECT_EVERY_MS) {
        return wait(SUBJECT_EVERY_MS - since, "one card a minute for each subject");
    }
    match line.pause(boot, urgent) {
        Some(left) => Step::Wait(left, line.why.clone()),
        None => Step::Send,
    }
}

/// Returns whether something put at `at_ms` is too old to be tried again after a failure.
pub(crate) fn is_too_old(at_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(at_ms) >= AGE_LIMIT_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::tests::{folded, put};

    const NOW: u64 = 1_000_000_000;

    fn card(urgency: Urgency) -> Card {
        let mut card = folded([put("a", "one")]).get("a").unwrap().clone();
        card.content.urgency = urgency;
        card
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[track_caller]
    fn check(urgency: Urgency, quiet: Option<u64>, last: Option<u64>, waits: Option<u64>) {
        let step = step(&card(urgency), NOW, secs(5), quiet, last, &Line::default());
        let expected = waits.map(Duration::from_millis);
        match step {
            Step::Send => assert_eq!(expected, None),
            Step::Wait(left, _) => assert_eq!(Some(left), expected),
        }
    }

    #[test]
    fn quiet_hours_hold_back_all_but_what_is_urgent() {
        for urgency in [Urgency::Min, Urgency::Low, Urgency::Default, Urgency::High] {
            check(urgency, Some(NOW + 500), None, Some(500));
            check(urgency, None, None, None);
        }
        check(Urgency::Urgent, Some(NOW + 500), None, None);
        check(Urgency::Default, Some(NOW), None, None);
    }

    #[test]
    fn a_subject_is_heard_once_a_minute_unless_it_is_urgent() {
        check(Urgency::Default, None, Some(NOW - 59_999), Some(1));
        check(Urgency::Default, None, Some(NOW - 60_000), None);
        check(Urgency::Urgent, None, Some(NOW - 1), None);
        check(Urgency::Default, None, Some(NOW + 1), None);
    }

    #[test]
    fn a_channel_that_fails_is_left_alone_for_longer_each_time() {
        let mut line = Line::default();
        assert_eq!(line.pause(secs(0), false), None);
        let pauses: Vec<u64> = (0..8)
            .map(|_| {
                line.failed(secs(100), None, "away");
                line.pause(secs(100), false).unwrap().as_secs()
            })
            .collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(line.pause(secs(100), true), Some(secs(30)));
        assert_eq!(line.pause(secs(399), false), Some(secs(1)));
        assert_eq!(line.pause(secs(400), false), None);
        let waits = step(&card(Urgency::Low), NOW, secs(101), None, None, &line);
        assert_eq!(waits, Step::Wait(secs(299), "away".to_owned()));
        line.works();
        assert_eq!(line.pause(secs(100), false), None);
    }

    #[test]
    fn a_server_says_how_long_to_wait_within_reason() {
        let mut line = Line::default();
        line.failed(secs(0), Some(secs(90)), "busy");
        assert_eq!(line.pause(secs(0), true), Some(secs(90)));
        line.failed(secs(0), Some(secs(1)), "busy");
        assert_eq!(line.pause(secs(0), false), Some(secs(20)));
        line.failed(secs(0), Some(secs(1 << 40)), "busy");
        assert_eq!(line.pause(secs(0), false), Some(secs(3600)));
    }

    #[test]
    fn a_day_is_enough() {
        assert!(!is_too_old(NOW, NOW + 86_399_999) && is_too_old(NOW, NOW + 86_400_000));
        assert!(!is_too_old(NOW, NOW - 1));
    }
}
