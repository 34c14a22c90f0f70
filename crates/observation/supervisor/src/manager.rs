//! What launchd and systemd have in common: units that are put, shown, started, kicked, signalled and removed.
//!
//! Invariant: nothing but [`Manager::put`] of a changed definition and [`Manager::remove`] unloads a unit; starts,
//! stops and restarts never do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::tool::Answer;

/// Why a service manager did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// Its tool cannot be run.
    #[error("the service manager's tool cannot be run")]
    Tool(#[source] io::Error),
    /// No domain of this user takes agents.
    #[error(
        "launchd has no domain for agents of this user: gui/{uid} gives {gui} and user/{uid} gives {user}; \
         log in once, or run this in a session of the user"
    )]
    NoDomain {
        /// The user.
        uid: u32,
        /// Exit code for the domain of the desktop session.
        gui: i32,
        /// Exit code for the domain without a session.
        user: i32,
    },
    /// It refused.
    #[error("{doing} {unit} failed with exit code {code}: {said}")]
    Refused {
        /// The verb.
        doing: &'static str,
        /// The unit.
        unit: String,
        /// Exit code.
        code: i32,
        /// What it said.
        said: String,
    },
    /// A unit is switched off by the owner, in the system's settings.
    #[error("{unit} is disabled in the system's settings (Login Items on a Mac); allow it there")]
    Disabled {
        /// The unit.
        unit: String,
    },
    /// A unit did not go in time.
    #[error("{unit} was unloaded and is still there after {secs} s; look at what its process does")]
    Lingers {
        /// The unit.
        unit: String,
        /// How long it was waited for.
        secs: u64,
    },
    /// A definition cannot be written, read or removed.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl ManagerError {
    pub(crate) fn refused(doing: &'static str, unit: &str, answer: &Answer) -> Self {
        Self::Refused { doing, unit: unit.to_owned(), code: answer.code, said: answer.said() }
    }
}

/// A unit of a service manager: a file that defines it, and those that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Name by which the manager knows what runs: a label, or the name of a service's unit.
    pub unit: String,
    /// Name of what starts it at its times, where that is a unit of its own: a timer of systemd.
    pub trigger: Option<String>,
    /// Files by name, the one that is loaded first.
    pub files: Vec<(String, String)>,
}

/// What a manager says of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Whether it has the unit.
    pub loaded: bool,
    /// Process, where there is one.
    pub pid: Option<u32>,
    /// Whether the process was told to end.
    pub draining: bool,
    /// Whether a start is due by itself, after the floor between two starts.
    pub waiting: bool,
    /// How the last process ended, in words; empty before the first end.
    pub last_exit: String,
}

/// What putting a definition changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was loaded from this very file; its process was not touched.
    Unchanged,
    /// It was loaded from another text; its process was not touched, and the next one follows the new text.
    Reread,
    /// It was loaded from another text, and is loaded anew with another process.
    Reloaded,
    /// It was not loaded before.
    Loaded,
}

/// A service manager.
#[tonic::async_trait]
pub trait Manager: Send + Sync + fmt::Debug {
    /// Returns its name: "launchd" or "systemd".
    fn name(&self) -> &'static str;
    /// Returns the folder of the definitions.
    fn folder(&self) -> &Path;
    /// Writes a definition where it differs, and loads it where it differs or was not loaded.
    async fn put(&self, definition: &Definition) -> Result<Put, ManagerError>;
    /// Ends a unit's process, unloads it and removes its files; returns whether it was loaded.
    async fn remove(&self, definition: &Definition) -> Result<bool, ManagerError>;
    /// Says how a unit is.
    async fn show(&self, unit: &str) -> Result<Shown, ManagerError>;
    /// Says in one call how units are, in their order: whether each is loaded, its process and its last exit.
    async fn list(&self, units: &[&str]) -> Result<Vec<Shown>, ManagerError>;
    /// Starts a unit unless it runs.
    async fn start(&self, unit: &str) -> Result<(), ManagerError>;
    /// Ends a unit's process, where it has one, and starts it.
    async fn kick(&self, unit: &str) -> Result<(), ManagerError>;
    /// Sends a signal, such as "SIGTERM", to a unit's process; it is no error that there is none.
    async fn signal(&self, unit: &str, signal: &str) -> Result<(), ManagerError>;
}

/// Returns whether the files of a definition are in a folder, byte for byte.
pub(crate) fn same_on_disk(folder: &Path, definition: &Definition) -> bool {
    definition
        .files
        .iter()
        .all(|(name, text)| std::fs::read_to_string(folder.join(name)).is_ok_and(|found| found == *text))
}

/// The files of a definition, written beside their places: what may fail has been done, and nothing has changed.
pub(crate) struct Staged<'a> {
    folder: &'a Path,
    definition: &'a Definition,
}

impl<'a> Staged<'a> {
    /// Writes the files beside their places, with the mode that launchd wants: 0644.
    pub(crate) fn write(folder: &'a Path, definition: &'a Definition) -> Result<Self, ManagerError> {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::create_dir_all(folder).map_err(|source| file("make", folder, source))?;
        for (name, text) in &definition.files {
            let path = staged(folder, name);
            mirror_paths::write_atomic(&path, text.as_bytes())
                .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)))
                .map_err(|source| file("write", &path, source))?;
        }
        Ok(Self { folder, definition })
    }

    /// Puts the files in their places, each in one step.
    pub(crate) fn commit(self) -> Result<Before<'a>, ManagerError> {
        let mut files = Vec::new();
        for (name, _) in &self.definition.files {
            let path = self.folder.join(name);
            files.push((path.clone(), std::fs::read_to_string(&path).ok()));
            std::fs::rename(staged(self.folder, name), &path)
                .map_err(|source| file("write", &path, source))?;
        }
        mirror_paths::sync_dir(self.folder).map_err(|source| file("sync", self.folder, source))?;
        Ok(Before { folder: self.folder, files })
    }
}

/// What stood in the places of a definition's files.
pub(crate) struct Before<'a> {
    folder: &'a Path,
    files: Vec<(PathBuf, Option<String>)>,
}

impl Before<'_> {
    /// Puts back what stood there.
    pub(crate) fn put_back(self) -> Result<(), ManagerError> {
        use std::os::unix::fs::PermissionsExt as _;
        for (path, text) in self.files {
            match text {
                Some(text) => mirror_paths::write_atomic(&path, text.as_bytes())
                    .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))),
                None => std::fs::remove_file(&path),
            }
            .map_err(|source| file("put back", &path, source))?;
        }
        mirror_paths::sync_dir(self.folder).map_err(|source| file("sync", self.folder, source))
    }
}

/// Returns the place beside a file's place; launchd and systemd read no file with such an ending.
fn staged(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".{name}.staged"))
}

/// Removes the files of a definition.
pub(crate) fn remove_files(folder: &Path, definition: &Definition) -> Result<(), ManagerError> {
    for (name, _) in &definition.files {
        let path = folder.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(file("remove", &path, e)),
            _ => {}
        }
    }
    Ok(())
}

fn file(doing: &'static str, path: &Path, source: io::Error) -> ManagerError {
    ManagerError::File { doing, path: path.to_owned(), source }
}
