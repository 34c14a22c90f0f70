//! Whole transcripts, read from disk: the samples, the same rows moved and grown, and real sessions.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mirror_import::{
    BadRow, ImportedRow, Item, Kind, Limits, Transcript, Vendor, Want, summary_fields, walk,
};
use proptest::prelude::*;

fn samples() -> PathBuf {
    mirror_testkit::samples().canonicalize().unwrap()
}

#[derive(Debug, Default)]
struct Reading {
    rows: Vec<ImportedRow>,
    bad: Vec<BadRow>,
    files: usize,
    ignored: usize,
}

impl Reading {
    fn add(&mut self, path: &Path, want: Want, limits: Limits) {
        let Some(transcript) = Transcript::open(path, want, limits).unwrap() else {
            self.ignored += 1;
            return;
        };
        self.files += 1;
        for item in transcript {
            match item.unwrap() {
                Item::Row(row) => self.rows.push(*row),
                Item::Bad(bad) => self.bad.push(bad),
            }
        }
    }

    fn kinds(&self) -> String {
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for row in &self.rows {
            *kinds.entry(row.kind.name()).or_default() += 1;
        }
        let mut text = String::new();
        for (kind, count) in kinds {
            let _ = write!(text, "{kind} {count}, ");
        }
        text.trim_end_matches(", ").to_owned()
    }

    fn ids(&self) -> Vec<&str> {
        self.rows.iter().map(|row| row.id.as_str()).collect()
    }
}

fn read(path: &Path) -> Reading {
    let mut reading = Reading::default();
    for file in walk(path, Path::new("")).unwrap().files {
        reading.add(&file.path, Want::Any, Limits::default());
    }
    reading
}

#[track_caller]
fn check(folder: &str, files: usize, ignored: usize, kinds: &str, bad: &[(u64, &str)]) -> Reading {
    let reading = read(&samples().join(folder));
    assert_eq!((reading.files, reading.ignored), (files, ignored), "files of {folder}");
    assert_eq!(reading.kinds(), kinds, "kinds of {folder}");
    let found: Vec<(u64, &str)> = reading.bad.iter().map(|bad| (bad.line, bad.why.as_str())).collect();
    assert_eq!(found, bad, "bad rows of {folder}");
    let ids: BTreeSet<&str> = reading.ids().into_iter().collect();
    assert_eq!(ids.len(), reading.rows.len(), "ids of {folder} are unique");
    for row in &reading.rows {
        let view = summary_fields(&row.payload).unwrap();
        assert_eq!((view.vendor, view.kind, &view.session), (row.vendor, row.kind, &row.session));
        assert_eq!((&view.at, &view.agent), (&row.at, &row.agent));
    }
    reading
}

fn of(reading: &Reading, kind: Kind) -> impl Iterator<Item = &ImportedRow> {
    reading.rows.iter().filter(move |row| row.kind == kind)
}

fn text(row: &ImportedRow) -> String {
    summary_fields(&row.payload).unwrap().text
}

#[test]
fn claude_samples() {
    let reading = check(
        "claude",
        2,
        2,
        "compaction 2, other 1, progress 3, prompt 3, queue 3, snapshot 1, system 3, tool-result 4, turn 9",
        &[(26, "the last line is cut off; it is imported once the file has grown")],
    );
    let session = "5b0e6f3a-1f0c-4e55-9a34-0c7d2f9e1a01";
    assert!(reading.rows.iter().all(|row| row.session == session));
    let agents: BTreeSet<_> = reading.rows.iter().filter_map(|row| row.agent.as_deref()).collect();
    assert_eq!(agents, BTreeSet::from(["a1b2c3d"]));
    for row in &reading.rows {
        assert_eq!(row.labels.contains(&"sidechain"), row.agent.is_some(), "{}", row.line);
        assert!(row.at.is_some());
    }
    for row in of(&reading, Kind::ToolResult).chain(of(&reading, Kind::Progress)) {
        assert!(row.labels.contains(&"untrusted"));
    }
    for row in of(&reading, Kind::Prompt) {
        assert!(!row.labels.contains(&"untrusted"), "a prompt is the owner's word");
    }
    let summaries: Vec<_> = reading.rows.iter().filter(|row| row.labels.contains(&"summary")).collect();
    assert_eq!((summaries.len(), summaries[0].kind), (1, Kind::Compaction));
    for row in of(&reading, Kind::Turn) {
        assert_eq!(row.model.as_ref().map(mirror_types::Model::as_str), Some("claude-opus-4-6"));
    }
}

