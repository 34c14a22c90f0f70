//! Generations of segments: what tells a reader that bytes it has seen were changed, or are being changed.
//!
//! Events are never changed, but segments are: a payload is erased, damage is repaired, a file is replaced by its compressed
//! form. Invariant: before such a change begins, an odd number is durable; an even one is, after the change is.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use crate::disk::{Disk, replace};

/// Name of the file in the folder of a log.
const NAME: &str = "generations";

/// Name under which a new file is made, and one to which a malformed file is moved.
const TEMP: &str = "generations.tmp";
const ASIDE: &str = "generations.bad";

/// Largest file that is read: more than half a million segments.
const LIMIT: u64 = 16 << 20;

#[derive(Debug, Default)]
struct State {
    numbers: BTreeMap<u64, u64>,
    /// Who changes a segment now, and which.
    holder: Option<(ThreadId, u64)>,
}

/// The generations of the segments of one log.
#[derive(Debug)]
pub(crate) struct Generations {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
    changed: Condvar,
    /// Grows at the beginning and at the end of every change of any segment.
    version: AtomicU64,
    suspect: bool,
}

impl Generations {
    /// Reads the generations of a log's folder; a malformed file is set aside.
    pub(crate) fn open(dir: &Path, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let path = dir.join(NAME);
        let _ = fs::remove_file(dir.join(TEMP));
        let read = match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Some(Vec::new()),
            Err(e) => return Err(e),
            Ok(meta) if meta.len() > LIMIT => None,
            Ok(_) => Some(fs::read(&path)?),
        };
        let numbers = read.and_then(|bytes| parse(&bytes));
        let suspect = numbers.is_none();
        if suspect {
            tracing::warn!(file = %path.display(), "malformed, set aside; all segments are looked at");
            disk.rename(&path, &dir.join(ASIDE))?;
            disk.sync_dir(dir)?;
        }
        let state = State { numbers: numbers.unwrap_or_default(), holder: None };
        let (state, changed, version) = (Mutex::new(state), Condvar::new(), AtomicU64::new(0));
        Ok(Self { dir: dir.to_owned(), disk, state, changed, version, suspect })
    }

    /// Returns the generations of a folder in which nothing is changed.
    pub(crate) fn none(dir: &Path) -> Self {
        let (disk, state) = (Arc::new(crate::disk::RealDisk), Mutex::default());
        let (changed, version) = (Condvar::new(), AtomicU64::new(0));
        Self { dir: dir.to_owned(), disk, state, changed, version, suspect: false }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the generation of a segment: even at rest, odd while it is changed.
    pub(crate) fn get(&self, first: u64) -> u64 {
        self.lock().numbers.get(&first).copied().unwrap_or(0)
    }

    /// Returns a number that is another one once anything was changed: what was read ahead before is stale then.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Returns the generation of a segment at rest, waiting for the end of a change; nothing when it does not end in time.
    pub(crate) fn steady(&self, first: u64, limit: Duration) -> Option<u64> {
        let number = |state: &State| state.numbers.get(&first).copied().unwrap_or(0);
        let waited = self.changed.wait_timeout_while(self.lock(), limit, |s| number(s) % 2 == 1);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Some(number(&state)).filter(|n| n.is_multiple_of(2))
    }

    /// Returns whether any segment may have been under change when the log was left.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Returns the segments whose change did not end.
    pub(crate) fn unfinished(&self) -> Vec<u64> {
        self.lock().numbers.iter().filter(|(_, n)| *n % 2 == 1).map(|(first, _)| *first).collect()
    }

    /// Changes a segment: odd, run, even. After an error it stays odd.
    ///
    /// One change at a time; a change of the same segment within a change is a part of it.
    pub(crate) fn change<T>(&self, first: u64, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.hold(first, None, run)?.ok_or_else(|| io::Error::other("the segment was changed meanwhile"))
    }

    /// As [`Self::change`], but runs nothing when the generation is no longer `seen`.
    pub(crate) fn change_from<T>(
        &self,
        first: u64,
        seen: u64,
        run: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        self.hold(first, Some(seen), run)
    }

    fn hold<T>(
        &self,
        first: u64,
        seen: Option<u64>,
        run: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        let me = std::thread::current().id();
        {
            let mut state = self.lock();
            if let Some((holder, segment)) = state.holder
                && holder == me
            {
                drop(state);
                return match segment == first {
                    true => run().map(Some),
                    false => Err(io::Error::other("another segment is being changed by this thread")),
                };
            }
            while state.holder.is_some() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if seen.is_some_and(|seen| state.numbers.get(&first).copied().unwrap_or(0) != seen) {
                return Ok(None);
            }
            state.holder = Some((me, first));
        }
        // Let go however `run` ends.
        let held = Held(self);
        let number = self.get(first);
        let odd = number + if number.is_multiple_of(2) { 1 } else { 2 };
        self.put(first, odd)?;
        let result = run()?;
        self.put(first, odd + 1)?;
        drop(held);
        Ok(Some(result))
    }

    /// Ends a change that a process before this one left, once what it was about is finished or undone.
    pub(crate) fn finish(&self, first: u64) -> io::Result<()> {
        match self.get(first) {
            number if number.is_multiple_of(2) => Ok(()),
            number => self.put(first, number + 1),
        }
    }

    /// Makes a generation durable. An odd number shows before, an even one after.
    fn put(&self, first: u64, number: u64) -> io::Result<()> {
        let mut numbers = self.lock().numbers.clone();
        numbers.insert(first, number);
        if !number.is_multiple_of(2) {
            self.show(first, number);
        }
        let text = render(&numbers);
        replace(self.disk.as_ref(), &self.dir.join(NAME), text.as_bytes())?;
        self.show(first, number);
        Ok(())
    }

    fn show(&self, first: u64, number: u64) {
        self.lock().numbers.insert(first, number);
        self.version.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_all();
    }
}

