//! Starting, stopping, restarting, reading logs, running jobs and asking the doctor, with real processes under `up`.

#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use mirror_testkit::fleet::Fleet;
use mirror_testkit::wait;
use nix::sys::signal::Signal;
use serde_json::Value;

fn fleet() -> Fleet {
    Fleet::new(env!("CARGO_BIN_EXE_mirror"))
}

#[track_caller]
fn failed(output: &Output, code: i32, part: &str) {
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(part), "{part:?} in {text}");
}

/// Returns what the doctor found of one check at one level.
fn found(fleet: &Fleet, level: &str, check: &str) -> Vec<Value> {
    let output = fleet.run(&["doctor", "--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let fine = value["fine"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if fine { 0 } else { 69 }), "{value}");
    let findings = value["findings"].as_array().unwrap().clone();
    findings.into_iter().filter(|f| f["level"] == level && f["check"] == check).collect()
}

#[tokio::test]
async fn agents_are_stopped_started_and_restarted_and_stay_as_they_are_wanted() {
    let mut fleet = fleet();
    failed(&fleet.run(&["start", "blobs"]), 69, "CLI_FLEET_AWAY");
    fleet.up().await;

    fleet.text(&["stop", "blobs", "--reason", "for a test"]);
    assert_eq!(fleet.pid("blobs"), None);
    let notes = found(&fleet, "note", "fleet");
    let text = notes[0]["text"].as_str().unwrap();
    assert!(text.contains("blobs is stopped") && text.contains("for a test"), "{notes:?}");
    failed(&fleet.run(&["restart", "blobs"]), 73, "SUPERVISOR_AGENT_STOPPED");
    let line: Value = serde_json::from_str(&fleet.text(&["start", "blobs", "--json"])).unwrap();
    assert_eq!(line["build"], mirror_cli::BUILD);
    assert_eq!(line["pid"].as_u64(), fleet.pid("blobs").map(u64::from));

    let before = fleet.pid("registry").unwrap();
    let line: Value =
        serde_json::from_str(&fleet.text(&["restart", "--kill", "registry", "--json"])).unwrap();
    assert_ne!(line["pid"], u64::from(before));

    fleet.text(&["stop", "--all"]);
    let others = mirror_cli::APP.services.iter().map(|s| s.decl.name).filter(|name| *name != "supervisor");
    for name in others.clone() {
        assert_eq!(fleet.pid(name), None, "{name}");
    }
    let lines = fleet.text(&["start", "--all", "--json"]);
    assert_eq!(lines.lines().count(), others.count(), "{lines}");

    failed(&fleet.run(&["stop", "nobody"]), 66, "CLI_SERVICE_UNKNOWN");
    failed(&fleet.run(&["stop"]), 64, "NAME");
    failed(&fleet.run(&["job", "nobody"]), 66, "CLI_JOB_UNKNOWN");
    let ran: Value = serde_json::from_str(&fleet.text(&["start", "job.verify-log", "--json"])).unwrap();
    assert!(ran["state"].as_str().unwrap().starts_with("ran: intact"), "{ran}");
    fleet.text(&["job", "disk-forecast"]);
    fleet.down().await;
}

#[tokio::test]
async fn logs_are_shown_and_followed() {
    let mut fleet = fleet();
    failed(&fleet.run(&["logs", "bus"]), 66, "never started");
    fleet.up().await;
    let lines = fleet.text(&["logs", "bus"]);
    assert!(lines.contains("INFO") && lines.contains("serving"), "{lines}");
    let first: Value =
        serde_json::from_str(fleet.text(&["logs", "bus", "-n", "1", "--json"]).trim()).unwrap();
    assert!(first["timestamp"].is_string(), "{first}");

    let mut child = fleet
        .command(&["logs", "-f", "-n", "0", "blobs"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let (out, to) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&seen));
    std::thread::spawn(move || {
        out.lines().map_while(Result::ok).for_each(|l| to.lock().unwrap().push_str(&l))
    });
    let log = fleet.home().log().join("blobs.log");
    let mut round = 0;
    wait("the follower sees a line that is written after it began", async || {
        round += 1;
        let line = format!("{{\"level\":\"INFO\",\"message\":\"round {round}\"}}\n");
        let old = fs::read_to_string(&log).unwrap();
        fs::write(&log, old + &line).unwrap();
        if seen.lock().unwrap().contains("round") { Ok(()) } else { Err(round.to_string()) }
    })
    .await;
    fs::rename(&log, log.with_extension("log.1")).unwrap();
    fs::write(&log, "{\"level\":\"INFO\",\"message\":\"rotated\"}\n").unwrap();
    wait("the follower goes on after a rotation", async || {
        if seen.lock().unwrap().contains("rotated") { Ok(()) } else { Err(seen.lock().unwrap().clone()) }
    })
    .await;
    child.kill().unwrap();
    child.wait().unwrap();
    fleet.down().await;
}

#[tokio::test]
async fn the_doctor_names_each_problem_with_its_place_and_its_remedy() {
    let mut fleet = fleet();
    assert_eq!(found(&fleet, "problem", "home").len(), 1, "there is no home yet");
    fleet.up().await;
    assert_eq!(found(&fleet, "fine", "fleet").len(), 1);
    assert_eq!(found(&fleet, "fine", "builds").len(), 1);
    let levels = found(&fleet, "note", "isolation");
    assert!(levels[0]["text"].as_str().unwrap().starts_with("watched: "), "{levels:?}");

    let seed = fleet.home().keys().join("node.seed");
    fs::set_permissions(&seed, fs::Permissions::from_mode(0o644)).unwrap();
    let keys = found(&fleet, "problem", "keys");
    assert_eq!(keys[0]["file"], seed.to_str().unwrap());
    assert_eq!(keys[0]["mend"], format!("chmod 600 {}", seed.display()));
    fs::set_permissions(&seed, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(found(&fleet, "problem", "keys").is_empty());

    fs::write(fleet.home().config(), "[blobs]\ncolour = 1\n\n[blos]\n").unwrap();
    fleet.text(&["restart", "blobs"]);
    let config = found(&fleet, "warning", "config");
    let lines: Vec<_> = config.iter().map(|f| f["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [4, 2], "{config:?}");
    fs::write(fleet.home().config(), "[blobs]\n\nreserve = [").unwrap();
    let config = found(&fleet, "problem", "config");
    assert_eq!(config[0]["line"], 3, "{config:?}");
    failed(&fleet.run(&["restart", "blobs"]), 69, "does not serve");
    assert!(found(&fleet, "problem", "fleet")[0]["text"].as_str().unwrap().contains("blobs does not serve"));
    fs::remove_file(fleet.home().config()).unwrap();
    fleet.text(&["restart", "blobs"]);

    mirror_kit::desired::write(fleet.home(), "import", mirror_kit::desired::Wish::Quarantined, "it failed")
        .unwrap();
    fleet.strike("import", Signal::SIGTERM);
    wait("the doctor knows of the quarantine", async || {
        let problems = found(&fleet, "problem", "fleet");
        let mend = problems.first().and_then(|f| f["mend"].as_str()).unwrap_or_default();
        if mend.contains("start import") { Ok(()) } else { Err(format!("{problems:?}")) }
    })
    .await;
    fleet.down().await;
    let away = found(&fleet, "problem", "fleet");
    assert!(away[0]["text"].as_str().unwrap().contains("does not answer"), "{away:?}");
}
