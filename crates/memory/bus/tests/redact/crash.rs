//! A redaction that is cut off at each of its writes: afterwards all of it is done or none, and never is it damage.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use mirror_bus::{BusError, Disk, LogFile, RealDisk};

use crate::{Place, append, append_to, copy, holding, origin, secret, verified};

/// A disk that does so many operations, the last of them by half, and then no more.
#[derive(Debug, Clone)]
struct EndingDisk {
    left: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
}

impl EndingDisk {
    fn new(operations: u64) -> Self {
        Self { left: Arc::new(AtomicU64::new(operations)), done: Arc::default() }
    }

    /// Counts an operation; returns whether it is to be done, and whether by half.
    fn step(&self) -> io::Result<bool> {
        self.done.fetch_add(1, SeqCst);
        match self.left.fetch_update(SeqCst, SeqCst, |n| Some(n.saturating_sub(1))) {
            Ok(0) => Err(io::Error::other("the process has ended")),
            Ok(1) => Ok(true),
            _ => Ok(false),
        }
    }
}

#[derive(Debug)]
struct EndingFile(Box<dyn LogFile>, EndingDisk);

impl LogFile for EndingFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self.1.step()? {
            true => self.0.write_all_at(&bytes[..bytes.len() / 2], offset),
            false => self.0.write_all_at(bytes, offset),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.step()?;
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.step()?;
        self.0.set_len(len)
    }
}

impl Disk for EndingDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(EndingFile(RealDisk.open(path)?, self.clone())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        RealDisk.space(dir)
    }
}

/// Events of three segments, the first of them compressed.
const TARGETS: [u64; 5] = [3, 4, 14, 24, 26];
const EVENTS: u64 = 26;

fn place() -> Place {
    let place = Place::new();
    let engine = place.open();
    for n in 1..=EVENTS {
        assert_eq!(append(&engine, n), Ok(n));
    }
    engine.close();
    place
}

fn compress_first(place: &Place) {
    let engine = place.open();
    assert!(engine.compress().unwrap() >= 1);
    engine.close();
}

/// Cuts a redaction off after so many operations of the disk, starts again, and looks; returns whether it came to its end.
fn check_cut(place: &Place, operations: u64) -> bool {
    let case = format!("cut off after {operations} operations");
    let disk = EndingDisk::new(u64::MAX);
    let (engine, _) = place.open_on(Arc::new(disk.clone()));
    disk.left.store(operations, SeqCst);
    let answer = engine.redact(&TARGETS);
    if answer.is_ok() {
        for seq in TARGETS {
            assert_eq!(engine.redacted_by(seq), Ok(Some(EVENTS + 1)), "{case}: readers see it at once");
        }
    }
    engine.close();
    drop(engine);

    // The next start is cut off too, now and then, and the one after it is not.
    let (again, _) = match operations % 3 {
        0 => {
            let disk = EndingDisk::new(operations / 3 + 2);
            let opened =
                mirror_bus::bench::Engine::open(&place.bus(), &origin(), &crate::config(), Arc::new(disk));
            drop(opened);
            place.open_on(Arc::new(RealDisk))
        }
        _ => place.open_on(Arc::new(RealDisk)),
    };
    assert_eq!(again.damage(), "", "{case}");
    let by: Vec<Option<u64>> = TARGETS.iter().map(|seq| again.redacted_by(*seq).unwrap()).collect();
    let erased = by.iter().flatten().count();
    assert!(erased == 0 || erased == TARGETS.len(), "{case}: all or none: {by:?}");
    assert!(answer.is_err() || erased == TARGETS.len(), "{case}: it was acknowledged: {by:?}");
    for n in 1..=EVENTS {
        let left = again.redacted_by(n).unwrap().is_none();
        assert!(left || TARGETS.contains(&n), "{case}: event {n} was not to be erased");
        assert!(!left || again.get(n).unwrap().1 == secret(n).into_bytes(), "{case}: event {n}");
    }
    let bus = place.bus();
    for seq in TARGETS {
        let found = holding(&bus, &secret(seq));
        assert_eq!(found.is_empty(), erased > 0, "{case}: event {seq} is in {found:?}");
    }
    // Its retry goes on where it was, and appends as before.
    let (redaction, rest) = again.redact(&TARGETS).unwrap();
    assert_eq!(rest.len(), TARGETS.len() - erased, "{case}");
    assert!(again.redacted_by(TARGETS[0]) == Ok(Some(redaction)), "{case}");
    assert_eq!(append(&again, 3), Ok(3), "{case}: the retry of an erased event is a duplicate");
    assert!(append(&again, EVENTS + 1).unwrap() > EVENTS, "{case}");
    again.close();
    assert_eq!(verified(&bus, &case), TARGETS.len() as u64, "{case}");
    answer.is_ok()
}

/// Cuts redactions off at every write, or at one in so many of them where no long run is asked for.
fn check_all(place: &Place, stride: usize) {
    let stride = if std::env::var_os("MIRROR_TEST_ROUNDS").is_some() { 1 } else { stride };
    let saved = place.0.path().join("saved");
    copy(&place.bus(), &saved);
    let mut ended = 0;
    for operations in (0..).step_by(stride) {
        fs::remove_dir_all(place.bus()).unwrap();
        copy(&saved, &place.bus());
        if check_cut(place, operations) {
            ended = operations;
            break;
        }
        assert!(operations < 400, "it never ends");
    }
    assert!(ended > 20, "the redaction has many steps: {ended}");
}

#[test]
fn a_redaction_is_done_or_not_done_wherever_it_is_cut_off() {
    check_all(&place(), 2);
}

#[test]
fn so_is_one_of_compressed_segments() {
    let place = place();
    compress_first(&place);
    check_all(&place, 5);
}

