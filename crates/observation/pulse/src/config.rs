//! The table `pulse` of the configuration.

use mirror_kit::StartError;
use serde::{Deserialize, Serialize};

use crate::pulse::{DiskBounds, Settings};

/// What the owner may set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Time between two questions to a service, in milliseconds, 2,000 to 60,000; 8,000 unless set.
    pub(crate) probe_ms: u64,
    /// How long a service may take to answer, in milliseconds, 100 to 10,000; 2,000 unless set.
    pub(crate) patience_ms: u64,
    /// Time between two sweeps, in seconds, 60 to 3,600; 300 unless set.
    pub(crate) sweep_secs: u64,
    /// Whether nothing is ever acted on; false unless set.
    pub(crate) observe_only: bool,
    /// Fewest free MiB of the home's disk, 0 to 1,048,576; 1,024 unless set.
    pub(crate) disk_free_mib: u64,
    /// Fewest free percent of the home's disk, 0 to 50; 2 unless set.
    pub(crate) disk_free_percent: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            probe_ms: 8_000,
            patience_ms: 2_000,
            sweep_secs: 300,
            observe_only: false,
            disk_free_mib: 1_024,
            disk_free_percent: 2,
        }
    }
}

impl Config {
    /// Returns the configuration when every value is within its bounds; the error names the key and the remedy.
    pub(crate) fn checked(self) -> Result<Self, StartError> {
        let refuse = |why: &str| {
            Err(StartError::NotServing(format!("pulse.{why}; mend mirror.toml and restart the service")))
        };
        if !(2_000..=60_000).contains(&self.probe_ms) {
            return refuse("probe_ms must be 2000 to 60000");
        }
        if !(100..=10_000).contains(&self.patience_ms) {
            return refuse("patience_ms must be 100 to 10000");
        }
        if !(60..=3_600).contains(&self.sweep_secs) {
            return refuse("sweep_secs must be 60 to 3600");
        }
        if self.disk_free_mib > 1 << 20 {
            return refuse("disk_free_mib must be 0 to 1048576");
        }
        if self.disk_free_percent > 50 {
            return refuse("disk_free_percent must be 0 to 50");
        }
        Ok(self)
    }

    /// Returns what the domain is told of it; chance begins at `seed`.
    pub(crate) fn settings(&self, seed: u64) -> Settings {
        Settings {
            probe: self.probe_ms,
            patience: self.patience_ms,
            sweep: self.sweep_secs * 1000,
            observe_only: self.observe_only,
            disk: DiskBounds { bytes: self.disk_free_mib << 20, percent: self.disk_free_percent },
            seed,
        }
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
        check(Config { probe_ms: 1_999, ..Config::default() }, "pulse.probe_ms");
        check(Config { patience_ms: 10_001, ..Config::default() }, "pulse.patience_ms");
        check(Config { sweep_secs: 59, ..Config::default() }, "pulse.sweep_secs");
        check(Config { disk_free_mib: (1 << 20) + 1, ..Config::default() }, "pulse.disk_free_mib");
        check(Config { disk_free_percent: 51, ..Config::default() }, "pulse.disk_free_percent");
    }
}