#[test]
fn codex_samples() {
    let reading = check(
        "codex",
        3,
        1,
        "compaction 1, context 5, meta 3, progress 4, prompt 3, system 2, tool-result 3, turn 7, usage 1",
        &[(19, "the line is not one JSON object, at byte 55")],
    );
    let sessions: BTreeSet<&str> = reading.rows.iter().map(|row| row.session.as_str()).collect();
    assert_eq!(sessions.len(), 3);
    assert_eq!(reading.rows.iter().filter(|row| row.labels.contains(&"sidechain")).count(), 4);
    assert_eq!(of(&reading, Kind::Prompt).map(text).nth(1).as_deref(), Some("Add a dimmer with five steps."));
}

#[test]
fn gemini_samples() {
    let reading = check("gemini", 3, 1, "meta 3, patch 6, prompt 4, system 3, turn 7", &[]);
    let tests: Vec<_> =
        of(&reading, Kind::Turn).filter(|row| text(row).starts_with("I run the tests.")).collect();
    assert_eq!(tests.len(), 3, "a message that was written three times is three rows");
    assert!(!tests[0].labels.contains(&"untrusted") && tests[1].labels.contains(&"untrusted"));
    assert_eq!(reading.rows.iter().filter(|row| row.labels.contains(&"sidechain")).count(), 3);
}

#[test]
fn a_document_and_the_lines_it_was_migrated_to_have_the_same_messages() {
    let home = tempfile::tempdir().unwrap();
    let document = home.path().join("session-1.json");
    let message = |gap: &str| {
        ["{", r#""id":"#, r#""m 1","#, r#""type":"user","content":"How  bright?""#, "}"].join(gap)
    };
    let head = r#""sessionId": "s", "projectHash": "p""#;
    fs::write(&document, format!("{{\n {head},\n \"messages\": [\n{}\n]}}", message("\n    "))).unwrap();
    let lines = home.path().join("session-1.jsonl");
    fs::write(&lines, format!("{{{head}}}\n{}\n{{\"$set\":{{}}}}\n", message(""))).unwrap();
    let (old, new) = (read(&document), read(&lines));
    assert_eq!((old.rows.len(), new.rows.len()), (2, 3));
    assert_eq!((&old.rows[1].id, &old.rows[1].payload), (&new.rows[1].id, &new.rows[1].payload));
}

#[test]
fn what_was_cut_off_is_taken_when_the_file_has_grown() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("s.jsonl");
    let row = |n: u32| {
        format!(
            "{{\"type\":\"user\",\"sessionId\":\"s\",\"uuid\":\"{n}\",\"message\":{{\"content\":\"hello\"}}}}\n"
        )
    };
    let whole = [row(1), row(2)].concat();
    fs::write(&path, &whole[..whole.len() - 20]).unwrap();
    let before = read(&path);
    assert_eq!((before.rows.len(), before.bad.len()), (1, 1));
    assert_eq!(before.bad[0].line, 2);
    assert!(
        whole
            .as_bytes()
            .ends_with(&[before.bad[0].bytes.as_slice(), &whole.as_bytes()[whole.len() - 20..]].concat())
    );
    fs::write(&path, &whole).unwrap();
    let after = read(&path);
    assert_eq!((after.rows.len(), after.bad.len()), (2, 0));
    assert_eq!(after.rows[0], before.rows[0]);
}

#[test]
fn a_whole_last_row_without_a_newline_is_taken() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("s.jsonl");
    fs::write(&path, r#"{"type":"user","sessionId":"s","message":{"content":"hello"}}"#).unwrap();
    let before = read(&path);
    fs::write(&path, "{\"type\":\"user\",\"sessionId\":\"s\",\"message\":{\"content\":\"hello\"}}\r\n\r\n")
        .unwrap();
    assert_eq!((before.rows.len(), before.bad.len()), (1, 0));
    assert_eq!(read(&path).rows, before.rows);
}

