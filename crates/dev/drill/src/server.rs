//! The model with real processes, behind a socket: what `fake-launchctl` talks to.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use mirror_agents::machine::Ended;
use mirror_clock::{Clock as _, SystemClock};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;

use crate::job::Job;
use crate::model::{Act, Answer, Fault, Model};

/// How often it is looked whether the state file is still there.
const GLANCE: Duration = Duration::from_millis(500);

/// Variables that its agents get from it.
const KEPT: [&str; 4] = ["HOME", "FAKE_LAUNCHCTL_STATE", "MIRROR_LAUNCHCTL", "MIRROR_DRILL_LEAVES"];

/// Longest request, in bytes.
const REQUEST: u64 = 1 << 16;

/// Returns the socket beside a state file.
pub fn socket(state: &Path) -> PathBuf {
    state.with_extension("sock")
}

/// Serves until the state file is removed or an `end` is asked for; then no process is left.
///
/// # Errors
///
/// When the socket or the state file cannot be made. A second server of one state file ends at once.
pub fn run(state: &Path) -> io::Result<()> {
    let lock = File::create(state.with_extension("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(e)) => return Err(e),
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(state))
}

#[expect(clippy::disallowed_methods, reason = "it stands in for launchd, which is no service of the kit")]
async fn serve(state: &Path) -> io::Result<()> {
    let socket = socket(state);
    let _ = fs::remove_file(&socket);
    let mut server = Server {
        model: Model::new(nix::unistd::geteuid().as_raw()),
        state: state.to_owned(),
        waits: FuturesUnordered::new(),
        pids: HashMap::new(),
        over: false,
    };
    fs::write(state, "{}")?;
    let listener = UnixListener::bind(&socket)?;
    while !server.over && state.exists() {
        let now = SystemClock.boot();
        let pause = server.model.next_tick().map_or(GLANCE, |at| at.saturating_sub(now).min(GLANCE));
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                // A caller that breaks off wants no answer.
                let _ = server.answer(stream).await;
            }
            Some((label, pid, ended)) = server.waits.next() => server.ended(&label, pid, ended),
            () = SystemClock.sleep(pause) => server.tick(),
        }
        server.show();
    }
    server.kill_all();
    let _ = fs::remove_file(&socket);
    Ok(())
}

struct Server {
    model: Model,
    state: PathBuf,
    waits: FuturesUnordered<LocalBoxFuture<'static, (String, u32, Ended)>>,
    pids: HashMap<String, u32>,
    over: bool,
}

impl Server {
    async fn answer(&mut self, stream: UnixStream) -> io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        BufReader::new(read).take(REQUEST).read_line(&mut line).await?;
        let request: Value = serde_json::from_str(&line).map_err(io::Error::other)?;
        let args: Vec<&str> =
            request["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let answer = self.ask(&args);
        self.show();
        let answer = json!({"code": answer.code, "out": answer.out, "err": answer.err});
        write.write_all(format!("{answer}\n").as_bytes()).await
    }

    fn ask(&mut self, args: &[&str]) -> Answer {
        let mut acts = Vec::new();
        let now = SystemClock.boot();
        let answer = match args {
            ["fault", verb, code, rest @ ..] => {
                let code = code.parse().unwrap_or(5);
                let works = rest.contains(&"works");
                self.model.faults.push_back(Fault { verb: (*verb).to_owned(), code, works });
                Answer::default()
            }
            ["session", word] => {
                self.model.session = *word == "on";
                Answer::default()
            }
            ["reboot", folder] => {
                self.kill_all();
                self.model.reboot(now, Path::new(folder), &mut acts);
                Answer::default()
            }
            ["end"] => {
                self.over = true;
                Answer::default()
            }
            args => self.model.ask(now, args, &mut acts),
        };
        self.act(acts);
        answer
    }

    fn tick(&mut self) {
        let mut acts = Vec::new();
        self.model.tick(SystemClock.boot(), &mut acts);
        self.act(acts);
    }

    fn ended(&mut self, label: &str, pid: u32, ended: Ended) {
        if self.pids.get(label) != Some(&pid) {
            return;
        }
        self.pids.remove(label);
        // launchd ends what is left of a process group.
        signal(pid, 9);
        let mut acts = Vec::new();
        self.model.ended(SystemClock.boot(), label, ended, &mut acts);
        self.act(acts);
    }

    fn act(&mut self, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Spawn(job) => self.spawn(&job),
                Act::Signal(label, number) => {
                    if let Some(pid) = self.pids.get(&label) {
                        signal(*pid, number);
                    }
                }
            }
        }
    }

    fn spawn(&mut self, job: &Job) {
        let label = job.label.clone();
        match start(job) {
            Ok(mut child) => {
                let pid = child.id().unwrap_or_default();
                self.pids.insert(label.clone(), pid);
                self.model.spawned(&label, pid);
                self.waits.push(Box::pin(async move {
                    let ended = child.wait().await.map_or(Ended::Unstarted, ended);
                    (label, pid, ended)
                }));
            }
            Err(_) => {
                let mut acts = Vec::new();
                self.model.ended(SystemClock.boot(), &label, Ended::Unstarted, &mut acts);
                // What could not be started is throttled, so nothing is to be started again here.
                self.act(acts);
            }
        }
    }

    fn kill_all(&mut self) {
        for pid in self.pids.values() {
            signal(*pid, 9);
        }
        self.pids.clear();
    }

    /// Writes the state file; one that was removed stays away.
    fn show(&self) {
        let agents: serde_json::Map<String, Value> = self
            .model
            .agents
            .iter()
            .map(|(label, a)| {
                let state = format!("{:?}", a.machine.state());
                (label.clone(), json!({"pid": a.pid, "runs": a.runs, "state": state}))
            })
            .collect();
        let text = json!({"calls": self.model.calls, "agents": agents}).to_string();
        let temp = self.state.with_extension("new");
        if self.state.exists() && fs::write(&temp, text).is_ok() {
            let _ = fs::rename(&temp, &self.state);
        }
    }
}

fn start(job: &Job) -> io::Result<tokio::process::Child> {
    let mut command = Command::new(&job.program);
    if let Some((name, rest)) = job.arguments.split_first() {
        command.arg0(name).args(rest);
    }
    let output = match &job.output {
        Some(path) => Stdio::from(OpenOptions::new().append(true).create(true).open(path)?),
        None => Stdio::null(),
    };
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        // launchd gives the user's own, and this one must be found again by its agents.
        .envs(std::env::vars().filter(|(name, _)| KEPT.contains(&name.as_str())))
        .envs(&job.environment)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .process_group(0)
        .spawn()
}

fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, Some(signal)) => Ended::Signal(signal),
        (None, None) => Ended::Unstarted,
    }
}

/// Sends a signal to a process group; one that has ended needs none.
fn signal(pid: u32, number: i32) {
    if let (Ok(pid), Ok(signal)) = (i32::try_from(pid), Signal::try_from(number)) {
        let _ = killpg(Pid::from_raw(pid), signal);
    }
}
