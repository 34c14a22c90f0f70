//! The table `registry` of the configuration.

use std::time::Duration;

use mirror_kit::StartError;
use serde::{Deserialize, Serialize};

/// What the owner may set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Time between two scans while somebody watches, in milliseconds, 100 to 60,000; 500 unless set.
    pub(crate) poll_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { poll_ms: 500 }
    }
}

impl Config {
    /// Returns the configuration when every value is within its bounds; the error names the key and the remedy.
    pub(crate) fn checked(self) -> Result<Self, StartError> {
        let refuse = |why: &str| {
            Err(StartError::NotServing(format!("registry.{why}; mend mirror.toml and restart the service")))
        };
        if !(100..=60_000).contains(&self.poll_ms) {
            return refuse("poll_ms must be 100 to 60000");
        }
        Ok(self)
    }

    /// Returns the time between two scans.
    pub(crate) fn every(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
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
        check(Config { poll_ms: 99 }, "registry.poll_ms");
        check(Config { poll_ms: 60_001 }, "registry.poll_ms");
    }
}
