//! A fleet of real processes in a home of its own: `mirror up`, killed and asked from outside.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mirror_client::SocketDial;
use mirror_kit::{Channel, channel};
use mirror_paths::Home;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{wait, wait_for};

/// What the last line of `up`'s announcement begins with.
const READY: &str = "Ctrl-C here drains";

/// A home in which at most one `up` runs; whatever a failing test leaves is ended with it.
#[derive(Debug)]
pub struct Fleet {
    binary: PathBuf,
    envs: Vec<(String, String)>,
    temp: tempfile::TempDir,
    home: Home,
    child: Option<Child>,
    ups: u32,
}

impl Fleet {
    /// Returns a fleet of a binary in a new home, which does not exist yet.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        let temp = tempfile::Builder::new().prefix("m").tempdir().expect("a temporary folder can be made");
        let home = Home::at(temp.path().join("h")).expect("the path is absolute");
        Self { binary: binary.into(), envs: Vec::new(), temp, home, child: None, ups: 0 }
    }

    /// Returns a fleet of a binary in a home that the caller keeps.
    pub fn at(binary: impl Into<PathBuf>, home: &Path) -> Self {
        let mut fleet = Self::new(binary);
        fleet.home = Home::at(home).expect("the path is absolute");
        fleet
    }

    /// Sets a variable of the environment of every process that is started from here on.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns the home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Returns a command of the binary in this home.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        // A name that begins with "mirror-" would be that of a service.
        command.arg0("mirror").args(args).env("MIRROR_HOME", self.home.root()).stdin(Stdio::null());
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary can be started")
    }

    /// Runs a command that must succeed, and returns what it printed.
    #[track_caller]
    pub fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("the output is text")
    }

    /// Starts `up` and waits until it says that it is ready.
    pub async fn up(&mut self) {
        assert!(self.child.is_none(), "one up at a time");
        self.ups += 1;
        let file = |path: PathBuf| File::create(path).expect("the file can be made");
        let (out, err) = (file(self.file("out")), file(self.file("err")));
        let child = self.command(&["up"]).stdout(out).stderr(err).spawn().expect("up can be started");
        self.child = Some(child);
        wait_for(Duration::from_secs(60), "the fleet is up", async || {
            let said = self.out();
            if said.contains(READY) { Ok(()) } else { Err(said + &self.err()) }
        })
        .await;
    }

    /// Returns what the last `up` printed.
    pub fn out(&self) -> String {
        fs::read_to_string(self.file("out")).unwrap_or_default()
    }

    /// Returns what the last `up` said on its error output.
    pub fn err(&self) -> String {
        fs::read_to_string(self.file("err")).unwrap_or_default()
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.temp.path().join(format!("up-{}.{kind}", self.ups))
    }

    /// Sends a signal to `up`.
    pub fn signal(&self, signal: Signal) {
        send(self.child.as_ref().expect("up runs").id(), signal);
    }

    /// Waits until `up` has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("up runs");
        let mut status = None;
        wait("up has ended", async || {
            status = child.try_wait().map_err(|e| e.to_string())?;
            status.map(|_| ()).ok_or_else(|| "it runs".to_owned())
        })
        .await;
        status.expect("it has ended")
    }

    /// Ends the fleet as Ctrl-C does.
    pub async fn down(&mut self) {
        self.signal(Signal::SIGINT);
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "{}", self.err());
        assert!(self.out().ends_with("drained\n"), "{}", self.out());
    }

    /// Kills `up` and leaves its children behind.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// Returns the process of an agent by the supervisor's row.
    pub fn pid(&self, agent: &str) -> Option<u32> {
        let row = fs::read_to_string(self.home.fleet().join(agent)).ok()?;
        row.split(' ').next()?.parse().ok()
    }

    /// Sends a signal to the process of an agent.
    #[track_caller]
    pub fn strike(&self, agent: &str, signal: Signal) {
        send(self.pid(agent).unwrap_or_else(|| panic!("{agent} has a process")), signal);
    }

    /// Returns a channel to a service, over its socket.
    pub fn channel(&self, service: &str) -> Channel {
        channel(Arc::new(SocketDial::new(self.home.clone())), service)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        for row in fs::read_dir(self.home.fleet()).into_iter().flatten().flatten() {
            let row = fs::read_to_string(row.path()).unwrap_or_default();
            let mut words = row.split_whitespace();
            let (pid, start) = (words.next().and_then(|w| w.parse().ok()), words.next());
            // A row outlives its process, and its number may be another's by now.
            if let Some(pid) = pid
                && mirror_kit::process_start(pid).is_ok_and(|s| Some(s.as_str()) == start)
            {
                send(pid, Signal::SIGKILL);
            }
        }
    }
}

/// Sends a signal; a process that has ended needs none.
pub fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}
