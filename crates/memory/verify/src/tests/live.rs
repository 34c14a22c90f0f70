//! Logs that change while they are read.

use std::cell::RefCell;
use std::fs;

use super::{FILL, Home, check, log_of};
use crate::chain::Chain;
use crate::generations::Generations;
use crate::source::ReadAt;
use crate::testlog::Log;
use crate::walk::{Segment, Walk};
use crate::{Options, Severity, Tail, verify};

/// A file that shows each of its states for one read, and the last from then on.
struct Changing(RefCell<Vec<Vec<u8>>>);

impl ReadAt for Changing {
    fn read_at(&self, into: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let mut states = self.0.borrow_mut();
        let start = usize::try_from(offset).unwrap().min(states[0].len());
        let len = into.len().min(states[0].len() - start);
        into[..len].copy_from_slice(&states[0][start..start + len]);
        if len > 0 && states.len() > 1 {
            states.remove(0);
        }
        Ok(len)
    }
}

fn read(log: &Log, next: Option<u64>, states: Vec<Vec<u8>>) -> crate::OriginReport {
    let mut progress = |_: crate::Progress<'_>| {};
    let chain = Chain::new(Some(&log.origin), &Options::default());
    let mut walk = Walk::new(chain, Generations::none(), &mut progress);
    let bytes = Changing(RefCell::new(states));
    let ended = walk.segment(Segment { name: 1, next, from: 0, packed: false }, Box::new(bytes));
    walk.chain.finish(1, ended.tail, |_| true)
}

#[test]
fn a_write_in_progress_is_read_again() {
    let log = log_of(5);
    let whole = [&log.bytes, FILL].concat();
    for cut in log.spans[3].start + 1..log.bytes.len() {
        let mut half = whole.clone();
        half[cut..].fill(b'\n');
        let report = read(&log, None, vec![half, whole.clone()]);
        check(&report, &[]);
        assert_eq!(report.severity(), Severity::Clean, "cut at {cut}");
        assert!(report.head_seq >= 4, "cut at {cut}");
    }
}

#[test]
fn an_erasure_in_progress_is_read_again() {
    let mut log = log_of(5);
    let redaction = log.redaction(&[2]);
    log.write(&[redaction]);
    let before = log.bytes.clone();
    log.erase(2, 6);
    let span = log.spans[1];
    for cut in span.body + 1..span.end {
        let half = [&log.bytes[..cut], &before[cut..]].concat();
        let report = read(&log, Some(7), vec![half, log.bytes.clone()]);
        check(&report, &[]);
        assert_eq!(report.redacted_count, 1);
    }
}

#[test]
fn a_segment_that_begins_while_the_last_is_read_is_followed() {
    let mut log = log_of(2000);
    let redaction = log.redaction(&[3]);
    log.write(&[redaction]);
    let first = log.events(1, 1990);
    let home = Home::new(&log.origin);
    home.segment(1, &[&first, FILL].concat());
    let mut rolled = false;
    let mut other = log.clone();
    other.erase(3, 2001);
    // Before anything is read the log is short; when reading ends it has been sealed, and an event of it erased.
    let report = verify(home.dir.path(), &mut |_| {
        if !rolled {
            rolled = true;
            home.segment(1, &other.events(1, 1995));
            fs::write(home.log.join("generations"), "00000000000000000001 2\n").unwrap();
            home.segment(1996, &[&other.events(1996, 2001), FILL].concat());
        }
    })
    .unwrap();
    assert!(rolled);
    let report = &report.origins[0];
    check(report, &[]);
    assert_eq!((report.head_seq, report.segments, report.tail.clone()), (2001, 2, Tail::Clean));
    assert_eq!(report.events, 2001);
}
