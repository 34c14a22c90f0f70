//! The table `pulse` of the configuration.

use mirror_kit::StartError;
use serde::{Deserialize, Serialize};

/// What the owner may set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Most names that are kept, 1 to 10,000; 1,000 unless set. Each takes at most 4,160 bytes of memory.
    pub(crate) entries: usize,
    /// How long a put waits for a bus that is away, in milliseconds, 0 to 10,000; 5,000 unless set.
    pub(crate) hold_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { entries: 1000, hold_ms: 5000 }
    }
}

impl Config {
    /// Returns the configuration when every value is within its bounds; the error names the key and the remedy.
    pub(crate) fn checked(self) -> Result<Self, StartError> {
        let refuse = |why: &str| {
            Err(StartError::NotServing(format!("pulse.{why}; mend mirror.toml and restart the service")))
        };
        if !(1..=10_000).contains(&self.entries) {
            return refuse("entries must be 1 to 10000");
        }
        // The contract gives a put 15 seconds, and the answer must still come back in them.
        if self.hold_ms > 10_000 {
            return refuse("hold_ms must be 0 to 10000");
        }
        Ok(self)
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
        check(Config { entries: 0, ..Config::default() }, "pulse.entries");
        check(Config { entries: 10_001, ..Config::default() }, "pulse.entries");
        check(Config { hold_ms: 10_001, ..Config::default() }, "pulse.hold_ms");
    }
}
