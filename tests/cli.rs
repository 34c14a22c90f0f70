//! The command line without a fleet: help, exit codes, JSON, completions, pages, tables.

#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A home that does not exist yet, removed at the end.
struct Place {
    temp: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { temp: tempfile::Builder::new().prefix("m").tempdir().unwrap() }
    }

    fn home(&self) -> PathBuf {
        self.temp.path().join("h")
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mirror"));
        command.args(args).env("MIRROR_HOME", self.home()).env("COLUMNS", "40").stdin(Stdio::null());
        command
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command that must fail, and checks the code and what is said.
#[track_caller]
fn check_failure(args: &[&str], code: i32, parts: &[&str]) {
    let output = Place::new().run(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
    for part in parts {
        assert!(stderr(&output).contains(part), "{args:?}: {part:?} in {}", stderr(&output));
    }
    assert_eq!(stdout(&output), "", "{args:?}: talk belongs on standard error");
}

#[test]
fn each_failure_has_its_exit_code_its_reason_and_a_remedy() {
    let away =
        ["error: the fleet is not running", "reason: CLI_FLEET_AWAY", "see: docs/errors/CLI_FLEET_AWAY.md"];
    check_failure(&["log"], 69, &away);
    check_failure(&["log"], 69, &["hint: start it with: /", "/mirror up --home /"]);
    check_failure(&["append", "local.note", "x"], 69, &away);
    check_failure(&["call", "bus", "GetStatus"], 69, &away);
    check_failure(&["metrics", "bus"], 69, &away);
    check_failure(&["changelog"], 69, &away);
    check_failure(&["frobnicate"], 64, &["unrecognized subcommand 'frobnicate'"]);
    check_failure(&[], 64, &["Usage: mirror"]);
    check_failure(&["log", "--until", "1h", "-f"], 64, &["cannot be used with"]);
    check_failure(&["log", "--since", "soon"], 65, &["--since \"soon\" is no time", "CLI_INPUT_INVALID"]);
    check_failure(&["call", "buss"], 66, &["CLI_SERVICE_UNKNOWN", "hint: did you mean bus?"]);
    check_failure(
        &["call", "bus", "getstatus"],
        66,
        &["CLI_METHOD_UNKNOWN", "hint: did you mean GetStatus?"],
    );
    check_failure(
        &["call", "bus", "Append", "{\"evnt\": {}}"],
        65,
        &["'evnt'", "fields of AppendRequest: event"],
    );
    check_failure(&["call", "mirror.kit.v1.KitService", "GetState"], 65, &["every service answers"]);
    check_failure(&["metrics", "nobody"], 66, &["services: "]);
    check_failure(&["import", "/nowhere/at/all"], 66, &["CLI_FILE", "/nowhere/at/all"]);
    check_failure(&["blobs", "put", "/nowhere/at/all"], 66, &["CLI_FILE"]);
    check_failure(&["bus", "verify"], 66, &["BUS_VERIFY_UNREADABLE", "mirror init"]);
    check_failure(&["serve", "nobody"], 66, &["CLI_SERVICE_UNKNOWN"]);
}

#[test]
fn an_error_can_be_json() {
    let output = Place::new().run(&["log", "--json"]);
    let error: serde_json::Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(error["reason"], "CLI_FLEET_AWAY");
    assert_eq!(error["exit_code"], 69);
    assert_eq!(output.status.code(), Some(69));
}

#[test]
fn a_home_must_be_absolute_and_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let output = place.command(&["init"]).env("MIRROR_HOME", "relative").output().unwrap();
    assert_eq!(output.status.code(), Some(73));
    assert!(stderr(&output).contains("must be an absolute path"), "{}", stderr(&output));

    fs::create_dir(place.home()).unwrap();
    fs::set_permissions(place.home(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = place.run(&["init"]);
    assert_eq!(output.status.code(), Some(73));
    assert!(stderr(&output).contains("chmod 700"), "{}", stderr(&output));

    let long = place.temp.path().join("x".repeat(100));
    let output = place.run(&["up", "--home", long.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(73));
    assert!(stderr(&output).contains("shorter folder"), "{}", stderr(&output));
}

#[test]
fn init_makes_a_home_once() {
    let place = Place::new();
    let first: serde_json::Value = serde_json::from_str(&stdout(&place.run(&["init", "--json"]))).unwrap();
    assert_eq!(first["new"], true);
    let second: serde_json::Value = serde_json::from_str(&stdout(&place.run(&["init", "--json"]))).unwrap();
    assert_eq!((&second["new"], &second["origin"]), (&false.into(), &first["origin"]));
    assert!(stdout(&place.run(&["init"])).contains("found, and left as it is"));
    let output = place.run(&["bus", "verify", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["intact"], true);
}

#[test]
fn a_status_without_a_fleet_lists_what_should_run() {
    let place = Place::new();
    place.run(&["init"]);
    let output = place.run(&["status"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(stderr(&output).contains("CLI_FLEET_AWAY"), "{}", stderr(&output));
    let lines = stdout(&output);
    for service in mirror_cli::APP.services {
        let line = lines.lines().find(|l| l.split_whitespace().next() == Some(service.decl.name));
        assert!(line.is_some_and(|l| l.contains("down")), "{} in {lines}", service.decl.name);
    }
}

#[test]
fn services_are_a_table_that_does_not_depend_on_the_terminal() {
    let place = Place::new();
    let table = stdout(&place.run(&["services"]));
    assert_eq!(table, stdout(&place.run(&["--color", "auto", "services"])));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), mirror_cli::APP.services.len() + 1, "{table}");
    let column = lines[0].find("SUMMARY").unwrap();
    for service in mirror_cli::APP.services {
        let line = lines.iter().find(|l| l.starts_with(&format!("{} ", service.decl.name))).unwrap();
        assert_eq!(line.get(column..), Some(service.decl.summary), "{table}");
    }
    assert!(!table.contains('\u{1b}') && lines.iter().all(|l| !l.ends_with(' ')), "{table}");
    let coloured = stdout(&place.run(&["services", "--color", "always"]));
    assert!(coloured.contains("\u{1b}[1m"), "{coloured}");

    let json = stdout(&place.run(&["services", "--json"]));
    let names: Vec<String> = json
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names[0], "bus");
    assert_eq!(names.len(), mirror_cli::APP.services.len());
}

#[test]
fn methods_are_listed_with_the_rules_of_the_contract() {
    let place = Place::new();
    let table = stdout(&place.run(&["call", "bus"]));
    let line = table.lines().find(|l| l.starts_with("AppendStream ")).unwrap();
    assert!(line.contains("stream AppendStreamRequest  stream AppendStreamResponse"), "{line}");
    assert!(line.contains("bus.append"), "{line}");
    for method in ["GetState", "GetMetrics", "Check"] {
        assert!(table.lines().any(|l| l.starts_with(&format!("{method} "))), "{method} in {table}");
    }
    for line in stdout(&place.run(&["call", "mirror.bus.v1.BusService", "--json"])).lines() {
        let method: serde_json::Value = serde_json::from_str(line).unwrap();
        let path = method["path"].as_str().unwrap();
        assert_eq!(mirror_contract::method(path).unwrap().scope, method["scope"], "{path}");
    }
}

#[test]
fn completions_and_pages_cover_every_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&place.run(&["completions", shell]));
        assert!(script.contains("changelog") && script.contains("verify"), "{shell}");
    }
    assert!(stdout(&place.run(&["man"])).starts_with(".ie"), "the main page is roff");
    let dir = place.temp.path().join("man");
    let pages = stdout(&place.run(&["man", dir.to_str().unwrap()]));
    for page in ["mirror.1", "mirror-up.1", "mirror-bus-verify.1", "mirror-blobs-put.1"] {
        assert!(pages.lines().any(|l| Path::new(l) == dir.join(page)), "{page} in {pages}");
        assert!(fs::metadata(dir.join(page)).unwrap().len() > 100, "{page}");
    }
}

#[test]
fn help_and_version_are_data() {
    let place = Place::new();
    let help = place.run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for part in ["Exit codes:", "69", "MIRROR_HOME", "changelog"] {
        assert!(stdout(&help).contains(part), "{part}");
    }
    let version = stdout(&place.run(&["--version"]));
    assert_eq!(version, format!("mirror {}\n", mirror_cli::BUILD));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    let mut child =
        place.command(&["call", "bus"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}

#[test]
fn a_link_name_is_a_service_or_a_usage_error() {
    let place = Place::new();
    place.run(&["init"]);
    let link = |name: &str| {
        let path = place.temp.path().join(name);
        if fs::hard_link(env!("CARGO_BIN_EXE_mirror"), &path).is_err() {
            mirror_testkit::write_program(&path, &fs::read(env!("CARGO_BIN_EXE_mirror")).unwrap());
        }
        path
    };
    let output = Command::new(link("mirror-nobody")).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("holds no service of that name"), "{}", stderr(&output));
    let output = Command::new(link("mirror-bus")).arg("verify").output().unwrap();
    assert_eq!(output.status.code(), Some(64));

    // A service that should be stopped ends at once and says so by its code.
    fs::write(place.home().join("desired/bus"), "stopped\n").unwrap();
    assert_eq!(place.run(&["serve", "bus"]).status.code(), Some(0));
}

#[test]
fn the_reference_page_is_what_the_commands_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/CLI.md");
    let page = mirror_cli::reference();
    if fs::read_to_string(&path).unwrap_or_default() != page {
        fs::write(&path, page).unwrap();
        panic!("docs/CLI.md was written anew; look at the difference and commit it");
    }
}
