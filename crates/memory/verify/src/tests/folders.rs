//! Folders, `node.json`, and files that are not what they should be.

use std::fs;

use mirror_errors::{Classify as _, Kind};

use super::{FILL, Home, check, log_of};
use crate::FindingKind::{BadFolder, BadNode, MissingSegment, NewerVersion, SegmentName, Unreadable};
use crate::testlog::{Draft, Log};
use crate::{FindingKind, Severity, verify};

#[test]
fn every_origin_is_verified_on_its_own() {
    let home = Home::new(&Log::new().origin);
    home.segment(1, &log_of(5).bytes);
    let mut peer = Log::new();
    peer.origin = "0123456789abcdef.2".to_owned();
    peer.write(&[Draft::new("a.b", "json", "1")]);
    let folder = home.dir.path().join("log").join(&peer.origin);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("00000000000000000001.seg"), &peer.bytes[..peer.bytes.len() - 3]).unwrap();
    let report = home.report();
    let seen: Vec<_> = report.origins.iter().map(|log| (log.origin.as_str(), log.severity())).collect();
    assert_eq!(seen, [("0123456789abcdef.2", Severity::TornTail), (&Log::new().origin, Severity::Clean)]);
    assert_eq!(report.node_origin, Some(Log::new().origin));
    assert_eq!(report.severity(), Severity::TornTail);
    assert!(report.is_intact());
}

#[test]
fn a_folder_of_segments_names_its_log_itself() {
    let log = log_of(5);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("00000000000000000001.seg"), &log.bytes).unwrap();
    let report = verify(dir.path(), &mut |_| {}).unwrap();
    check(&report.origins[0], &[]);
    assert_eq!(report.origins[0].origin, log.origin);
}

#[test]
fn other_folders_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let error = verify(dir.path(), &mut |_| {}).unwrap_err();
    assert_eq!((error.kind(), error.reason()), (Kind::Invalid, "BUS_VERIFY_NOT_A_LOG"));
    let error = verify(&dir.path().join("gone"), &mut |_| {}).unwrap_err();
    assert_eq!((error.kind(), error.reason()), (Kind::NotFound, "BUS_VERIFY_UNREADABLE"));
    fs::write(dir.path().join("file"), "").unwrap();
    let error = verify(&dir.path().join("file"), &mut |_| {}).unwrap_err();
    assert_eq!((error.kind(), error.reason()), (Kind::Precondition, "BUS_VERIFY_UNREADABLE"));
}

#[track_caller]
fn node(from: &str, to: &str, expected: FindingKind) {
    let home = Home::new(&Log::new().origin);
    home.segment(1, &log_of(2).bytes);
    let path = home.dir.path().join("node.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text} has no {from}");
    fs::write(&path, text.replace(from, to)).unwrap();
    let report = home.report();
    let kinds: Vec<_> = report.findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [expected], "{:?}", report.findings);
    assert_eq!(report.node_origin, None);
    check(&report.origins[0], &[]);
    assert_eq!(report.is_intact(), expected == NewerVersion);
}

#[test]
fn node_json_is_checked() {
    node("\"public_key\":\"ea", "\"public_key\":\"eb", BadNode);
    node("\"public_key\":\"e", "\"public_key\":\"", BadNode);
    node("}", ",\"x\":1}", BadNode);
    node("}", "", BadNode);
    node("{", &format!("{}{{", " ".repeat(5000)), BadNode);
    node("\"format\":1", "\"format\":0", BadNode);
    node(".1\"", ".0\"", BadNode);
    node("\"format\":1", "\"format\":2,\"more\":[]", NewerVersion);
}

#[test]
fn a_missing_node_json_and_a_stray_folder_are_named() {
    let home = Home::new(&Log::new().origin);
    home.segment(1, &log_of(2).bytes);
    fs::remove_file(home.dir.path().join("node.json")).unwrap();
    fs::create_dir(home.dir.path().join("log/old")).unwrap();
    fs::create_dir(home.dir.path().join("log/.hidden")).unwrap();
    fs::write(home.dir.path().join("log/note.txt"), "").unwrap();
    let report = home.report();
    let seen: Vec<_> = report.findings.iter().map(|f| (f.kind, f.segment.as_str())).collect();
    assert_eq!(seen, [(BadNode, "node.json"), (BadFolder, "old")]);
    assert!(!report.is_intact());
}

#[test]
fn files_that_are_no_segments_are_named_and_not_opened() {
    let log = log_of(6);
    let home = Home::new(&log.origin);
    home.segment(1, &log.events(1, 2));
    home.segment(5, &[&log.events(5, 6), FILL].concat());
    fs::write(home.log.join("3.seg"), log.events(3, 4)).unwrap();
    fs::write(home.log.join("notes.txt"), "").unwrap();
    check(&home.only(), &[(SegmentName, 0, 0), (MissingSegment, 3, 4)]);
    // A folder, or a pipe that would block, in the place of a segment.
    fs::remove_file(home.log.join("3.seg")).unwrap();
    fs::create_dir(home.log.join("00000000000000000003.seg")).unwrap();
    let report = home.only();
    check(&report, &[(Unreadable, 3, 4)]);
    assert_eq!((report.events, report.head_seq), (4, 6));
}
