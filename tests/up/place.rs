//! A home, the command line in it, and the fleet that it runs.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};

use mirror_testkit::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The service that `up` is itself.
pub(crate) const OWN: &str = "supervisor";

/// A home of its own, in which at most one `up` of the test runs.
pub(crate) struct Place {
    pub(crate) temp: tempfile::TempDir,
    ups: u32,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { temp: tempfile::Builder::new().prefix("m").tempdir().unwrap(), ups: 0 }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.temp.path().join("h")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mirror"));
        command.args(args).env("MIRROR_HOME", self.home()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed, and returns what it printed.
    #[track_caller]
    pub(crate) fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.text(args);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e} in {text}"))
    }

    /// Starts `up` and waits until it says that it is ready.
    pub(crate) async fn up(&mut self) -> Up {
        self.ups += 1;
        let (out, err) = (self.file("out"), self.file("err"));
        let child = self
            .command(&["up"])
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap();
        let up = Up { child, home: self.home(), out, err };
        wait("the fleet is up", async || {
            if up.out().contains("Ctrl-C here drains") { Ok(()) } else { Err(up.out() + &up.err()) }
        })
        .await;
        up
    }

    pub(crate) fn file(&self, kind: &str) -> PathBuf {
        self.temp.path().join(format!("up-{}.{kind}", self.ups))
    }

    pub(crate) fn pid(&self, service: &str) -> Option<u32> {
        let row = fs::read_to_string(self.home().join("run/fleet").join(service)).ok()?;
        row.split(' ').next()?.parse().ok()
    }

    /// Waits until a service is served by another process than `before`.
    pub(crate) async fn await_successor(&self, service: &str, before: u32) -> u32 {
        let mut pid = before;
        wait(&format!("{service} has another process, which serves"), async || {
            let output = self.run(&["call", service, "GetState", "--json"]);
            let state: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            pid = state["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(before);
            let serves = pid != before && state["state"] == "STATE_SERVING";
            if serves { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
        })
        .await;
        pid
    }
}

/// A running `up`; whatever a failing test leaves is ended with it.
pub(crate) struct Up {
    pub(crate) child: Child,
    home: PathBuf,
    out: PathBuf,
    err: PathBuf,
}

impl Up {
    pub(crate) fn out(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    pub(crate) fn err(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait("up has ended", async || {
            status = self.child.try_wait().unwrap();
            status.map(|_| ()).ok_or_else(|| "it runs".to_owned())
        })
        .await;
        status.unwrap()
    }

    /// Ends the fleet as Ctrl-C does.
    pub(crate) async fn interrupt(mut self) {
        self.signal(Signal::SIGINT);
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "{}", self.err());
        assert!(self.out().ends_with("drained\n"), "{}", self.out());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
            for row in fs::read_dir(self.home.join("run/fleet")).into_iter().flatten().flatten() {
                let row = fs::read_to_string(row.path()).unwrap_or_default();
                if let Some(Ok(pid)) = row.split(' ').next().map(str::parse) {
                    send(pid, Signal::SIGKILL);
                }
            }
        }
    }
}

pub(crate) fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

/// The lines of a command that goes on.
pub(crate) struct Follower {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Follower {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (out, to) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&lines));
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                to.lock().unwrap().push(line);
            }
        });
        Self { child, lines }
    }

    pub(crate) fn with(&self, part: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|l| l.contains(part)).count()
    }

    pub(crate) async fn saw(&self, part: &str) {
        wait(&format!("the follower shows {part:?}"), async || {
            if self.with(part) > 0 { Ok(()) } else { Err(format!("{:?}", self.lines.lock().unwrap())) }
        })
        .await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
