//! The recovery kit as its owner meets it, and the keeper as a process of its own binary.

#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mirror_keeper::recovery::Passphrase;

/// Homes that do not exist yet, removed at the end.
struct Place {
    temp: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { temp: tempfile::Builder::new().prefix("m").tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn run(&self, home: &str, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mirror"))
            .args(args)
            .env("MIRROR_HOME", self.path(home))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that asks for nothing may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn json(&self, home: &str, args: &[&str], input: &str) -> serde_json::Value {
        let output = self.run(home, args, input);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_str(&stdout(&output)).unwrap()
    }

    #[track_caller]
    fn check_failure(&self, home: &str, args: &[&str], input: &str, code: i32, parts: &[&str]) {
        let output = self.run(home, args, input);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        for part in parts {
            assert!(stderr(&output).contains(part), "{args:?}: {part:?} in {}", stderr(&output));
        }
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn passphrase(kit: &str) -> &str {
    let line = kit.lines().find_map(|line| line.strip_prefix("Passphrase:")).unwrap();
    line.trim()
}

fn seed(home: &Path) -> String {
    fs::read_to_string(home.join("keys/node.seed")).unwrap()
}

#[test]
fn the_kit_is_shown_once_and_brings_the_identity_to_a_new_machine() {
    let place = Place::new();
    let first = stdout(&place.run("a", &["init"], ""));
    assert!(
        first.contains("shown once and stored nowhere") && first.contains("mirror recover --kit FILE"),
        "{first}"
    );
    let phrase = passphrase(&first);
    assert!(Passphrase::parse(phrase).is_ok());
    let second = stdout(&place.run("a", &["init"], ""));
    assert!(second.contains("made before") && !second.contains("Passphrase:"), "{second}");

    let kit = place.path("kit.txt");
    fs::write(&kit, first.replace(phrase, "(cut off)")).unwrap();
    let args = ["recover", "--kit", kit.to_str().unwrap(), "--json"];
    let typed = phrase.to_lowercase().replace('-', " ");
    place.check_failure("b", &args, "", 65, &["35 symbols"]);
    place.check_failure("b", &args, &typed[..20], 65, &["35 symbols"]);
    let other = Passphrase::generate().unwrap();
    place.check_failure("b", &args, &other.grouped(), 77, &["not the passphrase"]);
    assert!(!place.path("b").join("keys/node.seed").exists());

    let restored = place.json("b", &args, &typed);
    assert_eq!(restored["new_log"], true);
    assert!(restored["origin"].as_str().unwrap().ends_with(".2"), "{restored}");
    assert_eq!(seed(&place.path("b")), seed(&place.path("a")));
    let again = stdout(&place.run("b", &["init"], ""));
    assert!(again.contains("made before"), "the kit goes on being the kit: {again}");

    place.run("c", &["init", "--no-recovery"], "");
    let before = seed(&place.path("c"));
    place.check_failure("c", &args, &typed, 73, &["a home has one device"]);
    assert_eq!(seed(&place.path("c")), before);
    fs::write(&kit, "no kit").unwrap();
    place.check_failure("d", &args, &typed, 65, &["the kit is malformed"]);
}

#[test]
fn a_kit_file_is_private_new_and_outside_of_the_home() {
    let place = Place::new();
    let kit = place.path("kit.txt");
    let inside = place.path("a").join("kit.txt");
    let made = |file: &Path| {
        vec!["init".to_owned(), "--json".into(), "--kit-file".into(), file.to_str().unwrap().into()]
    };
    let inside = made(&inside);
    let inside: Vec<&str> = inside.iter().map(String::as_str).collect();
    place.check_failure("a", &inside, "", 65, &["must not lie in the home"]);
    assert!(!place.path("a").exists());
    let outside = made(&kit);
    let outside: Vec<&str> = outside.iter().map(String::as_str).collect();
    let answer = place.json("a", &outside, "");
    assert_eq!(
        (&answer["recovery"]["new"], answer["recovery"]["passphrase"].is_null()),
        (&true.into(), true)
    );
    assert_eq!(fs::metadata(&kit).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(Passphrase::parse(passphrase(&fs::read_to_string(&kit).unwrap())).is_ok());
    place.check_failure("b", &outside, "", 65, &["exists, and nothing is written over it"]);

    let none = place.json("c", &["init", "--json", "--no-recovery"], "");
    assert!(none["recovery"].is_null());
    let later = place.json("c", &["init", "--json"], "");
    assert_eq!((&later["new"], &later["recovery"]["new"]), (&false.into(), &true.into()));
    assert!(Passphrase::parse(later["recovery"]["passphrase"].as_str().unwrap()).is_ok());
}

#[tokio::test]
async fn the_keeper_has_a_binary_of_its_own() {
    let place = Place::new();
    place.run("a", &["init", "--no-recovery"], "");
    let mut keeper = Command::new(env!("CARGO_BIN_EXE_mirror-keeper"))
        .env("MIRROR_HOME", place.path("a"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let socket = place.path("a").join("run/keeper.sock");
    mirror_testkit::wait("the keeper listens", async || {
        tokio::net::UnixStream::connect(&socket).await.map(|_| ()).map_err(|e| e.to_string())
    })
    .await;
    let listed = place.run("a", &["call", "keeper", "ListKeys"], "");
    let _ = keeper.kill();
    keeper.wait().unwrap();
    // The catalogue of `mirror` decides whether the command knows the keeper.
    let said = format!("{}{}", stdout(&listed), stderr(&listed));
    assert!(said.contains("checkpoint") || said.contains("CLI_SERVICE_UNKNOWN"), "{said}");
    let keys = place.path("a").join("keys");
    assert!(keys.join("checkpoint.1.seed").exists() && keys.join("keeper.log").exists());
}
