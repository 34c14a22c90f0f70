//! The fleet in the foreground, with real processes: up, drained, killed, taken over, and used.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

mod place;
mod wishes;

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use mirror_clock::{Clock as _, SystemClock};
use mirror_testkit::{samples, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

use self::place::{Follower, OWN, Place, send};

#[tokio::test]
async fn the_fleet_comes_up_once_and_drains_on_ctrl_c() {
    let mut place = Place::new();
    let up = place.up().await;
    let home = place.home();
    for service in mirror_cli::APP.services {
        let name = service.decl.name;
        let socket = home.join("run").join(format!("{name}.sock"));
        let line = up.out().lines().find(|l| l.starts_with(&format!("{name} "))).map(str::to_owned);
        let line = line.unwrap_or_else(|| panic!("{name} in {}", up.out()));
        assert!(
            line.contains("serving") && line.contains(" ms ") && line.ends_with(socket.to_str().unwrap())
        );
    }
    let binary = home.join("bin/mirror");
    for command in ["import ", "log -f", "changelog", "bus verify", "status"] {
        let line = format!("  {} {command}", binary.display());
        assert!(up.out().contains(&line), "{line:?} in {}", up.out());
    }
    assert!(up.out().contains(&format!("--home {}", home.display())), "this home is not the default");
    assert!(up.out().contains("-authority localhost"), "{}", up.out());

    let status = place.json(&["status", "--json"]);
    assert_eq!((&status["healthy"], &status["up"]), (&true.into(), &true.into()), "{status}");
    assert_eq!(status["bus"]["writer"], "open", "{status}");
    // The binary under the name that was printed works without the environment.
    let named =
        Command::new(&binary).args(["status", "--home"]).arg(&home).env_remove("MIRROR_HOME").output();
    assert_eq!(named.unwrap().status.code(), Some(0));

    let second = place.run(&["up"]);
    assert_eq!(second.status.code(), Some(73));
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("CLI_UP_RUNNING") && text.contains(&format!("pid {}", up.child.id())), "{text}");
    assert_eq!(place.json(&["status", "--json"])["healthy"], true, "the refused one disturbed the fleet");

    up.interrupt().await;
    assert_eq!(place.run(&["status"]).status.code(), Some(69));
    assert_eq!(fs::read_dir(home.join("run/fleet")).unwrap().count(), 0, "a row is left");
    for service in mirror_cli::APP.services {
        assert!(!home.join("run").join(format!("{}.sock", service.decl.name)).exists());
        if service.decl.name == OWN {
            continue;
        }
        let output = home.join("log").join(format!("{}.err", service.decl.name));
        assert_eq!(fs::read_to_string(&output).unwrap(), "", "{}", output.display());
    }
}

#[tokio::test]
async fn a_killed_service_starts_again_at_the_floor_and_a_follower_goes_on() {
    let mut place = Place::new();
    let clock = SystemClock;
    let begun = clock.boot();
    let up = place.up().await;
    let follower = Follower::start(place.command(&["log", "-f", "--subject", "local.>"]));
    place.text(&["append", "local.note", "one"]);
    follower.saw("one").await;
    let (bus, blobs) = (place.pid("bus").unwrap(), place.pid("blobs").unwrap());
    send(bus, Signal::SIGKILL);
    send(blobs, Signal::SIGKILL);
    wait("up says so", async || {
        let err = up.err();
        let said = |name: &str| err.contains(&format!("{name} ended with SIGKILL after"));
        if said("bus") && said("blobs") { Ok(()) } else { Err(err) }
    })
    .await;
    assert_eq!(place.run(&["append", "local.note", "lost"]).status.code(), Some(69));
    assert_eq!(place.run(&["status"]).status.code(), Some(69));

    place.await_successor("blobs", blobs).await;
    let after = clock.boot() - begun;
    assert!(after >= Duration::from_secs(10), "started again after {after:?}, before the floor");
    assert!(after <= Duration::from_secs(13), "started again only after {after:?}");
    place.await_successor("bus", bus).await;
    place.text(&["append", "local.note", "two"]);
    follower.saw("two").await;
    assert_eq!((follower.with("one"), follower.with("two")), (1, 1), "an event was shown twice");
    assert_eq!(place.json(&["bus", "verify", "--json"])["intact"], true);
    wait("the fleet is whole", async || {
        let output = place.run(&["status"]);
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stdout).into_owned())
        }
    })
    .await;
    up.interrupt().await;
}

