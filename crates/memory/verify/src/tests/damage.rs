//! Whole events deleted, moved, cut, spliced, replaced: what is reported, and for which events.

use super::{FILL, check, draft, log_of, many, one};
use crate::FindingKind::{
    BadBatch, BadCrc, BadHeader, BadLength, BadLine, ContentAfterEnd, DuplicateId, ForeignOrigin,
    HlcNotRising, MissingSegment, PayloadDigest, PayloadMissing, RedactionUnproven, SegmentName, SeqJump,
    WrongPrev,
};
use crate::testlog::{Draft, Log, data_line, event_line, salt};
use crate::{Severity, Tail};

#[test]
fn deleted_events_are_named() {
    let log = log_of(20);
    let report = one(&[log.events(1, 6), log.events(10, 20)].concat());
    check(&report, &[(SeqJump, 7, 9)]);
    assert_eq!((report.events, report.head_seq, report.root_hex), (17, 20, None));
    assert!(report.findings[0].to_string().starts_with("events 7 to 9: "), "{}", report.findings[0]);
    check(&one(&log.events(3, 20)), &[(SegmentName, 3, 3), (SeqJump, 1, 2)]);
}

#[test]
fn reordered_and_repeated_events_are_named() {
    let log = log_of(8);
    let reordered = [log.events(1, 2), log.events(4, 4), log.events(3, 3), log.events(5, 8)].concat();
    check(&one(&reordered), &[(SeqJump, 3, 3), (SeqJump, 3, 3)]);
    check(&one(&[log.events(1, 5), log.events(2, 4), log.events(6, 8)].concat()), &[(SeqJump, 2, 4)]);
}

#[test]
fn a_spliced_event_breaks_the_chain() {
    let log = log_of(8);
    let mut other = log_of(4);
    other.write(&[Draft::new("note.added", "json", "\"forged\"")]);
    let spliced = [log.events(1, 4), other.events(5, 5), log.events(6, 8)].concat();
    // The other log stored its fifth event in another write, so the sixth contradicts that too.
    check(&one(&spliced), &[(WrongPrev, 6, 6), (BadBatch, 6, 6)]);
}

#[test]
fn a_foreign_event_and_a_foreign_log_are_named() {
    let log = log_of(6);
    let mut other = log.clone();
    other.origin = "0123456789abcdef.9".to_owned();
    other.write(&[draft(7)]);
    let mut mixed = log;
    mixed.bytes.extend(other.events(7, 7));
    check(&one(&mixed.bytes), &[(ForeignOrigin, 7, 7)]);
    let mut foreign = Log::new();
    foreign.origin = "0123456789abcdef.9".to_owned();
    for n in 1..6 {
        foreign.write(&[draft(n)]);
    }
    check(&one(&foreign.bytes), &[(ForeignOrigin, 1, 5)]);
}

#[test]
fn a_torn_tail_is_no_damage() {
    let log = log_of(9);
    let last = log.spans[8];
    let write = log.spans[usize::try_from(last.batch).unwrap() - 1];
    for cut in write.start + 1..log.bytes.len() {
        let report = one(&[&log.bytes[..cut], FILL].concat());
        check(&report, &[]);
        // The fill begins with the newline that a cut right before it takes away.
        let whole = log.spans.iter().rev().find(|span| span.end <= cut + 1).unwrap();
        if cut <= whole.end {
            assert_eq!((report.tail, report.head_seq), (Tail::Clean, whole.seq), "cut at {cut}");
            continue;
        }
        assert_eq!((report.severity(), report.head_seq), (Severity::TornTail, whole.seq), "cut at {cut}");
        let Tail::Torn { offset, bytes, segment } = report.tail else { panic!("cut at {cut}") };
        let content = log.bytes[..cut].iter().rposition(|byte| *byte != b'\n').unwrap() + 1;
        assert_eq!((offset, bytes), (whole.end as u64, (content - whole.end) as u64), "cut at {cut}");
        assert_eq!(segment, "00000000000000000001.seg");
    }
}