#[test]
fn bad_lines_are_handed_out_and_the_rest_is_taken() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("s.jsonl");
    let good = br#"{"type":"user","sessionId":"s","message":{"content":"hello"}}"#;
    let long = [b"{\"a\":\"", "x".repeat(200).as_bytes(), b"\"}"].concat();
    let lines: [&[u8]; 8] = [b"{\"type\":", good, b"\xff\xfe", b"[1,2]", b"\0\0\0", b"", &long, good];
    fs::write(&path, lines.join(&b'\n')).unwrap();
    let mut reading = Reading::default();
    reading.add(&path, Want::Any, Limits { row: 150, ..Limits::default() });
    let bad: Vec<_> = reading.bad.iter().map(|bad| (bad.line, bad.length, bad.why.as_str())).collect();
    assert_eq!(
        bad,
        [
            (1, 8, "the line is not one JSON object, at byte 8"),
            (3, 2, "the line is not UTF-8 at byte 1"),
            (4, 5, "the line is not one JSON object, at byte 1"),
            (5, 3, "the line is not one JSON object, at byte 1"),
            (7, 208, "the line has 208 bytes, and at most 150 are read"),
        ]
    );
    assert_eq!(reading.rows.len(), 2);
    assert_ne!(reading.rows[0].id, reading.rows[1].id, "a row that stands twice in a file is two rows");
}

#[test]
fn a_damaged_document_is_handed_out_whole() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("session.json");
    let text = "{\n \"sessionId\":\"s\",\n \"projectHash\":\"p\",\n \"messages\":[\n  {\"id\":\"1\",";
    fs::write(&path, text).unwrap();
    let reading = read(&path);
    assert_eq!((reading.files, reading.rows.len()), (1, 0));
    assert_eq!(reading.bad[0].bytes, text.as_bytes());
    assert!(reading.bad[0].why.contains("cut off"));
    fs::write(&path, format!("{text}\"type\":\"user\"}}, 7, \"x\"]}}")).unwrap();
    let reading = read(&path);
    assert_eq!(reading.rows.len(), 2);
    let bad: Vec<_> = reading.bad.iter().map(|bad| (bad.line, bad.bytes.as_slice())).collect();
    assert_eq!(bad, [(5, &b"7"[..]), (5, &b"\"x\""[..])]);
}

#[test]
fn a_rollout_that_codex_compressed_has_the_same_rows() {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    let folder = samples().join("codex/sessions/2026/03/04");
    let plain = folder.join("rollout-2026-03-04T10-04-00-019cb5a0-0000-7000-8000-0000000000c2.jsonl");
    let text = fs::read(&plain).unwrap();
    let home = tempfile::tempdir().unwrap();
    let packed = home.path().join("rollout.jsonl.zst");
    let (first, second) = text.split_at(text.len() / 2);
    let frames = [first, second].map(|part| compress_to_vec(part, CompressionLevel::Fastest)).concat();
    fs::write(&packed, &frames).unwrap();
    assert_eq!(read(&packed).rows, read(&plain).rows);
    fs::write(&packed, &frames[..frames.len() - 9]).unwrap();
    let cut = read(&packed);
    assert_eq!(
        cut.bad.last().map(|bad| bad.why.as_str()),
        Some("the compressed data is damaged from here on")
    );
    assert_eq!(cut.rows[0], read(&plain).rows[0]);
}

