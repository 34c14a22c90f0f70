//! Lawful redaction, told apart from loss: by the event that lists it, by whom it is signed, and while it is under way.

use std::fs;

use ed25519_dalek::SigningKey;

use super::{Home, check, log_of};
use crate::FindingKind::{
    BadCrc, BadGenerations, BadKeys, BeingChanged, RedactionUnfinished, RedactionUnproven, RedactionUnsigned,
    SignaturesUnchecked,
};
use crate::testlog::{Draft, Log, device, owner};
use crate::{OriginReport, Severity};

/// A log of nine events, then a redaction of two of them, then one more event.
fn redacted(log: &mut Log, draft: Draft) {
    log.write(&[draft]);
    log.write(&[super::draft(11)]);
}

fn read(log: &Log) -> OriginReport {
    let home = Home::new(&log.origin);
    home.segment(1, &log.bytes);
    home.only()
}

#[test]
fn an_erasure_is_lawful_when_its_redaction_lists_it() {
    let mut log = log_of(9);
    let draft = log.redaction(&[3, 5]);
    redacted(&mut log, draft);
    log.erase(3, 10);
    log.erase(5, 10);
    let report = read(&log);
    check(&report, &[]);
    assert_eq!((report.redacted_count, report.severity()), (2, Severity::Clean));
    // A third one that the redaction does not list is loss, whatever its X line says.
    log.erase(7, 10);
    check(&read(&log), &[(RedactionUnproven, 7, 7)]);
}

#[test]
fn a_redaction_that_is_not_carried_out_is_a_notice() {
    let mut log = log_of(9);
    let draft = log.redaction(&[3, 5]);
    redacted(&mut log, draft);
    log.erase(5, 10);
    let report = read(&log);
    let found: Vec<_> = report.findings.iter().map(|f| (f.kind, f.first_seq)).collect();
    assert_eq!((found, report.severity()), (vec![(RedactionUnfinished, Some(3))], Severity::Notice));
    // A later one may carry it out instead.
    let draft = log.redaction(&[3]);
    log.write(&[draft]);
    log.erase(3, 12);
    assert_eq!(read(&log).severity(), Severity::Clean);
}

#[test]
fn a_redaction_counts_when_the_owner_signed_it_for_these_events() {
    let stranger = SigningKey::from_bytes(&[1; 32]);
    for key in [&stranger, &device()] {
        let mut log = log_of(9);
        let draft = log.redaction_by(key, &[3]);
        redacted(&mut log, draft);
        check(&read(&log), &[(RedactionUnsigned, 10, 10)]);
        log.erase(3, 10);
        check(&read(&log), &[(RedactionUnsigned, 10, 10), (RedactionUnproven, 3, 3)]);
    }
    // Signed for event 4, and used for event 3: the statement names neither its position nor its leaf.
    let mut log = log_of(9);
    let mut draft = log.redaction(&[4]);
    let text = String::from_utf8(draft.payload).unwrap();
    draft.payload = text.replace("\"events\":[4]", "\"events\":[3]").into_bytes();
    redacted(&mut log, draft);
    log.erase(3, 10);
    check(&read(&log), &[(RedactionUnsigned, 10, 10), (RedactionUnproven, 3, 3)]);
    // Signed for another event that once stood in this place.
    let mut log = log_of(9);
    let mut other = log_of(2);
    other.write(&[Draft::new("note.added", "json", "\"other\"")]);
    let draft = other.redaction(&[3]);
    redacted(&mut log, draft);
    log.erase(3, 10);
    check(&read(&log), &[(RedactionUnproven, 3, 3)]);
    // Signed for the log of another device, and garbage.
    let mut log = log_of(9);
    let mut other = log.clone();
    other.origin = "0123456789abcdef.7".to_owned();
    let draft = other.redaction(&[3]);
    redacted(&mut log, draft);
    check(&read(&log), &[(RedactionUnsigned, 10, 10)]);
    let mut log = log_of(9);
    redacted(&mut log, Draft::new("bus.redacted", "json", "{\"v\":1,\"envelope\":7,\"events\":[3]}"));
    check(&read(&log), &[(RedactionUnsigned, 10, 10)]);
}

