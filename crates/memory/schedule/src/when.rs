//! When a job is due: every so often, at times of the day, or once.
//!
//! It refuses nothing: a rule that never comes again has no next time.
//! Invariant: the times of a rule only depend on the rule and the time zone, so that they can be told again later.

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Days that are searched for a time of the day; the 29th to 31st on a given weekday come within that.
const DAYS_AHEAD: u32 = 12 * 366;

const MINUTE_MS: i64 = 60_000;

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum When {
    /// Every `every_ms` milliseconds from 1970 on, `phase_ms` later.
    Every { every_ms: u64, phase_ms: u64 },
    /// At times of the day.
    Calendar(Calendar),
    /// Once.
    At { at_ms: u64 },
}

/// Times of the day; an absent part matches any value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Calendar {
    pub(crate) minute: i8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hour: Option<i8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) day: Option<i8>,
    /// 0 is Sunday.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) weekday: Option<i8>,
}

/// Times of a rule within a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// The last.
    pub(crate) last: u64,
    /// The last but one.
    pub(crate) before: Option<u64>,
    /// How many.
    pub(crate) count: u64,
}

impl When {
    /// Returns the first time after `after`, in milliseconds since 1970.
    pub(crate) fn next(&self, after: u64, tz: &TimeZone) -> Option<u64> {
        match self {
            Self::Every { every_ms, phase_ms } => {
                let periods = match after.checked_sub(*phase_ms) {
                    Some(since) => since.checked_div(*every_ms)?.checked_add(1)?,
                    None => 0,
                };
                periods.checked_mul(*every_ms)?.checked_add(*phase_ms)
            }
            Self::Calendar(calendar) => calendar.next(after, tz),
            Self::At { at_ms } => (*at_ms > after).then_some(*at_ms),
        }
    }

    /// Returns the times after `after` and not after `upto`.
    pub(crate) fn span(&self, after: u64, upto: u64, tz: &TimeZone) -> Option<Span> {
        let first = self.next(after, tz).filter(|first| *first <= upto)?;
        if let Self::Every { every_ms, .. } = self {
            let more = upto.saturating_sub(first).checked_div(*every_ms)?;
            let last = first.saturating_add(more.saturating_mul(*every_ms));
            let before = (more > 0).then(|| last.saturating_sub(*every_ms));
            return Some(Span { last, before, count: more.saturating_add(1) });
        }
        let mut span = Span { last: first, before: None, count: 1 };
        while let Some(next) = self.next(span.last, tz).filter(|next| *next <= upto) {
            span = Span { last: next, before: Some(span.last), count: span.count + 1 };
        }
        Some(span)
    }
}

impl Calendar {
    fn next(&self, after: u64, tz: &TimeZone) -> Option<u64> {
        let start = Timestamp::from_millisecond(i64::try_from(after).ok()?).ok()?;
        let start = tz.to_datetime(start);
        let hours = self.hour.map_or(0..=23, |hour| hour..=hour);
        let mut date = start.date();
        for _ in 0..DAYS_AHEAD {
            if self.falls_on(date) {
                for hour in hours.clone() {
                    let time = date.at(hour, self.minute, 0, 0);
                    // Later local times are never earlier instants, so the first that lies ahead is the next.
                    if time > start
                        && let Some(due) = instant(time, tz).filter(|due| *due > after)
                    {
                        return Some(due);
                    }
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn falls_on(&self, date: Date) -> bool {
        self.day.is_none_or(|day| day == date.day())
            && self.weekday.is_none_or(|day| day == date.weekday().to_sunday_zero_offset())
    }
}

/// Returns when a local time is: of two the earlier, and of none the first minute after the clocks skipped it.
fn instant(time: DateTime, tz: &TimeZone) -> Option<u64> {
    let ambiguous = tz.to_ambiguous_timestamp(time);
    let ms = match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
            offset.to_timestamp(time).ok()?.as_millisecond()
        }
        AmbiguousOffset::Gap { before, .. } => {
            // With the offset from before the gap, a skipped time lies at or after the moment of the change.
            let beyond = before.to_timestamp(time).ok()?.checked_add(SignedDuration::from_secs(1)).ok()?;
            let change = tz.preceding(beyond).next()?.timestamp().as_millisecond();
            change.checked_add(MINUTE_MS - 1)?.div_euclid(MINUTE_MS) * MINUTE_MS
        }
    };
    u64::try_from(ms).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, Strategy as _, any, prop_assert, prop_assert_eq, proptest};

    /// Berlin: at 02:00 the clocks skip to 03:00 on the last Sunday of March, and go back at 03:00 in October.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn ms(utc: &str) -> u64 {
        utc.parse::<Timestamp>().unwrap().as_millisecond().try_into().unwrap()
    }

