//! Text for people: excerpts that cannot move the cursor, times, sizes, shell words.

use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};
use unicode_width::UnicodeWidthChar as _;

/// Returns whether a character could move the cursor, hide text or turn its direction.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Returns text on one line of at most `width` columns, without control characters.
pub(crate) fn one_line(text: &str, width: usize) -> String {
    let mut out = String::new();
    let mut columns = 0;
    let mut gap = false;
    for c in text.chars() {
        if c.is_whitespace() {
            gap = !out.is_empty();
            continue;
        }
        if is_hostile(c) {
            continue;
        }
        let next = c.width().unwrap_or(0);
        let needed = next + usize::from(gap);
        if columns + needed > width {
            shorten(&mut out, width);
            return out;
        }
        if gap {
            out.push(' ');
        }
        out.push(c);
        columns += needed;
        gap = false;
    }
    out
}

/// Ends a text that is too long by an ellipsis.
fn shorten(out: &mut String, width: usize) {
    let mut columns: usize = out.chars().map(|c| c.width().unwrap_or(0)).sum();
    while columns + 1 > width {
        match out.pop() {
            Some(c) => columns -= c.width().unwrap_or(0),
            None => return,
        }
    }
    out.push('\u{2026}');
}

/// Returns text with its line breaks and without other control characters.
pub(crate) fn block(text: &str) -> String {
    text.chars().filter(|c| matches!(c, '\n' | '\t') || !is_hostile(*c)).collect()
}

/// Returns the local date and time of a moment in milliseconds since 1970.
pub(crate) fn local_time(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(at) => at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// Returns a moment in RFC 3339; nothing when it is outside of the calendar.
pub(crate) fn rfc3339(at: &prost_types::Timestamp) -> Option<String> {
    Timestamp::new(at.seconds, at.nanos).ok().map(|at| at.to_string())
}

/// Returns milliseconds since 1970.
pub(crate) fn millis(at: &prost_types::Timestamp) -> i64 {
    at.seconds.saturating_mul(1000).saturating_add(i64::from(at.nanos) / 1_000_000)
}

/// Reads a moment: RFC 3339, a local date with or without a time, or an age such as "2h".
pub(crate) fn moment(text: &str, now_ms: u64) -> Result<prost_types::Timestamp, String> {
    let at = parse_moment(text.trim(), now_ms).ok_or_else(|| {
        format!(
            "{text:?} is no time; use \"2026-03-04\", \"2026-03-04 10:00\", RFC 3339, or an age such as \"2h\" or \"3d\""
        )
    })?;
    Ok(prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() })
}

/// Reads a moment that is to come: RFC 3339, a local date with or without a time, or how long from now, such as "2h".
pub(crate) fn moment_ahead(text: &str, now_ms: u64) -> Result<prost_types::Timestamp, String> {
    let now = i64::try_from(now_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let ahead =
        || now?.to_zoned(TimeZone::system()).checked_add(age(text.trim())?).ok().map(|z| z.timestamp());
    let at = absolute(text.trim()).or_else(ahead).ok_or_else(|| {
        format!(
            "{text:?} is no time; use \"2026-03-04 10:00\", RFC 3339, or how long from now, such as \"2h\""
        )
    })?;
    if now.is_some_and(|now| at <= now) {
        return Err(format!("{text:?} is over"));
    }
    Ok(prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() })
}

/// Reads a duration such as "90s", "5m" or "1d" (24 hours), in milliseconds.
pub(crate) fn span_ms(text: &str) -> Result<u64, String> {
    let span =
        age(text.trim()).and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok());
    let ms = span.and_then(|span| u64::try_from(span.as_millis()).ok()).filter(|ms| *ms > 0);
    ms.ok_or_else(|| {
        format!("{text:?} is no duration; use a number and a unit, such as \"90s\", \"5m\" or \"1d\"")
    })
}

fn age(text: &str) -> Option<jiff::Span> {
    text.parse::<jiff::Span>().ok().filter(|span| !span.is_negative() && !span.is_zero())
}

fn absolute(text: &str) -> Option<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    let local = |at: civil::DateTime| at.to_zoned(TimeZone::system()).ok().map(|z| z.timestamp());
    if let Ok(at) = text.parse::<civil::DateTime>() {
        return local(at);
    }
    if let Ok(day) = text.parse::<civil::Date>() {
        return local(day.at(0, 0, 0, 0));
    }
    None
}

fn parse_moment(text: &str, now_ms: u64) -> Option<Timestamp> {
    if let Some(at) = absolute(text) {
        return Some(at);
    }
    let now = Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?;
    now.to_zoned(TimeZone::system()).checked_sub(age(text)?).ok().map(|z| z.timestamp())
}

