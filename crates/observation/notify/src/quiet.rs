//! Quiet hours: a span of the local day, which may cross midnight and a change of the clocks.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

/// A span of each local day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quiet {
    from: Time,
    to: Time,
}

impl Quiet {
    /// Reads "HH:MM-HH:MM"; the two must differ.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once('-')?;
        let (from, to) = (time(from)?, time(to)?);
        (from != to).then_some(Self { from, to })
    }

    /// Returns when the quiet hours that hold at a moment end, in milliseconds since 1970; nothing outside of them.
    pub(crate) fn until(&self, now_ms: u64, zone: &TimeZone) -> Option<u64> {
        let now = Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?;
        let local = zone.to_datetime(now);
        if !self.holds(local.time()) {
            return None;
        }
        let days = [Some(local.date()), local.date().checked_add(1.day()).ok()];
        let ends = days.into_iter().flatten().flat_map(|day| instants(day.to_datetime(self.to), zone));
        let end = ends.filter(|end| *end > now).min()?;
        u64::try_from(end.as_millisecond()).ok()
    }

    fn holds(&self, time: Time) -> bool {
        if self.from < self.to {
            self.from <= time && time < self.to
        } else {
            self.from <= time || time < self.to
        }
    }
}

fn time(text: &str) -> Option<Time> {
    let digits = |part: &str| -> Option<i8> {
        let good = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        good.then(|| part.parse().ok()).flatten()
    };
    let (hour, minute) = text.split_once(':')?;
    Time::new(digits(hour)?, digits(minute)?, 0, 0).ok()
}

/// Returns when a clock on the wall shows a time: once, twice when it is turned back, and when it is turned past the
/// time, the moment that it would have been.
fn instants(at: DateTime, zone: &TimeZone) -> Vec<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(at);
    let (first, second) = (ambiguous.earlier(), ambiguous.later());
    [first, second].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    /// The zone of Berlin by its rule, so that no test depends on the machine's files.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn ms(at: &str) -> u64 {
        u64::try_from(at.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    #[track_caller]
    fn check(quiet: &str, now: &str, end: Option<&str>) {
        let found = Quiet::parse(quiet).unwrap().until(ms(now), &berlin());
        assert_eq!(found, end.map(ms), "{quiet} at {now}");
    }

    #[test]
    fn a_span_may_cross_midnight() {
        let night = "22:00-07:00";
        check(night, "2026-01-10T20:59:59Z", None);
        check(night, "2026-01-10T21:00:00Z", Some("2026-01-11T06:00:00Z"));
        check(night, "2026-01-10T23:30:00Z", Some("2026-01-11T06:00:00Z"));
        check(night, "2026-01-11T05:59:59Z", Some("2026-01-11T06:00:00Z"));
        check(night, "2026-01-11T06:00:00Z", None);
        check("12:30-13:00", "2026-01-11T11:45:00Z", Some("2026-01-11T12:00:00Z"));
        check("12:30-13:00", "2026-01-11T12:00:00Z", None);
    }

    #[test]
    fn the_clocks_are_turned_in_the_night() {
        // Forward on 2026-03-29 at 02:00, back on 2026-10-25 at 03:00.
        check("22:00-07:00", "2026-03-28T22:00:00Z", Some("2026-03-29T05:00:00Z"));
        check("22:00-07:00", "2026-10-24T22:00:00Z", Some("2026-10-25T06:00:00Z"));
        // 02:30 does not come in the one night, and comes twice in the other.
        check("22:00-02:30", "2026-03-29T00:30:00Z", Some("2026-03-29T01:30:00Z"));
        check("22:00-02:30", "2026-03-29T01:00:00Z", None);
        check("22:00-02:30", "2026-10-25T00:10:00Z", Some("2026-10-25T00:30:00Z"));
        check("22:00-02:30", "2026-10-25T01:10:00Z", Some("2026-10-25T01:30:00Z"));
    }

    #[test]
    fn only_two_times_of_day_are_read() {
        for bad in
            ["", "22:00", "22:00-", "22-07", "22:00-24:00", "7:00-8:00", "22:00-22:00", "+1:00-02:00", "a-b"]
        {
            assert_eq!(Quiet::parse(bad), None, "{bad:?}");
        }
        assert!(Quiet::parse("00:00-23:59").is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn quiet_hours_end_within_a_day_and_are_over_then(
            from in 0_i8..24, to in 0_i8..24, minute in 0_i8..60, at in 1_767_225_600_000_u64..1_798_761_600_000,
        ) {
            let Some(quiet) = Quiet::parse(&format!("{from:02}:{minute:02}-{to:02}:15")) else { return Ok(()) };
            match quiet.until(at, &berlin()) {
                Some(end) => prop_assert!(end > at && end - at <= 25 * 3_600_000),
                None => {
                    let local = berlin().to_datetime(Timestamp::from_millisecond(at as i64).unwrap());
                    prop_assert_eq!(quiet.holds(local.time()), false);
                }
            }
        }
    }
}
