//! The installed binaries: copies in `bin/`, the ones before them in `bin/previous/`, and the links.
//!
//! Invariant: every name in `bin/` is replaced in one step, so that whoever starts a process finds an old build or a
//! new one, and a running process keeps the file that it was started from.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mirror_kit::Binary;
use mirror_paths::{Home, private_dir};

use crate::app::app;
use crate::supervise::link;

/// The binaries of a home, and those that are to replace them.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    home: Home,
    /// New file and name in `bin/`.
    new: Vec<(PathBuf, &'static str)>,
}

impl Binaries {
    /// Returns this executable, and the keeper's where it lies beside it, as the binaries to come.
    pub(crate) fn beside(home: &Home, exe: &Path) -> Self {
        let mut new = vec![(exe.to_owned(), Binary::Mirror.name())];
        let keeper = exe.with_file_name(Binary::Keeper.name());
        if keeper.is_file() && !same_content(&keeper, exe).unwrap_or(false) {
            new.push((keeper, Binary::Keeper.name()));
        }
        Self { home: home.clone(), new }
    }

    /// Returns whether anything would change.
    pub(crate) fn differ(&self) -> io::Result<bool> {
        for (from, name) in &self.new {
            if !same_content(from, &self.home.bin().join(name))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts the new binaries in place, keeps those before, and lays the links; returns whether any differed.
    pub(crate) fn lay(&self) -> io::Result<bool> {
        let previous = self.home.bin().join("previous");
        private_dir(&previous).map_err(io::Error::other)?;
        let mut changed = false;
        for (from, name) in &self.new {
            let to = self.home.bin().join(name);
            if same_content(from, &to)? {
                continue;
            }
            changed = true;
            if to.is_file() {
                copy(&to, &previous.join(name))?;
            }
            copy(from, &to)?;
        }
        self.links()?;
        Ok(changed)
    }

    /// Puts the binaries from before in place; where there were none, the new ones stay and nothing starts them.
    pub(crate) fn put_back(&self) -> io::Result<()> {
        for (_, name) in &self.new {
            let before = self.home.bin().join("previous").join(name);
            if before.is_file() {
                copy(&before, &self.home.bin().join(name))?;
            }
        }
        self.links()
    }

    fn links(&self) -> io::Result<()> {
        let bin = self.home.bin();
        for service in app().services {
            let name = service.decl.link();
            // A binary of its own has its name already.
            if !self.new.iter().any(|(_, own)| *own == name) {
                link(&bin.join(Binary::Mirror.name()), &bin.join(name))?;
            }
        }
        mirror_paths::sync_dir(&bin)
    }

    /// Removes the binaries and their links.
    pub(crate) fn remove(home: &Home) -> io::Result<()> {
        let links = app().services.iter().map(|s| s.decl.link());
        let names = [Binary::Mirror.name().to_owned(), Binary::Keeper.name().to_owned()];
        for name in names.into_iter().chain(links) {
            ok_if_gone(fs::remove_file(home.bin().join(name)))?;
        }
        ok_if_gone(fs::remove_dir_all(home.bin().join("previous")))
    }
}

fn ok_if_gone(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// Copies an executable so that its new name holds the old file or the whole new one.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let temp = to.with_extension("new");
    ok_if_gone(fs::remove_file(&temp))?;
    fs::copy(from, &temp)?;
    fs::set_permissions(&temp, fs::Permissions::from_mode(0o700))?;
    File::open(&temp)?.sync_all()?;
    fs::rename(&temp, to)
}

/// Returns whether two files have the same bytes; a missing one has none.
fn same_content(a: &Path, b: &Path) -> io::Result<bool> {
    let (mut a, mut b) = match (File::open(a), File::open(b)) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(e), _) | (_, Err(e)) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        (Err(e), _) | (_, Err(e)) => return Err(e),
    };
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 18], vec![0; 1 << 18]);
    loop {
        let read = a.read(&mut left)?;
        if read == 0 {
            return Ok(true);
        }
        b.read_exact(&mut right[..read])?;
        if left[..read] != right[..read] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: PathBuf) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn an_update_keeps_the_binary_before_and_can_be_put_back() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        let build = |text: &str| {
            let dir = temp.path().join(text);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("mirror"), text).unwrap();
            fs::write(dir.join("mirror-keeper"), format!("keeper {text}")).unwrap();
            Binaries::beside(&home, &dir.join("mirror"))
        };
        let (one, two) = (build("one"), build("two"));
        assert!(one.differ().unwrap() && one.lay().unwrap());
        assert!(!one.differ().unwrap() && !one.lay().unwrap());
        assert!(two.lay().unwrap());
        let link = home.bin().join(app().services[0].decl.link());
        assert_eq!((read(home.bin().join("mirror")), read(link.clone())), ("two".into(), "two".into()));
        assert_eq!(read(home.bin().join("mirror-keeper")), "keeper two");
        two.put_back().unwrap();
        assert_eq!((read(home.bin().join("mirror")), read(link)), ("one".into(), "one".into()));
        assert_eq!(read(home.bin().join("mirror-keeper")), "keeper one");
        Binaries::remove(&home).unwrap();
        assert_eq!(fs::read_dir(home.bin()).unwrap().count(), 0);
        Binaries::remove(&home).unwrap();
    }
}
