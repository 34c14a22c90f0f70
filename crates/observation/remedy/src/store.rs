//! The journal on disk: JSON lines, of which an intent is durable before the act.
//!
//! What it refuses is to go on after a line that may be half written: then the whole file is written again.
//! Invariant: a line that cannot be read is set aside with its file, and every other line is kept.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::remedy::{Ledger, Line, Now};

/// Format of the journal.
pub(crate) const FORMAT: u32 = 1;

/// Size from which the journal is written anew with what the ledger still holds.
const COMPACT_BYTES: u64 = 1 << 20;

/// Where the journal lies.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    /// Whether the file may lack lines or end in half of one.
    doubtful: bool,
}

impl Store {
    /// Returns the journal in a folder, and the ledger that its lines give.
    pub(crate) fn open(dir: &Path, now: Now) -> (Self, Ledger) {
        let mut store = Self { path: dir.join("journal"), doubtful: true };
        let mut ledger = Ledger::default();
        let text = match fs::read(&store.path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (store, ledger),
            Err(error) => {
                store.set_aside(&error.to_string());
                return (store, ledger);
            }
        };
        let mut bad = None;
        for (number, text) in (1..).zip(text.split_terminator('\n')) {
            match serde_json::from_str(text) {
                Ok(Line::Journal(format)) if format != FORMAT => {
                    store.set_aside(&format!("format {format} and not {FORMAT}"));
                    return (store, Ledger::default());
                }
                Ok(line) => ledger.apply(line, now),
                Err(error) => bad = Some(format!("line {number}: {error}")),
            }
        }
        match bad {
            Some(why) => store.set_aside(&why),
            None => store.doubtful = !text.ends_with('\n'),
        }
        (store, ledger)
    }

    /// Returns whether the next line must come with all others.
    pub(crate) fn wants_all(&self) -> bool {
        self.doubtful || fs::metadata(&self.path).map_or(true, |meta| meta.len() > COMPACT_BYTES)
    }

    /// Has the next line come with all others.
    pub(crate) fn doubt(&mut self) {
        self.doubtful = true;
    }

    /// Adds a line; an intent is on the disk when this returns.
    pub(crate) fn append(&mut self, line: &Line) -> io::Result<()> {
        let done = self.try_append(line);
        self.doubtful |= done.is_err();
        done
    }

    fn try_append(&self, line: &Line) -> io::Result<()> {
        // Opened each time, so that a line never goes into a file that was moved away.
        let mut file = fs::OpenOptions::new().append(true).mode(0o600).open(&self.path)?;
        file.write_all(text(line)?.as_bytes())?;
        let is_act = match line {
            Line::Began(_) => true,
            Line::Ended(action) => action.outcome.is_done(),
            _ => false,
        };
        // What may be asked again without harm need not survive a power cut.
        if is_act { file.sync_data() } else { Ok(()) }
    }

    /// Replaces the journal by these lines.
    pub(crate) fn write(&mut self, lines: &[Line]) -> io::Result<()> {
        let all = lines.iter().map(text).collect::<io::Result<String>>()?;
        mirror_paths::write_atomic(&self.path, all.as_bytes())?;
        self.doubtful = false;
        Ok(())
    }

    fn set_aside(&self, why: &str) {
        tracing::warn!(why, path = %self.path.display(), "the journal is set aside and written anew");
        // Whether it moves or not: the next line replaces it.
        let _ = fs::rename(&self.path, self.path.with_extension("bad"));
    }
}

fn text(line: &Line) -> io::Result<String> {
    Ok(serde_json::to_string(line)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Remedy;
    use crate::remedy::{Action, Ask, Outcome};

    const NOW: Now = Now { wall_ms: 10_000, at: 5_000 };

    fn action(id: &str) -> Action {
        let ask = Ask {
            id: id.to_owned(),
            remedy: Remedy::Start,
            target: "bus".to_owned(),
            cause: "down".to_owned(),
        };
        ask.action("local", 9_000)
    }

    fn fixture() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let (mut store, ledger) = Store::open(temp.path(), NOW);
        assert_eq!(ledger, Ledger::default());
        assert!(store.wants_all(), "a new journal begins with its format");
        store.write(&[Line::Journal(FORMAT), Line::Began(action("a"))]).unwrap();
        assert!(!store.wants_all());
        store.append(&Line::Ended(action("a").ended(Outcome::Healed, String::new(), 9_500))).unwrap();
        store.append(&Line::Began(action("b"))).unwrap();
        let path = temp.path().join("journal");
        (temp, path)
    }

    #[test]
    fn what_is_written_is_read() {
        let (temp, _) = fixture();
        let (store, ledger) = Store::open(temp.path(), NOW);
        assert!(!store.wants_all());
        assert_eq!(ledger.find("a").unwrap().outcome, Outcome::Healed);
        assert_eq!(ledger.running(), [action("b")]);
    }

    #[test]
    fn a_torn_line_is_set_aside_and_the_others_kept() {
        let (temp, path) = fixture();
        let good = fs::read_to_string(&path).unwrap();
        for (bad, kept) in [
            (good[..good.len() - 9].to_owned(), 0),
            (good.replace("\"start\"", "\"pray\""), 0),
            (format!("{good}{{\"ended\""), 1),
            (format!("\u{0}\n{good}"), 1),
        ] {
            fs::write(&path, &bad).unwrap();
            let (mut store, ledger) = Store::open(temp.path(), NOW);
            assert_eq!(fs::read_to_string(path.with_extension("bad")).unwrap(), bad);
            assert_eq!(ledger.running().len(), kept, "{bad}");
            assert!(store.wants_all());
            store.write(&ledger.lines()).unwrap();
            assert_eq!(Store::open(temp.path(), NOW).1, ledger);
        }
    }

    #[test]
    fn a_journal_of_another_format_is_not_read() {
        let (temp, path) = fixture();
        let newer = fs::read_to_string(&path).unwrap().replace("\"journal\":1", "\"journal\":2");
        fs::write(&path, &newer).unwrap();
        let (_, ledger) = Store::open(temp.path(), NOW);
        assert_eq!(ledger, Ledger::default());
        assert_eq!(fs::read_to_string(path.with_extension("bad")).unwrap(), newer);
    }

    #[test]
    fn after_a_failure_the_next_line_comes_with_all_others() {
        let (temp, path) = fixture();
        let (mut store, ledger) = Store::open(temp.path(), NOW);
        fs::rename(&path, temp.path().join("elsewhere")).unwrap();
        assert!(store.append(&Line::Began(action("c"))).is_err());
        assert!(store.wants_all());
        store.write(&ledger.lines()).unwrap();
        assert_eq!(Store::open(temp.path(), NOW).1, ledger);
    }
}
