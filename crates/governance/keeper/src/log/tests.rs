//! The log under a knife: every byte changed, every line cut, dropped, doubled and swapped.

use super::*;
use std::fs;

struct Place {
    temp: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("keeper.log");
    fs::create_dir(temp.path().join("quarantine")).unwrap();
    Place { temp, path }
}

impl Place {
    fn open(&self) -> Result<(Log, Option<Torn>, Vec<Record>), LogError> {
        let mut records = Vec::new();
        let (log, torn) =
            Log::open(&self.path, &self.temp.path().join("quarantine"), 9, |r| records.push(r.clone()))?;
        Ok((log, torn, records))
    }

    fn with(records: u64) -> Self {
        let place = place();
        let (mut log, ..) = place.open().unwrap();
        for n in 0..records {
            log.append(sample(n)).unwrap();
        }
        place
    }
}

fn sample(n: u64) -> Entry {
    Entry {
        key: "0123456789abcdef".into(),
        digest: hex(&sha256(&n.to_le_bytes())),
        size: n.is_multiple_of(2).then_some(n),
        ..entry(1_000 + n, Act::Sign, "svc:witness", "checkpoint")
    }
}

#[test]
fn records_come_back_as_they_were_written() {
    let place = Place::with(5);
    let (mut log, torn, records) = place.open().unwrap();
    assert_eq!((log.head(), torn), (5, None));
    for (n, record) in (0..).zip(&records) {
        assert_eq!((record.number, &record.entry), (n + 1, &sample(n)));
    }
    let sixth = log.append(sample(5)).unwrap();
    assert_eq!(log.list(0, 256).unwrap(), [records, vec![sixth]].concat());
    assert_eq!(log.list(7, 256).unwrap(), []);
}

#[test]
fn every_changed_bit_of_a_log_is_noticed() {
    let place = Place::with(3);
    let good = fs::read(&place.path).unwrap();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            fs::write(&place.path, &bad).unwrap();
            match place.open() {
                Err(LogError::Broken { line, .. }) => {
                    let expected = 1 + good[..at].iter().filter(|b| **b == b'\n').count() as u64;
                    assert_eq!(line, expected, "byte {at} bit {bit}");
                }
                // The end of the last line is all that tells a whole line from a torn one.
                Ok((_, Some(torn), records)) => {
                    assert_eq!((at, records.len()), (good.len() - 1, 2), "bit {bit}");
                    assert!(fs::read(torn.aside).unwrap().len() > 100);
                }
                other => panic!("byte {at} bit {bit}: {other:?}"),
            }
        }
    }
}

#[test]
fn lines_that_are_dropped_doubled_or_swapped_are_noticed() {
    let place = Place::with(4);
    let text = fs::read_to_string(&place.path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let broken = |lines: &[&str], what: &str| {
        fs::write(&place.path, lines.concat()).unwrap();
        assert!(matches!(place.open(), Err(LogError::Broken { .. })), "{what}");
    };
    broken(&[lines[1], lines[2], lines[3]], "the first is gone");
    broken(&[lines[0], lines[2], lines[3]], "one is gone");
    broken(&[lines[0], lines[1], lines[1], lines[2]], "one is doubled");
    broken(&[lines[0], lines[2], lines[1], lines[3]], "two are swapped");
    broken(&[lines[0], "\n", lines[1]], "an empty line");
    let other = Place::with(1);
    let (mut log, ..) = other.open().unwrap();
    log.append(sample(77)).unwrap();
    log.append(sample(2)).unwrap();
    let theirs = fs::read_to_string(&other.path).unwrap();
    let theirs: Vec<&str> = theirs.split_inclusive('\n').collect();
    broken(&[lines[0], lines[1], theirs[2]], "a line of another log");
}

#[test]
fn a_torn_line_is_set_aside_wherever_it_was_cut() {
    let place = Place::with(2);
    let good = fs::read(&place.path).unwrap();
    let second = good.iter().position(|b| *b == b'\n').unwrap() + 1;
    for cut in second + 1..good.len() {
        fs::write(&place.path, &good[..cut]).unwrap();
        let (mut log, torn, records) = place.open().unwrap();
        assert_eq!((log.head(), records.len()), (1, 1), "cut at {cut}");
        assert_eq!(fs::read(torn.unwrap().aside).unwrap(), &good[second..cut]);
        assert_eq!(fs::metadata(&place.path).unwrap().len(), second as u64);
        log.append(sample(1)).unwrap();
        assert_eq!(fs::read(&place.path).unwrap(), good, "it goes on where it was");
    }
}

#[test]
fn a_page_begins_anywhere() {
    let place = Place::with(2 * STRIDE + 10);
    let (log, ..) = place.open().unwrap();
    for from in [0, 1, 2, STRIDE, STRIDE + 1, 2 * STRIDE + 1, 2 * STRIDE + 10] {
        let page = log.list(from, 3).unwrap();
        let first = from.max(1);
        let expected: Vec<u64> = (first..first + 3).filter(|n| *n <= log.head()).collect();
        assert_eq!(page.iter().map(|r| r.number).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_record_that_is_too_long_is_refused_and_leaves_no_trace() {
    let place = Place::with(1);
    let before = fs::read(&place.path).unwrap();
    let (mut log, ..) = place.open().unwrap();
    assert!(log.append(entry(1, Act::Refuse, &"x".repeat(LINE), "")).is_err());
    assert_eq!(fs::read(&place.path).unwrap(), before);
    assert!(!log.is_poisoned());
    fs::write(&place.path, [before, vec![b'x'; 2 * LINE]].concat()).unwrap();
    assert!(matches!(place.open(), Err(LogError::Broken { line: 2, .. })));
}
