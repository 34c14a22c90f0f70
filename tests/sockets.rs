//! The sockets of a running fleet, from outside: who can reach them, and what those get who should not or cannot.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test reports by panicking, and says what it skips"
)]

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use mirror_clock::{Clock as _, SystemClock};
use mirror_testkit::wait;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, chown, geteuid};
use serde_json::Value;

/// A user who is not the owner: `nobody` where there is one.
const OTHER: u32 = 65_534;

/// Returns the names of the services that have a process of their own; `up` itself serves the supervisor.
fn services() -> impl Iterator<Item = &'static str> {
    mirror_cli::APP.services.iter().map(|s| s.decl.name).filter(|name| *name != SUPERVISOR)
}

const SUPERVISOR: &str = "supervisor";

/// A running fleet in a home of its own; ended when it is dropped.
struct Fleet {
    temp: tempfile::TempDir,
    binary: PathBuf,
    user: Option<u32>,
    up: Child,
}

impl Fleet {
    async fn start(user: Option<u32>) -> Self {
        Self::start_at(tempfile::Builder::new().prefix("m").tempdir().unwrap(), user).await
    }

    /// Starts a fleet whose home is `p/h` in a folder.
    async fn start_at(temp: tempfile::TempDir, user: Option<u32>) -> Self {
        // Where another user can run it, while the home beside it stays private.
        let binary = temp.path().join("mirror");
        mirror_testkit::write_program(&binary, &fs::read(env!("CARGO_BIN_EXE_mirror")).unwrap());
        let place = temp.path().join("p");
        fs::create_dir_all(&place).unwrap();
        if let Some(user) = user {
            chown(&place, Some(Uid::from_raw(user)), None).unwrap();
        }
        fs::set_permissions(temp.path(), Permissions::from_mode(0o711)).unwrap();
        let out = temp.path().join("out");
        let up = as_user(Command::new(&binary), user)
            .arg("up")
            .env("MIRROR_HOME", place.join("h"))
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let fleet = Self { temp, binary, user, up };
        wait("the fleet is up", async || {
            let said = fs::read_to_string(&out).unwrap_or_default();
            if said.contains("Ctrl-C here drains") { Ok(()) } else { Err(said) }
        })
        .await;
        fleet
    }

    fn home(&self) -> PathBuf {
        self.temp.path().join("p/h")
    }

    fn socket(&self, service: &str) -> PathBuf {
        self.home().join(format!("run/{service}.sock"))
    }

