//! What a service gets to be built from, and what it gives back.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirror_client::{Channel, channel};
use mirror_clock::Clock;
use mirror_paths::{Home, private_dir};
use tokio::sync::{mpsc, watch};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};

use crate::config::{Config, ConfigError, load};
use crate::decl::{Away, Decl, JobDecl};
use crate::home::Node;
use crate::report::Refusal;
use crate::run::Env;
use crate::state::StateCell;
use crate::tasks::Tasks;

/// Why a service could not be built.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong: the process stays, not serving, and says so.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The service needs a person: the process stays, not serving, and says so.
    #[error("{0}")]
    NotServing(String),
    /// The service cannot start; the process exits and is started again.
    #[error("{what}: {source}")]
    Failed {
        /// What it tried.
        what: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StartError {
    /// Returns a failure of something that was tried.
    pub fn failed(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed { what: what.into(), source: source.into() }
    }
}

/// What a service is built from.
#[derive(Debug, Clone)]
pub struct Context {
    pub(crate) decl: &'static Decl,
    pub(crate) env: Env,
    pub(crate) node: Node,
    pub(crate) state: StateCell,
    pub(crate) tasks: Tasks,
    pub(crate) shutdown: Shutdown,
    pub(crate) fatal: watch::Sender<Option<String>>,
    pub(crate) refusals: Arc<Mutex<Option<mpsc::Receiver<Refusal>>>>,
    pub(crate) warnings: Arc<Mutex<Vec<String>>>,
}

impl Context {
    /// Returns the service's declaration.
    pub fn decl(&self) -> &'static Decl {
        self.decl
    }

    /// Returns the whole catalogue.
    pub fn catalogue(&self) -> &[&'static Decl] {
        &self.env.catalogue
    }

    /// Returns the home.
    pub fn home(&self) -> &Home {
        &self.env.home
    }

    /// Returns the clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.env.clock)
    }

    /// Returns which log and key this device has.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns the build id.
    pub fn build(&self) -> &'static str {
        self.env.build
    }

    /// Returns the service's folder of derived state, which exists and is private.
    pub fn state_dir(&self) -> Result<PathBuf, StartError> {
        let dir = self.env.home.state(self.decl.name);
        private_dir(&dir).map_err(|e| StartError::failed("make the state folder", e))?;
        Ok(dir)
    }

    /// Returns the service's table of the configuration file; odd keys become warnings in its state.
    pub fn config<T: Config>(&self) -> Result<T, StartError> {
        let loaded = load::<T>(&self.env.home.config(), self.decl.name)?;
        for warning in &loaded.warnings {
            tracing::info!(warning, "configuration");
        }
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).extend(loaded.warnings);
        Ok(loaded.value)
    }

    /// Returns a client channel to a declared peer, and the rule for when it is away.
    ///
    /// # Errors
    ///
    /// [`StartError::Failed`] when the declaration does not name the peer.
    pub fn client(&self, service: &str) -> Result<(Channel, Away), StartError> {
        let need = self.decl.needs.iter().find(|n| n.service == service).ok_or_else(|| {
            let name = self.decl.name;
            StartError::failed("make a client", format!("{name} does not declare that it needs {service}"))
        })?;
        Ok((channel(Arc::clone(&self.env.dial), service), need.away))
    }

    /// Returns a channel on which any service may be asked for its health and its state.
    ///
    /// # Errors
    ///
    /// [`StartError::Failed`] when the declaration does not say that the service observes.
    pub fn observe(&self, service: &str) -> Result<Channel, StartError> {
        if !self.decl.observes {
            let name = self.decl.name;
            return Err(StartError::failed("observe", format!("{name} does not declare that it observes")));
        }
        Ok(channel(Arc::clone(&self.env.dial), service))
    }

    /// Returns what the process that runs the service gave it, if it is of this type.
    pub fn given<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        Arc::clone(self.env.given.as_ref()?).downcast().ok()
    }

    /// Returns the declared jobs.
    pub fn jobs(&self) -> &[&'static JobDecl] {
        &self.env.jobs
    }

    /// Returns the service's state, for it to report a part that it cannot do.
    pub fn state(&self) -> &StateCell {
        &self.state
    }

    /// Returns the service's background tasks.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Returns the signal that the service is to stop.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Ends the process after the answers under way are sent; it starts again into recovery.
    pub fn fatal(&self, why: impl Into<String>) {
        let why = why.into();
        self.fatal.send_if_modified(|now| {
            let first = now.is_none();
            now.get_or_insert(why);
            first
        });
    }

    /// Returns the refusals of this service's guard, once: whoever asks records them.
    pub fn refusals(&self) -> Option<mpsc::Receiver<Refusal>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The signal that a service is to stop.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Returns a signal and what sends it.
    pub fn pair() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Returns whether the service is to stop.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the service is to stop.
    pub async fn requested(&self) {
        let mut receiver = self.0.clone();
        // An error means that the sender is gone, and with it the service.
        let _ = receiver.wait_for(|stop| *stop).await;
    }

    /// Runs a future, or gives up when the service is to stop.
    pub async fn or<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            value = future => Some(value),
            () = self.requested() => None,
        }
    }

    /// Waits for `duration` on a clock; returns false when the service is to stop.
    pub async fn sleep(&self, clock: &dyn Clock, duration: Duration) -> bool {
        self.or(clock.sleep(duration)).await.is_some()
    }

    /// Ends a stream when the service is to stop.
    pub fn end<S: futures::Stream + Unpin>(
        &self,
        stream: S,
    ) -> impl futures::Stream<Item = S::Item> + use<S> {
        let this = self.clone();
        crate::guard::until(stream, async move { this.requested().await })
    }
}

/// What runs after a service's last call.
pub(crate) type OnDrain = Box<dyn FnOnce() + Send>;

/// A built service: its gRPC servers.
pub struct Built {
    routes: RoutesBuilder,
    names: Vec<&'static str>,
    on_drain: Option<OnDrain>,
}

impl std::fmt::Debug for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Built").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Default for Built {
    fn default() -> Self {
        Self::new()
    }
}

impl Built {
    /// Returns a service without servers.
    pub fn new() -> Self {
        Self { routes: RoutesBuilder::default(), names: Vec::new(), on_drain: None }
    }

    /// Adds a gRPC server; its name must be declared in `serves`.
    #[must_use]
    pub fn serve<S>(mut self, server: S) -> Self
    where
        S: tower::Service<
                http::Request<Body>,
                Response = http::Response<Body>,
                Error = std::convert::Infallible,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes.add_service(server);
        self.names.push(S::NAME);
        self
    }

    /// Sets what runs after the last call, before the process ends: a last flush or snapshot.
    #[must_use]
    pub fn on_drain(mut self, run: impl FnOnce() + Send + 'static) -> Self {
        self.on_drain = Some(Box::new(run));
        self
    }

    pub(crate) fn finish(self) -> (Routes, Vec<&'static str>, Option<OnDrain>) {
        (self.routes.routes(), self.names, self.on_drain)
    }
}
