//! Install, update and uninstall with real processes, by a launchd that is a model: `fake-launchctl`.
//!
//! The binary is `mirror-drill`, which is `mirror` with test agents, copied so that it has the name of an installed one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mirror_drill::{HUB, Order, give};
use mirror_paths::Home;
use mirror_testkit::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A Mac of its own: home, user folder, launchd.
struct Mac {
    temp: tempfile::TempDir,
    home: Home,
}

impl Mac {
    fn new() -> Self {
        let temp = tempfile::Builder::new().prefix("m").tempdir().unwrap();
        let home = Home::at(temp.path().join("h")).unwrap();
        Self { temp, home }
    }

    fn state(&self) -> PathBuf {
        self.temp.path().join("launchd.json")
    }

    fn folder(&self) -> PathBuf {
        self.temp.path().join("user/Library/LaunchAgents")
    }

    /// Returns a binary whose bytes differ by what is appended, as another build's would.
    fn build(&self, name: &str) -> PathBuf {
        let dir = self.temp.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        let mut bytes = fs::read(env!("CARGO_BIN_EXE_mirror-drill")).unwrap();
        bytes.extend(name.as_bytes());
        let path = dir.join("mirror");
        mirror_testkit::write_program(&path, &bytes);
        path
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("MIRROR_HOME", self.home.root())
            .env("HOME", self.temp.path().join("user"))
            .env("MIRROR_DRILL_LEAVES", "1")
            .env("MIRROR_LAUNCHCTL", env!("CARGO_BIN_EXE_fake-launchctl"))
            .env("FAKE_LAUNCHCTL_STATE", self.state())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, program: &Path, args: &[&str]) -> Output {
        self.command(program, args).output().unwrap()
    }

    #[track_caller]
    fn json(&self, program: &Path, args: &[&str]) -> Value {
        let output = self.run(program, args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}: {out}{err}");
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{args:?}: {e} in {out}"))
    }

    fn launchctl(&self, args: &[&str]) -> Output {
        self.run(Path::new(env!("CARGO_BIN_EXE_fake-launchctl")), args)
    }

    fn calls(&self) -> Vec<String> {
        let state: Value = serde_json::from_str(&fs::read_to_string(self.state()).unwrap()).unwrap();
        state["calls"].as_array().unwrap().iter().map(|c| c.as_str().unwrap().to_owned()).collect()
    }

    fn pid(&self, agent: &str) -> Option<u32> {
        let state: Value = serde_json::from_str(&fs::read_to_string(self.state()).unwrap()).unwrap();
        u32::try_from(state["agents"][format!("dev.mirrordna.{agent}")]["pid"].as_u64()?).ok()
    }
}

impl Drop for Mac {
    fn drop(&mut self) {
        // launchd ends with its state file; without this its processes would outlive a failed test for a moment.
        let _ = self.launchctl(&["end"]);
    }
}

fn services() -> usize {
    // The hub, its dependents and one leaf are beside the real ones.
    mirror_cli::APP.services.len() + 1 + mirror_drill::DEPENDENTS.len() + 1
}

