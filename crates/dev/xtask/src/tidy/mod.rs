//! The laws of the tree: names, sizes, module docs, pages for reasons, licences.
//!
//! Each check returns one line a problem; `cargo xtask tidy` prints them and `cargo test` refuses them.
//! Invariant: an exception stands in a list with its reason, never in a reviewer's memory.

pub mod deps;
pub mod docs;
pub mod names;
pub mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use mirror_kit::Decl;

/// Folders that hold no source.
const SKIPPED: &[&str] = &[".git", "target", "__pycache__", "node_modules"];

/// One file of the repository.
#[derive(Debug)]
pub struct Source {
    /// Path from the root, with forward slashes.
    pub path: String,
    /// Content; absent when it is not UTF-8.
    pub text: Option<String>,
}

/// Returns every file that is tracked or could be: what git does not ignore, or all files where there is no git.
///
/// # Errors
///
/// When a folder cannot be read.
pub fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut paths = listed_by_git(root).map_or_else(|| walk(root), Ok)?;
    paths.sort();
    let mut sources = Vec::new();
    for path in paths {
        let full = root.join(&path);
        // A link, or a file that git knows and that is gone.
        if !fs::symlink_metadata(&full).is_ok_and(|m| m.is_file()) {
            continue;
        }
        let bytes = fs::read(&full).with_context(|| format!("read {}", path.display()))?;
        let path = path.to_string_lossy().replace('\\', "/");
        sources.push(Source { path, text: String::from_utf8(bytes).ok() });
    }
    Ok(sources)
}

fn listed_by_git(root: &Path) -> Option<Vec<PathBuf>> {
    if !root.join(".git").exists() {
        return None;
    }
    let args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let out = Command::new("git").args(args).current_dir(root).output().ok()?;
    let text = String::from_utf8(out.stdout).ok().filter(|_| out.status.success())?;
    Some(text.split('\0').filter(|p| !p.is_empty()).map(PathBuf::from).collect())
}

fn walk(root: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let full = root.join(&folder);
        for entry in fs::read_dir(&full).with_context(|| format!("list {}", full.display()))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                if !SKIPPED.iter().any(|s| entry.file_name() == *s) {
                    folders.push(path);
                }
            } else {
                paths.push(path);
            }
        }
    }
    Ok(paths)
}

/// Returns every broken law of the tree, one line each.
///
/// # Errors
///
/// When the tree cannot be read.
pub fn problems(root: &Path, catalogue: &[&'static Decl]) -> Result<Vec<String>> {
    let sources = sources(root)?;
    let mut problems = mirror_kit::check_catalogue(catalogue);
    problems.extend(text::problems(&sources));
    problems.extend(names::problems(&sources, catalogue));
    problems.extend(docs::problems(&sources, &crate::catalogue::reasons(catalogue)));
    problems.extend(deps::manifests(&sources));
    problems.extend(deps::licences(root)?);
    Ok(problems)
}

#[cfg(test)]
pub(crate) fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: Some(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_git_all_files_are_found_but_those_of_builds() {
        let temp = tempfile::tempdir().unwrap();
        for path in ["a.rs", "d/b.md", "target/c.rs", "d/__pycache__/e.py"] {
            let path = temp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        fs::write(temp.path().join("raw"), [0xff]).unwrap();
        let found = sources(temp.path()).unwrap();
        let paths: Vec<&str> = found.iter().map(|s| s.path.as_str()).collect();
        assert_eq!(paths, ["a.rs", "d/b.md", "raw"]);
        assert!(found[2].text.is_none());
    }
}