/// A change under way.
struct Held<'a>(&'a Generations);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.lock().holder = None;
        self.0.changed.notify_all();
    }
}

fn render(numbers: &BTreeMap<u64, u64>) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(numbers.len() * 24);
    for (first, number) in numbers {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{first:020} {number}");
    }
    text
}

/// Reads the file strictly: the bytes that [`render`] writes, and no others.
fn parse(bytes: &[u8]) -> Option<BTreeMap<u64, u64>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut numbers = BTreeMap::new();
    for line in text.split_terminator('\n') {
        let (first, number) = line.split_once(' ')?;
        numbers.insert(first.parse().ok()?, number.parse().ok()?);
    }
    let fits = numbers.values().all(|n| *n < u64::MAX / 2);
    (fits && render(&numbers) == text).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use proptest::prelude::{ProptestConfig, any, prop, proptest};

    fn open(dir: &Path) -> Generations {
        Generations::open(dir, Arc::new(RealDisk)).unwrap()
    }

    fn stored(dir: &Path) -> String {
        fs::read_to_string(dir.join(NAME)).unwrap_or_default()
    }

    #[test]
    fn a_change_is_odd_while_it_runs_and_even_after() {
        let temp = tempfile::tempdir().unwrap();
        let generations = open(temp.path());
        assert_eq!((generations.get(7), stored(temp.path())), (0, String::new()));
        let inner = generations.change(7, || {
            assert_eq!(generations.get(7), 1);
            assert_eq!(stored(temp.path()), "00000000000000000007 1\n", "readers elsewhere see it too");
            generations.change(7, || Ok(generations.get(7)))
        });
        assert_eq!(inner.unwrap(), 1, "a change within a change is a part of it");
        generations.change(3, || Ok(())).unwrap();
        assert_eq!(stored(temp.path()), "00000000000000000003 2\n00000000000000000007 2\n");
        assert_eq!(generations.change_from(7, 0, || Ok(())).unwrap(), None, "it was changed since");
        assert_eq!(generations.change_from(7, 2, || Ok(5)).unwrap(), Some(5));
        assert_eq!((open(temp.path()).get(7), open(temp.path()).unfinished()), (4, vec![]));
        generations.change(7, || generations.change(8, || Ok(()))).unwrap_err();
    }

    #[test]
    fn a_change_that_fails_stays_odd_until_it_is_finished() {
        let temp = tempfile::tempdir().unwrap();
        let generations = open(temp.path());
        generations.change(7, || Err::<(), _>(io::Error::other("no"))).unwrap_err();
        assert_eq!(generations.steady(7, Duration::ZERO), None);
        let again = open(temp.path());
        assert_eq!((again.get(7), again.unfinished()), (1, vec![7]));
        again.finish(7).unwrap();
        again.finish(7).unwrap();
        assert_eq!((again.steady(7, Duration::ZERO), again.unfinished()), (Some(2), vec![]));
        generations.change(7, || Ok(())).unwrap();
        assert_eq!(generations.get(7), 4, "a change after a failed one is a new one");
    }

    #[test]
    fn changes_wait_for_each_other() {
        let temp = tempfile::tempdir().unwrap();
        let generations = Arc::new(open(temp.path()));
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let generations = Arc::clone(&generations);
                std::thread::spawn(move || {
                    for _ in 0..5 {
                        let alone = generations.change(n % 2, || Ok(generations.unfinished() == [n % 2]));
                        assert!(alone.unwrap());
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!((generations.get(0), generations.get(1)), (20, 20));
    }

    #[test]
    fn a_malformed_file_is_set_aside() {
        let cases = [
            "7 2\n",
            "00000000000000000007 2",
            "00000000000000000007 02\n",
            "00000000000000000007  2\n",
            "00000000000000000008 2\n00000000000000000007 2\n",
            "00000000000000000007 2\n00000000000000000007 2\n",
            "00000000000000000007 -2\n",
            "00000000000000000007 18446744073709551615\n",
            "\n",
            "\u{0}",
        ];
        for text in cases {
            let temp = tempfile::tempdir().unwrap();
            fs::write(temp.path().join(NAME), text).unwrap();
            let generations = open(temp.path());
            assert!(generations.is_suspect(), "{text:?}");
            assert_eq!(fs::read_to_string(temp.path().join(ASIDE)).unwrap(), text);
            assert!(!open(temp.path()).is_suspect(), "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn what_is_written_is_read(pairs in prop::collection::btree_map(any::<u64>(), 0..u64::MAX / 2, 0..20)) {
            assert_eq!(parse(render(&pairs).as_bytes()), Some(pairs));
        }
    }
}
