//! Days and times of day in UTC, as numbers.

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan as _, Unit};

/// Seconds of a day.
const DAY: i64 = 86_400;
/// The first day.
const EPOCH: Date = Date::constant(1970, 1, 1);
/// Days from 1970 to 2000: no transcript of a coding agent is older.
const FIRST_TOLD_DAY: i64 = 10_957;
/// Days from 1970 to the last of 9999.
const LAST_DAY: i64 = 2_932_896;

/// A day and a second of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    /// Days since 1970-01-01.
    pub(crate) day: i32,
    /// Seconds since midnight.
    pub(crate) second: u32,
}

impl Moment {
    /// Returns the moment of a Unix time; one outside the years 1970 to 9999 is the nearest inside.
    pub(crate) fn at(seconds: i64) -> Self {
        let seconds = seconds.clamp(0, LAST_DAY * DAY + DAY - 1);
        let day = i32::try_from(seconds / DAY).unwrap_or_default();
        let second = u32::try_from(seconds % DAY).unwrap_or_default();
        Self { day, second }
    }

    /// Returns when something happened that was written down at `wall`: the time it tells of itself, where that is
    /// RFC 3339 and believable, else `wall`.
    ///
    /// A time of its own that lies in the future is not believed: a few rows from the year 9000 would push every real
    /// day off the pages.
    pub(crate) fn told(at: Option<&str>, wall: i64) -> Self {
        let told = at
            .filter(|at| at.len() <= 40)
            .and_then(|at| at.parse::<Timestamp>().ok())
            .map(Timestamp::as_second)
            .filter(|at| *at >= FIRST_TOLD_DAY * DAY && *at <= wall.saturating_add(DAY));
        Self::at(told.unwrap_or(wall))
    }
}

/// Returns the number of a day written "YYYY-MM-DD", from 1970 on.
pub(crate) fn parse_day(text: &str) -> Option<i32> {
    let shaped = text.len() == 10
        && text
            .bytes()
            .enumerate()
            .all(|(i, b)| if matches!(i, 4 | 7) { b == b'-' } else { b.is_ascii_digit() });
    if !shaped {
        return None;
    }
    let date: Date = text.parse().ok()?;
    let day = EPOCH.until((Unit::Day, date)).ok()?.get_days();
    (day >= 0).then_some(day)
}

/// Returns a day as "YYYY-MM-DD".
pub(crate) fn day_text(day: i32) -> String {
    EPOCH.checked_add(i64::from(day).days()).unwrap_or(Date::MAX).to_string()
}

/// Returns a second of a day as "HH:MM:SS".
pub(crate) fn second_text(second: u32) -> String {
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-02-12T00:00:00Z.
    const WALL: i64 = 1_770_854_400;

    #[track_caller]
    fn check(at: Option<&str>, expected: &str) {
        let moment = Moment::told(at, WALL);
        assert_eq!(format!("{} {}", day_text(moment.day), second_text(moment.second)), expected, "{at:?}");
    }

    #[test]
    fn a_told_time_counts_where_it_is_valid_and_believable() {
        check(Some("2026-02-11T20:31:53.375Z"), "2026-02-11 20:31:53");
        check(Some("2026-02-11T00:30:00+01:00"), "2026-02-10 23:30:00");
        check(Some("2026-02-12T23:59:59Z"), "2026-02-12 23:59:59");
        for odd in ["yesterday", "", "2026-02-30T00:00:00Z", "1999-12-31T00:00:00Z", "9000-01-01T00:00:00Z"] {
            check(Some(odd), "2026-02-12 00:00:00");
        }
        check(None, "2026-02-12 00:00:00");
    }

    #[test]
    fn times_outside_the_calendar_are_the_nearest_inside() {
        assert_eq!(day_text(Moment::at(i64::MIN).day), "1970-01-01");
        assert_eq!(day_text(Moment::at(i64::MAX).day), "9999-12-31");
        assert_eq!(second_text(Moment::at(i64::MAX).second), "23:59:59");
    }

    #[test]
    fn a_day_is_read_strictly_and_printed_back() {
        for day in ["1970-01-01", "2024-02-29", "2026-02-11", "9999-12-31"] {
            assert_eq!(day_text(parse_day(day).unwrap()), day);
        }
        for bad in [
            "",
            "2026-2-1",
            "2026-02-30",
            "20260211",
            "2026-02-11T",
            "1969-12-31",
            "2026/02/11",
            "+026-02-11",
        ] {
            assert_eq!(parse_day(bad), None, "{bad}");
        }
    }
}
