//! What the home and the machine tell about a service without asking it, and the removal of a dead socket.
//!
//! Invariant: what cannot be told counts as alive.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use mirror_kit::{Holder, State, failed_starts, holder, process_start};
use mirror_paths::Home;

/// Removes the very socket that was seen; another one there belongs to a living process.
pub(crate) fn remove_socket(home: &Home, name: &str, seen: Option<u64>) -> io::Result<()> {
    let path = home.socket(name).map_err(io::Error::other)?;
    if inode(&path) != seen {
        return Err(io::Error::other("another process has made a new one"));
    }
    std::fs::remove_file(path)
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().map(|meta| meta.ino())
}

/// What the home and the machine tell about a service, without asking it.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) was_ready: bool,
    pub(crate) is_owned: bool,
    pub(crate) socket: Option<u64>,
    pub(crate) resident_mb: Option<u64>,
    pub(crate) failed_starts: usize,
}

impl Local {
    /// Looks; `boot` is the time since the machine started.
    pub(crate) fn look(home: &Home, name: &str, pid: u32, boot: Duration) -> Self {
        let lease = holder(home, name);
        let was_ready = match &lease {
            Ok(Holder::Process(info)) => info.pid == pid && info.state != State::Starting.name(),
            _ => false,
        };
        Self {
            was_ready,
            is_owned: !matches!(lease, Ok(Holder::Nobody)) || row_lives(home, name),
            socket: home.socket(name).ok().and_then(|path| inode(&path)),
            resident_mb: if pid == 0 { None } else { resident_mb(pid) },
            failed_starts: failed_starts(home, name, boot),
        }
    }
}

/// Returns whether the process in a service's row among the fleet lives.
fn row_lives(home: &Home, name: &str) -> bool {
    let row = std::fs::read_to_string(home.fleet().join(name)).unwrap_or_default();
    let Some((pid, start)) = row.trim_end().split_once(' ') else { return false };
    pid.parse().is_ok_and(|pid| process_start(pid).is_ok_and(|found| found == start))
}

#[cfg(target_os = "linux")]
fn resident_mb(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb >> 10)
}

#[cfg(not(target_os = "linux"))]
fn resident_mb(pid: u32) -> Option<u64> {
    let out =
        std::process::Command::new("/bin/ps").args(["-o", "rss=", "-p", &pid.to_string()]).output().ok()?;
    String::from_utf8_lossy(&out.stdout).trim().parse::<u64>().ok().map(|kb| kb >> 10)
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

    fn look(home: &Home) -> Local {
        Local::look(home, "apple", 0, Duration::from_secs(1))
    }

    #[test]
    fn a_lease_or_a_living_process_of_the_fleet_owns_a_socket() {
        let (_temp, home) = home();
        assert!(!look(&home).is_owned);
        let pid = std::process::id();
        let row = |start: &str| {
            std::fs::write(home.fleet().join("apple"), mirror_kit::fleet_row(pid, start)).unwrap();
        };
        row("1");
        assert!(!look(&home).is_owned, "an earlier process had this pid");
        row(&process_start(pid).unwrap());
        assert!(look(&home).is_owned);
        std::fs::remove_file(home.fleet().join("apple")).unwrap();
        let lease = std::fs::File::create(home.lease("apple")).unwrap();
        lease.lock().unwrap();
        assert!(look(&home).is_owned);
        lease.unlock().unwrap();
        assert!(!look(&home).is_owned);
    }

    #[test]
    fn a_process_was_ready_when_its_own_lease_says_so() {
        let (_temp, home) = home();
        let lease = std::fs::File::create(home.lease("apple")).unwrap();
        lease.lock().unwrap();
        let check = |pid: u32, state: &str, ready: bool| {
            let info = format!(
                "{{\"pid\":7,\"started_ms\":1,\"build\":\"b\",\"state\":\"{state}\",\"detail\":\"\"}}"
            );
            std::fs::write(home.lease("apple"), info).unwrap();
            assert_eq!(Local::look(&home, "apple", pid, Duration::ZERO).was_ready, ready, "{pid} {state}");
        };
        check(7, "serving", true);
        check(7, "not serving", true);
        check(7, "starting", false);
        check(8, "serving", false);
    }

    #[test]
    fn only_the_socket_that_was_seen_is_removed() {
        let (_temp, home) = home();
        let path = home.socket("apple").unwrap();
        std::fs::write(&path, "").unwrap();
        let seen = look(&home).socket;
        let other = seen.map(|inode| inode + 1);
        assert!(remove_socket(&home, "apple", other).is_err() && path.exists());
        remove_socket(&home, "apple", seen).unwrap();
        assert!(!path.exists() && look(&home).socket.is_none());
    }

    #[test]
    fn the_memory_of_a_process_is_found_and_that_of_none_is_not_guessed() {
        assert!(resident_mb(std::process::id()).is_some_and(|mb| mb > 0));
        assert_eq!(resident_mb(4_000_000_000), None);
    }
}