#[test]
fn records_are_never_erased_and_a_redaction_erases_only_what_came_before() {
    let mut log = log_of(8);
    log.write(&[Draft::new("keeper.record", "json", "1")]);
    let draft = log.redaction(&[9]);
    redacted(&mut log, draft);
    log.erase(9, 10);
    check(&read(&log), &[(RedactionUnproven, 9, 9)]);
    let mut log = log_of(9);
    let draft = log.redaction(&[11]);
    redacted(&mut log, draft);
    check(&read(&log), &[(RedactionUnsigned, 10, 10)]);
}

#[test]
fn without_keys_signatures_are_not_checked_and_the_report_says_so() {
    let mut log = log_of(9);
    let draft = log.redaction_by(&SigningKey::from_bytes(&[1; 32]), &[3]);
    redacted(&mut log, draft);
    log.erase(3, 10);
    let home = Home::new(&log.origin);
    home.segment(1, &log.bytes);
    fs::remove_file(home.dir.path().join("halt/keys")).unwrap();
    let report = home.report();
    let kinds: Vec<_> = report.findings.iter().map(|f| f.kind).collect();
    assert_eq!((kinds, report.severity()), (vec![SignaturesUnchecked], Severity::Notice));
    assert_eq!(report.origins[0].redacted_count, 1);
    // A list that the device key did not sign is no list, and no excuse.
    let forged =
        crate::testlog::envelope(&owner(), "application/vnd.mirrordna.halt-keys.v1+json", "{\"keys\":[]}");
    fs::write(home.dir.path().join("halt/keys"), forged).unwrap();
    let kinds: Vec<_> = home.report().findings.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [BadKeys, SignaturesUnchecked]);
}

#[test]
fn a_half_written_erasure_is_a_notice_only_while_its_segment_is_being_changed() {
    let mut log = log_of(9);
    let draft = log.redaction(&[3]);
    redacted(&mut log, draft);
    let before = log.bytes.clone();
    log.erase(3, 10);
    let span = log.spans[2];
    let half = [&log.bytes[..span.body + 25], &before[span.body + 25..]].concat();
    for (generations, expected, severity) in [
        ("", BadCrc, Severity::Damage),
        ("00000000000000000001 2\n", BadCrc, Severity::Damage),
        ("00000000000000000001 3\n", BeingChanged, Severity::Notice),
        ("00000000000000000007 3\n", BadCrc, Severity::Damage),
    ] {
        let home = Home::new(&log.origin);
        home.segment(1, &half);
        fs::write(home.log.join("generations"), generations).unwrap();
        let report = home.only();
        let found: Vec<_> = report.findings.iter().map(|f| (f.kind, f.first_seq)).collect();
        let unfinished = (RedactionUnfinished, Some(3));
        let rest: Vec<_> = found.iter().filter(|found| **found != unfinished).copied().collect();
        assert_eq!(
            (rest, report.severity()),
            (vec![(expected, Some(3))], severity),
            "{generations:?}: {found:?}"
        );
    }
    // What no redaction lists is damage, whatever the generation.
    let mut other = half;
    let span = log.spans[4];
    other[span.body + 20] ^= 1;
    let home = Home::new(&log.origin);
    home.segment(1, &other);
    fs::write(home.log.join("generations"), "00000000000000000001 3\n").unwrap();
    let report = home.only();
    assert!(report.findings.iter().any(|f| (f.kind, f.first_seq) == (BadCrc, Some(5))), "{report:#?}");
    assert_eq!(report.severity(), Severity::Damage);
    // And what hit a header.
    let mut header = before;
    header[log.spans[4].start + 30] ^= 1;
    home.segment(1, &header);
    assert_eq!(home.only().severity(), Severity::Damage);
}

#[test]
fn generations_that_nobody_wrote_are_damage() {
    let log = log_of(3);
    let home = Home::new(&log.origin);
    home.segment(1, &log.bytes);
    fs::write(home.log.join("generations"), "1 3\n").unwrap();
    check(&home.only(), &[(BadGenerations, 0, 0)]);
}
