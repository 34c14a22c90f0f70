//! What outlives the process of `up`: wishes, property lists, and a service that it had just started.

use std::fs::{self, File};
use std::process::Stdio;

use mirror_clock::{Clock as _, SystemClock};
use mirror_testkit::wait;
use nix::sys::signal::Signal;

use crate::place::{OWN, Place};

#[tokio::test]
async fn a_stop_outlives_a_killed_up_and_a_start_ends_it() {
    let mut place = Place::new();
    let mut first = place.up().await;
    let pid = place.pid("blobs").unwrap();
    let stopped =
        place.json(&["call", OWN, "StopAgent", "{\"name\":\"blobs\",\"reason\":\"for a backup\"}", "--json"]);
    assert_eq!(stopped["agent"]["desired"], "AGENT_DESIRED_STOPPED", "{stopped}");
    assert_eq!(
        (place.pid("blobs"), &stopped["agent"]["last_exit"]),
        (None, &"exit code 0".into()),
        "{stopped}"
    );
    assert!(!first.err().contains("blobs"), "an end that was ordered is no news: {}", first.err());
    first.signal(Signal::SIGKILL);
    first.ended().await;

    let second = place.up().await;
    let line = second.out().lines().find(|l| l.starts_with("blobs ")).unwrap_or_default().to_owned();
    assert!(line.contains("stopped") && line.contains("for a backup"), "{line}");
    assert!(second.out().contains("the fleet is up after"), "{}", second.out());
    assert_eq!(place.pid("blobs"), None);
    place.text(&["call", OWN, "StartAgent", "{\"name\":\"blobs\"}"]);
    assert_ne!(place.await_successor("blobs", pid).await, pid);
    second.interrupt().await;
}

#[tokio::test]
async fn an_edited_property_list_is_named_by_line_and_written_again() {
    let mut place = Place::new();
    let up = place.up().await;
    let path = place.home().join("agents/dev.mirrordna.blobs.plist");
    let text = fs::read_to_string(&path).unwrap();
    let line = text.lines().position(|l| l.contains("ExitTimeOut")).unwrap() + 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, text.replace("ExitTimeOut", "ExitTimeout")).unwrap();
    let agents = place.json(&["call", OWN, "ListAgents", "--json"]);
    let blobs = agents["agents"].as_array().unwrap().iter().find(|a| a["name"] == "blobs").unwrap();
    let problem = blobs["problem"].as_str().unwrap();
    assert!(problem.contains(&format!("line {line}: key ExitTimeout: is unknown")), "{problem}");
    let rendered = place.json(&["call", OWN, "RenderAgent", "{\"name\":\"blobs\"}", "--json"]);
    assert_eq!(
        (&rendered["changed"], &rendered["agent"]["problem"]),
        (&true.into(), &"".into()),
        "{rendered}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    up.interrupt().await;
}

#[tokio::test]
async fn what_was_started_in_the_instant_of_a_kill_is_taken_over() {
    let mut place = Place::new();
    place.text(&["init"]);
    let now = SystemClock.wall_ms();
    fs::write(place.home().join("run/.start-blobs"), now.to_string()).unwrap();
    let mut serve = place.command(&["serve", "blobs"]);
    let mut orphan = serve.env("MIRROR_SUPERVISED", "1").stderr(Stdio::null()).spawn().unwrap();
    let lease = place.home().join("run/blobs.lease");
    wait("the orphan holds its lease", async || {
        let held = File::open(&lease).is_ok_and(|file| file.try_lock_shared().is_err());
        if held { Ok(()) } else { Err("nobody does".to_owned()) }
    })
    .await;
    let up = place.up().await;
    let said = format!("blobs (pid {}) was left behind by an earlier up", orphan.id());
    assert!(up.err().contains(&said), "{said} in {}", up.err());
    // It may not have come to listen for signals.
    assert!(matches!(orphan.wait().unwrap().code(), Some(75) | None));
    up.interrupt().await;
}
