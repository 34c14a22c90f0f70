//! What the disk was asked to make durable, and whether a figure can be true.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Part of the acknowledgements that may exceed what the flushes allow: the kernel may serve two threads' syncs with one flush.
const SLACK: f64 = 0.02;

/// The flush requests that the kernel sent to the block device under a folder.
///
/// The kernel counts them for each device, whoever asked; see "flush I/Os" in its Documentation/block/stat.rst. A device
/// without a volatile cache needs none, and has none counted.
#[derive(Debug, Clone)]
pub(crate) struct Flushes {
    stat: Option<PathBuf>,
    start: u64,
}

impl Flushes {
    /// Counts from now on.
    pub(crate) fn watch(dir: &Path) -> Self {
        let device = std::fs::metadata(dir).map(|m| m.dev()).unwrap_or_default();
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let stat = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        match read(&stat) {
            Some(start) if start > 0 => Self { stat: Some(stat), start },
            _ => Self { stat: None, start: 0 },
        }
    }

    /// Returns how many there were; nothing when the device counts none.
    pub(crate) fn count(&self) -> Option<u64> {
        Some(read(self.stat.as_ref()?)?.saturating_sub(self.start))
    }
}

fn read(stat: &Path) -> Option<u64> {
    std::fs::read_to_string(stat).ok()?.split_whitespace().nth(15)?.parse().ok()
}

/// Acknowledged appends of one measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acknowledged {
    /// How many.
    pub(crate) count: u64,
    /// In how many seconds.
    pub(crate) seconds: f64,
    /// Most appends that one sync can acknowledge: those in flight.
    pub(crate) window: usize,
    /// Flushes of the device meanwhile.
    pub(crate) flushes: Option<u64>,
}

impl Acknowledged {
    pub(crate) fn rate(&self) -> f64 {
        self.count as f64 / self.seconds
    }

    /// Refuses a figure that is above what the syncs allow: each can acknowledge at most what is in flight.
    ///
    /// Where the device counts no flushes, `raw` syncs a second are taken as the most that it can do.
    pub(crate) fn durable(&self, raw: f64) -> anyhow::Result<f64> {
        let syncs = self.flushes.map_or(2.0 * raw * self.seconds, |n| n as f64);
        let most = (syncs * (1.0 + SLACK) + 1.0) * self.window as f64;
        anyhow::ensure!(
            self.count as f64 <= most,
            "{} appends were acknowledged, and {syncs:.0} syncs with {} in flight allow {most:.0}: not durable",
            self.count,
            self.window
        );
        Ok(self.rate())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_above_what_the_syncs_allow_is_refused() {
        let run = |count, window, flushes| Acknowledged { count, seconds: 2.0, window, flushes };
        assert!(run(1_000, 1, Some(1_000)).durable(1.0).is_ok());
        assert!(run(1_000, 1, Some(900)).durable(1e9).is_err());
        assert!(run(16_000, 16, Some(1_000)).durable(1.0).is_ok());
        assert!(run(17_000, 16, Some(1_000)).durable(1.0).is_err());
        assert!(run(1_000, 1, None).durable(400.0).is_ok_and(|rate| (rate - 500.0).abs() < 1e-9));
        assert!(run(1_000, 1, None).durable(100.0).is_err());
    }
}