    fn run(&self, user: Option<u32>, args: &[&str]) -> Output {
        as_user(Command::new(&self.binary), user)
            .args(args)
            .env("MIRROR_HOME", self.home())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a command that must succeed, and returns what it printed.
    #[track_caller]
    fn text(&self, args: &[&str]) -> String {
        let output = self.run(self.user, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn assert_serves(&self, service: &str) {
        let state: Value =
            serde_json::from_str(&self.text(&["call", service, "GetState", "--json"])).unwrap();
        assert_eq!(state["state"], "STATE_SERVING", "{service}");
    }

    fn pid(&self, service: &str) -> u32 {
        let row = fs::read_to_string(self.home().join("run/fleet").join(service)).unwrap();
        row.split(' ').next().unwrap().parse().unwrap()
    }

    fn refused(&self, service: &str) -> u64 {
        let text = self.text(&["metrics", service]);
        let line = text.lines().find(|l| l.starts_with("mirror_connections_refused_total{")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Returns the lines of a service's log with this text.
    fn logged(&self, service: &str, part: &str) -> Vec<String> {
        let log = fs::read_to_string(self.home().join(format!("log/{service}.log"))).unwrap();
        log.lines().filter(|l| l.contains(part)).map(str::to_owned).collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.up.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.up.wait();
        // A volume that a test put there would keep the folder from being removed.
        #[cfg(target_os = "linux")]
        let _ = nix::mount::umount2(&self.temp.path().join("p"), nix::mount::MntFlags::MNT_DETACH);
    }
}

fn as_user(mut command: Command, user: Option<u32>) -> Command {
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command
}

/// Returns whether this is root; says so when a test cannot do without.
fn is_root(what: &str) -> bool {
    let root = geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: {what}: needs root");
    }
    root
}

#[tokio::test]
async fn the_folder_and_the_sockets_are_private() {
    let fleet = Fleet::start(None).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for dir in [fleet.home(), fleet.home().join("run")] {
        assert_eq!(mode(&dir), 0o700, "{dir:?}");
    }
    for service in services() {
        assert_eq!(mode(&fleet.socket(service)), 0o600, "{service}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn no_process_listens_on_a_network() {
    if !is_root("the port scan reads the open files of undumpable processes") {
        return;
    }
    let fleet = Fleet::start(None).await;
    for service in services().chain([SUPERVISOR]) {
        let pid = fleet.pid(service);
        assert_eq!(pid == fleet.up.id(), service == SUPERVISOR, "{service}");
        let inodes: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
            .filter_map(|to| Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        for table in ["tcp", "tcp6", "udp", "udp6", "udplite", "raw", "raw6", "packet"] {
            let rows = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
            let found =
                rows.lines().find(|row| row.split_whitespace().any(|w| inodes.iter().any(|i| i == w)));
            assert_eq!(found, None, "{service} has a {table} socket");
        }
        // The same look finds what is there.
        let unix = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap();
        let path = fleet.home().join("run");
        let bound = unix.lines().filter(|row| row.contains(path.to_str().unwrap()));
        let own = bound.filter(|row| inodes.iter().any(|i| row.split_whitespace().any(|w| w == i))).count();
        assert!(own > 0, "{service}");
    }
}

#[tokio::test]
async fn another_user_is_refused_by_the_folder_and_by_each_service() {
    if !is_root("acting as another user") {
        return;
    }
    let fleet = Fleet::start(None).await;
    let call = |service: &str| fleet.run(Some(OTHER), &["call", service, "GetState", "--json"]);
    let closed = call("bus");
    assert!(!closed.status.success());
    assert!(!String::from_utf8_lossy(&closed.stderr).contains("KIT_PEER_UID"), "the folder let them in");

    let home = fleet.home();
    for dir in [home.clone(), home.join("run")] {
        fs::set_permissions(dir, Permissions::from_mode(0o711)).unwrap();
    }
    for service in services() {
        fs::set_permissions(fleet.socket(service), Permissions::from_mode(0o666)).unwrap();
        for _ in 0..3 {
            let refused = call(service);
            let said = String::from_utf8_lossy(&refused.stderr);
            assert!(said.contains("KIT_PEER_UID"), "{service}: {said}");
            // EX_NOPERM: the command's word for PERMISSION_DENIED.
            assert_eq!(refused.status.code(), Some(77), "{service}: {said}");
        }
        assert_eq!(fleet.logged(service, "KIT_PEER_UID").len(), 1, "{service}: one line a minute");
        fleet.assert_serves(service);
    }
    let events = || fleet.text(&["log", "--subject", "bus.refused", "--json"]);
    wait("the refusal is an event", async || {
        let events = events();
        if events.lines().count() == 1 { Ok(()) } else { Err(events) }
    })
    .await;
    assert!(events().contains("KIT_PEER_UID") && events().contains(&OTHER.to_string()), "{}", events());
}

#[tokio::test]
async fn what_is_not_grpc_is_closed_counted_and_logged_once() {
    let fleet = Fleet::start(None).await;
    let tls = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let inputs: [(&str, &[u8]); 5] = [
        ("garbage", b"\x00\xff\x13\x37 what is this"),
        ("HTTP/1", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("TLS", &tls),
        ("a preface that goes wrong", b"PRI * HTTP/2.0\r\n\r\nXX"),
        ("nul bytes", &[0; 4096]),
    ];
    for service in services() {
        let before = fleet.refused(service);
        for (what, bytes) in inputs {
            let mut stream = UnixStream::connect(fleet.socket(service)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            // It may be closed before everything is sent.
            let _ = stream.write_all(bytes);
            let mut answer = Vec::new();
            match stream.read_to_end(&mut answer) {
                Ok(_) => {}
                Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{service}: {what}"),
            }
        }
        assert_eq!(fleet.refused(service) - before, inputs.len() as u64, "{service}");
        let lines = fleet.logged(service, "closed a connection that sent");
        assert_eq!(lines.len(), 1, "{service}: one line a minute: {lines:?}");
        assert!(
            lines[0].contains("\"level\":\"WARN\"") && lines[0].contains("this socket speaks gRPC"),
            "{lines:?}"
        );

        // A right preface and then nonsense is HTTP/2's own business; the service goes on.
        let mut stream = UnixStream::connect(fleet.socket(service)).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let _ = stream.write_all(&[0xff; 65_536]);
        fleet.assert_serves(service);
    }
}

#[tokio::test]
async fn clients_that_say_nothing_hold_up_neither_a_call_nor_a_restart() {
    let fleet = Fleet::start(None).await;
    let socket = fleet.socket("bus");
    let mut held: Vec<UnixStream> = (0..250).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    for stream in &mut held[..50] {
        stream.write_all(b"PRI * HTTP").unwrap();
    }
    // Begins well and then never reads.
    held[60].write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    fleet.assert_serves("bus");
    fleet.text(&["append", "local.note", "said among the silent"]);

    let pid = fleet.pid("bus");
    let began = SystemClock.boot();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGTERM).unwrap();
    wait("the process has ended", async || {
        let alive = mirror_kit::process_start(pid).is_ok() && fleet.pid("bus") == pid;
        if alive { Err(format!("{pid} lives")) } else { Ok(()) }
    })
    .await;
    let took = SystemClock.boot() - began;
    assert!(took < mirror_kit::DRAIN_LIMIT / 2, "the drain took {took:?}");
}

#[tokio::test]
async fn who_never_begins_is_hung_up_on() {
    let fleet = Fleet::start(None).await;
    let mut half = UnixStream::connect(fleet.socket("registry")).unwrap();
    half.write_all(b"PRI").unwrap();
    half.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The server says its part of the beginning, waits, and hangs up.
    let ended = tokio::task::spawn_blocking(move || half.read_to_end(&mut Vec::new()));
    ended.await.unwrap().unwrap();
    assert_eq!(fleet.logged("registry", "did not begin HTTP/2").len(), 1);
    assert_eq!(fleet.refused("registry"), 1);
}

#[tokio::test]
async fn connections_are_bounded_and_a_service_comes_back_when_they_close() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if hard < 3000 || setrlimit(Resource::RLIMIT_NOFILE, hard.min(4096), hard).is_err() {
        eprintln!("SKIPPED: more connections than a service takes: needs 3000 open files");
        return;
    }
    let fleet = Fleet::start(None).await;
    let socket = fleet.socket("changelog");
    let mut held = Vec::new();
    for _ in 0..1100 {
        held.push(UnixStream::connect(&socket).unwrap());
    }
    // The last of them is closed at once.
    let last = held.pop().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!((&last).read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(fleet.logged("changelog", "are open already").len(), 1);
    drop(held);
    wait("the service takes calls again", async || {
        let output = fleet.run(None, &["call", "changelog", "GetState", "--json"]);
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    })
    .await;
    assert!(fleet.refused("changelog") >= 70);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_volume_refuses_appends_until_there_is_room_and_reading_goes_on() {
    use nix::mount::{MsFlags, mount};
    if !is_root("a small volume") {
        return;
    }
    let temp = tempfile::Builder::new().prefix("m").tempdir().unwrap();
    let volume = temp.path().join("p");
    fs::create_dir(&volume).unwrap();
    // Across volumes the binary is copied into the home, beside the one that it replaces.
    let size = (64 << 20) + 2 * fs::metadata(env!("CARGO_BIN_EXE_mirror")).unwrap().len();
    let options = format!("size={size}");
    if mount(Some("none"), &volume, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).is_err() {
        eprintln!("SKIPPED: a small volume: mounts are not allowed here");
        return;
    }
    let fleet = Fleet::start_at(temp, None).await;
    fleet.text(&["append", "local.note", "before"]);

    // Two in a hundred are kept in reserve.
    let filler = volume.join("filler");
    let free = nix::sys::statvfs::statvfs(&volume).unwrap();
    let free = free.blocks_available() * free.fragment_size();
    fs::write(&filler, vec![0; usize::try_from(free - (600 << 10)).unwrap()]).unwrap();
    let append = || fleet.run(None, &["append", "local.note", "full"]);
    wait("appends are refused", async || {
        let output = append();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains("BUS_DISK_RESERVE") && output.status.code() == Some(75) { Ok(()) } else { Err(said) }
    })
    .await;
    let status: Value = serde_json::from_str(&fleet.text(&["call", "bus", "GetStatus", "--json"])).unwrap();
    assert_eq!(status["writer"], "WRITER_DISK_RESERVE");
    assert!(fleet.text(&["log", "--from", "1"]).contains("before"));

    fs::remove_file(&filler).unwrap();
    wait("appends are taken again", async || {
        let output = append();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    })
    .await;
    fleet.text(&["bus", "verify"]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_of_the_same_user_cannot_look_into_a_service() {
    // Root may look into everything, so root runs the fleet as another user.
    let user = geteuid().is_root().then_some(OTHER);
    let fleet = Fleet::start(user).await;
    let peek = |pid: u32| {
        let output = as_user(Command::new("cat"), user).arg(format!("/proc/{pid}/environ")).output().unwrap();
        (output.status.success(), fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid())
    };
    let own = user.unwrap_or(geteuid().as_raw());
    for service in services() {
        assert_eq!(fs::metadata(fleet.socket(service)).unwrap().uid(), own);
        // The kernel gives the files of an undumpable process to root and refuses ptrace with it.
        assert_eq!(peek(fleet.pid(service)), (false, 0), "{service} can be looked into");
    }
    let mut ordinary = as_user(Command::new("sleep"), user).arg("60").spawn().unwrap();
    wait("the ordinary process runs its own program", async || {
        let name = fs::read_to_string(format!("/proc/{}/comm", ordinary.id())).unwrap();
        if name.trim() == "sleep" { Ok(()) } else { Err(name) }
    })
    .await;
    let seen = peek(ordinary.id());
    let _ = ordinary.kill();
    let _ = ordinary.wait();
    assert_eq!(seen, (true, own), "the look itself works");
}
