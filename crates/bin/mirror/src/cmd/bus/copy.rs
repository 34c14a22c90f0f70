//! Copies of a log: the files that make one, and how they are copied so that they survive.
//!
//! A copy has the layout of a bus folder, with the public keys that its signatures need beside the log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use mirror_paths::{private_dir, sync_dir, write_atomic};

use crate::failure::Failure;

/// Folder of what is known of other devices, in the bus folder.
pub(crate) const ORIGINS: &str = "origins";

/// The public keys of a copy, by their place in it and in a home.
pub(crate) const KEYS: [&str; 2] = ["keys/keys.json", "halt/keys"];

/// Most files of one folder that are copied, and most folders below each other.
const FILES: usize = 1 << 20;
const DEPTH: usize = 8;

pub(crate) fn failed(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::file(doing, path, &error)
}

/// Makes a private folder with those above it.
pub(crate) fn folder(path: &Path) -> Result<(), Failure> {
    private_dir(path).map_err(|error| Failure::file("make", path, &io::Error::other(error)))
}

/// Copies at most `len` bytes of a file, with its times, and syncs the copy.
pub(crate) fn file(from: &Path, to: &Path, len: u64) -> Result<(), Failure> {
    let copy = || -> io::Result<()> {
        let source = File::open(from)?;
        let modified = source.metadata()?.modified()?;
        let mut target = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
        io::copy(&mut source.take(len), &mut target)?;
        target.flush()?;
        target.set_modified(modified)?;
        target.sync_all()
    };
    copy().map_err(failed("copy", from))
}

/// Returns the names in a folder, in order; none when there is no folder.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, Failure> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::file("read", dir, &error)),
    };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    if names.len() > FILES {
        return Err(Failure::input(format!("{} has more than {FILES} files", dir.display())));
    }
    Ok(names)
}

/// Copies a folder of files that never change once they are there; what is there already stays.
pub(crate) fn tree(from: &Path, to: &Path) -> Result<(), Failure> {
    nested(from, to, DEPTH)
}

fn nested(from: &Path, to: &Path, depth: usize) -> Result<(), Failure> {
    for name in names(from)?.into_iter().filter(|name| !name.starts_with('.')) {
        let (source, target) = (from.join(&name), to.join(&name));
        if source.is_dir() && depth > 0 {
            nested(&source, &target, depth - 1)?;
        } else if source.is_file() && !target.exists() {
            folder(to)?;
            file(&source, &target, u64::MAX)?;
        }
    }
    if to.is_dir() { sync_dir(to).map_err(failed("sync", to)) } else { Ok(()) }
}

/// Copies a small file where there is one.
pub(crate) fn small(from: &Path, to: &Path) -> Result<bool, Failure> {
    let bytes = match fs::read(from) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Failure::file("read", from, &error)),
    };
    if let Some(parent) = to.parent() {
        folder(parent)?;
    }
    write_atomic(to, &bytes).map_err(failed("write", to))?;
    Ok(true)
}

/// Returns the size that a checkpoint's file name says.
pub(crate) fn size_of(name: &str) -> Option<u64> {
    name.strip_suffix(".note").filter(|digits| digits.len() == 20)?.parse().ok()
}

/// Copies the checkpoints of up to `head` events that are not there yet; `latest` becomes the newest of all.
pub(crate) fn checkpoints(from: &Path, to: &Path, head: u64) -> Result<(), Failure> {
    let wanted = |name: &String| size_of(name).is_some_and(|size| size <= head);
    for name in names(from)?.into_iter().filter(wanted) {
        let (source, target) = (from.join(&name), to.join(&name));
        folder(to)?;
        // The witness deletes those that others cover.
        if !target.exists() && source.exists() {
            file(&source, &target, u64::MAX)?;
        }
    }
    let newest = names(to)?.into_iter().rfind(|name| size_of(name).is_some());
    if let Some(newest) = newest {
        file(&to.join(newest), &to.join("latest"), u64::MAX)?;
        sync_dir(to).map_err(failed("sync", to))?;
    }
    Ok(())
}

