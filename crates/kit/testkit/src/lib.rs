//! The Sandbox: services and the closure of their needs in one process, over connections in memory.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "this crate only runs in tests, where a panic is the report"
)]
//!
//! It refuses to pass a test whose services logged a warning or an error that the test did not expect.
//! Invariant: each Sandbox has a home of its own, removed at the end, and opens no socket.

pub mod fleet;

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirror_client::{Dial, Dialing};
use mirror_clock::{Clock, ManualClock, SystemClock};
use mirror_kit::{Channel, Conn, Decl, Env, Exit, Peer, Principal, Service, Shutdown, channel};
use mirror_paths::Home;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::instrument::WithSubscriber as _;

/// Longest time that a test waits for a condition.
const WAIT: Duration = Duration::from_secs(20);

/// Wall time at which a manual clock starts: 2026-01-01T00:00:00Z.
pub const START_MS: u64 = 1_767_225_600_000;

/// What a Sandbox will hold.
#[derive(Debug)]
pub struct Sandbox {
    services: Vec<&'static Service>,
    clock: Option<ManualClock>,
    config: String,
    home: Option<PathBuf>,
    given: Option<Arc<dyn Any + Send + Sync>>,
}

impl Sandbox {
    /// Returns a Sandbox with these services, which must include all that they need.
    pub fn with(services: &[&'static Service]) -> Self {
        let mut services = services.to_vec();
        services.sort_by_key(|s| s.decl.tier);
        for service in &services {
            for need in service.decl.needs {
                assert!(
                    services.iter().any(|s| s.decl.name == need.service),
                    "{} needs {}, which is not in the Sandbox",
                    service.decl.name,
                    need.service
                );
            }
        }
        Self { services, clock: None, config: String::new(), home: None, given: None }
    }

    /// Gives the Sandbox a clock that stands still until the test moves it.
    #[must_use]
    pub fn manual_clock(mut self) -> Self {
        self.clock = Some(ManualClock::new(START_MS));
        self
    }

    /// Sets the configuration file.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.config);
        self
    }

    /// Gives the services something that their process would give them.
    #[must_use]
    pub fn given<T: Send + Sync + 'static>(mut self, given: Arc<T>) -> Self {
        self.given = Some(given);
        self
    }

    /// Uses a home that exists, and leaves it behind.
    #[must_use]
    pub fn at(mut self, home: &Path) -> Self {
        self.home = Some(home.to_owned());
        self
    }

    /// Starts all services and waits until each has its first state.
    pub async fn start(self) -> Node {
        let (guard, warnings) = mirror_kit::capture_for_tests();
        let temp = tempfile::Builder::new().prefix("m").tempdir().expect("a temporary folder can be made");
        let root = self.home.unwrap_or_else(|| temp.path().join("home"));
        let home = Home::at(root).expect("the path is absolute");
        mirror_kit::init(&home).expect("the home can be made");
        if !self.config.is_empty() {
            mirror_paths::write_atomic(&home.config(), self.config.as_bytes())
                .expect("the file can be written");
        }
        let hub = Arc::new(Hub::default());
        let clock: Arc<dyn Clock> = match &self.clock {
            Some(manual) => Arc::new(manual.clone()),
            None => Arc::new(SystemClock),
        };
        let catalogue: Arc<[&'static Decl]> = self.services.iter().map(|s| s.decl).collect();
        let mut node = Node {
            home,
            hub,
            clock,
            manual: self.clock,
            catalogue,
            given: self.given,
            services: self.services.clone(),
            running: HashMap::new(),
            warnings,
            expected: Vec::new(),
            _guard: guard,
            _temp: temp,
        };
        for service in self.services {
            node.launch(service.decl.name).await;
        }
        node
    }
}

#[derive(Debug, Default)]
struct Hub(Mutex<HashMap<String, mpsc::Sender<Conn>>>);

/// Reaches services of a Sandbox as a given principal.
#[derive(Debug, Clone)]
struct HubDial {
    hub: Arc<Hub>,
    principal: Principal,
}

