//! Clients to other services: lazy channels with the contract's deadlines and the caller's trace.
//!
//! It refuses to wait for a peer at start: a channel connects at its first call and again after each loss.
//! Invariant: every unary call has a deadline, the caller's or the contract's.

pub mod consume;
pub mod follow;
pub mod schedule;
pub mod trace;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mirror_errors::{Kind, Remote};
use mirror_paths::Home;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tonic::codegen::http::Uri;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;
use tonic::{GrpcMethod, Request, Status};

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A boxed byte stream.
pub type BoxIo = Box<dyn Io>;

/// What [`Dial::dial`] returns.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<BoxIo>> + Send>>;

/// How to reach a service by name: over its socket, or in memory.
pub trait Dial: Send + Sync + fmt::Debug {
    /// Connects to a service.
    fn dial(&self, service: &str) -> Dialing;
}

/// Reaches services over their sockets.
#[derive(Debug, Clone)]
pub struct SocketDial {
    home: Home,
}

impl SocketDial {
    /// Returns a dialer for the services of a home.
    pub fn new(home: Home) -> Self {
        Self { home }
    }
}

impl Dial for SocketDial {
    fn dial(&self, service: &str) -> Dialing {
        let path = self.home.socket(service).map_err(io::Error::other);
        Box::pin(async move {
            let stream = UnixStream::connect(path?).await?;
            Ok(Box::new(stream) as BoxIo)
        })
    }
}

/// A channel to one service.
pub type Channel = InterceptedService<tonic::transport::Channel, Outgoing>;

/// Returns a channel to a service; it connects when it is first used.
pub fn channel(dial: Arc<dyn Dial>, service: &str) -> Channel {
    let service = service.to_owned();
    let connector = connector(dial, service);
    // The authority is never looked up; h2 refuses a socket path there.
    let endpoint = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20);
    InterceptedService::new(endpoint.connect_with_connector_lazy(connector), Outgoing)
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<BoxIo>>> + Send>>;

fn connector(
    dial: Arc<dyn Dial>,
    service: String,
) -> impl tower::Service<Uri, Response = TokioIo<BoxIo>, Error = io::Error, Future = Connecting> + Send + 'static
{
    tower::service_fn(move |_: Uri| {
        let dialing = dial.dial(&service);
        Box::pin(async move { dialing.await.map(TokioIo::new) }) as Connecting
    })
}

/// Adds the trace and, where the caller set none, the contract's deadline.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing;

impl Interceptor for Outgoing {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let deadline = request
            .extensions()
            .get::<GrpcMethod<'static>>()
            .and_then(|m| mirror_contract::method(&format!("/{}/{}", m.service(), m.method())))
            .map_or(0, |spec| spec.deadline_ms);
        if deadline > 0 && request.metadata().get("grpc-timeout").is_none() {
            request.set_timeout(Duration::from_millis(u64::from(deadline)));
        }
        if let Ok(value) = trace::Trace::current().child().to_header().parse() {
            request.metadata_mut().insert("traceparent", value);
        }
        Ok(request)
    }
}

/// Calls until the peer answers, with backoff and jitter, for at most `limit`.
///
/// This is the rule `HOLD`: only a peer that is away, or that says "later", is asked again. The last error is returned.
pub async fn hold<T, F, Fut>(limit: Duration, mut call: F) -> Result<T, Status>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Status>>,
{
    let deadline = tokio::time::Instant::now() + limit;
    let mut pause = Duration::from_millis(20);
    loop {
        let status = match call().await {
            Ok(value) => return Ok(value),
            Err(status) => status,
        };
        let later = Remote::is_away(&status) || Kind::from_code(status.code()).is_retryable();
        let wait = Remote::from_status(&status).retry_after.unwrap_or(pause).min(Duration::from_secs(2));
        let wait = wait / 2 + wait.mul_f64(trace::unit_random() / 2.0);
        if !later || tokio::time::Instant::now() + wait > deadline {
            return Err(status);
        }
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
