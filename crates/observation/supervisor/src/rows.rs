//! Fleet rows: which process is which agent, written by whoever started it.
//!
//! Before a process exists there is an intent, so that one that is started in the instant in which its supervisor is
//! killed is not taken for a stranger's.

use std::fs;
use std::io;

use mirror_kit::{fleet_row, process_start};
use mirror_paths::Home;

use crate::backend::AgentRow;

/// Writes the row of a process that was just started; its peers know it by that.
///
/// The row need not survive a power cut, since no process does, so nothing is synced.
pub fn write(home: &Home, service: &str, pid: u32) -> io::Result<()> {
    let row = fleet_row(pid, &process_start(pid)?);
    // Beside the folder and not in it: everything in it is taken for a row.
    let temp = home.run().join(format!(".row-{service}"));
    fs::write(&temp, row)?;
    fs::rename(&temp, home.fleet().join(service))
}

/// Writes the rows of all that runs again, where they are missing.
pub fn restore(home: &Home, rows: &[AgentRow]) -> io::Result<()> {
    for row in rows.iter().filter(|row| row.pid != 0 && !home.fleet().join(&row.name).exists()) {
        match write(home, &row.name, row.pid) {
            // It has ended meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Removes the row of a process that has ended.
pub fn remove(home: &Home, service: &str, pid: u32) {
    let path = home.fleet().join(service);
    if fs::read_to_string(&path).is_ok_and(|row| pid_of(&row) == Some(pid)) {
        // A row that stays names a process that is gone, and so nobody.
        let _ = fs::remove_file(path);
    }
}

/// Returns the process that a row names, if it is still the same one.
pub fn living(home: &Home, service: &str) -> Option<u32> {
    let row = fs::read_to_string(home.fleet().join(service)).ok()?;
    let pid = pid_of(&row)?;
    let same = process_start(pid).is_ok_and(|start| fleet_row(pid, &start) == row);
    (same && !is_zombie(pid)).then_some(pid)
}

/// Notes that a process of an agent is about to be started.
pub fn intend(home: &Home, agent: &str, wall_ms: u64) -> io::Result<()> {
    fs::write(intent(home, agent), wall_ms.to_string())
}

/// Takes back an intent: the process has a row, or was not started.
pub fn settle(home: &Home, agent: &str) {
    // An intent that stays counts for an instant only.
    let _ = fs::remove_file(intent(home, agent));
}

/// Returns whether a supervisor that has ended was about to start a process of an agent.
pub fn is_intended(home: &Home, agent: &str) -> bool {
    intent(home, agent).exists()
}

/// Returns whether a process of an agent that began then was started by a supervisor that could not write its row.
pub fn was_intended(home: &Home, agent: &str, started_ms: u64) -> bool {
    let text = fs::read_to_string(intent(home, agent)).unwrap_or_default();
    text.parse().is_ok_and(|at: u64| started_ms >= at && started_ms - at <= INTENT_MS)
}

/// How long after an intent a process may begin, in milliseconds.
const INTENT_MS: u64 = 10_000;

fn intent(home: &Home, agent: &str) -> std::path::PathBuf {
    home.run().join(format!(".start-{agent}"))
}

fn pid_of(row: &str) -> Option<u32> {
    row.split(' ').next()?.parse().ok()
}

/// Returns whether a process has ended and only waits for somebody to notice.
#[cfg(target_os = "linux")]
fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    matches!(fields.split_whitespace().next(), Some("Z" | "X"))
}

/// Returns whether a process has ended and only waits for somebody to notice; launchd always notices.
#[cfg(not(target_os = "linux"))]
fn is_zombie(_: u32) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_covers_what_begins_right_after_it() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        assert!(!was_intended(&home, "bus", 5_000));
        intend(&home, "bus", 5_000).unwrap();
        for (started_ms, ours) in [(4_999, false), (5_000, true), (15_000, true), (15_001, false)] {
            assert_eq!(was_intended(&home, "bus", started_ms), ours, "{started_ms}");
        }
        assert!(!was_intended(&home, "blobs", 5_000));
        settle(&home, "bus");
        assert!(!was_intended(&home, "bus", 5_000));
    }

    #[test]
    fn a_row_names_one_process_and_no_later_one_with_its_id() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        let pid = std::process::id();
        assert_eq!(living(&home, "bus"), None);
        write(&home, "bus", pid).unwrap();
        assert_eq!(living(&home, "bus"), Some(pid));
        remove(&home, "bus", pid + 1);
        assert_eq!(living(&home, "bus"), Some(pid));
        fs::write(home.fleet().join("bus"), fleet_row(pid, "1")).unwrap();
        assert_eq!(living(&home, "bus"), None);
        remove(&home, "bus", pid);
        assert!(!home.fleet().join("bus").exists());
        assert_eq!(fs::read_dir(home.fleet()).unwrap().count(), 0);
    }
}