    fn at(minute: i8, hour: Option<i8>) -> When {
        When::Calendar(Calendar { minute, hour, day: None, weekday: None })
    }

    /// Checks the times of a rule after a moment, all in UTC, by the clocks of Berlin.
    #[track_caller]
    fn check(when: &When, after: &str, expected: &[&str]) {
        let mut now = ms(after);
        for due in expected {
            let next = when.next(now, &berlin()).unwrap();
            let shown = Timestamp::from_millisecond(next.try_into().unwrap()).unwrap().to_string();
            assert_eq!(&shown, due, "after {after}");
            now = next;
        }
    }

    #[test]
    fn a_period_is_counted_from_1970_plus_its_phase() {
        let when = When::Every { every_ms: 1000, phase_ms: 300 };
        let next = |after| when.next(after, &TimeZone::UTC);
        assert_eq!([next(0), next(299), next(300), next(1299)], [300, 300, 1300, 1300].map(Some));
        assert_eq!(next(u64::MAX), None);
        assert_eq!(
            when.span(300, 3300, &TimeZone::UTC),
            Some(Span { last: 3300, before: Some(2300), count: 3 })
        );
        assert_eq!(when.span(300, 1299, &TimeZone::UTC), None);
    }

    #[test]
    fn once_is_once() {
        let when = When::At { at_ms: 5 };
        assert_eq!(when.span(4, 9, &TimeZone::UTC), Some(Span { last: 5, before: None, count: 1 }));
        assert_eq!(when.next(5, &TimeZone::UTC), None);
    }

    #[test]
    fn a_time_that_the_clocks_skip_is_due_at_the_first_minute_after_the_gap() {
        check(
            &at(30, Some(2)),
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"],
        );
        check(&at(0, Some(2)), "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
        check(
            &at(30, None),
            "2026-03-29T00:00:00Z",
            &["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"],
        );
    }

    #[test]
    fn a_time_that_the_clocks_repeat_is_due_once() {
        check(&at(30, Some(2)), "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        // Between the two half past two of that night.
        check(&at(30, Some(2)), "2026-10-25T01:15:00Z", &["2026-10-26T01:30:00Z"]);
        check(&at(45, None), "2026-10-25T01:15:00Z", &["2026-10-25T02:45:00Z"]);
    }

    #[test]
    fn all_given_parts_of_a_calendar_must_match() {
        let monthly = Calendar { minute: 5, hour: Some(4), day: Some(31), weekday: None };
        check(
            &When::Calendar(monthly.clone()),
            "2026-01-31T12:00:00Z",
            &["2026-03-31T02:05:00Z", "2026-05-31T02:05:00Z"],
        );
        let sundays = Calendar { minute: 5, hour: Some(4), day: None, weekday: Some(0) };
        check(&When::Calendar(sundays), "2026-01-01T00:00:00Z", &["2026-01-04T03:05:00Z"]);
        let both = Calendar { weekday: Some(0), ..monthly };
        check(&When::Calendar(both), "2026-01-01T00:00:00Z", &["2026-05-31T02:05:00Z"]);
    }

    #[test]
    fn a_time_beyond_all_calendars_has_no_next() {
        assert_eq!(at(0, None).next(u64::MAX, &TimeZone::UTC), None);
        assert_eq!(at(0, None).next(ms("9999-12-30T12:00:00Z") + 86_400_000, &TimeZone::UTC), None);
    }

    fn rules() -> impl proptest::strategy::Strategy<Value = When> {
        let calendar = (
            0_i8..60,
            proptest::option::of(0_i8..24),
            proptest::option::weighted(0.2, 1_i8..32),
            proptest::option::weighted(0.2, 0_i8..7),
        )
            .prop_map(|(minute, hour, day, weekday)| When::Calendar(Calendar { minute, hour, day, weekday }));
        let every = (1000_u64..100_000_000, any::<u64>())
            .prop_map(|(every_ms, phase)| When::Every { every_ms, phase_ms: phase % every_ms });
        proptest::prop_oneof![calendar, every]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn times_grow_and_do_not_depend_on_where_the_search_began(
            when in rules(),
            start in 1_700_000_000_000_u64..1_900_000_000_000,
            part in 0.0_f64..1.0,
        ) {
            let tz = berlin();
            let next = when.next(start, &tz).unwrap();
            prop_assert!(next > start);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place between the two")]
            let between = start + ((next - start - 1) as f64 * part) as u64;
            prop_assert_eq!(when.next(between, &tz), Some(next));
            let after = when.next(next, &tz).unwrap();
            let third = when.next(after, &tz).unwrap();
            prop_assert!(after > next && third > after);
            let span = when.span(start, third - 1, &tz);
            prop_assert_eq!(span, Some(Span { last: after, before: Some(next), count: 2 }));
        }
    }
}
