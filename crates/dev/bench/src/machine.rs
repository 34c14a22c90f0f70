//! The machine, and how busy it is with other things.

use std::fs;
use std::time::Duration;

/// CPU pressure above which a figure is not a measurement.
pub(crate) const LIMIT: f64 = 20.0;

/// Returns one line on the machine.
pub(crate) fn describe() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("unknown CPU", |l| l.trim_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, kernel {}", kernel.trim())
}

/// Stall time that other processes may have caused, read around a measurement.
///
/// The kernel's pressure counts the bench's own threads too, so what is shown is the pressure of the ten seconds before the
/// run, when the bench was idle; the load during it is printed beside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quiet {
    before: f64,
}

impl Quiet {
    /// Watches the idle machine for a moment.
    pub(crate) fn watch() -> Self {
        let total = || {
            let text = fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
            let some = text
                .lines()
                .next()
                .and_then(|l| l.split("total=").nth(1))
                .and_then(|n| n.trim().parse().ok());
            some.unwrap_or(0_u64)
        };
        let window = Duration::from_secs(2);
        let start = total();
        std::thread::sleep(window);
        let stalled = total().saturating_sub(start) as f64;
        Self { before: 100.0 * stalled / window.as_micros() as f64 }
    }

    /// Returns whether figures may be called measured.
    pub(crate) fn ok(self) -> bool {
        self.before <= LIMIT
    }

    /// Returns load and pressure, for print.
    pub(crate) fn note(self) -> String {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().next().unwrap_or("?").to_owned();
        let verdict = if self.ok() { "" } else { ", **not measured**: the machine was busy" };
        format!("pressure before {:.0} %, load {load}{verdict}", self.before)
    }
}

/// Returns the median.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}
