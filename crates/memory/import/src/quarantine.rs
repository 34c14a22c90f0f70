//! Keeps what could not be read, so that nothing depends on the source staying as it is.
//!
//! One file of JSON lines for each source file that had such rows, named by its content: an import that is repeated
//! finds its file there and adds none. Nothing here is ever deleted but files that were not finished.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::transcript::BadRow;

const UNFINISHED: &str = ".import-";
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The quarantine folder.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Takes a folder that exists, and removes what an import that was killed left unfinished.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self(path))
    }

    /// Begins the file of one source; nothing is written before its first row.
    pub(crate) fn sheet(&self) -> Sheet<'_> {
        Sheet { folder: &self.0, open: None }
    }

    /// Keeps one row.
    pub(crate) fn keep(&self, file: &str, bad: &BadRow) -> io::Result<()> {
        let mut sheet = self.sheet();
        sheet.add(file, bad)?;
        sheet.finish()
    }
}

/// The quarantined rows of one source file.
pub(crate) struct Sheet<'a> {
    folder: &'a Path,
    open: Option<Open>,
}

struct Open {
    path: PathBuf,
    file: BufWriter<File>,
    hash: blake3::Hasher,
}

impl Drop for Open {
    fn drop(&mut self) {
        // A finished file has been renamed or was a repeat; only an unfinished one is still here.
        let _ = fs::remove_file(&self.path);
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    file: &'a str,
    line: u64,
    why: &'a str,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64: Option<String>,
}

impl Sheet<'_> {
    /// Adds a row.
    pub(crate) fn add(&mut self, file: &str, bad: &BadRow) -> io::Result<()> {
        let text = std::str::from_utf8(&bad.bytes).ok();
        let b64 = if text.is_none() { Some(STANDARD.encode(&bad.bytes)) } else { None };
        let entry = Entry { file, line: bad.line, why: &bad.why, bytes: bad.length, text, b64 };
        let mut json = serde_json::to_vec(&entry)?;
        json.push(b'\n');
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let path = self.folder.join(format!("{UNFINISHED}{}-{number}", std::process::id()));
                let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
                self.open.insert(Open { path, file: BufWriter::new(file), hash: blake3::Hasher::new() })
            }
        };
        open.hash.update(&json);
        open.file.write_all(&json)
    }

    /// Makes the file durable under its name, unless the same one is there.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let hash = open.hash.finalize().to_hex();
        let name = self.folder.join(format!("import-{}.jsonl", &hash.as_str()[..16]));
        if name.try_exists()? {
            return Ok(());
        }
        open.file.flush()?;
        open.file.get_ref().sync_all()?;
        fs::rename(&open.path, &name)?;
        mirror_paths::sync_dir(self.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(bytes: &[u8]) -> BadRow {
        BadRow { line: 7, why: "it is odd".into(), bytes: bytes.to_vec(), length: bytes.len() as u64 }
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn rows_are_kept_once_and_byte_for_byte() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(home.path().to_owned()).unwrap();
        for _ in 0..2 {
            let mut sheet = folder.sheet();
            sheet.add("a/b.jsonl", &bad(b"{\"cut")).unwrap();
            sheet.add("a/b.jsonl", &bad(b"\xff\x00")).unwrap();
            sheet.finish().unwrap();
        }
        let names = names(home.path());
        assert_eq!(names.len(), 1, "{names:?}");
        assert!(names[0].starts_with("import-") && names[0].ends_with(".jsonl"));
        let text = fs::read_to_string(home.path().join(&names[0])).unwrap();
        assert_eq!(
            text,
            "{\"file\":\"a/b.jsonl\",\"line\":7,\"why\":\"it is odd\",\"bytes\":5,\"text\":\"{\\\"cut\"}\n\
             {\"file\":\"a/b.jsonl\",\"line\":7,\"why\":\"it is odd\",\"bytes\":2,\"b64\":\"/wA=\"}\n"
        );
        folder.keep("c", &bad(b"x")).unwrap();
        assert_eq!(self::names(home.path()).len(), 2);
    }

    #[test]
    fn nothing_is_left_of_an_empty_or_abandoned_sheet() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(home.path().to_owned()).unwrap();
        folder.sheet().finish().unwrap();
        let mut sheet = folder.sheet();
        sheet.add("a", &bad(b"x")).unwrap();
        assert_eq!(names(home.path()).len(), 1);
        drop(sheet);
        assert!(names(home.path()).is_empty());
        fs::write(home.path().join(".import-1-2"), "left by a kill").unwrap();
        fs::write(home.path().join("tail"), "of another service").unwrap();
        Folder::open(home.path().to_owned()).unwrap();
        assert_eq!(names(home.path()), ["tail"]);
    }
}