#[test]
fn links_pipes_and_other_vendors_are_not_opened() {
    let home = tempfile::tempdir().unwrap();
    let open = |path: &Path, want| Transcript::open(path, want, Limits::default()).unwrap().is_some();
    let target = home.path().join("s.jsonl");
    fs::write(&target, r#"{"type":"user","sessionId":"s","message":{}}"#).unwrap();
    let link = home.path().join("link.jsonl");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let pipe = home.path().join("pipe.jsonl");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(open(&target, Want::Any));
    assert!(open(&target, Want::Only(Vendor::Claude)));
    assert!(open(&target, Want::Insist(Vendor::Codex)));
    assert!(!open(&target, Want::Only(Vendor::Codex)));
    assert!(!open(&link, Want::Any));
    assert!(!open(&pipe, Want::Any));
}

fn rows() -> impl Strategy<Value = Vec<String>> {
    let row =
        (0_u8..6, "[a-z \u{e9}\u{1f600}\"\\\\]{0,12}", any::<bool>()).prop_map(|(session, text, named)| {
            let text = serde_json::Value::from(text);
            if named {
                format!(r#"{{"type":"user","sessionId":"s{session}","message":{{"content":{text}}}}}"#)
            } else {
                format!(r#"{{"type":"file-history-snapshot","messageId":{text}}}"#)
            }
        });
    prop::collection::vec(row, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Ids and payloads of a file that grew, moved or lost its last newline are the ones it had.
    #[test]
    fn a_grown_or_moved_file_yields_the_same_rows(rows in rows(), cut in 0.0_f64..1.0) {
        let home = tempfile::tempdir().unwrap();
        let first = r#"{"type":"user","sessionId":"s0","message":{"content":"first"}}"#;
        let whole = format!("{first}\n{}\n", rows.join("\n"));
        let path = home.path().join("a.jsonl");
        fs::write(&path, &whole).unwrap();
        let all = read(&path);
        prop_assert_eq!(all.rows.len(), rows.len() + 1);
        prop_assert_eq!(all.ids().into_iter().collect::<BTreeSet<_>>().len(), rows.len() + 1);

        let elsewhere = home.path().join("deep/er");
        fs::create_dir_all(&elsewhere).unwrap();
        fs::rename(&path, elsewhere.join("other name.txt")).unwrap();
        prop_assert_eq!(&read(&elsewhere).rows, &all.rows);

        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a fraction of a small length")]
        let at = first.len() + 1 + ((whole.len() - first.len() - 1) as f64 * cut) as usize;
        let part = &whole.as_bytes()[..at];
        fs::write(&path, part).unwrap();
        let before = read(&path);
        prop_assert!(before.bad.len() <= 1);
        prop_assert_eq!(&before.rows[..], &all.rows[..before.rows.len()]);
    }

    /// Whatever stands in a file, reading it ends without a panic, and every line is accounted for.
    #[test]
    fn any_bytes_are_rows_or_bad(noise in prop::collection::vec(any::<u8>(), 0..400), vendor in 0_usize..3) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("noise");
        fs::write(&path, &noise).unwrap();
        let mut reading = Reading::default();
        reading.add(&path, Want::Insist(Vendor::ALL[vendor]), Limits::default());
        reading.add(&path, Want::Any, Limits::default());
        let lines = noise.split(|byte| *byte == b'\n').count();
        prop_assert!(reading.rows.len() + reading.bad.len() <= 2 * lines + 2);
    }
}

/// The real sessions, if they are at hand; unpacked with the system's tar.
fn real(into: &Path) -> Option<PathBuf> {
    let archive = mirror_testkit::test_data()?.join("transcripts-claude.tar.zst");
    let unpacked = Command::new("tar").arg("--zstd").arg("-xf").arg(&archive).arg("-C").arg(into).status();
    unpacked.is_ok_and(|status| status.success()).then(|| into.to_owned())
}

#[test]
fn real_sessions_are_read_completely() {
    let home = tempfile::tempdir().unwrap();
    let Some(folder) = real(home.path()) else {
        println!("NOT MEASURED: no real transcripts; set MIRROR_TEST_DATA. The samples are read instead.");
        assert!(!read(&samples()).rows.is_empty());
        return;
    };
    let reading = read(&folder);
    let ids: BTreeSet<&str> = reading.ids().into_iter().collect();
    println!(
        "{} files, {} ignored, {} rows: {}",
        reading.files,
        reading.ignored,
        reading.rows.len(),
        reading.kinds()
    );
    assert_eq!(reading.bad, []);
    assert_eq!((reading.files, reading.rows.len(), ids.len()), (12, 5_419, 5_419));
    assert!(reading.rows.iter().all(|row| row.kind != Kind::Other && !row.session.is_empty()));
    assert_eq!(reading.rows.iter().filter(|row| row.blob.is_some()).count(), 6);

    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    for file in walk(&folder, Path::new("")).unwrap().files {
        for (n, line) in fs::read_to_string(&file.path).unwrap_or_default().lines().enumerate() {
            lines.insert(format!("{}:{}", file.name, n + 1), line.to_owned());
        }
    }
    let texts: BTreeSet<&str> = lines.values().map(String::as_str).collect();
    for row in reading.rows.iter().filter(|row| row.blob.is_none()) {
        let payload = std::str::from_utf8(&row.payload).unwrap();
        let at = payload.find("\"row\":").unwrap() + 6;
        assert!(texts.contains(&payload[at..payload.len() - 1]), "line {} is not byte for byte", row.line);
    }
}
