//! The table `schedule` of the configuration.

use std::time::Duration;

use mirror_kit::StartError;
use serde::{Deserialize, Serialize};

/// What the owner may set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Most jobs, 1 to 1,000; 1,000 unless set. Each takes 1 KB of memory, and at most 30 KB with long details.
    pub(crate) jobs: usize,
    /// How long an answer waits until the log has the change too, in milliseconds, 0 to 10,000; 2,000 unless set. The
    /// change is on the disk by then; a bus that is away for longer gets it later.
    pub(crate) hold_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { jobs: 1000, hold_ms: 2000 }
    }
}

impl Config {
    /// Returns the configuration when every value is within its bounds; the error names the key and the remedy.
    pub(crate) fn checked(self) -> Result<Self, StartError> {
        let refuse = |why: &str| {
            Err(StartError::NotServing(format!("schedule.{why}; mend mirror.toml and restart the service")))
        };
        if !(1..=1000).contains(&self.jobs) {
            return refuse("jobs must be 1 to 1000");
        }
        // The contract gives a change 30 seconds, and the answer must still come back in them.
        if self.hold_ms > 10_000 {
            return refuse("hold_ms must be 0 to 10000");
        }
        Ok(self)
    }

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
        check(Config { jobs: 0, ..Config::default() }, "schedule.jobs");
        check(Config { jobs: 1001, ..Config::default() }, "schedule.jobs");
        check(Config { hold_ms: 10_001, ..Config::default() }, "schedule.hold_ms");
    }
}
