//! The guard in front of each call: who calls, halt, the method's options, bounds, deadline, trace, counters, panics.
//!
//! In this order, so that a stranger costs nothing and a refused call takes no slot.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use http::{Request, Response};
use mirror_client::trace::Trace;
use mirror_clock::Clock;
use mirror_contract::MethodSpec;
use mirror_errors::{Classify, Detail, Kind, reject};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;
use tracing::Instrument as _;

use crate::access;
use crate::decl::Decl;
use crate::halt::Halt;
use crate::held::hold;
use crate::listener::ConnInfo;
use crate::metrics::Metrics;
use crate::peer::{Peer, Principal};
use crate::report::{Rate, Refusal};
use crate::state::{State, StateCell};

/// Streams that one service serves at once.
const STREAM_LIMIT: usize = 512;
/// Calls about the service itself that it answers at once: state, counters, health, reflection.
const ABOUT_LIMIT: usize = 256;
/// Connections that one service keeps open at once.
const CONNECTION_LIMIT: usize = 1024;

/// Why the guard refused a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuardError {
    #[error("this socket belongs to another user; uid {0} is refused")]
    Stranger(u32),
    #[error("{principal} may not call {method}: it needs the scope {scope}")]
    Scope { principal: &'static str, method: &'static str, scope: &'static str },
    #[error("{0}; effects are refused until the halt is released")]
    Halted(String),
    #[error("the call took longer than its deadline of {0} ms; whether it had an effect is unknown")]
    Deadline(u128),
    #[error("{0} has too many calls in progress; try again in a moment")]
    Busy(&'static str),
    #[error("{service} is {state}{detail}")]
    NotServing { service: &'static str, state: &'static str, detail: String },
    #[error("a handler panicked")]
    Panic,
    #[error("the method {0} declares no options")]
    Undeclared(String),
}

impl Classify for GuardError {
    fn kind(&self) -> Kind {
        match self {
            Self::Stranger(_) | Self::Scope { .. } => Kind::Denied,
            Self::Halted(_) => Kind::Precondition,
            Self::Deadline(_) => Kind::Timeout,
            Self::Busy(_) => Kind::Exhausted,
            Self::NotServing { .. } => Kind::Unavailable,
            Self::Panic => Kind::Bug,
            Self::Undeclared(_) => Kind::Unsupported,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Stranger(_) => "KIT_PEER_UID",
            Self::Scope { .. } => "KIT_SCOPE_DENIED",
            Self::Halted(_) => "KIT_HALTED",
            Self::Deadline(_) => "KIT_DEADLINE",
            Self::Busy(_) => "KIT_BUSY",
            Self::NotServing { .. } => "KIT_NOT_SERVING",
            Self::Panic => "KIT_PANIC",
            Self::Undeclared(_) => "KIT_UNDECLARED",
        }
    }

    fn details(&self) -> Vec<Detail> {
        match self {
            Self::Busy(_) => vec![Detail::RetryAfter(Duration::from_millis(100))],
            Self::NotServing { .. } => vec![Detail::RetryAfter(Duration::from_millis(500))],
            Self::Scope { scope, .. } => vec![Detail::Value("scope", (*scope).to_owned())],
            _ => Vec::new(),
        }
    }
}

/// What the guard of a service shares among its connections.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) decl: &'static Decl,
    pub(crate) state: StateCell,
    pub(crate) halt: Halt,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    // Apart from the calls, so that a service that is busy can still be asked how it is.
    about: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    waiting: AtomicU64,
    rate: Rate,
    refusals: mpsc::Sender<Refusal>,
    dropped: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        decl: &'static Decl,
        state: StateCell,
        halt: Halt,
        clock: Arc<dyn Clock>,
        refusals: mpsc::Sender<Refusal>,
    ) -> Self {
        let mut serves = decl.serves.to_vec();
        serves.push(crate::run::KIT_SERVICE);
        Self {
            decl,
            state,
            halt,
            metrics: Metrics::new(decl.name, &serves),
            clock,
            calls: Arc::new(Semaphore::new(decl.max_in_flight)),
            streams: Arc::new(Semaphore::new(STREAM_LIMIT)),
            about: Arc::new(Semaphore::new(ABOUT_LIMIT)),
            connections: Arc::new(Semaphore::new(CONNECTION_LIMIT)),
            waiting: AtomicU64::new(0),
            rate: Rate::default(),
            refusals,
            dropped: AtomicU64::new(0),
        }
    }

    pub(crate) fn refuse_connection(&self, key: &'static str, message: impl FnOnce() -> String) {
        self.metrics.refused_connections.fetch_add(1, Relaxed);
        if let Some(repeated) = self.rate.pass(key, self.clock.boot()) {
            tracing::warn!(repeated, "{}", message());
        }
    }

    fn report(&self, reason: &'static str, peer: &Peer, method: &str) {
        let Some(repeated) = self.rate.pass(reason, self.clock.boot()) else { return };
        let uid = match peer.principal {
            Principal::Stranger { uid } => Some(uid),
            _ => None,
        };
        tracing::warn!(reason, uid, pid = peer.pid, method, repeated, "refused a caller");
        let refusal = Refusal { reason, uid, pid: peer.pid, method: method.to_owned(), repeated };
        // A full queue loses a report, never a refusal; the loss is counted.
        if self.refusals.try_send(refusal).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Returns the place of one more connection, or nothing when there are too many.
    pub(crate) fn connection(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.connections).try_acquire_owned().ok();
        if permit.is_none() {
            self.refuse_connection("connections", || {
                format!("closed a connection: {CONNECTION_LIMIT} are open already")
            });
        }
        permit
    }

    /// Returns whether no call is in progress.
    pub(crate) fn is_idle(&self) -> bool {
        let free = |pool: &Semaphore, limit| pool.available_permits() == limit;
        free(&self.calls, self.decl.max_in_flight)
            && free(&self.streams, STREAM_LIMIT)
            && free(&self.about, ABOUT_LIMIT)
    }

    async fn slot(&self, spec: &MethodSpec) -> Result<OwnedSemaphorePermit, GuardError> {
        let is_about = spec.service == crate::run::KIT_SERVICE;
        let pool = match spec.server_streaming {
            _ if is_about => &self.about,
            true => &self.streams,
            false => &self.calls,
        };
        if let Ok(permit) = Arc::clone(pool).try_acquire_owned() {
            return Ok(permit);
        }
        let busy = GuardError::Busy(self.decl.name);
        if is_about || spec.server_streaming || self.waiting.load(Relaxed) >= self.decl.max_in_flight as u64 {
            return Err(busy);
        }
        let _waiting = Counted::up(&self.waiting);
        Arc::clone(pool).acquire_owned().await.map_err(|_| busy)
    }

    /// Checks everything that needs no waiting.
    fn admit(&self, spec: &'static MethodSpec, peer: &Peer) -> Result<(), GuardError> {
        if let Principal::Stranger { uid } = peer.principal {
            return Err(GuardError::Stranger(uid));
        }
        if spec.when_halted != "ALLOW"
            && let Some(why) = self.halt.reason()
        {
            return Err(GuardError::Halted(why));
        }
        if !access::allowed(spec.scope, &peer.principal) {
            let principal = peer.principal.kind().name();
            return Err(GuardError::Scope { principal, method: spec.name, scope: spec.scope });
        }
        let (state, detail) = self.state.get();
        if spec.service != crate::run::KIT_SERVICE && !state.takes_calls() {
            let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
            return Err(GuardError::NotServing { service: self.decl.name, state: state.name(), detail });
        }
        Ok(())
    }
}