#[test]
fn pages_of_one_write_may_be_lost_but_not_acknowledged_ones() {
    let mut log = log_of(3);
    log.write(&[draft(4), draft(5), draft(6)]);
    let hole = |log: &Log, seq: usize| {
        let (mut bytes, span) = (log.bytes.clone(), log.spans[seq - 1]);
        bytes[span.start..span.end].fill(b'\n');
        bytes
    };
    let report = one(&hole(&log, 5));
    check(&report, &[]);
    assert_eq!((report.severity(), report.head_seq), (Severity::TornTail, 4));
    log.write(&[draft(7)]);
    let report = one(&hole(&log, 5));
    check(&report, &[(ContentAfterEnd, 5, 5)]);
    assert_eq!((report.head_seq, report.tail), (7, Tail::Clean));
}

#[test]
fn sealed_segments_must_be_whole() {
    let log = log_of(12);
    let (a, b, c) = (log.events(1, 5), log.events(6, 8), log.events(9, 12));
    check(&many(&[(1, &a), (9, &c)]), &[(MissingSegment, 6, 8)]);
    check(&many(&[(6, &b), (9, &c)]), &[(MissingSegment, 1, 5)]);
    check(&many(&[(1, &log.events(1, 3)), (6, &b), (9, &c)]), &[(MissingSegment, 4, 5)]);
    check(&many(&[(1, &a[..a.len() - 9]), (6, &b), (9, &c)]), &[(BadLine, 5, 5)]);
    check(&many(&[(1, &[&a, FILL].concat()), (6, &b), (9, &c)]), &[(ContentAfterEnd, 0, 0)]);
    check(&many(&[(1, &a), (7, &b), (9, &c)]), &[(SegmentName, 6, 6)]);
    check(&many(&[(1, &a), (6, &b), (9, &c), (20, FILL)]), &[(MissingSegment, 13, 19)]);
    check(&many(&[(1, &a), (6, &b), (7, &log.events(7, 8)), (9, &c)]), &[(SeqJump, 7, 8)]);
    check(&many(&[(1, &log.events(1, 12)), (9, FILL)]), &[(SegmentName, 0, 0)]);
    let mut torn = c;
    torn[40] ^= 1;
    check(&many(&[(1, &a), (6, &b), (9, &torn)]), &[(BadCrc, 9, 9)]);
}

#[test]
fn a_damaged_range_is_one_finding_and_reading_goes_on() {
    let log = log_of(30);
    let mut bytes = log.bytes.clone();
    bytes[log.spans[9].start + 40..log.spans[13].body - 5].fill(b'#');
    check(&one(&bytes), &[(BadLength, 10, 14)]);
    // The first line of the range is whole, the damage begins in its payload.
    let mut bytes = log.bytes.clone();
    bytes[log.spans[9].body + 40..log.spans[13].body - 5].fill(b'#');
    let report = one(&bytes);
    check(&report, &[(BadLength, 10, 14)]);
    assert_eq!((report.events, report.head_seq), (26, 30));
}

#[test]
fn lines_that_lack_their_other_half() {
    let log = log_of(12);
    let without = |from: usize, to: usize| [&log.bytes[..from], &log.bytes[to..]].concat();
    let span = log.spans[4];
    check(&one(&without(span.body, span.end)), &[(PayloadMissing, 5, 5)]);
    check(&one(&without(span.start, span.body)), &[(BadLine, 5, 5)]);
    check(
        &one(&[&log.bytes[..span.start], b"hello\n", &log.bytes[span.start..]].concat()),
        &[(BadLine, 0, 0)],
    );
}

#[test]
fn a_payload_must_be_the_one_that_was_committed() {
    let log = log_of(9);
    let span = log.spans[8];
    let with = |line: Vec<u8>| [&log.bytes[..span.body], &line].concat();
    let payload = draft(9).payload;
    let mut other = payload.clone();
    other[3] ^= 1;
    check(&one(&with(data_line(&salt(9), &other))), &[(PayloadDigest, 9, 9)]);
    check(&one(&with(data_line(&salt(8), &payload))), &[(PayloadDigest, 9, 9)]);
    other.insert(2, b'x');
    check(&one(&with(data_line(&salt(9), &other))), &[(BadLength, 9, 9)]);
    check(&one(&with(data_line(&salt(9), &other[4..]))), &[(BadLength, 9, 9)]);
}

