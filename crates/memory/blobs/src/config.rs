//! The `[blobs]` table of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The table as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Largest blob in MiB, 1 to 1048576; 1024 by default.
    pub(crate) max_mib: u64,
    /// Space in MiB that uploads leave free on the disk, at most 1073741824; 256 by default.
    pub(crate) reserve_mib: u64,
    /// Uploads in progress at once, 1 to 64; 8 by default.
    pub(crate) uploads: usize,
    /// Downloads and checks in progress at once, 1 to 256; 32 by default.
    pub(crate) reads: usize,
    /// Seconds after which an upload that sends nothing is given up, 1 to 86400; 120 by default.
    pub(crate) idle_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_mib: 1024, reserve_mib: 256, uploads: 8, reads: 32, idle_seconds: 120 }
    }
}

/// The table, checked.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Largest blob in bytes.
    pub(crate) limit: u64,
    /// Bytes that uploads leave free on the disk.
    pub(crate) reserve: u64,
    /// Uploads in progress at once.
    pub(crate) uploads: usize,
    /// Downloads and checks in progress at once.
    pub(crate) reads: usize,
    /// How long an upload may send nothing.
    pub(crate) idle: Duration,
}

impl Config {
    /// Checks the table; the error names the key, its bounds and the remedy.
    pub(crate) fn rules(self) -> Result<Rules, String> {
        let within = |key: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(value);
            }
            Err(format!(
                "blobs.{key} must be {least} to {most}, got {value}; mend mirror.toml and restart the service"
            ))
        };
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        within("uploads", count(self.uploads), 1, 64)?;
        within("reads", count(self.reads), 1, 256)?;
        Ok(Rules {
            limit: within("max_mib", self.max_mib, 1, 1 << 20)? << 20,
            reserve: within("reserve_mib", self.reserve_mib, 0, 1 << 30)? << 20,
            uploads: self.uploads,
            reads: self.reads,
            idle: Duration::from_secs(within("idle_seconds", self.idle_seconds, 1, 86_400)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_bounds() {
        let rules = Config::default().rules().unwrap();
        assert_eq!((rules.limit, rules.reserve), (1 << 30, 256 << 20));
    }

    #[test]
    fn a_value_out_of_bounds_is_refused_by_name() {
        #[track_caller]
        fn check(config: Config, key: &str) {
            let why = config.rules().unwrap_err();
            assert!(why.contains(key) && why.contains("mend mirror.toml"), "{why}");
        }
        let config = Config::default;
        check(Config { max_mib: 0, ..config() }, "blobs.max_mib");
        check(Config { max_mib: u64::MAX, ..config() }, "blobs.max_mib");
        check(Config { reserve_mib: u64::MAX, ..config() }, "blobs.reserve_mib");
        check(Config { uploads: 0, ..config() }, "blobs.uploads");
        check(Config { reads: 257, ..config() }, "blobs.reads");
        check(Config { idle_seconds: 0, ..config() }, "blobs.idle_seconds");
    }
}
