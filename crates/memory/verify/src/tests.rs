//! Good logs, and what becomes of them.

mod damage;
mod flips;
mod folders;
mod good;
mod grammar;
mod live;
mod packed;
mod redaction;

use std::fs;
use std::path::PathBuf;

use crate::testlog::{Draft, Log, device, halt_keys, hex};
use crate::{FindingKind, OriginReport, Report, Severity, verify};

/// Newlines ahead of the end of an active segment.
const FILL: &[u8] = &[b'\n'; 64];

/// A bus folder on disk.
struct Home {
    dir: tempfile::TempDir,
    log: PathBuf,
}

impl Home {
    fn new(origin: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = hex(device().verifying_key().as_bytes());
        let node =
            format!("{{\"format\":1,\"origin\":\"{}\",\"public_key\":\"{key}\"}}\n", Log::new().origin);
        fs::write(dir.path().join("node.json"), node).unwrap();
        fs::create_dir(dir.path().join("halt")).unwrap();
        fs::write(dir.path().join("halt/keys"), halt_keys()).unwrap();
        let log = dir.path().join("log").join(origin);
        fs::create_dir_all(&log).unwrap();
        Self { dir, log }
    }

    fn segment(&self, name: u64, bytes: &[u8]) {
        fs::write(self.log.join(format!("{name:020}.seg")), bytes).unwrap();
    }

    fn report(&self) -> Report {
        verify(self.dir.path(), &mut |_| {}).unwrap()
    }

    fn only(&self) -> OriginReport {
        let mut report = self.report();
        assert_eq!(report.findings, []);
        assert_eq!(report.origins.len(), 1);
        report.origins.remove(0)
    }
}

/// Verifies one segment that begins at 1.
fn one(bytes: &[u8]) -> OriginReport {
    many(&[(1, bytes)])
}

fn many(segments: &[(u64, &[u8])]) -> OriginReport {
    let home = Home::new(&Log::new().origin);
    for (name, bytes) in segments {
        home.segment(*name, bytes);
    }
    home.only()
}

/// Returns what was found, as (kind, first, last); 0 for what is not known.
fn found(report: &OriginReport) -> Vec<(FindingKind, u64, u64)> {
    let seq = |seq: Option<u64>| seq.unwrap_or_default();
    report.findings.iter().map(|f| (f.kind, seq(f.first_seq), seq(f.last_seq))).collect()
}

#[track_caller]
fn check(report: &OriginReport, expected: &[(FindingKind, u64, u64)]) {
    assert_eq!(found(report), expected, "{:#?}", report.findings);
    let clean = expected.is_empty();
    assert_eq!(report.severity() == Severity::Damage, !clean);
}

/// A draft of each type in turn.
fn draft(n: u64) -> Draft {
    match n % 4 {
        0 => Draft::new("note.added", "json", format!("{{\"n\": {n}, \"of\": [true, null, -1.5e3]}}")),
        1 => Draft::new("note.text", "text", format!("\"line {n}\\nE 00000000 2 {{}} \u{e9}\"")),
        2 => Draft::new("import.claude.turn", "b64", if n.is_multiple_of(8) { "" } else { "AAECAwQFBg==" }),
        _ => {
            let hash = "0f".repeat(32);
            let mut draft = Draft::new(
                "file.added",
                "blob",
                format!("{{\"blake3\":\"{hash}\",\"bytes\":{},\"type\":\"binary\"}}", n * 70_000),
            );
            draft.extra =
                ",\"model\":\"a/b@1\",\"cause\":[\"0123456789abcdef.2/7\"],\"labels\":[\"a\",\"b.c\"]";
            draft
        }
    }
}

/// A log of so many events, in writes of 1, 2, 3, 1, 2, 3 … events.
fn log_of(events: u64) -> Log {
    let mut log = Log::new();
    for size in (1..=3).cycle() {
        let left = events + 1 - log.next();
        if left == 0 {
            break;
        }
        let first = log.next();
        let drafts: Vec<Draft> = (first..first + left.min(size)).map(draft).collect();
        log.write(&drafts);
    }
    log
}
