//! NATS JetStream with a file store that is synced before each answer. Its server has no Unix socket: TCP on the loopback.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::Subscriber;
use async_nats::jetstream::consumer::push::OrderedConfig;
use async_nats::jetstream::consumer::{DeliverPolicy, push};
use async_nats::jetstream::{self, context::Context, stream};
use bytes::Bytes;
use futures::StreamExt as _;

use crate::peers::server::{self, Server};
use crate::peers::work::PAYLOAD;

/// When the server syncs its files.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sync {
    /// Before it answers.
    Always,
    /// As it does when it is not told; not durable, for a control.
    Default,
}

pub(crate) struct JetStream {
    server: Server,
}

pub(crate) fn version() -> anyhow::Result<String> {
    let text = server::version("nats-server")?;
    let version = text.split_once(": v").map_or(text.as_str(), |(_, version)| version);
    let parts: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
    anyhow::ensure!(
        parts >= vec![2, 10],
        "nats-server {version} is older than 2.10, which cannot sync always"
    );
    Ok(format!("JetStream {version}"))
}

impl JetStream {
    pub(crate) fn start(wrapper: &[&str], sync: Sync) -> anyhow::Result<Self> {
        let server = Server::start(wrapper, "nats-server", |dir| {
            let sync = match sync {
                Sync::Always => "sync_interval: always, ",
                Sync::Default => "",
            };
            let (data, conf) = (dir.join("js"), dir.join("nats.conf"));
            let text = format!(
                "listen: \"127.0.0.1:-1\"\nports_file_dir: {dir:?}\n\
                 jetstream {{ store_dir: {data:?}, {sync}max_mem: 256M, max_file: 8G }}\n"
            );
            std::fs::write(&conf, text)?;
            Ok(vec!["-c".to_owned(), conf.to_str().context("the folder is UTF-8")?.to_owned()])
        })?;
        Ok(Self { server })
    }

    /// Returns where the server listens, once it says so.
    fn address(&self) -> Option<String> {
        let mut files = std::fs::read_dir(self.server.dir()).ok()?.flatten().map(|entry| entry.path());
        let file = files.find(|path| path.extension().is_some_and(|end| end == "ports"))?;
        let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
        ports["nats"][0].as_str().map(str::to_owned)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Returns a connection once the server answers.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let start = Instant::now();
        loop {
            let late = start.elapsed() > Duration::from_secs(10);
            match self.address() {
                Some(address) => match async_nats::connect(&address).await {
                    Ok(client) => return Ok(Connection { context: jetstream::new(client) }),
                    Err(e) if late => return Err(e.into()),
                    Err(_) => {}
                },
                None => anyhow::ensure!(!late, "nats-server does not say where it listens"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// One connection, on which messages are pipelined.
#[derive(Clone)]
pub(crate) struct Connection {
    context: Context,
}

impl Connection {
    /// Makes a stream of this name, which takes the subject `bench.<name>`.
    pub(crate) async fn create(&self, name: &str) -> anyhow::Result<()> {
        let config = stream::Config {
            name: name.to_owned(),
            subjects: vec![format!("bench.{name}")],
            storage: stream::StorageType::File,
            num_replicas: 1,
            ..stream::Config::default()
        };
        let start = Instant::now();
        // The server takes connections before JetStream is ready.
        while let Err(e) = self.context.create_stream(config.clone()).await {
            anyhow::ensure!(start.elapsed() < Duration::from_secs(10), "make the stream: {e}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Removes a stream.
    pub(crate) async fn remove(&self, name: &str) -> anyhow::Result<()> {
        self.context.delete_stream(name).await?;
        Ok(())
    }

    /// Appends one event and waits for the acknowledgement.
    pub(crate) async fn append(&self, stream: &str, payload: Bytes) -> anyhow::Result<()> {
        self.context.publish(format!("bench.{stream}"), payload).await?.await?;
        Ok(())
    }

    /// Appends the usual event.
    pub(crate) async fn append_one(&self, stream: &str) -> anyhow::Result<()> {
        self.append(stream, Bytes::from_static(PAYLOAD)).await
    }

    /// Returns a subscription of its own subject, for [`Connection::ping`].
    pub(crate) async fn echo(&self) -> anyhow::Result<Subscriber> {
        Ok(self.context.client().subscribe("ping").await?)
    }

    /// Sends a message that nothing stores, through the server and back.
    pub(crate) async fn ping(&self, echo: &mut Subscriber) -> anyhow::Result<()> {
        self.context.client().publish("ping", Bytes::new()).await?;
        echo.next().await.context("the server is away")?;
        Ok(())
    }

    /// Follows a stream from its next message on, in order.
    pub(crate) async fn follow(&self, name: &str) -> anyhow::Result<push::Ordered> {
        let client = self.context.client();
        let config = OrderedConfig {
            deliver_subject: client.new_inbox(),
            deliver_policy: DeliverPolicy::New,
            ..OrderedConfig::default()
        };
        let stream = self.context.get_stream(name).await?;
        Ok(stream.create_consumer(config).await?.messages().await?)
    }
}