/// The segments of a folder by their first event, each with the name that counts.
pub(crate) fn segments(dir: &Path) -> Result<Vec<(u64, String)>, Failure> {
    let mut found: Vec<(u64, String)> = Vec::new();
    for name in names(dir)? {
        let first = name.strip_suffix(".zst").unwrap_or(&name).strip_suffix(".seg");
        let Some(first) = first.filter(|digits| digits.len() == 20).and_then(|d| d.parse().ok()) else {
            continue;
        };
        // In order of name the plain one comes first, and it counts.
        if found.last().is_none_or(|(last, _)| *last != first) {
            found.push((first, name));
        }
    }
    Ok(found)
}

/// Returns how many bytes of a plain segment hold the events up to `head`.
pub(crate) fn end_of(path: &Path, head: u64) -> Result<u64, Failure> {
    let read = || -> io::Result<u64> {
        let mut lines = Lines::new(File::open(path)?);
        let mut end = 0;
        loop {
            let Some(event) = lines.next()? else { return Ok(end) };
            if !event.starts_with(b"E ") || seq(event).is_none_or(|seq| seq > head) {
                return Ok(end);
            }
            match lines.next()? {
                Some(body) if body.starts_with(b"D ") || body.starts_with(b"X ") => end = lines.at,
                _ => return Ok(end),
            }
        }
    };
    read().map_err(failed("read", path))
}

/// Returns the sequence that an E line names.
fn seq(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?;
    text.split_once(",\"s\":")?.1.split_once(',')?.0.parse().ok()
}

/// Whole lines of a file, of at most 128 KiB each.
struct Lines {
    file: io::BufReader<File>,
    line: Vec<u8>,
    /// Where the next line begins.
    at: u64,
}

impl Lines {
    const LIMIT: u64 = 128 << 10;

    fn new(file: File) -> Self {
        Self { file: io::BufReader::with_capacity(1 << 20, file), line: Vec::new(), at: 0 }
    }

    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        let n = io::BufRead::read_until(&mut self.file.by_ref().take(Self::LIMIT), b'\n', &mut self.line)?;
        self.at += n as u64;
        Ok(self.line.ends_with(b"\n").then_some(self.line.as_slice()))
    }
}

/// Returns the generations of the segments of a log's folder.
pub(crate) fn generations(dir: &Path) -> Vec<(u64, u64)> {
    let text = fs::read_to_string(dir.join("generations")).unwrap_or_default();
    let row = |line: &str| {
        let (first, generation) = line.split_once(' ')?;
        Some((first.parse().ok()?, generation.parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

/// Returns the generation of a segment.
pub(crate) fn generation(all: &[(u64, u64)], first: u64) -> u64 {
    all.iter().find(|(segment, _)| *segment == first).map(|(_, generation)| *generation).unwrap_or_default()
}

/// Returns where the public keys and `node.json` of a log are looked for: in the home for the own log, beside it for others.
pub(crate) fn vouchers(bus: &Path, origin: &str, is_own: bool) -> Vec<PathBuf> {
    let other = bus.join(ORIGINS).join(origin);
    if !is_own {
        return vec![other];
    }
    let home = bus.parent().map(Path::to_owned).unwrap_or_default();
    vec![bus.to_owned(), home, other]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_cut_after_a_whole_event() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let event = |n: u64| format!("E 0 0 {{\"v\":1,\"o\":\"a\",\"s\":{n},\"b\":1}}\nD 0 0 x\n");
        let text = format!("{}{}{}\n\n\n", event(1), event(2), event(3));
        fs::write(&path, &text).unwrap();
        let len = event(1).len() as u64;
        assert_eq!(end_of(&path, 2).unwrap(), 2 * len);
        assert_eq!(end_of(&path, u64::MAX).unwrap(), 3 * len);
        assert_eq!(end_of(&path, 0).unwrap(), 0);
        fs::write(&path, &text[..text.len() - 5]).unwrap();
        assert_eq!(end_of(&path, u64::MAX).unwrap(), 2 * len, "the last one is not whole");
    }

    #[test]
    fn the_plain_name_of_a_segment_counts() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "00000000000000000009.seg.zst",
            "00000000000000000001.seg",
            "00000000000000000001.seg.zst",
            "7.seg",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let names =
            [(1, "00000000000000000001.seg".to_owned()), (9, "00000000000000000009.seg.zst".to_owned())];
        assert_eq!(segments(dir.path()).unwrap(), names);
    }
}
