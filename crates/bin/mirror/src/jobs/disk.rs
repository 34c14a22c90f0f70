//! How long the disk lasts: what is free, and how fast the log and the services' logs grow.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mirror_paths::Home;

const DAY_MS: u64 = 86_400_000;

/// How far back growth is looked for.
const WINDOW_MS: u64 = 7 * DAY_MS;

/// Fewer days than this, or less space, and the owner is told.
pub(crate) const DAYS_LOW: u64 = 14;
/// Free bytes below which the owner is told.
pub(crate) const FREE_LOW: u64 = 5 << 30;

/// What a disk has, and what it will have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forecast {
    /// Free bytes for this user.
    pub(crate) free: u64,
    /// Bytes that the home grows in a day.
    pub(crate) per_day: u64,
    /// Days until the disk is full; absent where nothing grows.
    pub(crate) days: Option<u64>,
}

impl Forecast {
    /// Returns whether the owner must be told.
    pub(crate) fn is_low(&self) -> bool {
        self.free < FREE_LOW || self.days.is_some_and(|days| days < DAYS_LOW)
    }

    /// Returns it in words.
    pub(crate) fn in_words(&self) -> String {
        let free = crate::text::bytes(self.free);
        let grows = crate::text::bytes(self.per_day);
        match self.days {
            Some(days) if days < 3_650 => format!("{free} free, {grows} a day: {days} days left"),
            _ => format!("{free} free, {grows} a day: years left"),
        }
    }
}

/// Looks at the disk of a home.
pub(crate) fn look(home: &Home, now_ms: u64) -> io::Result<Forecast> {
    let stat = nix::sys::statvfs::statvfs(home.root())?;
    // The fields are narrower on macOS.
    #[allow(clippy::useless_conversion, clippy::allow_attributes, reason = "the types differ by system")]
    let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
    let mut grown = Vec::new();
    for dir in logs(home)?.into_iter().chain([home.log()]) {
        for entry in listed(&dir)? {
            if let Some(file) = grown_file(&entry, now_ms) {
                grown.push(file);
            }
        }
    }
    Ok(forecast(free, &grown))
}

/// Returns the forecast from files: each one's age in milliseconds since it was last written, and its bytes.
fn forecast(free: u64, files: &[(u64, u64)]) -> Forecast {
    let oldest = files.iter().map(|(age, _)| *age).max().unwrap_or(0);
    // Less than a day says little about one: the first hours of a home are not its rate.
    let window = oldest.clamp(DAY_MS, WINDOW_MS);
    let bytes: u64 = files.iter().filter(|(age, _)| *age <= window).map(|(_, bytes)| bytes).sum();
    let per_day =
        u64::try_from(u128::from(bytes) * u128::from(DAY_MS) / u128::from(window)).unwrap_or(u64::MAX);
    Forecast { free, per_day, days: free.checked_div(per_day) }
}

/// Returns the folders of all logs of a home.
fn logs(home: &Home) -> io::Result<Vec<PathBuf>> {
    Ok(listed(&home.bus().join("log"))?.into_iter().filter(|path| path.is_dir()).collect())
}

fn listed(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Returns the age and size of a file; one that goes away meanwhile is none.
fn grown_file(path: &Path, now_ms: u64) -> Option<(u64, u64)> {
    let meta = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let at = meta.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let age = now_ms.saturating_sub(u64::try_from(at.as_millis()).unwrap_or(u64::MAX));
    let is_segment = path.extension().is_some_and(|e| e == "seg");
    let bytes = if is_segment { used(path).ok()? } else { meta.len() };
    Some((age, bytes))
}

/// Returns the bytes of a segment without the newlines that it is filled with ahead of use.
fn used(path: &Path) -> io::Result<u64> {
    const CHUNK: u64 = 64 << 10;
    let mut file = File::open(path)?;
    let mut end = file.metadata()?.len();
    let mut chunk = Vec::new();
    while end > 0 {
        let from = end.saturating_sub(CHUNK);
        file.seek(SeekFrom::Start(from))?;
        chunk.clear();
        file.by_ref().take(end - from).read_to_end(&mut chunk)?;
        if let Some(at) = chunk.iter().rposition(|b| *b != b'\n') {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn growth_is_that_of_a_week_or_of_what_there_is() {
        let check = |files: &[(u64, u64)], per_day: u64, days: Option<u64>| {
            let forecast = forecast(100 * GIB, files);
            assert_eq!((forecast.per_day, forecast.days), (per_day, days), "{files:?}");
        };
        check(&[], 0, None);
        check(&[(0, GIB)], GIB, Some(100));
        check(&[(2 * DAY_MS, GIB), (0, 3 * GIB)], 2 * GIB, Some(50));
        check(&[(30 * DAY_MS, 900 * GIB), (DAY_MS, 7 * GIB)], GIB, Some(100));
    }

    #[test]
    fn little_space_or_few_days_are_low() {
        let at = |free: u64, per_day: u64| forecast(free, &[(0, per_day)]);
        assert!(!at(100 * GIB, GIB).is_low());
        assert!(at(13 * GIB, GIB).is_low());
        assert!(at(4 * GIB, 0).is_low());
        assert_eq!(at(13 * GIB, GIB).in_words(), "13.0 GiB free, 1.0 GiB a day: 13 days left");
        assert!(at(100 * GIB, 1).in_words().ends_with("years left"));
    }

    #[test]
    fn what_a_segment_is_filled_with_is_no_growth() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        let log = home.bus().join("log/x.1");
        fs::create_dir_all(&log).unwrap();
        fs::write(log.join("1.seg"), format!("E line\n{}", "\n".repeat(200_000))).unwrap();
        fs::write(log.join("2.seg"), "\n".repeat(100)).unwrap();
        fs::write(home.log().join("bus.log"), "12345").unwrap();
        let now = fs::metadata(log.join("1.seg")).unwrap().modified().unwrap();
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let forecast = look(&home, u64::try_from(now).unwrap()).unwrap();
        assert_eq!(forecast.per_day, 6 + 5);
        assert!(forecast.free > 0);
    }
}