/// Returns the UTC day of a moment, `days` days before it.
pub(crate) fn utc_day(now_ms: u64, days: i64) -> Option<String> {
    let now = Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?;
    let day = now.to_zoned(TimeZone::UTC).date();
    day.checked_sub(jiff::Span::new().try_days(days).ok()?).ok().map(|d| d.to_string())
}

/// Returns a duration in its two largest units.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, m) => format!("{m} min {} s", seconds % 60),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

/// Returns a duration in as few units as say it whole, to the second, or to the millisecond below one.
pub(crate) fn span(ms: u64) -> String {
    if ms < 1000 {
        return format!("{ms} ms");
    }
    let seconds = ms / 1000;
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let parts: Vec<String> =
        parts.into_iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n} {unit}")).collect();
    parts.join(" ")
}

/// Returns a number of bytes in binary units.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut tenths = u128::from(n) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// Returns a number with commas between thousands.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Returns a number and its noun, which takes an "s" for more than one.
pub(crate) fn some(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// Returns a word that a shell takes for `text`.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./-:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_line_and_harmless() {
        assert_eq!(one_line("a\n\n b\tc ", 80), "a b c");
        assert_eq!(one_line("red \u{1b}[31mtext\u{7}\u{202e}", 80), "red [31mtext");
        assert_eq!(one_line("abcdef", 6), "abcdef");
        assert_eq!(one_line("abcdefg", 6), "abcde\u{2026}");
        assert_eq!(one_line("\u{4f60}\u{597d}\u{4f60}", 5), "\u{4f60}\u{597d}\u{2026}");
        assert_eq!(one_line("ab", 0), "");
        assert_eq!(block("a\u{1b}b\nc\u{9b}"), "ab\nc");
    }

    #[test]
    fn moments_are_read_in_four_forms() {
        let now = 1_767_225_600_000;
        let seconds = |text: &str| moment(text, now).map(|t| t.seconds);
        assert_eq!(seconds("2026-01-01T00:00:00Z"), Ok(1_767_225_600));
        assert_eq!(seconds("2h"), Ok(1_767_225_600 - 7_200));
        assert_eq!(seconds("3d"), Ok(1_767_225_600 - 3 * 86_400));
        let day = seconds("2026-01-01").unwrap();
        assert_eq!(seconds("2026-01-01 10:00"), Ok(day + 36_000));
        for bad in ["", "soon", "-2h", "2026-13-01"] {
            assert!(moment(bad, now).unwrap_err().contains("is no time"), "{bad}");
        }
    }

    #[test]
    fn durations_are_read_and_said_whole() {
        for (text, ms, said) in [
            ("90s", 90_000, "1 min 30 s"),
            ("5m", 300_000, "5 min"),
            ("1d", 86_400_000, "1 d"),
            ("1h 1s", 3_601_000, "1 h 1 s"),
            ("250ms", 250, "250 ms"),
        ] {
            assert_eq!(span_ms(text), Ok(ms), "{text}");
            assert_eq!(span(ms), said);
        }
        for bad in ["", "5", "soon", "-5m", "0s", "1mo"] {
            assert!(span_ms(bad).unwrap_err().contains("is no duration"), "{bad}");
        }
    }

    #[test]
    fn a_moment_ahead_lies_ahead() {
        let now = 1_767_225_600_000;
        let seconds = |text: &str| moment_ahead(text, now).map(|t| t.seconds);
        assert_eq!(seconds("2h"), Ok(1_767_225_600 + 7_200));
        assert_eq!(seconds("2026-01-01T00:00:01Z"), Ok(1_767_225_601));
        assert!(seconds("2026-01-01T00:00:00Z").unwrap_err().contains("is over"));
        assert!(seconds("soon").unwrap_err().contains("is no time"));
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0, 1023, 1024, 1_572_864, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "16383.9 PiB"]
        );
        assert_eq!(
            [900, 61_000, 7_260_000, 90_000_000].map(duration),
            ["0 s", "1 min 1 s", "2 h 1 min", "1 d 1 h"]
        );
        assert_eq!([0, 1, 2_000].map(|n| some(n, "event")), ["0 events", "1 event", "2,000 events"]);
        assert_eq!(utc_day(1_767_225_600_000, 1).as_deref(), Some("2025-12-31"));
    }

    #[test]
    fn shell_words_survive_a_shell() {
        assert_eq!(shell_word("/a/b-c.d"), "/a/b-c.d");
        assert_eq!(shell_word("/a b"), "'/a b'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
