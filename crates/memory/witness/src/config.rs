//! The table `witness` of the configuration.

use std::time::Duration;

use mirror_kit::StartError;
use serde::{Deserialize, Serialize};

use crate::cadence::Cadence;

/// What the owner may set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Time after which a head that moved is signed, in seconds, 1 to 3,600; 60 unless set.
    pub(crate) checkpoint_secs: u64,
    /// Events after which it is signed at once, 1 to 1,000,000; 10,000 unless set.
    pub(crate) checkpoint_events: u64,
    /// Time from the end of a verification of the log to the next, in minutes, 1 to 10,080; 360 unless set.
    pub(crate) verify_minutes: u64,
    /// Time from the start to the first verification, in minutes, 0 to 1,440; 10 unless set.
    pub(crate) verify_first_minutes: u64,
    /// How long a call for a checkpoint waits for the bus, and then for the keeper, in milliseconds, 0 to 5,000; 5,000
    /// unless set.
    pub(crate) hold_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            checkpoint_secs: 60,
            checkpoint_events: 10_000,
            verify_minutes: 360,
            verify_first_minutes: 10,
            hold_ms: 5000,
        }
    }
}

impl Config {
    /// Returns the configuration when every value is within its bounds; the error names the key and the remedy.
    pub(crate) fn checked(self) -> Result<Self, StartError> {
        for (key, value, low, high) in [
            ("checkpoint_secs", self.checkpoint_secs, 1, 3600),
            ("checkpoint_events", self.checkpoint_events, 1, 1_000_000),
            ("verify_minutes", self.verify_minutes, 1, 10_080),
            ("verify_first_minutes", self.verify_first_minutes, 0, 1440),
            // The contract gives a call 15 seconds, and the answer must still come back in them.
            ("hold_ms", self.hold_ms, 0, 5000),
        ] {
            if !(low..=high).contains(&value) {
                let why = format!("witness.{key} must be {low} to {high}");
                return Err(StartError::NotServing(format!(
                    "{why}; mend mirror.toml and restart the service"
                )));
            }
        }
        Ok(self)
    }

    /// Returns how often checkpoints are made.
    pub(crate) fn cadence(&self) -> Cadence {
        Cadence { every: Duration::from_secs(self.checkpoint_secs), events: self.checkpoint_events }
    }

    /// Returns how long a call holds for a peer.
    pub(crate) fn hold(&self) -> Duration {
        Duration::from_millis(self.hold_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_bounds_is_refused_by_name() {
        #[track_caller]
        fn check(config: Config, key: &str) {
            let why = config.checked().unwrap_err().to_string();
            assert!(why.contains(key) && why.contains("mend mirror.toml"), "{why}");
        }
        assert!(Config::default().checked().is_ok());
        check(Config { checkpoint_secs: 0, ..Config::default() }, "witness.checkpoint_secs");
        check(Config { checkpoint_events: 0, ..Config::default() }, "witness.checkpoint_events");
        check(Config { verify_minutes: 0, ..Config::default() }, "witness.verify_minutes");
        check(Config { verify_first_minutes: 1441, ..Config::default() }, "witness.verify_first_minutes");
        check(Config { hold_ms: 5001, ..Config::default() }, "witness.hold_ms");
    }
}
