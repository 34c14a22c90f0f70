//! The lease of a service: a file that the serving process keeps locked, with its state as JSON.
//!
//! It proves that at most one process serves a home's service, and lets others see who it is without calling it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::sync::{Mutex, PoisonError};

use mirror_paths::Home;
use serde::{Deserialize, Serialize};

/// What a lease says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseInfo {
    /// Process id.
    pub pid: u32,
    /// When the process started, in milliseconds since 1970.
    pub started_ms: u64,
    /// Build id.
    pub build: String,
    /// State, by name.
    pub state: String,
    /// One sentence on the state.
    pub detail: String,
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// A process that has not written its state yet.
    Unknown,
    /// A process, as it described itself.
    Process(LeaseInfo),
}

#[derive(Debug)]
pub(crate) struct Lease(Mutex<Held>);

#[derive(Debug)]
struct Held {
    file: File,
    text: String,
}

impl Lease {
    /// Takes the lease, or says that another process has it.
    pub(crate) fn take(home: &Home, service: &str) -> io::Result<Self> {
        Ok(Self(Mutex::new(Held { file: lock(home, service)?, text: String::new() })))
    }

    pub(crate) fn write(&self, info: &LeaseInfo) -> io::Result<()> {
        let text = serde_json::to_string(info).map_err(io::Error::other)? + "\n";
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Padded, so that a shorter text leaves no rest and the file is never seen half empty.
        held.text = format!("{text:<1024}");
        held.file.write_all_at(held.text.as_bytes(), 0)
    }

    /// Takes the lease again where its file was removed; refused when another process has taken it meanwhile.
    pub(crate) fn renew(&self, home: &Home, service: &str) -> io::Result<()> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = held.file.metadata()?.ino();
        if std::fs::metadata(home.lease(service)).is_ok_and(|there| there.ino() == ours) {
            return Ok(());
        }
        held.file = lock(home, service)?;
        held.file.write_all_at(held.text.as_bytes(), 0)
    }
}

fn lock(home: &Home, service: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(home.lease(service))?;
    // A reader holds the lock for an instant when it asks who has it.
    for attempt in 0.. {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if attempt < 20 => {
                std::thread::park_timeout(std::time::Duration::from_millis(5))
            }
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    file.set_len(0)?;
    Ok(file)
}

/// Returns who holds the lease of a service.
pub fn holder(home: &Home, service: &str) -> io::Result<Holder> {
    let path = home.lease(service);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Holder::Nobody),
        Err(e) => return Err(e),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Holder::Nobody),
        Err(TryLockError::Error(e)) => Err(e),
        Err(TryLockError::WouldBlock) => {
            let text = std::fs::read_to_string(&path)?;
            Ok(serde_json::from_str(text.trim()).map_or(Holder::Unknown, Holder::Process))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_has_one_holder_who_describes_itself() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        assert_eq!(holder(&home, "bus").unwrap(), Holder::Nobody);
        let lease = Lease::take(&home, "bus").unwrap();
        assert_eq!(holder(&home, "bus").unwrap(), Holder::Unknown);
        let info = LeaseInfo {
            pid: 7,
            started_ms: 1,
            build: "b".into(),
            state: "serving".into(),
            detail: "x".repeat(500),
        };
        lease.write(&info).unwrap();
        assert_eq!(holder(&home, "bus").unwrap(), Holder::Process(info.clone()));
        let short = LeaseInfo { detail: String::new(), ..info };
        lease.write(&short).unwrap();
        assert_eq!(holder(&home, "bus").unwrap(), Holder::Process(short.clone()));
        assert_eq!(Lease::take(&home, "bus").unwrap_err().kind(), io::ErrorKind::AddrInUse);
        std::fs::remove_file(home.lease("bus")).unwrap();
        assert_eq!(holder(&home, "bus").unwrap(), Holder::Nobody);
        let other = Lease::take(&home, "bus").unwrap();
        assert_eq!(lease.renew(&home, "bus").unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(other);
        lease.renew(&home, "bus").unwrap();
        assert_eq!(holder(&home, "bus").unwrap(), Holder::Process(short));
        drop(lease);
        assert_eq!(holder(&home, "bus").unwrap(), Holder::Nobody);
    }
}