impl Dial for HubDial {
    fn dial(&self, service: &str) -> Dialing {
        let door = self.hub.0.lock().unwrap_or_else(PoisonError::into_inner).get(service).cloned();
        let principal = self.principal.clone();
        Box::pin(async move {
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let (ours, theirs) = tokio::io::duplex(256 << 10);
            let peer = Peer { principal, pid: Some(std::process::id()) };
            door.ok_or_else(refused)?.send(Conn::new(Box::new(theirs), peer)).await.map_err(|_| refused())?;
            Ok(Box::new(ours) as mirror_client::BoxIo)
        })
    }
}

struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<Exit>,
}

/// A running Sandbox.
pub struct Node {
    home: Home,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    manual: Option<ManualClock>,
    catalogue: Arc<[&'static Decl]>,
    given: Option<Arc<dyn Any + Send + Sync>>,
    services: Vec<&'static Service>,
    running: HashMap<&'static str, Running>,
    warnings: Arc<Mutex<Vec<String>>>,
    expected: Vec<String>,
    _guard: tracing::subscriber::DefaultGuard,
    _temp: tempfile::TempDir,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("home", &self.home).finish_non_exhaustive()
    }
}

impl Node {
    /// Returns the home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Has the bus say that payloads are erased, which it has not overwritten yet; returns the position of the event.
    pub async fn say_erased(&self, events: &[u64]) -> u64 {
        use mirror_contract::mirror::bus::v1 as bus;
        let event = bus::NewEvent {
            subject: mirror_kit::fold::REDACTED.to_owned(),
            payload: format!(r#"{{"v":1,"envelope":{{}},"events":{events:?}}}"#).into(),
            r#type: bus::PayloadType::Json.into(),
            ..bus::NewEvent::default()
        };
        let channel = self.channel_as(Principal::Service("bus".into()), "bus");
        let mut client = bus::bus_service_client::BusServiceClient::new(channel);
        let request = bus::AppendRequest { event: Some(event), expect: None };
        let answer = client.append(request).await.expect("the bus takes its own event");
        answer.into_inner().ack.expect("it is acknowledged").seq
    }

    /// Waits until a fold has forgotten what a redaction erases; returns position, place and whether it was reached.
    pub async fn forgotten(&self, fold: &str, redaction: u64) -> Vec<(u64, String, bool)> {
        use mirror_contract::mirror::fold::v1 as pb;
        let mut client = pb::fold_service_client::FoldServiceClient::new(self.channel(fold));
        let answer = client.forget(pb::ForgetRequest { redaction }).await.expect("the fold answers");
        let copies = answer.into_inner().copies.into_iter();
        copies.map(|c| (c.seq, c.r#where.clone(), c.state() == pb::copy::State::Reached)).collect()
    }

    /// Returns the manual clock; the Sandbox must have been given one.
    pub fn clock(&self) -> &ManualClock {
        self.manual.as_ref().expect("the Sandbox has a manual clock")
    }

    /// Returns a channel to a service, as a local caller.
    pub fn channel(&self, service: &str) -> Channel {
        self.channel_as(Principal::Local, service)
    }

    /// Returns a channel to a service, as any principal.
    pub fn channel_as(&self, principal: Principal, service: &str) -> Channel {
        channel(Arc::new(HubDial { hub: Arc::clone(&self.hub), principal }), service)
    }

    /// Starts a service that was stopped or killed.
    pub async fn launch(&mut self, name: &str) {
        let service =
            *self.services.iter().find(|s| s.decl.name == name).expect("the service is in the Sandbox");
        let (door, mut conns) = mpsc::channel::<Conn>(64);
        self.hub.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), door);
        let incoming = futures_stream(move |cx| conns.poll_recv(cx).map(|conn| conn.map(Ok)));
        let (stop, shutdown) = Shutdown::pair();
        let principal = Principal::Service(name.into());
        let env = Env {
            home: self.home.clone(),
            clock: Arc::clone(&self.clock),
            dial: Arc::new(HubDial { hub: Arc::clone(&self.hub), principal }),
            catalogue: Arc::clone(&self.catalogue),
            jobs: Arc::new([]),
            given: self.given.clone(),
            build: "test",
        };
        #[expect(clippy::disallowed_methods, reason = "the Sandbox is what the service's tasks live in")]
        let task =
            tokio::spawn(mirror_kit::serve(env, service, incoming, shutdown).with_current_subscriber());
        self.running.insert(service.decl.name, Running { stop, task });
        let ended = || self.running.get(name).is_none_or(|r| r.task.is_finished());
        let mut kit =
            mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient::new(self.channel(name));
        let starting = i32::from(mirror_contract::mirror::kit::v1::get_state_response::State::Starting);
        self.wait(&format!("{name} has a state"), async || {
            let state = kit.get_state(mirror_contract::mirror::kit::v1::GetStateRequest {}).await;
            match state {
                Ok(state) if state.get_ref().state != starting => Ok(()),
                _ if ended() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        if ended() {
            let exit = self.stop(name).await;
            panic!("{name} ended at once: {exit:?}; it logged {:?}", self.logged());
        }
    }

    /// Ends a service where it stands, as SIGKILL would.
    pub async fn kill(&mut self, name: &str) {
        let running = self.running.remove(name).expect("the service runs");
        self.hub.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        running.task.abort();
        let _ = running.task.await;
    }

    /// Asks a service to stop, and returns how it ended.
    pub async fn stop(&mut self, name: &str) -> Exit {
        let running = self.running.remove(name).expect("the service runs");
        self.hub.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        let _ = running.stop.send(true);
        running.task.await.expect("the service did not panic")
    }

    /// Waits until a condition holds; its error says how things stand and ends up in the message of a time-out.
    pub async fn wait(&self, what: &str, condition: impl AsyncFnMut() -> Result<(), String>) {
        wait(what, condition).await;
    }

    /// Says that a warning or error with this text is expected.
    pub fn expect_log(&mut self, part: &str) {
        self.expected.push(part.to_owned());
    }

    /// Returns the warnings and errors logged so far.
    pub fn logged(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops all services, upper tiers first, and checks the log.
    pub async fn finish(mut self) {
        for service in self.services.clone().iter().rev() {
            if self.running.contains_key(service.decl.name) {
                self.stop(service.decl.name).await;
            }
        }
        let unexpected: Vec<String> = self
            .logged()
            .into_iter()
            .filter(|line| !self.expected.iter().any(|part| line.contains(part.as_str())))
            .collect();
        assert!(unexpected.is_empty(), "unexpected log lines:\n{}", unexpected.join("\n"));
    }
}

/// Waits until a condition holds; its error says how things stand and ends up in the message of a time-out.
pub async fn wait(what: &str, condition: impl AsyncFnMut() -> Result<(), String>) {
    wait_for(WAIT, what, condition).await;
}

/// Waits until a condition holds that may take longer than others.
pub async fn wait_for(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> Result<(), String>) {
    let started = tokio::time::Instant::now();
    loop {
        match condition().await {
            Ok(()) => return,
            Err(state) if started.elapsed() > limit => {
                panic!("waited {limit:?} until {what}; the last state was: {state}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// Returns the files under a folder that hold a text.
pub fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if let Ok(bytes) = std::fs::read(&path)
            && memchr::memmem::find(&bytes, text.as_bytes()).is_some()
        {
            found.push(path);
        }
    }
    found
}

fn futures_stream<T>(
    poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Send,
) -> impl tokio_stream::Stream<Item = T> + Send {
    struct Polled<F>(F);
    impl<T, F> tokio_stream::Stream for Polled<F>
    where
        F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin,
    {
        type Item = T;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<T>> {
            (self.0)(cx)
        }
    }
    Polled(Box::new(poll))
}

/// Returns the folder of real test data: `MIRROR_TEST_DATA`, else `../shared/data` beside the repository.
pub fn test_data() -> Option<PathBuf> {
    let given = std::env::var_os("MIRROR_TEST_DATA").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/data");
    given.into_iter().chain([beside]).find(|dir| dir.is_dir())
}

/// Writes a program that can be started at once.
///
/// Another process writes it: a test that runs beside this one may fork while a file is open, and a file that anybody has
/// open for writing cannot be executed.
pub fn write_program(path: &Path, bytes: &[u8]) {
    let mut writer = std::process::Command::new("sh")
        .args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("a shell can be started");
    let mut input = writer.stdin.take().expect("its input is a pipe");
    std::io::Write::write_all(&mut input, bytes).expect("it takes the bytes");
    drop(input);
    assert!(writer.wait().expect("it ends").success(), "{path:?} was not written");
}

/// Returns the folder of small samples in the repository.
pub fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/samples")
}
