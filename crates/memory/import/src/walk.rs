//! The files under a path, in order of name. Symbolic links are not followed.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Most files of one import.
pub const FILES_LIMIT: usize = 1_000_000;
/// Deepest folder.
const DEPTH_LIMIT: usize = 64;

/// A file that may be a transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// Its path relative to the root, for people; the file's name, when the root is the file.
    pub name: String,
    /// Its size when it was found.
    pub bytes: u64,
}

/// What stands under a path.
#[derive(Debug, Default)]
pub struct Walk {
    /// Regular files, in order of name.
    pub files: Vec<Found>,
    /// Symbolic links and special files, which were passed over.
    pub passed: u64,
    /// Folders that could not be read, each with why.
    pub unreadable: Vec<(String, String)>,
}

/// Why a path cannot be walked.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// There is nothing.
    #[error("there is nothing at the path")]
    Missing,
    /// It is a link or a special file.
    #[error("the path is neither a file nor a folder; symbolic links are not followed")]
    Special,
    /// Too many files.
    #[error("the folder holds over {FILES_LIMIT} files; import a part of it")]
    TooMany,
    /// The system refused.
    #[error("the path cannot be read")]
    Io(#[from] io::Error),
}

/// Finds the files under a path, but none under the folder `except`.
pub fn walk(root: &Path, except: &Path) -> Result<Walk, WalkError> {
    let about = fs::symlink_metadata(root).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => WalkError::Missing,
        _ => WalkError::Io(error),
    })?;
    let mut walk = Walk::default();
    if about.is_file() {
        let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        walk.files.push(Found { path: root.to_owned(), name, bytes: about.len() });
        return Ok(walk);
    }
    if !about.is_dir() {
        return Err(WalkError::Special);
    }
    let mut seen = 0_usize;
    let mut stack = vec![names(root, &mut seen)?];
    let mut folder = root.to_owned();
    while let Some(rest) = stack.last_mut() {
        let Some(name) = rest.pop() else {
            stack.pop();
            folder.pop();
            continue;
        };
        let path = folder.join(name);
        let label = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        match fs::symlink_metadata(&path) {
            Ok(about) if about.is_file() => walk.files.push(Found { path, name: label, bytes: about.len() }),
            Ok(about) if about.is_dir() && path == except => {}
            Ok(about) if about.is_dir() => {
                let inside = if stack.len() < DEPTH_LIMIT {
                    names(&path, &mut seen)
                } else {
                    Err(WalkError::Io(io::Error::other("it is too deep")))
                };
                match inside {
                    Ok(inside) => {
                        stack.push(inside);
                        folder = path;
                    }
                    Err(WalkError::Io(error)) => walk.unreadable.push((label, error.to_string())),
                    Err(error) => return Err(error),
                }
            }
            Ok(_) => walk.passed += 1,
            // Gone since its folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => walk.unreadable.push((label, error.to_string())),
        }
    }
    Ok(walk)
}

/// Returns the names in a folder, the last first.
fn names(folder: &Path, seen: &mut usize) -> Result<Vec<OsString>, WalkError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        *seen += 1;
        if *seen > FILES_LIMIT {
            return Err(WalkError::TooMany);
        }
        names.push(entry?.file_name());
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_come_in_order_of_name_and_links_are_passed_over() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path();
        for name in ["b/z.jsonl", "b/a/x.jsonl", "c.jsonl", "a.jsonl", "d/own.jsonl"] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        symlink(root.join("b"), root.join("link")).unwrap();
        symlink(root, root.join("b/up")).unwrap();
        let walk = walk(root, &root.join("d")).unwrap();
        let names: Vec<&str> = walk.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["a.jsonl", "b/a/x.jsonl", "b/z.jsonl", "c.jsonl"]);
        assert_eq!(walk.passed, 2);
        assert_eq!(walk.files[1].bytes, 11);
        assert!(walk.unreadable.is_empty());
    }

    #[test]
    fn a_file_is_its_own_root() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("one.jsonl");
        fs::write(&path, "{}").unwrap();
        let found = walk(&path, Path::new("")).unwrap().files;
        assert_eq!((found.len(), found[0].name.as_str()), (1, "one.jsonl"));
    }

    #[test]
    fn what_cannot_be_walked_is_named() {
        let home = tempfile::tempdir().unwrap();
        assert!(matches!(walk(&home.path().join("none"), Path::new("")), Err(WalkError::Missing)));
        let link = home.path().join("link");
        symlink(home.path(), &link).unwrap();
        assert!(matches!(walk(&link, Path::new("")), Err(WalkError::Special)));
    }

    #[test]
    fn a_folder_too_deep_is_named_and_the_rest_is_found() {
        let home = tempfile::tempdir().unwrap();
        let deep: PathBuf = std::iter::repeat_n("d", DEPTH_LIMIT + 2).collect();
        fs::create_dir_all(home.path().join(deep)).unwrap();
        fs::write(home.path().join("e.jsonl"), "").unwrap();
        let walk = walk(home.path(), Path::new("")).unwrap();
        assert_eq!((walk.files.len(), walk.unreadable.len()), (1, 1));
    }
}
