//! Where everything lives under one home folder, and with which permissions.
//!
//! It refuses folders that others may enter, and socket paths that the kernel would cut.
//! Invariant: every path of the product is made here, from the home and a service's name.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest socket path in bytes that both macOS (`sun_path` of 104 with its NUL) and Linux (108) take.
pub const SOCKET_PATH_LIMIT: usize = 103;

/// Why a folder or path cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// Neither `MIRROR_HOME` nor `HOME` is set.
    #[error("neither MIRROR_HOME nor HOME is set; set MIRROR_HOME to a folder of your own")]
    NoHome,
    /// The home is not an absolute path.
    #[error("MIRROR_HOME must be an absolute path, got {0:?}")]
    Relative(PathBuf),
    /// The socket path is too long for the kernel.
    #[error(
        "the socket path {path:?} has {len} bytes and the limit is {SOCKET_PATH_LIMIT}; set MIRROR_HOME to a shorter folder"
    )]
    SocketTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// Others may enter the folder.
    #[error("{path:?} has mode {mode:04o} and must be 0700; run: chmod 700 {path:?}")]
    Permissions {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The folder belongs to somebody else.
    #[error("{path:?} belongs to uid {owner}, not to you (uid {uid})")]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who asked.
        uid: u32,
    },
    /// The folder could not be made or read.
    #[error("cannot use {path:?}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The home folder of one MirrorDNA system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// Returns the home at `root`, which must be absolute.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self, PathError> {
        let root = root.into();
        if root.is_absolute() { Ok(Self { root }) } else { Err(PathError::Relative(root)) }
    }

    /// Returns the home that the environment names: `MIRROR_HOME`, else `~/.mirror`.
    pub fn from_env() -> Result<Self, PathError> {
        Self::resolve(std::env::var_os("MIRROR_HOME"), std::env::var_os("HOME"))
    }

    fn resolve(mirror_home: Option<OsString>, home: Option<OsString>) -> Result<Self, PathError> {
        if let Some(root) = mirror_home.filter(|v| !v.is_empty()) {
            return Self::at(PathBuf::from(root));
        }
        let home = home.filter(|v| !v.is_empty()).ok_or(PathError::NoHome)?;
        Self::at(PathBuf::from(home).join(".mirror"))
    }

    /// Makes the home and its folders, each 0700 and owned by the caller.
    ///
    /// # Errors
    ///
    /// [`PathError::Permissions`] and [`PathError::Owner`] when a folder exists and is not private: it is not
    /// mended silently, since somebody may have read it already.
    pub fn prepare(&self) -> Result<(), PathError> {
        for dir in [
            self.root.clone(),
            self.bus(),
            self.blobs(),
            self.keys(),
            self.desired(),
            self.halt(),
            self.state_root(),
            self.run(),
            self.fleet(),
            self.agents(),
            self.bin(),
            self.log(),
            self.trash(),
            self.quarantine(),
        ] {
            private_dir(&dir)?;
        }
        Ok(())
    }

    /// Returns the folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the configuration file.
    pub fn config(&self) -> PathBuf {
        self.root.join("mirror.toml")
    }

    /// Returns the folder of the event log.
    pub fn bus(&self) -> PathBuf {
        self.root.join("bus")
    }

    /// Returns the folder of blobs.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// Returns the folder of keys.
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// Returns the folder of desired states.
    pub fn desired(&self) -> PathBuf {
        self.root.join("desired")
    }

    /// Returns the folder of the halt state.
    pub fn halt(&self) -> PathBuf {
        self.root.join("halt")
    }

    /// Returns the folder that holds each service's folder of derived state.
    pub fn state_root(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Returns a service's folder of derived state.
    pub fn state(&self, service: &str) -> PathBuf {
        self.state_root().join(service)
    }

    /// Returns the folder of sockets and leases.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Returns the folder in which the supervisor writes which process is which service.
    pub fn fleet(&self) -> PathBuf {
        self.run().join("fleet")
    }

    /// Returns the folder of the property lists that `mirror up` interprets.
    pub fn agents(&self) -> PathBuf {
        self.root.join("agents")
    }

    /// Returns the file that says which layout the home has.
    pub fn layout(&self) -> PathBuf {
        self.root.join("layout")
    }

    /// Returns the lease of a service: locked by the process that serves, with its state as JSON.
    pub fn lease(&self, service: &str) -> PathBuf {
        self.run().join(format!("{service}.lease"))
    }

    /// Returns a service's socket.
    ///
    /// # Errors
    ///
    /// [`PathError::SocketTooLong`] when the kernel would cut the path.
    pub fn socket(&self, service: &str) -> Result<PathBuf, PathError> {
        let path = self.run().join(format!("{service}.sock"));
        let len = path.as_os_str().len();
        if len > SOCKET_PATH_LIMIT { Err(PathError::SocketTooLong { path, len }) } else { Ok(path) }
    }

    /// Returns the folder of the service links.
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// Returns the folder of log files.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// Returns the folder of deleted things.
    pub fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// Returns the folder of things that could not be used.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }
}

