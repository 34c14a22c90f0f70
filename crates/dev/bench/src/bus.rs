//! A bus process of the bench's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use mirror_client::{Channel, SocketDial, channel};
use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_paths::Home;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A client of the bus.
pub(crate) type Client = BusServiceClient<Channel>;

/// Returns the `mirror` binary: the given one, else the one beside this binary.
pub(crate) fn binary(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let mirror = match given {
        Some(mirror) => mirror,
        None => std::env::current_exe()?.with_file_name("mirror"),
    };
    anyhow::ensure!(mirror.is_file(), "no {}; build it first: cargo build --release", mirror.display());
    Ok(mirror)
}

/// A running bus; it is killed when this is dropped.
pub(crate) struct Bus {
    child: Child,
    mirror: PathBuf,
    home: Home,
    _temp: tempfile::TempDir,
}

impl Bus {
    /// Starts a bus in a new home.
    pub(crate) fn start(mirror: Option<PathBuf>) -> anyhow::Result<Self> {
        Self::start_under(mirror, &[])
    }

    /// Starts a bus in a new home, as the argument of another program.
    pub(crate) fn start_under(mirror: Option<PathBuf>, wrapper: &[&str]) -> anyhow::Result<Self> {
        let mirror = binary(mirror)?;
        let temp = tempfile::Builder::new().prefix("b").tempdir()?;
        let home = Home::at(temp.path().join("h"))?;
        let child = serve(&mirror, &home, wrapper)?;
        Ok(Self { child, mirror, home, _temp: temp })
    }

    /// Kills the process with SIGKILL and waits for its end.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts the process again in the same home.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.child = serve(&self.mirror, &self.home, &[])?;
        Ok(())
    }

    /// Returns the id of the process, or of the program that it is an argument of.
    #[cfg(feature = "peers")]
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Returns a client with a connection of its own.
    #[cfg(feature = "peers")]
    pub(crate) fn client(&self) -> Client {
        client(&self.home)
    }

    /// Returns a client of the bus once it answers.
    pub(crate) async fn ready(&self) -> anyhow::Result<Client> {
        ready(&self.home).await
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends a process and those that it started: strace leaves what it traces behind.
pub(crate) fn end(child: &mut Child) {
    let id = child.id();
    let started = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    for pid in started.split_whitespace().filter_map(|p| p.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    if started.trim().is_empty() {
        let _ = child.kill();
    }
    let _ = child.wait();
}

/// Starts a service of a home, as the argument of another program when there is one.
fn serve(mirror: &Path, home: &Home, wrapper: &[&str]) -> anyhow::Result<Child> {
    let mirror = mirror.to_str().context("the path of the binary is UTF-8")?;
    let words: Vec<&str> = wrapper.iter().copied().chain([mirror, "serve", "bus"]).collect();
    Command::new(words[0])
        .args(&words[1..])
        .env("MIRROR_HOME", home.root())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("start {}", words[0]))
}

/// Returns a client with a connection of its own.
pub(crate) fn client(home: &Home) -> Client {
    BusServiceClient::new(channel(Arc::new(SocketDial::new(home.clone())), "bus"))
}

/// Returns a client of the bus of a home once it answers.
pub(crate) async fn ready(home: &Home) -> anyhow::Result<Client> {
    let mut client = client(home);
    for _ in 0..3000 {
        if client.get_status(pb::GetStatusRequest {}).await.is_ok() {
            return Ok(client);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("the bus did not answer within 30 s")
}

/// Returns an event with a payload of 256 bytes, with an id of the caller's when there is a number for one.
pub(crate) fn event(id: Option<u64>) -> pb::NewEvent {
    pb::NewEvent {
        subject: "local.bench".to_owned(),
        payload: Bytes::from_static(&[b'1'; 256]),
        r#type: pb::PayloadType::Json.into(),
        id: id.map(|n| format!("bench-{n:016x}")).unwrap_or_default(),
        ..Default::default()
    }
}