#[tokio::test]
async fn what_a_killed_up_left_behind_is_taken_over() {
    let mut place = Place::new();
    let mut first = place.up().await;
    let old: Vec<u32> = mirror_cli::APP.services.iter().filter_map(|s| place.pid(s.decl.name)).collect();
    assert_eq!(old.len(), mirror_cli::APP.services.len());
    first.signal(Signal::SIGKILL);
    first.ended().await;
    let status: Value = serde_json::from_slice(&place.run(&["status", "--json"]).stdout).unwrap();
    let services = status["services"].as_array().unwrap();
    let down: Vec<&Value> = services.iter().filter(|s| s["serves"] == false).map(|s| &s["name"]).collect();
    assert_eq!((down, &status["up"]), (vec![&Value::from(OWN)], &false.into()), "{status}");

    let second = place.up().await;
    for service in mirror_cli::APP.services {
        let name = service.decl.name;
        let said = second.err().contains(&format!("{name} (pid "));
        assert_eq!(said, name != OWN, "{name} in {}", second.err());
        assert!(!old.contains(&place.pid(name).unwrap()), "{name} is the old process");
    }
    assert_eq!(place.json(&["status", "--json"])["healthy"], true);
    second.interrupt().await;
}

#[tokio::test]
async fn a_stopped_service_stays_down_and_a_foreign_process_is_not_taken_over() {
    let mut place = Place::new();
    place.text(&["init"]);
    fs::write(place.home().join("desired/blobs"), "stopped\n").unwrap();
    let up = place.up().await;
    assert!(up.out().lines().any(|l| l.starts_with("blobs ") && l.contains("stopped")), "{}", up.out());
    let status = place.text(&["status"]);
    assert!(status.lines().any(|l| l.starts_with("blobs ") && l.contains("stopped")), "{status}");
    let put = place.run(&[
        "blobs",
        "put",
        Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml").to_str().unwrap(),
    ]);
    let text = String::from_utf8_lossy(&put.stderr).into_owned();
    assert_eq!(put.status.code(), Some(69), "{text}");
    assert!(text.contains("CLI_SERVICE_AWAY") && text.contains("blobs.log"), "{text}");
    up.interrupt().await;

    let mut foreign = place.command(&["serve", "bus"]).stderr(Stdio::null()).spawn().unwrap();
    wait("the foreign bus serves", async || {
        let output = place.run(&["call", "bus", "GetStatus"]);
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    })
    .await;
    let refused = place.run(&["up"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(73), "{text}");
    assert!(text.contains("CLI_UP_BLOCKED") && text.contains(&format!("kill {}", foreign.id())), "{text}");
    send(foreign.id(), Signal::SIGTERM);
    assert_eq!(foreign.wait().unwrap().code(), Some(75), "a drain that nobody wanted to be final");
}

#[tokio::test]
async fn a_hung_service_is_seen_and_a_second_ctrl_c_ends_it() {
    let mut place = Place::new();
    let mut up = place.up().await;
    send(place.pid("blobs").unwrap(), Signal::SIGSTOP);
    let status = place.run(&["status"]);
    let text = String::from_utf8(status.stdout).unwrap();
    assert_eq!(status.status.code(), Some(69), "{text}");
    assert!(text.lines().any(|l| l.starts_with("blobs ") && l.contains("no answer")), "{text}");

    up.signal(Signal::SIGINT);
    wait("the upper tiers have ended", async || {
        let left: Vec<_> =
            ["bus", "blobs", "import"].into_iter().filter(|s| place.pid(s).is_some()).collect();
        if left == ["bus", "blobs"] { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    up.signal(Signal::SIGINT);
    assert_eq!(up.ended().await.code(), Some(0), "{}", up.err());
    assert!(up.out().ends_with("drained\n"), "{}", up.out());
    assert_eq!((place.pid("bus"), place.pid("blobs")), (None, None));
}

#[tokio::test]
async fn a_bad_configuration_is_reported_and_does_not_crash_loop() {
    let mut place = Place::new();
    place.text(&["init"]);
    fs::write(place.home().join("mirror.toml"), "[bus\n").unwrap();
    let up = place.up().await;
    assert!(up.out().contains("the fleet is up in part"), "{}", up.out());
    let line = up.out().lines().find(|l| l.starts_with("bus ")).unwrap_or_default().to_owned();
    assert!(line.contains("not serving") && line.contains("line 1"), "{line}");
    let status = place.run(&["status"]);
    assert_eq!(status.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&status.stdout).contains("not serving"));
    assert_eq!(up.err(), "", "a service was started again");
    up.interrupt().await;
}

#[tokio::test]
async fn the_main_job_works_from_the_command_line() {
    let mut place = Place::new();
    let up = place.up().await;
    let path = samples();
    let path = path.to_str().unwrap();

    let dry = place.json(&["import", path, "--dry-run", "--json"]);
    let first = place.json(&["import", path, "--json"]);
    let rows = first["taken"].as_u64().unwrap();
    assert!(rows > 50 && first["skipped"] == 0, "{first}");
    assert_eq!((&dry["taken"], &dry["last_seq"]), (&first["taken"], &0.into()), "{dry}");
    let second = place.json(&["import", path, "--json"]);
    assert_eq!((&second["taken"], &second["skipped"]), (&0.into(), &first["taken"]), "{second}");

    assert_eq!(place.text(&["log"]).lines().count(), 20);
    let all = place.text(&["log", "--from", "1", "--json", "--subject", "import.*.*"]);
    let seqs: Vec<u64> =
        all.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs.len() as u64, rows);
    assert!(seqs.is_sorted());
    let newest = place.text(&["log", "-n", "1", "--reverse", "--json"]);
    let last = place.json(&["log", "-n", "1", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&newest).unwrap(), last);
    assert_eq!(place.text(&["log", "--until", "1h"]), "", "nothing happened an hour ago");

    wait("the changelog has the sessions", async || {
        let page = place.text(&["changelog", "--days", "9"]);
        let there = ["claude-code", "codex", "gemini"].iter().all(|writer| page.contains(writer));
        if there { Ok(()) } else { Err(page) }
    })
    .await;

    let ack =
        place.json(&["append", "local.note", "{\"n\":1.10}", "--id", "n1", "--label", "draft", "--json"]);
    let again =
        place.json(&["append", "local.note", "{\"n\":1.10}", "--id", "n1", "--label", "draft", "--json"]);
    assert_eq!((&again["seq"], &again["duplicate"]), (&ack["seq"], &true.into()));
    assert_eq!(place.text(&["get", "n1", "--payload"]), "{\"n\":1.10}");
    let event = place.json(&["get", &ack["seq"].to_string(), "--json"]);
    assert_eq!((&event["leaf"], &event["actor"]), (&ack["leaf"], &"local".into()));
    assert!(event["header"].as_str().unwrap().starts_with("{\"v\":1,"));

    let requests =
        "{\"events\":[{\"subject\":\"local.a\",\"payload\":\"aGk=\",\"type\":\"PAYLOAD_TYPE_TEXT\"}]}";
    let stream = place.text(&["call", "bus", "AppendStream", &format!("{requests}\n{requests}")]);
    let last: Value = serde_json::from_str(stream.lines().last().unwrap()).unwrap();
    assert_eq!(last["count"], "2", "{stream}");
    let head = place.json(&["status", "--json"])["bus"]["head"].as_u64().unwrap();
    let broken = place.run(&["call", "bus", "AppendStream", "[{\"events\":[{\"subject\":1}]}]"]);
    assert_eq!(broken.status.code(), Some(65));
    assert_eq!(place.json(&["status", "--json"])["bus"]["head"], head, "half a stream was stored");
    assert!(place.text(&["call", "bus", "Check"]).contains("SERVING"));
    assert!(place.text(&["metrics", "bus"]).contains("AppendStream"));

    let file = place.temp.path().join("blob");
    fs::write(&file, vec![7; 300_000]).unwrap();
    let digest = place.text(&["blobs", "put", file.to_str().unwrap()]);
    let copy = place.temp.path().join("copy");
    place.text(&["blobs", "get", digest.trim(), "-o", copy.to_str().unwrap()]);
    assert_eq!(fs::read(&copy).unwrap(), fs::read(&file).unwrap());
    assert_eq!(place.run(&["blobs", "get", digest.trim()]).stdout, fs::read(&file).unwrap());
    assert_eq!(place.run(&["blobs", "get", &"0".repeat(64)]).status.code(), Some(66));

    let mut reader = place.command(&["log", "--from", "1", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    reader.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    assert_eq!(reader.wait().unwrap().code(), Some(0), "a reader that has seen enough is no error");

    up.interrupt().await;
    assert_eq!(place.json(&["bus", "verify", "--json"])["intact"], true);
    damage(&place.home());
    let verdict = place.run(&["bus", "verify"]);
    assert_eq!(verdict.status.code(), Some(74));
    assert!(String::from_utf8_lossy(&verdict.stdout).contains("verdict: DAMAGED"));
}

/// Flips one bit of the first event.
fn damage(home: &Path) {
    let log = fs::read_dir(home.join("bus/log")).unwrap().next().unwrap().unwrap().path();
    let segment = fs::read_dir(log).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[40] ^= 1;
    fs::write(&segment, bytes).unwrap();
}
