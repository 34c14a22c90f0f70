//! The hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014).

use std::fmt;

/// A moment for ordering: milliseconds of wall time and a counter, never used for expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hlc(u64);

impl Hlc {
    /// Returns the moment of `ms` milliseconds since 1970 (48 bits) and `counter`.
    pub fn new(ms: u64, counter: u16) -> Self {
        Self((ms.min(0xffff_ffff_ffff) << 16) | u64::from(counter))
    }

    /// Returns the moment before all others.
    pub const fn zero() -> Self {
        Self(0)
    }

    /// Returns the milliseconds.
    pub fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// Returns the counter.
    pub fn counter(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// Returns the first moment after this one that is not before `wall_ms`.
    ///
    /// A full counter carries into the milliseconds, so a clock that stands still never repeats.
    #[must_use]
    pub fn next(self, wall_ms: u64) -> Self {
        Self::new(wall_ms, 0).max(Self(self.0.saturating_add(1)))
    }

    /// Reads `<12 hex digits>-<4 hex digits>`, lower case.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 17 || bytes[12] != b'-' {
            return None;
        }
        let mut value = 0_u64;
        for (i, digit) in bytes.iter().enumerate() {
            if i == 12 {
                continue;
            }
            let digit = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            value = (value << 4) | u64::from(digit);
        }
        Some(Self(value))
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}-{:04x}", self.ms(), self.counter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_through_a_step_back_and_a_full_counter() {
        let mut now = Hlc::new(1_000, 0xffff);
        let next = now.next(5);
        assert_eq!((next.ms(), next.counter()), (1_001, 0));
        for wall in [2_000, 1_500, 1_500, 0, 2_001] {
            let next = now.next(wall);
            assert!(next > now);
            now = next;
        }
        assert_eq!(now, Hlc::new(2_001, 0));
    }

    #[test]
    fn text_order_is_time_order_and_parsing_is_strict() {
        let (a, b) = (Hlc::new(255, 2), Hlc::new(256, 1));
        assert!(a.to_string() < b.to_string());
        assert_eq!(Hlc::parse(&a.to_string()), Some(a));
        assert_eq!(Hlc::parse("0000000000FF-0002"), None);
        assert_eq!(Hlc::parse("0000000000ff_0002"), None);
        assert_eq!(Hlc::parse("ff-2"), None);
    }
}
