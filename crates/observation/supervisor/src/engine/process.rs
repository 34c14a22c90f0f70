//! One real process: started as its property list says, signalled, and told in words how it ended.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use mirror_agents::Plist;
use mirror_agents::machine::Ended;
use mirror_paths::Home;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// Size from which the output of earlier processes is put aside.
const OUTPUT_LIMIT: u64 = 1 << 20;

/// Variables that launchd or a systemd user manager gives to every agent, and the level of the logs.
const PASSED: [&str; 9] = [
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "TZ",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "MIRROR_LOG",
];

const DEFAULT_PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";

/// Starts a process in a group of its own.
pub(super) fn spawn(home: &Home, plist: &Plist) -> io::Result<Child> {
    let mut command = Command::new(&plist.program);
    if let Some((name, rest)) = plist.arguments.split_first() {
        command.arg0(name).args(rest);
    }
    command
        .env_clear()
        .envs(PASSED.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("MIRROR_HOME", home.root())
        .env("MIRROR_SUPERVISED", "1")
        .env("PATH", DEFAULT_PATH)
        .envs(&plist.environment)
        .current_dir(plist.working_directory.as_deref().unwrap_or("/"))
        .stdin(Stdio::null())
        // Ctrl-C reaches the whole group of a terminal; the order of a drain is decided by whoever supervises.
        .process_group(0);
    match (&plist.stdout, &plist.stderr) {
        (Some(out), Some(err)) if out == err => {
            let file = output(home, out)?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        (out, err) => {
            command.stdout(stdio(home, out.as_deref())?).stderr(stdio(home, err.as_deref())?);
        }
    }
    // A child inherits both from this process; between here and the drop nothing else runs on this thread.
    let _limits = Inherited::set(plist);
    command.spawn()
}

fn stdio(home: &Home, path: Option<&str>) -> io::Result<Stdio> {
    path.map_or_else(|| Ok(Stdio::null()), |path| output(home, path).map(Stdio::from))
}

/// Opens a file for what a process says outside of its log, such as why it could not open that.
fn output(home: &Home, path: &str) -> io::Result<File> {
    let path = Path::new(path);
    if path.starts_with(home.log()) && fs::metadata(path).is_ok_and(|m| m.len() > OUTPUT_LIMIT) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        fs::rename(path, aside)?;
    }
    let open = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    open.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// What this process lends to the child that it starts, and takes back when dropped.
struct Inherited {
    mask: Option<Mode>,
    files: Option<(u64, u64)>,
}

impl Inherited {
    fn set(plist: &Plist) -> Self {
        let bits = plist.umask.and_then(|bits| u16::try_from(bits).ok());
        let mask = bits.and_then(|bits| Mode::from_bits(bits.into())).map(umask);
        let files = plist.files.and_then(|files| {
            let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
            // With other limits than it asks for an agent still does its job, or says why not.
            setrlimit(Resource::RLIMIT_NOFILE, hard.min(files.into()), hard).ok()?;
            Some((soft, hard))
        });
        Self { mask, files }
    }
}

impl Drop for Inherited {
    fn drop(&mut self) {
        if let Some(mask) = self.mask {
            umask(mask);
        }
        if let Some((soft, hard)) = self.files {
            // It was allowed a moment ago.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        }
    }
}

/// Sends a signal; a process that has ended meanwhile needs none.
pub(super) fn signal(pid: u32, number: i32) {
    if let (Some(pid), Ok(signal)) = (checked(pid), Signal::try_from(number)) {
        let _ = kill(pid, signal);
    }
}

/// Kills a process and whatever it started that stayed in its group.
pub(super) fn kill_group(pid: u32) {
    if let Some(pid) = checked(pid) {
        let _ = killpg(pid, Signal::SIGKILL);
    }
}

/// Returns a process that can be one agent's: 0 and 1 mean others to the kernel.
fn checked(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|pid| *pid > 1).map(Pid::from_raw)
}

/// Returns how a process ended.
pub(super) fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, signal) => Ended::Signal(signal.unwrap_or_default()),
    }
}

/// Returns how a process ended, in words.
pub(super) fn in_words(ended: Ended) -> String {
    match ended {
        Ended::Code(code) => format!("exit code {code}"),
        Ended::Signal(number) => {
            Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |s| s.as_str().to_owned())
        }
        Ended::Unstarted => "no start".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_in_words() {
        let words = |raw| in_words(ended(ExitStatus::from_raw(raw)));
        assert_eq!(words(9), "SIGKILL");
        assert_eq!(words(75 << 8), "exit code 75");
        assert_eq!(words(0), "exit code 0");
    }

    #[test]
    fn the_whole_machine_is_never_signalled() {
        for pid in [0, 1, u32::MAX] {
            assert_eq!(checked(pid), None, "{pid}");
        }
    }
}
