//! The links in `bin/`: one file under every name that it may be started by.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use mirror_kit::Binary;
use mirror_paths::Home;

use crate::app::app;
use crate::failure::Failure;
use crate::out::say;

/// Lays `bin/mirror` and a link for each service; returns the path of `bin/mirror`.
///
/// A service of another binary gets that one where it lies beside the executable, as in a build, else `mirror` itself.
/// A name is replaced in one step, so a service that starts meanwhile finds the old build or the new one.
pub(crate) fn lay(home: &Home, exe: &Path) -> Result<PathBuf, Failure> {
    let main = home.bin().join("mirror");
    link(exe, &main).map_err(|e| Failure::file("link", &main, &e))?;
    for service in app().services {
        let path = home.bin().join(service.decl.link());
        let binary = service.decl.binary;
        let beside = exe.with_file_name(binary.name());
        let from = if binary == Binary::Mirror {
            &main
        } else if is_of_this_build(&beside) {
            &beside
        } else {
            say(&format!(
                "no {} of this build is beside {}; {} runs from the same binary as all others",
                binary.name(),
                exe.display(),
                service.decl.name
            ));
            &main
        };
        link(from, &path).map_err(|e| Failure::file("link", &path, &e))?;
    }
    Ok(main)
}

/// Returns whether a binary is there and says that it is of the same build; one from an earlier build would be a stranger.
fn is_of_this_build(binary: &Path) -> bool {
    let said = std::process::Command::new(binary).arg("--version").output();
    said.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).trim_end().ends_with(app().build))
}

/// Gives a file another name, in one step; copies it where it cannot be linked.
pub(crate) fn link(from: &Path, to: &Path) -> io::Result<()> {
    // Renaming one link of a file over another does nothing, and would leave the temporary one behind.
    if is_same_file(from, to) {
        return Ok(());
    }
    let temp = to.with_extension("new");
    match fs::remove_file(&temp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    if fs::hard_link(from, &temp).is_err() {
        // Another file system, or one without links.
        fs::copy(from, &temp)?;
        fs::set_permissions(&temp, fs::Permissions::from_mode(0o700))?;
    }
    fs::rename(&temp, to)
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::symlink_metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_one_file_and_follow_a_new_build() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        let (old, new) = (temp.path().join("old"), temp.path().join("new"));
        fs::write(&old, "old").unwrap();
        fs::write(&new, "new").unwrap();

        let main = lay(&home, &old).unwrap();
        assert_eq!(main, home.bin().join("mirror"));
        assert!(is_same_file(&old, &main));
        lay(&home, &new).unwrap();
        lay(&home, &main).unwrap();
        let mut names = Vec::new();
        for entry in fs::read_dir(home.bin()).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(fs::read_to_string(&path).unwrap(), "new", "{}", path.display());
            names.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
        assert_eq!(names.len(), app().services.len() + 1, "{names:?}");
    }
}