#[test]
fn a_redaction_that_cannot_begin_changes_nothing() {
    let place = place();
    let engine = place.open();
    for (seqs, part) in [(vec![EVENTS + 1], "no event 27"), (vec![5, 5], "positions begin at 1 and rise")] {
        let error = engine.redact(&seqs).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(part) || error.contains("27"), "{error}");
    }
    let own = append_to(&engine, "halt.engaged", None, "1").unwrap();
    let error = engine.redact(&[1, own]).unwrap_err();
    assert!(matches!(&error, BusError::Redaction { why, .. } if why.contains("never erased")), "{error}");
    assert_eq!(engine.redacted_by(1), Ok(None));
    engine.close();
    assert_eq!(verified(&place.bus(), "nothing was erased"), 0);
}

/// What was never acknowledged is kept in the quarantine, and may be the first try of what is erased later.
#[test]
fn the_quarantine_keeps_nothing_that_was_erased() {
    let place = Place::new();
    let engine = place.open();
    append(&engine, 1).unwrap();
    engine.close();
    drop(engine);
    let segment = place.log().join(format!("{:020}.seg", 1));
    let whole = fs::read(&segment).unwrap();
    let engine = place.open();
    append(&engine, 2).unwrap();
    engine.close();
    drop(engine);
    // The same log, as if the process had died before it answered for the second event.
    let mut bytes = fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|b| *b != b'\n').unwrap();
    bytes[end - 20..=end].copy_from_slice(&whole[end - 20..=end]);
    fs::write(&segment, &bytes).unwrap();
    fs::remove_dir_all(place.bus().join("index")).unwrap();
    let (engine, found) = place.open_on(Arc::new(RealDisk));
    assert!(found.contains("torn: Some"), "{found}");
    assert_eq!(holding(&place.bus(), "secret 2").len(), 1, "only the quarantine has it");
    assert_eq!(append(&engine, 2), Ok(3), "after the event about the recovery");
    assert_eq!(holding(&place.bus(), "secret 2").len(), 2);
    engine.redact(&[3]).unwrap();
    assert!(holding(&place.bus(), "secret 2").is_empty(), "a piece of it would be enough");
    assert_eq!(holding(&place.bus(), "\"id\":\"id-2\"").len(), 2, "what stood there is still to be seen");
    engine.close();
    assert_eq!(verified(&place.bus(), "quarantine"), 1);
}

/// Overwrites a payload as a redaction does, without one.
fn forge(place: &Place, seq: u64, by: u64) {
    let path = place.log().join(format!("{:020}.seg", 1));
    let mut bytes = fs::read(&path).unwrap();
    let mut lines = bytes.split_mut(|b| *b == b'\n');
    let line = lines.nth(usize::try_from(seq * 2 - 1).unwrap()).unwrap();
    let len = line.len();
    let mut text = format!("X 00000000 {by:020}").into_bytes();
    text.resize(len, b'.');
    let crc = format!("{:08x}", crc32c::crc32c(&text[11..]));
    text[2..10].copy_from_slice(crc.as_bytes());
    line.copy_from_slice(&text);
    fs::write(&path, bytes).unwrap();
}

#[test]
fn an_erasure_without_a_redaction_is_damage() {
    // By an event that does not exist, one that is no redaction, and a redaction of another event.
    for (by, case) in [(99, "none"), (9, "no redaction"), (11, "of another")] {
        let place = Place::new();
        let engine = place.open();
        for n in 1..=10 {
            append(&engine, n).unwrap();
        }
        assert_eq!(engine.redact(&[2, 4]).unwrap().0, 11);
        engine.close();
        drop(engine);
        forge(&place, 3, by);
        for start in 1..=2 {
            let engine = place.open();
            let damage = engine.damage();
            assert!(damage.contains("event 3 is damaged"), "{case}, start {start}: {damage:?}");
            assert!(damage.contains("erased without a redaction"), "{case}: {damage}");
            assert!(matches!(engine.get(3), Err(BusError::Damaged(_))), "{case}");
            assert_eq!(engine.redacted_by(2), Ok(Some(11)), "{case}: the lawful one is none");
            assert!(matches!(append(&engine, 20), Err(BusError::Damaged(_))), "{case}");
            assert!(matches!(engine.redact(&[5]), Err(BusError::Damaged(_))), "{case}");
            engine.close();
        }
    }
}

/// In a sealed segment, which is not read at the start.
#[test]
fn an_unlawful_erasure_in_an_old_segment_is_met_by_its_reader() {
    let place = place();
    forge(&place, 3, 15);
    let engine = place.open();
    assert_eq!(engine.damage(), "");
    assert!(matches!(engine.get(3), Err(BusError::Damaged(why)) if why.contains("without a redaction")));
    assert!(engine.damage().contains("event 3 is damaged"), "{}", engine.damage());
    assert_eq!(engine.get(4).unwrap().0, "id-4");
}

#[test]
fn a_redaction_that_overlaps_erases_the_rest() {
    let place = place();
    let engine = place.open();
    assert_eq!(engine.redact(&[2, 4]), Ok((27, vec![2, 4])));
    assert_eq!(engine.redact(&[1, 2, 3, 4]), Ok((28, vec![1, 3])));
    assert_eq!(engine.redact(&[1, 2, 3, 4]), Ok((27, vec![])), "the first one that erased any of them");
    let by = |seq| engine.redacted_by(seq).unwrap();
    assert_eq!((by(1), by(2), by(3), by(4)), (Some(28), Some(27), Some(28), Some(27)));
    engine.close();
    drop(engine);
    let engine = place.open();
    assert_eq!(engine.redact(&[4]), Ok((27, vec![])));
    assert_eq!(engine.damage(), "");
    assert_eq!(verified(&place.bus(), "overlap"), 4);
}
