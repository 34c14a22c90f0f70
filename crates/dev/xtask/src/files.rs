//! Rendered files: written by `cargo xtask render`, compared by `cargo test`.
//!
//! Invariant: a rendered folder holds no file of its kind that was not rendered.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// What a check says to do.
pub const REMEDY: &str = "run `cargo xtask render`";

/// Files as they must be, by path from the root.
#[derive(Debug, Default)]
pub struct Rendered {
    files: BTreeMap<PathBuf, String>,
    folders: Vec<(PathBuf, &'static str)>,
}

impl Rendered {
    /// Adds a file.
    pub fn file(&mut self, path: impl Into<PathBuf>, text: String) {
        self.files.insert(path.into(), text);
    }

    /// Adds a folder of which every file with this extension is rendered.
    pub fn folder(&mut self, folder: &str, extension: &'static str, files: Vec<(String, String)>) {
        self.folders.push((folder.into(), extension));
        for (name, text) in files {
            self.file(Path::new(folder).join(name), text);
        }
    }

    /// Returns the files.
    pub fn files(&self) -> &BTreeMap<PathBuf, String> {
        &self.files
    }

    /// Writes what differs, removes what is no longer rendered, and returns the paths it touched.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write(&self, root: &Path) -> Result<Vec<PathBuf>> {
        let mut touched = Vec::new();
        for (path, text) in &self.files {
            let full = root.join(path);
            if fs::read_to_string(&full).is_ok_and(|now| now == *text) {
                continue;
            }
            if let Some(parent) = full.parent() {
                fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
            }
            fs::write(&full, text).with_context(|| format!("write {}", path.display()))?;
            touched.push(path.clone());
        }
        for path in self.strays(root) {
            fs::remove_file(root.join(&path)).with_context(|| format!("remove {}", path.display()))?;
            touched.push(path);
        }
        Ok(touched)
    }

    /// Returns what differs on disk, one line each; nothing when all is as rendered.
    pub fn check(&self, root: &Path) -> Vec<String> {
        let mut problems = Vec::new();
        for (path, text) in &self.files {
            let shown = path.display();
            match fs::read_to_string(root.join(path)) {
                Err(_) => problems.push(format!("{shown}: is missing; {REMEDY}")),
                Ok(now) if now != *text => {
                    problems.push(format!("{}; {REMEDY}", difference(path, &now, text)))
                }
                Ok(_) => {}
            }
        }
        let strays = self.strays(root);
        problems.extend(strays.iter().map(|p| format!("{}: no service has it; {REMEDY}", p.display())));
        problems
    }

    fn strays(&self, root: &Path) -> Vec<PathBuf> {
        let mut strays = Vec::new();
        for (folder, extension) in &self.folders {
            let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
            strays.extend(
                entries
                    .map(|entry| folder.join(entry.file_name()))
                    .filter(|path| path.extension().is_some_and(|e| e == *extension))
                    .filter(|path| !self.files.contains_key(path)),
            );
        }
        strays.sort();
        strays
    }
}

fn difference(path: &Path, now: &str, must: &str) -> String {
    let line = now.lines().zip(must.lines()).take_while(|(a, b)| a == b).count();
    let quote = |text: &str| match text.lines().nth(line) {
        Some(line) => format!("{line:?}"),
        None => "the end of the file".to_owned(),
    };
    format!("{}:{}: is {} and must be {}", path.display(), line + 1, quote(now), quote(must))
}

/// Returns `text` with the part between the markers of `name` replaced by `part`.
///
/// # Errors
///
/// When the markers are not there exactly once, in order.
pub fn replace_between(text: &str, name: &str, part: &str) -> Result<String> {
    let open = format!("<!-- rendered:{name} -->\n");
    let close = format!("<!-- /rendered:{name} -->");
    let both = text.matches(&open).count() == 1 && text.matches(&close).count() == 1;
    let Some((before, rest)) = text.split_once(&open).filter(|_| both) else {
        bail!("the markers {:?} and {close:?} must each stand there once", open.trim_end());
    };
    let Some((_, after)) = rest.split_once(&close) else {
        bail!("the marker {close:?} must come after {:?}", open.trim_end());
    };
    Ok(format!("{before}{open}{part}{close}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_marked_part_is_replaced() {
        let text = "a\n<!-- rendered:x -->\nold\n<!-- /rendered:x -->\nb\n";
        let now = replace_between(text, "x", "new\n").unwrap();
        assert_eq!(now, "a\n<!-- rendered:x -->\nnew\n<!-- /rendered:x -->\nb\n");
        assert_eq!(replace_between(&now, "x", "new\n").unwrap(), now);
        for bad in ["", "<!-- rendered:x -->\n", "<!-- /rendered:x --><!-- rendered:x -->\n"] {
            assert!(replace_between(bad, "x", "new\n").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_difference_is_named_and_a_stray_removed() {
        let temp = tempfile::tempdir().unwrap();
        let mut rendered = Rendered::default();
        rendered.folder("d", "plist", vec![("a.plist".to_owned(), "one\ntwo\n".to_owned())]);
        assert_eq!(rendered.check(temp.path()), [format!("d/a.plist: is missing; {REMEDY}")]);
        rendered.write(temp.path()).unwrap();
        assert!(rendered.check(temp.path()).is_empty());

        fs::write(temp.path().join("d/a.plist"), "one\n2\n").unwrap();
        fs::write(temp.path().join("d/b.plist"), "").unwrap();
        fs::write(temp.path().join("d/README.md"), "").unwrap();
        let problems = rendered.check(temp.path());
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains(r#"d/a.plist:2: is "2" and must be "two""#), "{problems:?}");
        assert!(problems[1].contains("d/b.plist"), "{problems:?}");
        assert_eq!(rendered.write(temp.path()).unwrap().len(), 2);
        assert!(rendered.check(temp.path()).is_empty());
        assert!(temp.path().join("d/README.md").is_file());
    }
}
