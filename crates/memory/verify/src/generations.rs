//! Which segments are being changed: the file `generations` beside them, one line a segment, odd while it is changed.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::folder::open;
use crate::line::decimal;

/// Name of the file.
pub(crate) const NAME: &str = "generations";

/// Most bytes that are read of it: a line has at most 42, and a log has far fewer segments than fit in.
const LIMIT: u64 = 4 << 20;

/// The generations of the segments of one log, read anew each time they are asked for.
#[derive(Debug, Clone)]
pub(crate) struct Generations {
    path: Option<PathBuf>,
}

impl Generations {
    /// Returns those of the log in a folder.
    pub(crate) fn of(dir: &Path) -> Self {
        Self { path: Some(dir.join(NAME)) }
    }

    /// Returns those of a log that nobody changes.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { path: None }
    }

    /// Returns the generation of a segment, 0 where the file does not name it or cannot be understood.
    pub(crate) fn get(&self, first: u64) -> u64 {
        self.read().ok().and_then(|all| all.get(&first).copied()).unwrap_or_default()
    }

    /// Reads the file; an error says what is wrong with it.
    pub(crate) fn read(&self) -> Result<BTreeMap<u64, u64>, String> {
        let Some(path) = &self.path else { return Ok(BTreeMap::new()) };
        let file = match open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(format!("cannot be read: {error}")),
        };
        let mut text = Vec::new();
        file.take(LIMIT + 1).read_to_end(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
        parse(&text)
    }
}

fn parse(text: &[u8]) -> Result<BTreeMap<u64, u64>, String> {
    if text.len() as u64 > LIMIT {
        return Err(format!("is longer than {LIMIT} bytes"));
    }
    let mut all = BTreeMap::new();
    for (i, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let bad =
            || format!("has a line {} that is not <20 digits> <generation>, in order of segments", i + 1);
        let (first, generation) = row(line).ok_or_else(bad)?;
        if all.last_key_value().is_some_and(|(last, _)| *last >= first) {
            return Err(bad());
        }
        all.insert(first, generation);
    }
    Ok(all)
}

fn row(line: &[u8]) -> Option<(u64, u64)> {
    let (first, rest) = line.strip_suffix(b"\n")?.split_at_checked(20)?;
    let first = std::str::from_utf8(first).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    let (generation, rest) = decimal(rest.strip_prefix(b" ")?)?;
    rest.is_empty().then_some(())?;
    Some((first.parse().ok()?, generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_strictly() {
        let good = b"00000000000000000001 4\n00000000000000000071 1\n";
        assert_eq!(parse(good), Ok([(1, 4), (71, 1)].into()));
        assert_eq!(parse(b""), Ok(BTreeMap::new()));
        for bad in [
            &b"00000000000000000001 4"[..],
            b"00000000000000000001 04\n",
            b"0000000000000000001 4\n",
            b"00000000000000000001  4\n",
            b"00000000000000000001 -4\n",
            b"00000000000000000001 4 \n",
            b"+0000000000000000001 4\n",
            b"00000000000000000071 1\n00000000000000000001 4\n",
            b"00000000000000000001 4\n00000000000000000001 4\n",
            b"\n",
            b"\xff",
        ] {
            let found = parse(bad);
            assert!(found.is_err(), "{:?}: {found:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_log_without_the_file_is_at_rest() {
        let dir = tempfile::tempdir().unwrap();
        let generations = Generations::of(dir.path());
        assert_eq!((generations.get(1), generations.read()), (0, Ok(BTreeMap::new())));
        std::fs::write(dir.path().join(NAME), "00000000000000000001 3\n").unwrap();
        assert_eq!((generations.get(1), generations.get(2)), (3, 0));
        std::fs::write(dir.path().join(NAME), "three").unwrap();
        assert_eq!(generations.get(1), 0);
        assert!(generations.read().unwrap_err().contains("line 1"));
    }
}
