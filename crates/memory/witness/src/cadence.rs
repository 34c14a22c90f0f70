//! When a checkpoint is due, and which of the old ones are kept.
//!
//! Invariant: a log that only the witness itself appends to needs no checkpoint, so that an idle day makes none.

use std::collections::BTreeSet;
use std::time::Duration;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Most checkpoints of the last day that are all kept; beyond it, one a minute.
const DAY_LIMIT: usize = 4096;

/// How often checkpoints are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cadence {
    /// Time after which the moved head is signed.
    pub(crate) every: Duration,
    /// Events after which it is signed at once.
    pub(crate) events: u64,
}

/// When the next checkpoint is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// At once.
    Now,
    /// After this time, unless events make it sooner.
    In(Duration),
    /// Not before an event of somebody else.
    Never,
}

impl Cadence {
    /// Returns when the head is to be signed: `size` events of which `foreign` is the last one of others, `signed`
    /// events covered by the last checkpoint, made `ago`, unless that was before this process.
    pub(crate) fn due(self, size: u64, foreign: u64, signed: u64, ago: Option<Duration>) -> Due {
        if foreign <= signed {
            return Due::Never;
        }
        let Some(ago) = ago else { return Due::Now };
        if size - signed >= self.events || ago >= self.every { Due::Now } else { Due::In(self.every - ago) }
    }
}

/// Returns which checkpoints, given as size and time in order of size, are no longer needed.
///
/// Kept are all of the last day, the newest of each hour for 30 days, and the newest of each day for ever.
pub(crate) fn superseded(all: &[(u64, u64)], now_ms: u64) -> Vec<u64> {
    let age = |at: u64| now_ms.saturating_sub(at);
    let crowded = all.iter().filter(|(_, at)| age(*at) < DAY_MS).count() > DAY_LIMIT;
    let mut kept = BTreeSet::new();
    let mut gone = Vec::new();
    for (nth, (size, at)) in all.iter().rev().enumerate() {
        let width = match age(*at) {
            0..DAY_MS if crowded => 60_000,
            0..DAY_MS => 1,
            age if age < 30 * DAY_MS => HOUR_MS,
            _ => DAY_MS,
        };
        let is_first = kept.insert((width, at / width));
        // The newest is what the log is held against, whatever the clock says.
        if !is_first && nth > 0 && width > 1 {
            gone.push(*size);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    const CADENCE: Cadence = Cadence { every: Duration::from_secs(60), events: 10_000 };
    const NOW: u64 = 400 * DAY_MS + HOUR_MS / 2;

    #[test]
    fn a_checkpoint_is_due_when_others_moved_the_head_and_time_or_events_passed() {
        let ago = |secs| Some(Duration::from_secs(secs));
        assert_eq!(CADENCE.due(0, 0, 0, None), Due::Never);
        assert_eq!(CADENCE.due(5, 5, 0, None), Due::Now);
        assert_eq!(CADENCE.due(7, 5, 5, ago(86_400)), Due::Never, "6 and 7 are the witness's own");
        assert_eq!(CADENCE.due(20_000, 5, 5, None), Due::Never);
        assert_eq!(CADENCE.due(6, 6, 5, ago(59)), Due::In(Duration::from_secs(1)));
        assert_eq!(CADENCE.due(6, 6, 5, ago(60)), Due::Now);
        assert_eq!(CADENCE.due(10_004, 10_004, 5, ago(0)), Due::In(Duration::from_secs(60)));
        assert_eq!(CADENCE.due(10_005, 10_004, 5, ago(0)), Due::Now);
    }

    /// A checkpoint each minute back from now, as (size, time).
    fn minutes(count: u64) -> Vec<(u64, u64)> {
        (0..count).rev().map(|ago| (count - ago, NOW - ago * 60_000)).collect()
    }

    fn kept(all: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let gone: BTreeSet<u64> = superseded(all, NOW).into_iter().collect();
        all.iter().copied().filter(|(size, _)| !gone.contains(size)).collect()
    }

    #[test]
    fn the_last_day_is_whole_a_month_hourly_and_the_rest_daily() {
        let all = minutes(60 * 24 * 60);
        let left = kept(&all);
        let aged =
            |from: u64, to: u64| left.iter().filter(|(_, at)| (from..to).contains(&(NOW - at))).count();
        assert_eq!(aged(0, DAY_MS), 1440);
        assert_eq!(aged(DAY_MS, 30 * DAY_MS), 29 * 24 + 1, "an hour that a day's border divides is in both");
        assert_eq!(aged(30 * DAY_MS, 61 * DAY_MS), 31);
        assert_eq!(kept(&left), left, "what is kept is kept again");
        assert_eq!(left.last(), all.last());
    }

    #[test]
    fn a_crowded_day_keeps_one_a_minute_and_a_wrong_clock_keeps_the_newest() {
        let crowd: Vec<_> = (1..=10_000).map(|n| (n, NOW - (10_000 - n) * 1000)).collect();
        let left = kept(&crowd);
        assert!((166..=168).contains(&left.len()), "{}", left.len());
        assert_eq!(left.last(), crowd.last());
        assert_eq!(kept(&[(1, NOW - 90 * DAY_MS), (2, NOW - 90 * DAY_MS)]), [(2, NOW - 90 * DAY_MS)]);
        assert_eq!(kept(&[(1, NOW + DAY_MS), (2, NOW + DAY_MS)]).len(), 2);
    }
}
