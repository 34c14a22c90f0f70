//! The calendar of `StartCalendarInterval`: when a job is due next, in a time zone with its jumps.
//!
//! A time that the clock skips in spring is due at the first instant after the gap; one that it repeats in autumn is
//! due once, the first time.

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan as _};

/// Days that are searched for the next match: February 29th may be eight years away.
const HORIZON_DAYS: usize = 8 * 366 + 1;

/// When a job runs; a field that is absent matches everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// Minute, 0 to 59.
    pub minute: Option<u8>,
    /// Hour, 0 to 23.
    pub hour: Option<u8>,
    /// Day of the month, 1 to 31; with a weekday, either is enough.
    pub day: Option<u8>,
    /// Day of the week, 0 and 7 are Sunday.
    pub weekday: Option<u8>,
    /// Month, 1 to 12.
    pub month: Option<u8>,
}

impl Moment {
    fn matches_date(&self, date: Date) -> bool {
        let day = |d: u8| i8::try_from(d).is_ok_and(|d| d == date.day());
        let weekday = |w: u8| i8::try_from(w % 7).is_ok_and(|w| w == date.weekday().to_sunday_zero_offset());
        let month = |m: u8| i8::try_from(m).is_ok_and(|m| m == date.month());
        let in_month = match (self.day, self.weekday) {
            (Some(d), Some(w)) => day(d) || weekday(w),
            (d, w) => d.is_none_or(day) && w.is_none_or(weekday),
        };
        in_month && self.month.is_none_or(month)
    }

    fn minutes(&self) -> impl Iterator<Item = (i8, i8)> + use<> {
        let range = |fixed: Option<u8>, end: u8| {
            let (from, to) = fixed.map_or((0, end), |at| (at, at.saturating_add(1).min(end)));
            (from..to).map(u8::cast_signed)
        };
        let minute = self.minute;
        range(self.hour, 24).flat_map(move |hour| range(minute, 60).map(move |minute| (hour, minute)))
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut date = zone.to_datetime(after).date();
        for _ in 0..HORIZON_DAYS {
            if self.matches_date(date) {
                let times = self.minutes().map(|(hour, minute)| date.at(hour, minute, 0, 0));
                let found = times.filter_map(|at| instant(at, zone)).find(|at| *at > after);
                if found.is_some() {
                    return found;
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }
}

/// Returns the first instant after `after` that any of the moments matches.
pub fn next(moments: &[Moment], after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    moments.iter().filter_map(|moment| moment.next(after, zone)).min()
}

/// Returns the instant of a local time.
fn instant(at: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(at);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => ambiguous.earlier().ok(),
        AmbiguousOffset::Gap { .. } => {
            let before = ambiguous.earlier().ok()?;
            zone.following(before).next().map(|jump| jump.timestamp())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn zone() -> TimeZone {
        // Central Europe by rule, so that the test needs no time zone database.
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    const AT_0230: Moment = Moment { hour: Some(2), minute: Some(30), day: None, weekday: None, month: None };

    #[track_caller]
    fn check(moment: Moment, after: &str, expected: &[&str]) {
        let mut at: Timestamp = after.parse().unwrap();
        for expected in expected {
            at = next(&[moment], at, &zone()).unwrap();
            assert_eq!(at.to_string(), *expected, "{moment:?}");
        }
    }

    #[test]
    fn a_daily_time_moves_with_the_clock() {
        let daily =
            ["2026-03-27T01:30:00Z", "2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
        check(AT_0230, "2026-03-27T00:00:00Z", &daily);
        check(AT_0230, "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        check(AT_0230, "2026-10-25T00:30:00Z", &["2026-10-26T01:30:00Z"]);
        check(AT_0230, "2026-10-25T01:15:00Z", &["2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn all_that_a_gap_skips_is_due_once() {
        let each = Moment { minute: None, hour: Some(2), ..AT_0230 };
        check(
            each,
            "2026-03-28T23:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z", "2026-03-30T00:01:00Z"],
        );
    }

    #[test]
    fn days_weekdays_and_months_are_matched_as_launchd_does() {
        let at_noon = Moment { hour: Some(12), minute: Some(0), ..Moment::default() };
        let both = Moment { day: Some(13), weekday: Some(7), ..at_noon };
        check(both, "2026-01-10T00:00:00Z", &["2026-01-11T11:00:00Z", "2026-01-13T11:00:00Z"]);
        let leap = Moment { day: Some(29), month: Some(2), ..at_noon };
        check(leap, "2026-03-01T00:00:00Z", &["2028-02-29T11:00:00Z", "2032-02-29T11:00:00Z"]);
        let never = Moment { day: Some(30), month: Some(2), ..at_noon };
        assert_eq!(next(&[never], Timestamp::UNIX_EPOCH, &zone()), None);
        assert_eq!(next(&[], Timestamp::UNIX_EPOCH, &zone()), None);
        let any = next(&[leap, at_noon], "2026-01-10T00:00:00Z".parse().unwrap(), &zone()).unwrap();
        assert_eq!(any.to_string(), "2026-01-10T11:00:00Z");
        check(Moment::default(), "2026-01-10T00:00:30Z", &["2026-01-10T00:01:00Z", "2026-01-10T00:02:00Z"]);
    }

    proptest! {
        /// Every day has one occurrence of a daily time, at that time or at the end of the gap that holds it.
        #[test]
        fn a_daily_time_is_due_once_a_day(hour in 0..24_u8, minute in 0..60_u8, start in 0..1_500_000_000_i64) {
            let moment = Moment { hour: Some(hour), minute: Some(minute), ..Moment::default() };
            let mut at = Timestamp::from_second(start).unwrap();
            let mut last = None;
            for _ in 0..400 {
                let due = next(&[moment], at, &zone()).unwrap();
                prop_assert!(due > at);
                let local = zone().to_datetime(due);
                if let Some(last) = last {
                    prop_assert_eq!(local.date(), Date::tomorrow(last).unwrap());
                }
                let exact = (local.hour(), local.minute()) == (hour.cast_signed(), minute.cast_signed());
                prop_assert!(exact || (hour == 2 && (local.hour(), local.minute()) == (3, 0)), "{}", local);
                last = Some(local.date());
                at = due;
            }
        }
    }
}