/// Makes `dir` with mode 0700, or checks that it is so.
pub fn private_dir(dir: &Path) -> Result<(), PathError> {
    let io = |source| PathError::Io { path: dir.to_owned(), source };
    if !dir.exists() {
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io(e)),
        }
        // Where the parent cannot be synced, as in a folder of somebody else's, there is nothing to lose yet.
        let _ = dir.parent().map(sync_dir);
    }
    let meta = fs::metadata(dir).map_err(io)?;
    let uid = nix::unistd::geteuid().as_raw();
    if meta.uid() != uid {
        return Err(PathError::Owner { path: dir.to_owned(), owner: meta.uid(), uid });
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PathError::Permissions { path: dir.to_owned(), mode });
    }
    Ok(())
}

static TURN: AtomicU64 = AtomicU64::new(0);

/// Replaces `path` by `bytes` so that a reader sees the old file or the new one, and a power cut keeps one of them.
///
/// The file gets mode 0600.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let parent = path.parent().ok_or_else(|| io::Error::other("the path has no parent"))?;
    let name = path.file_name().ok_or_else(|| io::Error::other("the path has no name"))?;
    let mut temp_name = OsString::from(".");
    temp_name.push(name);
    // Two threads that replace the same file must not share the file that becomes it.
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    temp_name.push(format!(".{}.{turn}.tmp", std::process::id()));
    let temp = parent.join(temp_name);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temp, path)?;
    sync_dir(parent)
}

/// Takes it as done when a file that was to be removed or moved away was not there.
pub fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes the names in a folder durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_home_wins_over_home() {
        let home = Home::resolve(Some("/a/b".into()), Some("/home/x".into())).unwrap();
        assert_eq!(home.root(), Path::new("/a/b"));
        let home = Home::resolve(None, Some("/home/x".into())).unwrap();
        assert_eq!(home.root(), Path::new("/home/x/.mirror"));
        assert!(matches!(Home::resolve(None, None), Err(PathError::NoHome)));
        assert!(matches!(Home::resolve(Some("rel".into()), None), Err(PathError::Relative(_))));
    }

    #[test]
    fn a_long_socket_path_is_refused_in_words() {
        let home = Home::at(format!("/{}", "x".repeat(120))).unwrap();
        let text = home.socket("bus").unwrap_err().to_string();
        assert!(text.contains("the limit is 103"), "{text}");
        assert!(text.contains("shorter"), "{text}");
    }

    #[test]
    fn folders_are_private_and_loose_ones_refused() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        let mode = fs::metadata(home.run()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700);
        fs::set_permissions(home.run(), fs::Permissions::from_mode(0o755)).unwrap();
        let text = home.prepare().unwrap_err().to_string();
        assert!(text.contains("0755") && text.contains("chmod 700"), "{text}");
    }

    #[test]
    fn an_atomic_write_replaces_and_leaves_no_temporary() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("f");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
