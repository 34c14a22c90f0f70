//! Real sessions, end to end: imported completely, twice with the same result, and readable with `grep`.

#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]
#![expect(clippy::print_stderr, reason = "a test that falls back to the samples says so")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use mirror_testkit::{samples, test_data, wait};
use serde_json::Value;

struct Fleet {
    up: Child,
    home: PathBuf,
}

impl Fleet {
    async fn start(home: PathBuf) -> Self {
        let mut up = Command::new(env!("CARGO_BIN_EXE_mirror"));
        up.arg("up")
            .env("MIRROR_HOME", &home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let fleet = Self { up: up.spawn().unwrap(), home };
        wait("the fleet serves", async || {
            let status = fleet.command(&["status"]).output().unwrap();
            if status.status.success() { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
        fleet
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mirror"));
        command.args(args).env("MIRROR_HOME", &self.home).stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.up.id().to_string()).status();
        let _ = self.up.wait();
    }
}

/// Unpacks the real sessions, or returns the samples and says so.
fn transcripts(into: &Path) -> PathBuf {
    let archive =
        test_data().map(|data| data.join("transcripts-claude.tar.zst")).filter(|path| path.is_file());
    let unpacked = archive.is_some_and(|archive| {
        let tar = Command::new("tar").arg("--zstd").arg("-xf").arg(archive).arg("-C").arg(into).status();
        tar.is_ok_and(|status| status.success())
    });
    if unpacked {
        return into.to_owned();
    }
    eprintln!("SKIPPED the real sessions: there are none, or tar cannot read zstd; using the samples");
    samples().join("claude")
}

/// Returns every row of a folder, in order of path.
fn rows(dir: &Path, into: &mut Vec<String>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rows(&path, into);
        } else if path.extension().is_some_and(|e| e == "jsonl") {
            let text = std::fs::read_to_string(path).unwrap();
            into.extend(text.lines().filter(|l| serde_json::from_str::<Value>(l).is_ok()).map(str::to_owned));
        }
    }
}

/// Returns the words of a turn as they stand in its row, when it has some.
fn words(row: &str) -> Option<String> {
    let value: Value = serde_json::from_str(row).ok()?;
    let content = value.get("message")?.get("content")?;
    let text =
        content.as_str().or_else(|| content.as_array()?.iter().find_map(|b| b.get("text")?.as_str()))?;
    let escaped = serde_json::to_string(text.trim()).ok()?;
    let words: String = escaped.trim_matches('"').chars().take(120).collect();
    (words.len() > 20 && row.contains(&words) && row.len() < 60_000).then_some(words)
}

#[tokio::test]
async fn sessions_import_completely_twice_with_the_same_result_and_can_be_grepped() {
    let temp = tempfile::Builder::new().prefix("t").tempdir().unwrap();
    let source = temp.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let source = transcripts(&source);
    let mut all = Vec::new();
    rows(&source, &mut all);
    let fleet = Fleet::start(temp.path().join("h")).await;

    let number = |report: &Value, key: &str| {
        report[key].as_u64().or_else(|| report[key].as_str()?.parse().ok()).unwrap_or(0)
    };
    let path = source.to_str().unwrap();
    let first = fleet.json(&["import", path, "--json"]);
    assert_eq!(number(&first, "taken"), all.len() as u64, "every whole row is taken: {first}");
    assert_eq!(number(&first, "rows"), number(&first, "taken") + number(&first, "quarantined"));
    // What the fleet says of itself is in the log too.
    let stored = || {
        let log = fleet.command(&["log", "--subject", "import.>", "--from", "1", "--json"]).output().unwrap();
        assert!(log.status.success(), "{log:?}");
        log.stdout.iter().filter(|byte| **byte == b'\n').count()
    };
    assert_eq!(stored(), all.len() + 1, "one event for each row, and one for the run");
    let second = fleet.json(&["import", path, "--json"]);
    assert_eq!((number(&second, "taken"), number(&second, "skipped")), (0, all.len() as u64), "{second}");
    assert_eq!(stored(), all.len() + 1, "a second run adds nothing");

    let turns: Vec<String> = all.iter().filter_map(|row| words(row)).collect();
    // A multiplier coprime to any count spreads the picks over all sessions, the same ones each time.
    for n in 0..10 {
        let turn = &turns[(n * 7919 + 13) % turns.len()];
        let grep = Command::new("grep")
            .args(["-rlF", "-e", turn, "--include=*.seg"])
            .arg(fleet.home.join("bus/log"))
            .output()
            .unwrap();
        assert!(grep.status.success() && !grep.stdout.is_empty(), "grep finds no {turn:?}");
    }
    let verdict = fleet.command(&["bus", "verify"]).output().unwrap();
    assert!(verdict.status.success(), "{verdict:?}");
}
