//! Failed starts: a service counts its own, since launchd never gives up.
//!
//! A start has failed when its process ended before it had run for a minute without being asked to. Five within ten
//! minutes, and the service quarantines itself with the reason; the next start exits with 0, which is final.

use std::time::Duration;

use mirror_paths::Home;
use serde::{Deserialize, Serialize};

use crate::desired::{self, Wish};

/// How long a process must run for its start to count as a success.
pub(crate) const SETTLED: Duration = Duration::from_secs(60);
const WINDOW: Duration = Duration::from_secs(600);
const LIMIT: usize = 5;

/// What `run/<service>.starts` says. It need not survive a power cut: a reboot begins a new count.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Starts {
    /// The start whose end is not known yet.
    open: Option<Start>,
    failed: Vec<Start>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Start {
    /// When, by the clock that counts from the boot, in milliseconds.
    at_ms: u64,
    /// Why it failed, where it said so.
    why: String,
}

/// Notes that a process starts; returns false when it must not, because it has just been quarantined.
pub(crate) fn begin(home: &Home, service: &str, now: Duration) -> bool {
    let mut starts = read(home, service);
    let now_ms = millis(now);
    if let Some(mut start) = starts.open.take() {
        if start.why.is_empty() {
            "it ended without a word: killed, or crashed".clone_into(&mut start.why);
        }
        starts.failed.push(start);
    }
    // A time in the future is of an earlier boot.
    starts.failed.retain(|s| s.at_ms <= now_ms && now_ms - s.at_ms <= millis(WINDOW));
    let quarantined = match &starts.failed[..] {
        failed @ [.., last] if failed.len() >= LIMIT => {
            let minutes = (now_ms - failed[0].at_ms).div_ceil(60_000);
            let reason =
                format!("{} failed starts within {minutes} min, the last: {}", failed.len(), last.why);
            tracing::error!(service, reason, "quarantined");
            desired::write(home, service, Wish::Quarantined, &reason).is_ok()
        }
        _ => false,
    };
    let next = if quarantined {
        Starts::default()
    } else {
        Starts { open: Some(Start { at_ms: now_ms, why: String::new() }), ..starts }
    };
    write(home, service, &next);
    !quarantined
}

/// Notes that the start of this process was a success, or that its end was asked for.
pub(crate) fn settled(home: &Home, service: &str) {
    let mut starts = read(home, service);
    if starts.open.take().is_some() {
        write(home, service, &starts);
    }
}

/// Notes why this process ends.
pub(crate) fn failed(home: &Home, service: &str, why: &str) {
    let mut starts = read(home, service);
    if let Some(open) = &mut starts.open {
        why.clone_into(&mut open.why);
        write(home, service, &starts);
    }
}

/// Returns how many starts of a service have failed within the last ten minutes, by the clock that counts from the boot.
pub fn failed_starts(home: &Home, service: &str, now: Duration) -> usize {
    let now_ms = millis(now);
    let recent = |s: &&Start| s.at_ms <= now_ms && now_ms - s.at_ms <= millis(WINDOW);
    read(home, service).failed.iter().filter(recent).count()
}

/// Begins a new count.
pub(crate) fn forget(home: &Home, service: &str) {
    // Where there is no count, there is nothing to forget.
    let _ = std::fs::remove_file(path(home, service));
}

fn read(home: &Home, service: &str) -> Starts {
    let text = std::fs::read_to_string(path(home, service)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// A count that cannot be written is not kept; the service itself matters more.
fn write(home: &Home, service: &str, starts: &Starts) {
    let text = serde_json::to_string(starts).unwrap_or_default();
    let temp = home.run().join(format!(".{service}.starts"));
    let _ = std::fs::write(&temp, text).and_then(|()| std::fs::rename(&temp, path(home, service)));
}

fn path(home: &Home, service: &str) -> std::path::PathBuf {
    home.run().join(format!("{service}.starts"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        (temp, home)
    }

    #[test]
    fn the_sixth_start_after_five_failures_is_refused_with_the_reason() {
        let (_temp, home) = home();
        for n in 0..5 {
            assert!(begin(&home, "bus", Duration::from_secs(100 + 10 * n)));
            failed(&home, "bus", "no space left");
        }
        // The end of the fifth is known when the sixth begins.
        assert_eq!(failed_starts(&home, "bus", Duration::from_secs(150)), 4);
        assert_eq!(failed_starts(&home, "bus", Duration::from_secs(705)), 3, "ten minutes are over for one");
        assert!(!begin(&home, "bus", Duration::from_secs(160)));
        let (wish, reason) = desired::read(&home, "bus");
        assert_eq!(wish, Wish::Quarantined);
        assert_eq!(reason, "5 failed starts within 1 min, the last: no space left");
        for n in 0..4 {
            assert!(begin(&home, "bus", Duration::from_secs(161 + n)), "quarantine begins a new count too");
        }
        desired::write(&home, "bus", Wish::Running, "").unwrap();
        assert!(begin(&home, "bus", Duration::from_secs(170)), "whoever starts it again begins a new count");
    }

    #[test]
    fn success_age_and_a_reboot_are_not_failures() {
        let (_temp, home) = home();
        for n in 0..20 {
            assert!(begin(&home, "bus", Duration::from_secs(1_000 + 10 * n)));
            settled(&home, "bus");
        }
        for n in 0..20 {
            assert!(
                begin(&home, "bus", Duration::from_secs(10_000 + 200 * n)),
                "five in ten minutes, not in 16"
            );
        }
        for n in 0..4 {
            assert!(begin(&home, "bus", Duration::from_secs(20_000 + n)));
        }
        assert!(begin(&home, "bus", Duration::from_secs(5)), "the machine was started anew");
        std::fs::write(path(&home, "bus"), "{half").unwrap();
        assert!(begin(&home, "bus", Duration::from_secs(6)));
    }
}
