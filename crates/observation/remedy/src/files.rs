//! What remedies do to files: logs set aside, folders made again, a dead socket removed.
//!
//! It never removes but three things: the log generations beyond the third, which every service's own rotation drops as
//! well; a copy that it did not finish; and a socket, which holds nothing. It touches only names of the catalogue.
//! Invariant: a log file that a living process rotates itself is left to it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use mirror_paths::{Home, PathError, private_dir};

/// Size from which a log file is set aside; that of the services' own rotation.
pub(crate) const ROTATE_BYTES: u64 = 10 << 20;
/// Generations that are kept of each.
const KEPT: u32 = 3;
/// Free space that a copy leaves.
const RESERVE_BYTES: u64 = 64 << 20;

/// A log file to be set aside, or one with too many generations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    path: PathBuf,
    /// Bytes to be set aside; 0 when only generations are too many.
    bytes: u64,
    /// Whether a process may hold the file open, so that it can only be copied and then emptied.
    is_held: bool,
}

/// Returns the log files of these agents that want setting aside; `lives` says whether an agent has a process.
pub(crate) fn grown(home: &Home, agents: &[String], lives: impl Fn(&str) -> bool) -> Vec<Log> {
    let mut logs = Vec::new();
    for agent in agents {
        for (suffix, is_held) in [("log", false), ("err", true)] {
            let path = home.log().join(format!("{agent}.{suffix}"));
            let bytes = fs::metadata(&path).map_or(0, |meta| meta.len());
            // A living process sets its own log aside; a file renamed under it would never be set aside again.
            let is_ours = is_held || !lives(agent);
            let bytes = if bytes > ROTATE_BYTES && is_ours { bytes } else { 0 };
            if bytes > 0 || (is_ours && !surplus(&path).is_empty()) {
                logs.push(Log { path, bytes, is_held });
            }
        }
    }
    logs
}

/// Returns why there is no room to set these aside, if so.
pub(crate) fn lacks_room(home: &Home, logs: &[Log]) -> Option<String> {
    let largest = logs.iter().filter(|log| log.is_held).map(|log| log.bytes).max().unwrap_or_default();
    let free = free_bytes(&home.log()).ok()?;
    (largest > 0 && largest.saturating_add(RESERVE_BYTES) > free).then(|| {
        format!(
            "a log file of {} MiB can only be copied aside, and the disk has {} MiB left; trash is on the same disk, \
             so free space as docs/runbooks/disk-full.md says",
            largest >> 20,
            free >> 20
        )
    })
}

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(dir)?;
    #[expect(clippy::useless_conversion, reason = "the types differ between systems")]
    let (blocks, size) = (u64::from(stat.blocks_available()), u64::from(stat.fragment_size()));
    Ok(blocks.saturating_mul(size))
}

/// Sets log files aside; returns how many bytes.
pub(crate) fn rotate(logs: &[Log]) -> io::Result<u64> {
    for log in logs {
        for path in surplus(&log.path) {
            fs::remove_file(path)?;
        }
        if log.bytes > 0 {
            set_aside(log)?;
        }
    }
    Ok(logs.iter().map(|log| log.bytes).sum())
}