#[test]
fn an_erasure_must_name_its_redaction() {
    let mut log = log_of(9);
    let redaction = log.redaction(&[4]);
    log.write(&[redaction]);
    for (seq, by) in [(4, 4), (4, 3), (4, 5), (4, 0), (4, 11), (4, u64::MAX), (10, 10)] {
        let mut log = log.clone();
        log.erase(seq, by);
        let report = one(&log.bytes);
        check(&report, &[(RedactionUnproven, seq, seq)]);
        assert_eq!(report.redacted_count, 0);
    }
}

/// Appends one event whose header is altered, then a good one; the chain goes on from the altered header.
fn altered(edit: impl Fn(String) -> String) -> Log {
    let mut log = log_of(6);
    let draft = draft(7);
    let header = edit(log.header(7, &draft));
    log.push(&header, &draft.payload);
    log.write(&[super::draft(8)]);
    log
}

#[test]
fn rules_from_event_to_event() {
    check(&one(&altered(|h| h).bytes), &[]);
    check(&one(&altered(|h| h.replace("\"b\":7", "\"b\":8")).bytes), &[(BadBatch, 7, 7)]);
    check(&one(&altered(|h| h.replace("\"b\":7", "\"b\":5")).bytes), &[(BadBatch, 7, 7)]);
    check(&one(&altered(|h| h.replace("\"id\":\"ev-7\"", "\"id\":\"ev-2\"")).bytes), &[(DuplicateId, 7, 7)]);
    check(&one(&altered(|h| h.replace("\"id\":\"ev-7\"", "\"id\":\"bus:2\"")).bytes), &[(BadHeader, 7, 7)]);
    check(&one(&altered(|h| h.replace("\"id\":\"ev-7\"", "\"id\":\"bus:07\"")).bytes), &[(BadHeader, 7, 7)]);
    check(&one(&altered(|h| h.replace("\"id\":\"ev-7\"", "\"id\":\"bus:7\"")).bytes), &[]);
    check(&one(&altered(|h| h.replace("\"t\":\"019b", "\"t\":\"0000")).bytes), &[(HlcNotRising, 7, 7)]);
    let prev = |h: String| h.replace(&h[h.find("prev").unwrap() + 7..][..8], "AAAAAAAA");
    check(&one(&altered(prev).bytes), &[(WrongPrev, 7, 7)]);
    check(&one(&altered(|h| h.replace("\"s\":7", "\"s\":9")).bytes), &[(SeqJump, 7, 8), (SeqJump, 8, 8)]);
    let last = u64::MAX.to_string();
    let report = one(&altered(|h| h.replace("\"s\":7", &format!("\"s\":{last}"))).bytes);
    assert_eq!(report.severity(), Severity::Damage);
}

#[test]
fn an_altered_header_shows_in_the_next_event() {
    let log = log_of(8);
    let span = log.spans[3];
    let text = String::from_utf8(log.bytes[span.start..span.body].to_vec()).unwrap();
    let header = text.trim_end().splitn(4, ' ').nth(3).unwrap().replace("note.added", "note.edited");
    let line = event_line(&header);
    check(&one(&[&log.bytes[..span.start], &line, &log.bytes[span.body..]].concat()), &[(WrongPrev, 5, 5)]);
}

#[test]
fn damage_everywhere_is_no_flood() {
    let log = log_of(1200);
    let mut bytes = log.bytes.clone();
    for span in log.spans.iter().filter(|span| span.seq % 2 == 0) {
        bytes[span.start + 20] ^= 1;
    }
    let report = one(&bytes);
    assert_eq!(report.findings.len(), 256);
    assert!(report.findings_left_out > 300, "{}", report.findings_left_out);
    // The last write begins with a damaged event, so nothing shows that it was acknowledged.
    assert_eq!((report.events, report.head_seq, report.severity()), (599, 1197, Severity::Damage));
    assert!(matches!(report.tail, Tail::Torn { offset, .. } if offset == log.spans[1197].start as u64));
}
