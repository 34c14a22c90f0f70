//! Refusals that somebody should hear of: counted, logged at a bounded rate, and handed to whoever records them.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

/// A caller that was refused for what it is, not for what it asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Reason, such as `KIT_PEER_UID`.
    pub reason: &'static str,
    /// Uid of the caller, where it is known.
    pub uid: Option<u32>,
    /// Process id of the caller, for the record.
    pub pid: Option<u32>,
    /// What was called; empty when no call was made out.
    pub method: String,
    /// How many like it were left out since the last.
    pub repeated: u64,
}

/// Lets one through a minute for each key, and counts the rest.
#[derive(Debug, Default)]
pub(crate) struct Rate(Mutex<Vec<(&'static str, Duration, u64)>>);

const EVERY: Duration = Duration::from_secs(60);

impl Rate {
    /// Returns how many were held back before this one, or nothing when this one is held back too.
    pub(crate) fn pass(&self, key: &'static str, now: Duration) -> Option<u64> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match rows.iter_mut().find(|(k, ..)| *k == key) {
            None => {
                rows.push((key, now, 0));
                Some(0)
            }
            Some((_, at, held)) if now.saturating_sub(*at) >= EVERY => {
                *at = now;
                Some(std::mem::take(held))
            }
            Some((_, _, held)) => {
                *held += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_minute_passes_and_the_rest_is_counted() {
        let rate = Rate::default();
        let at = Duration::from_secs;
        assert_eq!(rate.pass("a", at(0)), Some(0));
        assert_eq!(rate.pass("a", at(1)), None);
        assert_eq!(rate.pass("b", at(1)), Some(0));
        assert_eq!(rate.pass("a", at(59)), None);
        assert_eq!(rate.pass("a", at(60)), Some(2));
    }
}
