//! `mirror bus redact` and `mirror bus seal` against a fleet: who may, what is told, and what is gone.

#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use mirror_clock::{Clock as _, SystemClock};
use mirror_testkit::fleet::Fleet;

const SECRET: &str = "hunter2-is-the-password";

/// Runs a command with a line on its standard input.
fn with_line(fleet: &Fleet, args: &[&str], line: &str) -> Output {
    let mut child = fleet
        .command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that fails before it reads leaves the pipe.
    let _ = writeln!(child.stdin.take().unwrap(), "{line}");
    child.wait_with_output().unwrap()
}

fn holds(dir: &Path, needle: &str) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => holds(&path, needle),
            false => String::from_utf8_lossy(&fs::read(path).unwrap()).contains(needle),
        }
    })
}

#[tokio::test]
async fn the_owner_erases_a_payload_and_is_told_what_is_left() {
    let mut fleet = Fleet::new(env!("CARGO_BIN_EXE_mirror"));
    mirror_kit::init(fleet.home()).unwrap();
    let draft = mirror_keeper::recovery::draft(fleet.home(), SystemClock.wall_ms()).unwrap();
    let passphrase = draft.passphrase().grouped().to_string();
    draft.commit().unwrap();
    fleet.up().await;
    let receipt = fleet.text(&["append", "local.note", SECRET, "--json"]);
    let receipt: serde_json::Value = serde_json::from_str(&receipt).unwrap();
    let seq = receipt["seq"].to_string();
    assert!(holds(&fleet.home().bus(), SECRET));

    let redact = ["bus", "redact", &seq, "--reason", "a slip", "--yes"];
    let unasked = with_line(&fleet, &redact[..5], &passphrase);
    assert_eq!(unasked.status.code(), Some(65), "nobody was there to be asked");
    let wrong = with_line(&fleet, &redact, "AAAAA-AAAAA-AAAAA-AAAAA-AAAAA-AAAAA-AAAAA");
    assert!(!wrong.status.success() && holds(&fleet.home().bus(), SECRET));

    let done = with_line(&fleet, &redact, &passphrase);
    let (told, talk) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{told}{talk}");
    assert!(!told.contains(SECRET) && !talk.contains(SECRET) && !talk.contains(&passphrase), "{told}{talk}");
    for part in
        ["local.note", "erased 1 payload by event", "\nreached:\n", "\nnot reached:\n", "Time Machine"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!holds(&fleet.home().bus(), SECRET), "it is nowhere in the bus's folder");
    assert!(fleet.text(&["get", &seq]).contains("redacted by event"));
    assert!(!fleet.text(&["log", "-n", "50"]).contains(SECRET));

    // Asking again takes no passphrase, and each service says what it had.
    let again = with_line(&fleet, &["bus", "redact", &seq, "--json"], "");
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let again: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again["already"].to_string(), format!("[{seq}]"));
    assert!(again["folds"].as_array().unwrap().contains(&"changelog".into()), "{again}");
    assert_eq!(again["unasked"], serde_json::json!([]));

    let sealed = fleet.run(&["bus", "seal", "0123456789abcdef.1"]);
    assert_eq!(sealed.status.code(), Some(65), "another log's name seals nothing");
    let origin = receipt["origin"].as_str().unwrap();
    let sealed = fleet.run(&["bus", "seal", origin, "--reason", "the end"]);
    assert!(sealed.status.success(), "{}", String::from_utf8_lossy(&sealed.stderr));
    assert!(String::from_utf8_lossy(&sealed.stderr).contains("mirror recover --kit"));
    assert_eq!(fleet.run(&["append", "local.note", "late"]).status.code(), Some(73));
    fleet.down().await;
    assert!(fleet.run(&["bus", "verify"]).status.success(), "a sealed and redacted log is whole");
}
