//! Redis with an append-only file that is synced before each answer, on a Unix socket.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use redis::aio::MultiplexedConnection;

use crate::peers::server::{self, Server};
use crate::peers::work::{PAYLOAD, subject};

/// When Redis syncs its file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sync {
    /// Before it answers.
    Always,
    /// Once a second; not durable, for a control.
    EverySecond,
}

pub(crate) struct Redis {
    server: Server,
}

pub(crate) fn version() -> anyhow::Result<String> {
    let text = server::version("redis-server")?;
    let version = text.split_whitespace().find_map(|word| word.strip_prefix("v="));
    Ok(format!("Redis {}", version.unwrap_or(&text)))
}

impl Redis {
    pub(crate) fn start(wrapper: &[&str], sync: Sync) -> anyhow::Result<Self> {
        let server = Server::start(wrapper, "redis-server", |dir| {
            let dir = dir.to_str().context("the folder is UTF-8")?;
            let sync = match sync {
                Sync::Always => "always",
                Sync::EverySecond => "everysec",
            };
            // No snapshots and no rewrites, which would cost it time.
            let words = format!(
                "--port 0 --unixsocket {dir}/s --dir {dir} --appendonly yes --appendfsync {sync} \
                 --auto-aof-rewrite-percentage 0 --daemonize no --save"
            );
            Ok(words.split_whitespace().map(str::to_owned).chain([String::new()]).collect())
        })?;
        Ok(Self { server })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    fn socket(&self) -> PathBuf {
        self.server.dir().join("s")
    }

    /// Returns a connection once the server answers.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let client = redis::Client::open(format!("redis+unix://{}", self.socket().display()))?;
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
        let start = Instant::now();
        loop {
            match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(connection) => return Ok(Connection(connection)),
                Err(e) if start.elapsed() > Duration::from_secs(10) => return Err(e.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Runs redis-benchmark, the server's own client in C, with a window. Returns appends a second.
    pub(crate) fn own_client(&self, window: usize, count: u64) -> anyhow::Result<f64> {
        let payload = std::str::from_utf8(PAYLOAD)?;
        let (socket, count, window) = (self.socket(), count.to_string(), window.to_string());
        let output = Command::new("redis-benchmark")
            .arg("-s")
            .arg(socket)
            .args(["-n", &count, "-c", "1", "-P", &window, "--csv", "XADD", "own", "*", "d", payload])
            .output()
            .context("start redis-benchmark; scripts/peers.sh installs it")?;
        // The command itself has no comma; the rate is the first number after it.
        let text = String::from_utf8(output.stdout)?;
        let line = text.lines().last().unwrap_or_default();
        let rate = line.split("\",\"").nth(1).and_then(|n| n.trim_matches('"').parse().ok());
        rate.with_context(|| format!("redis-benchmark printed {line:?}"))
    }
}

/// One connection, on which commands are pipelined.
#[derive(Clone)]
pub(crate) struct Connection(MultiplexedConnection);

impl Connection {
    /// Appends one event and waits for the answer.
    pub(crate) async fn append(&self, n: u64) -> anyhow::Result<()> {
        let mut command = redis::cmd("XADD");
        command.arg("events").arg("*").arg("subject").arg(subject(n)).arg("payload").arg(PAYLOAD.as_slice());
        self.0.clone().send_packed_command(&command).await?;
        Ok(())
    }

    /// Asks for an answer that costs nothing.
    pub(crate) async fn ping(&self) -> anyhow::Result<()> {
        self.0.clone().send_packed_command(&redis::cmd("PING")).await?;
        Ok(())
    }

    /// Frees the memory of what was appended.
    pub(crate) async fn forget(&self) -> anyhow::Result<()> {
        let mut command = redis::cmd("UNLINK");
        command.arg("events").arg("own");
        self.0.clone().send_packed_command(&command).await?;
        Ok(())
    }
}
