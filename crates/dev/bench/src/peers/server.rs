//! A server of another engine, as a process of the bench's own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

/// A running server with a folder of its own; it is killed when this is dropped.
pub(crate) struct Server {
    child: Child,
    dir: tempfile::TempDir,
}

impl Server {
    /// Starts a program in a new folder, as the argument of another one when there is a wrapper.
    ///
    /// `args` gets the folder.
    pub(crate) fn start(
        wrapper: &[&str],
        program: &str,
        args: impl FnOnce(&Path) -> anyhow::Result<Vec<String>>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("p").tempdir()?;
        let args = args(dir.path())?;
        let words: Vec<&OsStr> = wrapper.iter().copied().chain([program]).map(OsStr::new).collect();
        let child = Command::new(words[0])
            .args(&words[1..])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {program}; scripts/peers.sh installs it"))?;
        Ok(Self { child, dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        crate::bus::end(&mut self.child);
    }
}

/// Returns the first line that a program prints about its version.
pub(crate) fn version(program: &str) -> anyhow::Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("start {program}; scripts/peers.sh installs it"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
}

/// How often the threads of processes have gone to sleep since their start: each such time is a wake-up later.
pub(crate) fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(PathBuf::from(format!("/proc/{pid}/task")));
    let of = |path: PathBuf| {
        let text = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or_default()
    };
    tasks.into_iter().flatten().flatten().map(|task| of(task.path())).sum()
}