fn set_aside(log: &Log) -> io::Result<()> {
    let first = generation(&log.path, 1);
    let whole = if log.is_held { copy(&log.path)? } else { log.path.clone() };
    for n in (1..KEPT).rev() {
        match fs::rename(generation(&log.path, n), generation(&log.path, n + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(whole, first)?;
    if log.is_held {
        // Whoever holds the file appends to it, and goes on at its new end.
        OpenOptions::new().write(true).open(&log.path)?.set_len(0)?;
    }
    Ok(())
}

/// Copies a file beside itself, durably; a copy that fails is removed.
fn copy(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.to_owned().into_os_string();
    name.push(".part");
    let part = PathBuf::from(name);
    let copied = || -> io::Result<()> {
        let mut from = File::open(path)?;
        let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()
    };
    match copied() {
        Ok(()) => Ok(part),
        Err(error) => {
            let _ = fs::remove_file(&part);
            Err(error)
        }
    }
}

fn generation(path: &Path, n: u32) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

/// Returns the generations of a log file beyond those that are kept.
fn surplus(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let is_surplus = |entry: &fs::DirEntry| {
        let found = entry.file_name();
        let number =
            found.to_str().and_then(|f| f.strip_prefix(name)?.strip_prefix('.')?.parse::<u32>().ok());
        number.is_some_and(|n| n > KEPT)
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(is_surplus).map(|entry| entry.path()).collect()
}

/// Returns the folders of the home that may be made again when they are missing.
///
/// A missing log, key, blob or halt folder is none of these: an empty one in its place would hide the loss.
fn passing_folders(home: &Home) -> Vec<PathBuf> {
    vec![
        home.run(),
        home.fleet(),
        home.desired(),
        home.state_root(),
        home.agents(),
        home.bin(),
        home.log(),
        home.trash(),
        home.quarantine(),
    ]
}

/// Returns the folders that are missing and may be made again.
pub(crate) fn missing_folders(home: &Home) -> Vec<PathBuf> {
    passing_folders(home).into_iter().filter(|dir| !dir.is_dir()).collect()
}

/// Makes folders again, private.
pub(crate) fn make_folders(folders: &[PathBuf]) -> Result<(), PathError> {
    folders.iter().try_for_each(|dir| private_dir(dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    const BIG: u64 = ROTATE_BYTES + 1;

    fn home() -> (tempfile::TempDir, Home) {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        (temp, home)
    }

    /// Makes a sparse file that begins with a word.
    fn file(home: &Home, name: &str, word: &str, bytes: u64) -> PathBuf {
        let path = home.log().join(name);
        fs::write(&path, word).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    fn word(path: &Path) -> String {
        let bytes = fs::read(path).unwrap();
        String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap()).into_owned()
    }

    fn apple() -> Vec<String> {
        vec!["apple".to_owned()]
    }

    #[test]
    fn only_grown_files_that_no_process_rotates_are_set_aside() {
        let (_temp, home) = home();
        file(&home, "apple.log", "a", BIG);
        file(&home, "apple.err", "b", BIG);
        file(&home, "pear.err", "c", BIG);
        file(&home, "stranger.log.4", "d", 1);
        let names = |lives: bool| {
            let logs = grown(&home, &apple(), |_| lives);
            logs.iter().map(|l| l.path.file_name().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(true), ["apple.err"]);
        assert_eq!(names(false), ["apple.log", "apple.err"]);
        file(&home, "apple.err", "b", ROTATE_BYTES);
        assert!(names(true).is_empty(), "it is not above the size");
    }

    #[test]
    fn three_generations_are_kept_and_nothing_else_is_touched() {
        let (_temp, home) = home();
        for n in 1..=5 {
            file(&home, &format!("apple.log.{n}"), &format!("old {n}"), 10);
        }
        let log = file(&home, "apple.log", "newest", BIG);
        let other = file(&home, "apple.log.txt", "kept", 4);
        let logs = grown(&home, &apple(), |_| false);
        assert_eq!(rotate(&logs).unwrap(), BIG);
        assert!(!log.exists());
        assert_eq!([1, 2, 3].map(|n| word(&generation(&log, n))), ["newest", "old 1", "old 2"]);
        assert!(!generation(&log, 4).exists() && !generation(&log, 5).exists());
        assert_eq!(word(&other), "kept");
        assert!(grown(&home, &apple(), |_| false).is_empty());
        assert_eq!(rotate(&[]).unwrap(), 0);
    }

    #[test]
    fn a_file_that_is_held_open_is_copied_and_its_holder_goes_on_in_it() {
        let (_temp, home) = home();
        let path = file(&home, "apple.err", "before", BIG);
        let mut holder = OpenOptions::new().append(true).open(&path).unwrap();
        rotate(&grown(&home, &apple(), |_| true)).unwrap();
        holder.write_all(b"after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        let aside = generation(&path, 1);
        assert_eq!((word(&aside).as_str(), fs::metadata(&aside).unwrap().len()), ("before", BIG));
        assert!(!path.with_extension("err.part").exists());
    }

    #[test]
    fn a_copy_without_room_is_not_begun() {
        let (_temp, home) = home();
        let huge = Log { path: home.log().join("apple.err"), bytes: u64::MAX, is_held: true };
        let why = lacks_room(&home, std::slice::from_ref(&huge)).unwrap();
        assert!(why.contains("disk-full.md"), "{why}");
        assert_eq!(lacks_room(&home, &[Log { is_held: false, ..huge }]), None, "a rename needs no room");
        assert_eq!(lacks_room(&home, &[]), None);
    }

    #[test]
    fn passing_folders_are_made_again_and_the_log_of_the_bus_is_not() {
        let (_temp, home) = home();
        assert!(missing_folders(&home).is_empty());
        fs::remove_dir_all(home.run()).unwrap();
        fs::remove_dir_all(home.bus()).unwrap();
        let missing = missing_folders(&home);
        assert_eq!(missing, [home.run(), home.fleet()]);
        make_folders(&missing).unwrap();
        assert_eq!(fs::metadata(home.fleet()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(!home.bus().exists(), "an empty log would hide the loss of the old one");
        make_folders(&missing).unwrap();
        fs::set_permissions(home.run(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(make_folders(&missing).unwrap_err().to_string().contains("chmod 700"));
    }
}
