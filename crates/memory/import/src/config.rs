//! The `[import]` table of `mirror.toml`.

use std::time::Duration;

use mirror_kit::StartError;
use serde::{Deserialize, Serialize};

use crate::transcript::Limits;

/// Configuration; every field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Seconds for which bus or blobs may be away before a run gives up, 0 to 3,600. Default: 10.
    pub(crate) wait_seconds: u64,
    /// Longest line, and largest document, that is read, in MiB, 1 to 1,024. Default: 64.
    pub(crate) row_mib: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { wait_seconds: 10, row_mib: 64 }
    }
}

impl Config {
    /// Returns the configuration, if its values are within their bounds.
    pub(crate) fn checked(self) -> Result<Self, StartError> {
        let refuse =
            |why: &str| Err(StartError::NotServing(format!("mirror.toml: {why}; mend it and restart")));
        if self.wait_seconds > 3_600 {
            return refuse("import.wait_seconds must be 0 to 3600");
        }
        if !(1..=1_024).contains(&self.row_mib) {
            return refuse("import.row_mib must be 1 to 1024");
        }
        Ok(self)
    }

    pub(crate) fn wait(&self) -> Duration {
        Duration::from_secs(self.wait_seconds)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits { row: self.row_mib << 20, ..Limits::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_bounds_are_named() {
        assert_eq!(Config::default().checked().unwrap().limits().row, Limits::default().row);
        for (config, part) in [
            (Config { wait_seconds: 3_601, ..Config::default() }, "import.wait_seconds"),
            (Config { row_mib: 0, ..Config::default() }, "import.row_mib"),
            (Config { row_mib: 1_025, ..Config::default() }, "import.row_mib"),
        ] {
            assert!(config.checked().unwrap_err().to_string().contains(part));
        }
    }
}
