//! Homes that earlier builds left behind: each must boot, verify and answer as it did.
//!
//! A home is kept with what its own build said of it; how one is made stands in tests/golden/README.md.

#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mirror_testkit::fleet::Fleet;
use mirror_testkit::wait;
use serde_json::Value;

fn golden(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/golden").join(part)
}

/// Copies a folder, with the permissions that a home has and a checkout has not.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let path = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &path);
        } else {
            fs::copy(entry.path(), &path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn the_home_of_part_one_boots_verifies_and_answers() {
    let mut fleet = Fleet::new(env!("CARGO_BIN_EXE_mirror"));
    copy(&golden("part1/home"), fleet.home().root());
    let expected = |name: &str| fs::read_to_string(golden("part1/expected").join(name)).unwrap();

    let before = fleet.text(&["bus", "verify"]);
    assert_eq!(before, expected("verify.txt"), "the log reads as it did before anything has touched it");

    fleet.up().await;
    wait("the fleet serves", async || {
        let status = fleet.run(&["status"]);
        if status.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&status.stdout).into_owned())
        }
    })
    .await;
    let events = lines(&fleet.text(&["log", "-n", "1000", "--json", "--until", "2026-11-23T23:59:59Z"]));
    let known = lines(&expected("log.jsonl"));
    assert!(events.len() >= known.len(), "{} of {} events", events.len(), known.len());
    assert_eq!(events[..known.len()], known[..]);

    // The day the home was made on goes on; the days before it are over.
    let days = lines(&fleet.text(&["changelog", "--days", "400", "--json"]));
    for day in lines(&expected("changelog.json")).iter().filter(|d| d["day"] != "2026-11-23") {
        assert!(days.contains(day), "{day} in {days:?}");
    }
    let blob =
        fleet.text(&["blobs", "get", "c754c09a5b316016a1235ee9e4dc132b0ce7b6d7394e55fc03cd4838a4a03016"]);
    assert_eq!(blob, "A blob of part 1.\n");

    // An effect is not refused: the halt state of that time still frees.
    fleet.text(&["import", &golden("part1/home/quarantine").to_string_lossy(), "--dry-run"]);
    fleet.text(&["append", "local.note", "written by the new build"]);
    assert_eq!(fs::read_to_string(fleet.home().layout()).unwrap(), "2\n");
    fleet.down().await;

    let after = fleet.text(&["bus", "verify"]);
    assert!(after.ends_with("verdict: intact\n"), "{after}");
}