/// The layer that puts the guard in front of a service's routes.
#[derive(Debug, Clone)]
pub(crate) struct GuardLayer(pub(crate) Arc<Shared>);

impl<S> tower::Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, shared: Arc::clone(&self.0) }
    }
}

/// The guard.
#[derive(Debug, Clone)]
pub(crate) struct Guard<S> {
    inner: S,
    shared: Arc<Shared>,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let shared = Arc::clone(&self.shared);
        // Where there is no connection there is no proof of who calls.
        let stranger = Peer { principal: Principal::Stranger { uid: u32::MAX }, pid: None };
        let peer = match request.extensions().get::<ConnInfo>() {
            Some(info) => {
                info.served.store(true, Relaxed);
                info.peer.clone()
            }
            None => stranger,
        };
        let path = request.uri().path().to_owned();
        let Some(spec) = mirror_contract::method(&path) else {
            let checked = shared.admit_foreign(&path, &peer);
            return Box::pin(async move {
                match checked {
                    // A watch of the health never ends by itself, and must not hold up a drain.
                    Ok(permit) => {
                        let draining = shared.state.reached(State::Draining);
                        let name = shared.decl.name;
                        inner
                            .call(request)
                            .await
                            .map(|response| hold(response, permit, Some((name, draining))))
                    }
                    Err(e) => Ok(reject(e).into_http()),
                }
            });
        };
        let trace = request
            .headers()
            .get("traceparent")
            .and_then(|v| v.to_str().ok())
            .and_then(Trace::from_header)
            .map_or_else(Trace::fresh, Trace::child);
        let deadline = deadline(spec, &request);
        request.extensions_mut().insert(peer.clone());
        Box::pin(async move {
            let started = shared.clock.boot();
            let span = tracing::info_span!("rpc", method = spec.name, trace = %trace);
            let answer = trace.scope(shared.run(spec, &peer, deadline, inner.call(request)).instrument(span));
            let answer = answer.await;
            let code = match &answer {
                Ok(Ok(response)) => {
                    Status::from_header_map(response.headers()).map_or(Code::Ok, |s| s.code())
                }
                Ok(Err(_)) => Code::Unknown,
                Err(status) => status.code(),
            };
            shared.metrics.record(spec.path, code, shared.clock.boot().saturating_sub(started));
            match answer {
                Ok(response) => response,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

impl Shared {
    fn admit_foreign(&self, path: &str, peer: &Peer) -> Result<OwnedSemaphorePermit, GuardError> {
        if let Principal::Stranger { uid } = peer.principal {
            self.report("KIT_PEER_UID", peer, path);
            return Err(GuardError::Stranger(uid));
        }
        // Health and reflection carry no options; anything of ours must.
        if path.starts_with("/mirror.") {
            return Err(GuardError::Undeclared(path.to_owned()));
        }
        if !access::allowed("kit.read", &peer.principal) {
            return Err(GuardError::Scope {
                principal: peer.principal.kind().name(),
                method: "health and reflection",
                scope: "kit.read",
            });
        }
        Arc::clone(&self.about).try_acquire_owned().map_err(|_| GuardError::Busy(self.decl.name))
    }

    async fn run<E>(
        &self,
        spec: &'static MethodSpec,
        peer: &Peer,
        deadline: Option<Duration>,
        call: impl Future<Output = Result<Response<Body>, E>> + Send,
    ) -> Result<Result<Response<Body>, E>, Status> {
        if let Err(e) = self.admit(spec, peer) {
            if matches!(e, GuardError::Stranger(_) | GuardError::Scope { .. }) {
                self.report(e.reason(), peer, spec.path);
            }
            tracing::debug!(reason = e.reason(), "refused");
            return Err(reject(e));
        }
        let work = async {
            let permit = self.slot(spec).await?;
            let _in_flight = Counted::up(&self.metrics.in_flight);
            let answer = AssertUnwindSafe(call).catch_unwind().await.map_err(|_| GuardError::Panic)?;
            Ok(answer
                .map(|response| if spec.server_streaming { hold(response, permit, None) } else { response }))
        };
        tracing::debug!("called");
        let result = match deadline {
            None => work.await,
            // A little sooner than the caller gives up, so that the caller hears why.
            Some(limit) => match tokio::time::timeout(limit - (limit / 10).min(ANSWER), work).await {
                Ok(result) => result,
                Err(_) => Err(GuardError::Deadline(limit.as_millis())),
            },
        };
        result.map_err(reject)
    }
}

/// How long an answer may take on its way to the caller.
const ANSWER: Duration = Duration::from_millis(100);

/// One of a counted kind, until it is dropped: a call may end by its answer, its deadline or its caller's loss.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn up(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The caller's deadline or the contract's, whichever is sooner; streams have only the caller's.
fn deadline(spec: &MethodSpec, request: &Request<Body>) -> Option<Duration> {
    let own = (spec.deadline_ms > 0).then(|| Duration::from_millis(u64::from(spec.deadline_ms)));
    let asked = request.headers().get("grpc-timeout").and_then(|v| v.to_str().ok()).and_then(parse_timeout);
    match (own, asked) {
        (Some(a), Some(b)) => Some(a.min(b)),
        // A stream's deadline bounds the whole stream; tonic ends it.
        (None, _) => None,
        (own, None) => own,
    }
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

/// Ends a stream when the service drains, so that a tail does not hold up a restart.
pub(crate) fn until<S: futures::Stream + Unpin>(
    stream: S,
    stop: impl Future<Output = ()>,
) -> impl futures::Stream<Item = S::Item> {
    stream.take_until(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("1S"), Some(Duration::from_secs(1)));
        for bad in ["", "S", "m5", "123456789m", "5x"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }
}