#[tokio::test]
async fn install_update_failure_and_uninstall_do_what_they_say() {
    let mac = Mac::new();
    let one = mac.build("one");

    let preview = mac.json(&one, &["install", "--dry-run", "--json"]);
    assert_eq!((&preview["manager"], &preview["binaries_differ"]), (&"launchd".into(), &true.into()));
    assert!(!mac.home.root().exists() && !mac.folder().exists(), "a dry run changed something");

    let done = mac.json(&one, &["install", "--json"]);
    let agents = done["agents"].as_array().unwrap();
    assert_eq!(agents[0]["name"], "supervisor", "{done}");
    assert_eq!(agents.len(), services() + mirror_cli::APP.jobs.len());
    for agent in agents {
        let name = agent["name"].as_str().unwrap();
        assert_eq!(agent["effect"], "loaded", "{agent}");
        if name.starts_with("job.") {
            assert!(agent["pid"].is_null(), "{agent}");
        } else {
            assert_eq!(agent["build"], mirror_cli::BUILD, "{agent}");
            assert_eq!(mac.pid(name).map(u64::from), agent["pid"].as_u64(), "{agent}");
        }
        let plist = mac.folder().join(format!("dev.mirrordna.{name}.plist"));
        assert_eq!(fs::metadata(&plist).unwrap().permissions().mode() & 0o777, 0o644, "{name}");
    }

    // What runs is known by its rows, is stopped and started by the supervisor, and heals.
    let binary = mac.home.bin().join("mirror");
    let leaf = mirror_drill::LEAVES[0];
    let first = mac.pid(leaf).unwrap();
    wait("the leaf has its fleet row", async || {
        let row = fs::read_to_string(mac.home.fleet().join(leaf)).unwrap_or_default();
        if row.starts_with(&format!("{first} ")) { Ok(()) } else { Err(row) }
    })
    .await;
    kill(Pid::from_raw(i32::try_from(first).unwrap()), Signal::SIGKILL).unwrap();
    wait("the leaf has another process, with its row", async || {
        let row = fs::read_to_string(mac.home.fleet().join(leaf)).unwrap_or_default();
        match mac.pid(leaf) {
            Some(pid) if pid != first && row.starts_with(&format!("{pid} ")) => Ok(()),
            other => Err(format!("{other:?} {row}")),
        }
    })
    .await;
    let from = mac.calls().len();
    let stopped = mac.run(&binary, &["stop", leaf]);
    assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    assert_eq!(mac.pid(leaf), None);
    assert!(!mac.calls()[from..].iter().any(|c| c.starts_with("bootout")), "a stop unloaded");

    // An update kicks what runs, one after the other, and leaves what is stopped.
    let two = mac.build("two");
    let before = mac.pid("bus").unwrap();
    let done = mac.json(&two, &["install", "--json"]);
    let effect = |name: &str| {
        let agents = done["agents"].as_array().unwrap();
        agents
            .iter()
            .find(|a| a["name"] == name)
            .map(|a| (a["effect"].clone(), a["desired"].clone()))
            .unwrap()
    };
    assert_eq!(effect("bus"), ("restarted".into(), "running".into()));
    assert_eq!(effect(leaf), ("unchanged".into(), "stopped".into()));
    assert!(mac.pid("bus").is_some_and(|pid| pid != before));
    assert_eq!(fs::read(&binary).unwrap(), fs::read(&two).unwrap());
    assert_eq!(fs::read(mac.home.bin().join("previous/mirror")).unwrap(), fs::read(&one).unwrap());

    // A build in which an agent ends at once is put back.
    give(&mac.home, HUB, &Order::ExitAtStart(74)).unwrap();
    let three = mac.build("three");
    let failed = mac.run(&three, &["install"]);
    let text = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(73), "{text}");
    assert!(text.contains("CLI_INSTALL_FAILED") && text.contains(HUB), "{text}");
    assert_eq!(fs::read(&binary).unwrap(), fs::read(&two).unwrap(), "the binary was not put back");
    mirror_drill::clear(&mac.home, HUB);

    let started = mac.run(&binary, &["start", leaf, HUB]);
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    fs::write(mac.folder().join(format!("dev.mirrordna.{leaf}.plist")), "edited").unwrap();
    let doctor = mac.run(&binary, &["doctor"]);
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert_eq!(doctor.status.code(), Some(69), "{text}");
    assert!(text.contains("not as the catalogue of this build says"), "{text}");

    let data = fs::read(mac.home.bus().join("node.json")).unwrap();
    let gone = mac.json(&binary, &["uninstall", "--json"]);
    assert_eq!(gone["unloaded"].as_array().unwrap().len(), services() + mirror_cli::APP.jobs.len());
    assert_eq!(fs::read_dir(mac.folder()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(mac.home.bin()).unwrap().count(), 0);
    assert_eq!(fs::read(mac.home.bus().join("node.json")).unwrap(), data);
    let list = mac.launchctl(&["list"]);
    assert_eq!(String::from_utf8_lossy(&list.stdout), "PID\tStatus\tLabel\n");
}

#[tokio::test]
async fn a_launchd_that_refuses_is_named_and_nothing_is_left() {
    let mac = Mac::new();
    let one = mac.build("one");
    assert!(mac.launchctl(&["fault", "bootstrap", "119"]).status.success());
    let failed = mac.run(&one, &["install"]);
    let text = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(73), "{text}");
    assert!(text.contains("Login Items") && text.contains("back in place"), "{text}");
    assert_eq!(fs::read_dir(mac.folder()).unwrap().count(), 0);
}
