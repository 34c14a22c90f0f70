//! Configuration of the bus, the table `[bus]` of `mirror.toml`.

use serde::{Deserialize, Serialize};

/// The table `[bus]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Size of the first segment in KiB, at least 64; each next one is twice as large. Default 4096.
    pub segment_first_kib: u64,
    /// Largest segment in KiB. Default 65536.
    pub segment_max_kib: u64,
    /// Free space in MiB below which ordinary appends are refused; a small volume keeps 2 % instead. Default 256.
    pub disk_reserve_mib: u64,
    /// Longest lag of the index behind the log in events; beyond it appends wait. Default 200000.
    pub index_lag_limit: u64,
    /// Days after its last event from which a sealed segment is compressed; 0 for never. Default 7.
    pub compress_after_days: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_first_kib: 4096,
            segment_max_kib: 65_536,
            disk_reserve_mib: 256,
            index_lag_limit: 200_000,
            compress_after_days: 7,
        }
    }
}

impl Config {
    pub(crate) fn first_segment(&self) -> u64 {
        self.segment_first_kib.max(64) << 10
    }

    pub(crate) fn next_segment(&self, last: u64) -> u64 {
        (last * 2).clamp(self.first_segment(), (self.segment_max_kib << 10).max(self.first_segment()))
    }

    /// Returns the reserve in bytes on a volume of `total` bytes.
    pub(crate) fn reserve(&self, total: u64) -> u64 {
        (self.disk_reserve_mib << 20).min(total / 50)
    }
}
