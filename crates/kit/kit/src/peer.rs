//! Who is on the other end of a connection.
//!
//! The same uid is not the owner: coding agents run as the owner's user. A process that the supervisor started is a
//! service, by its pid and start time in the fleet's rows; any other process of the user is `local`.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use mirror_paths::Home;

use crate::access::PrincipalKind;

/// The service that writes the fleet's rows.
const SUPERVISOR: &str = "supervisor";

/// A caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A process of the owner's user without further proof.
    Local,
    /// A process that the supervisor started, by name.
    Service(Box<str>),
    /// A process of another user; every call is refused.
    Stranger {
        /// Its user.
        uid: u32,
    },
}

impl Principal {
    /// Returns the kind; a stranger has the rights of nobody.
    pub fn kind(&self) -> PrincipalKind {
        match self {
            Self::Service(_) => PrincipalKind::Service,
            // A stranger is refused before any table is read.
            Self::Stranger { .. } => PrincipalKind::Device,
            Self::Local => PrincipalKind::Local,
        }
    }

    /// Returns the name that the bus stamps on events: `svc:<service>` or `local`.
    pub fn actor(&self) -> String {
        match self {
            Self::Service(name) => format!("svc:{name}"),
            Self::Local => "local".to_owned(),
            Self::Stranger { uid } => format!("uid:{uid}"),
        }
    }
}

/// The other end of a connection; an extension of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub principal: Principal,
    /// Its process id when it connected; for records only.
    pub pid: Option<u32>,
}

impl Peer {
    /// Names a process that connected over a socket.
    pub fn of_process(home: &Home, uid: u32, pid: Option<u32>) -> Self {
        if uid != nix::unistd::geteuid().as_raw() {
            return Self { principal: Principal::Stranger { uid }, pid };
        }
        let service = pid.and_then(|pid| service_of(&home.fleet(), pid));
        Self { principal: service.map_or(Principal::Local, |s| Principal::Service(s.into())), pid }
    }
}

fn service_of(fleet: &Path, pid: u32) -> Option<String> {
    let start = process_start(pid).ok()?;
    let row = fleet_row(pid, &start);
    fs::read_dir(fleet).ok()?.flatten().find_map(|entry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        (text == row).then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

/// Waits for the supervisor's row about this process, so that peers know it as a service from its first call on.
pub(crate) async fn await_fleet_row(home: &Home, name: &str) {
    // The supervisor writes its own row, once it is up.
    if !crate::run::supervised() || name == SUPERVISOR {
        return;
    }
    let pid = std::process::id();
    let Ok(start) = process_start(pid) else { return };
    let row = fleet_row(pid, &start);
    let path = home.fleet().join(name);
    for _ in 0..400 {
        if std::fs::read_to_string(&path).is_ok_and(|text| text == row) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tracing::warn!("the supervisor wrote no row for this process; peers will take it for a local caller");
}

/// Returns the row by which the supervisor says that a process is a service.
pub fn fleet_row(pid: u32, start: &str) -> String {
    format!("{pid} {start}\n")
}

/// Returns when a process started, in a form that differs for a later process with the same id.
#[cfg(target_os = "linux")]
pub fn process_start(pid: u32) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command name may hold spaces and brackets; the fields are counted after its last bracket.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    fields
        .split_whitespace()
        .nth(19)
        .map(str::to_owned)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in the process's stat"))
}

/// Returns when a process started, in a form that differs for a later process with the same id.
#[cfg(not(target_os = "linux"))]
pub fn process_start(pid: u32) -> io::Result<String> {
    let out =
        std::process::Command::new("/bin/ps").args(["-o", "lstart=", "-p", &pid.to_string()]).output()?;
    let text = String::from_utf8_lossy(&out.stdout).trim().replace(' ', "_");
    if text.is_empty() { Err(io::Error::from(io::ErrorKind::NotFound)) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_a_service_only_by_pid_and_start_time() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        let (uid, pid) = (nix::unistd::geteuid().as_raw(), std::process::id());
        let principal = |uid| Peer::of_process(&home, uid, Some(pid)).principal;

        assert_eq!(principal(uid), Principal::Local);
        let start = process_start(pid).unwrap();
        fs::write(home.fleet().join("bus"), fleet_row(pid, &start)).unwrap();
        assert_eq!(principal(uid), Principal::Service("bus".into()));
        fs::write(home.fleet().join("bus"), fleet_row(pid, "1")).unwrap();
        assert_eq!(principal(uid), Principal::Local, "an earlier process had this pid");
        assert_eq!(principal(uid + 1), Principal::Stranger { uid: uid + 1 });
    }
}
