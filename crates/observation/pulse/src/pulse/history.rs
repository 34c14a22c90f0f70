//! The last 21 states of a target, and whether they flap: Nagios' weighted share of changes.

use std::collections::VecDeque;

/// States that are kept.
const KEPT: usize = 21;

/// Share of changes above which a target flaps, in percent.
///
/// Nagios' samples are 20 and 5, for checks minutes apart; here they are seconds apart, and one crash with its recovery
/// alone is two changes of twenty.
const HIGH: f64 = 50.0;

/// Share of changes below which it no longer does, in percent.
const LOW: f64 = 25.0;

/// One state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Fine.
    Fine,
    /// Failed.
    Failed,
    /// Unknown.
    Unknown,
}

/// The last states.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    beats: VecDeque<Beat>,
    flapping: bool,
}

impl History {
    /// Adds a state.
    pub(crate) fn push(&mut self, beat: Beat) {
        if self.beats.len() == KEPT {
            self.beats.pop_front();
        }
        self.beats.push_back(beat);
        let change = self.change();
        self.flapping = if self.flapping { change >= LOW } else { change >= HIGH };
    }

    /// Returns whether it flaps.
    pub(crate) fn is_flapping(&self) -> bool {
        self.flapping
    }

    /// Returns the weighted share of changes in percent: the newest counts 1.2, the oldest 0.8. An unknown is no change.
    fn change(&self) -> f64 {
        let known: Vec<Beat> = self.beats.iter().copied().filter(|b| *b != Beat::Unknown).collect();
        let (mut sum, mut weight) = (0.0, 0.8 + 0.4 * (KEPT.saturating_sub(known.len()) as f64) / 19.0);
        for pair in known.windows(2) {
            if pair[0] != pair[1] {
                sum += weight;
            }
            weight += 0.4 / 19.0;
        }
        sum * 100.0 / (KEPT - 1) as f64
    }
}

impl std::fmt::Display for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for beat in &self.beats {
            f.write_str(match beat {
                Beat::Fine => ".",
                Beat::Failed => "x",
                Beat::Unknown => "?",
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(beats: &str) -> History {
        let mut history = History::default();
        for beat in beats.chars() {
            history.push(match beat {
                '.' => Beat::Fine,
                'x' => Beat::Failed,
                _ => Beat::Unknown,
            });
        }
        history
    }

    #[test]
    fn it_keeps_21_and_shows_the_oldest_first() {
        assert_eq!(history("x....................?.").to_string(), "...................?.");
        assert_eq!(history("").to_string(), "");
    }

    #[test]
    fn it_flaps_by_half_of_the_changes_and_no_longer_below_a_quarter() {
        assert!(!history("....x....").is_flapping());
        assert!(!history(&".".repeat(21)).is_flapping());
        assert!(history(&"x.".repeat(11)).is_flapping());
        assert!((history(&"x.".repeat(11)).change() - 100.0).abs() < 1.0);
        let calmer = format!("{}{}", "x.".repeat(11), ".".repeat(10));
        assert!(history(&calmer).is_flapping(), "ten changes of twenty are left");
        let calm = format!("{}{}", "x.".repeat(11), ".".repeat(17));
        assert!(!history(&calm).is_flapping());
    }

    #[test]
    fn a_recent_change_weighs_more_and_an_unknown_nothing() {
        let (old, new) = (history("x...................."), history("....................x"));
        assert!(new.change() > old.change());
        assert_eq!(history(&".?".repeat(11)).change(), 0.0);
    }
}
