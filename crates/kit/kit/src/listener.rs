//! The listener: bound privately, replaced safely, and deaf to what is not HTTP/2.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use mirror_client::BoxIo;
use mirror_paths::{Home, PathError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::guard::Shared;
use crate::lease::Lease;
use crate::peer::Peer;

/// What every HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection may take to say what every HTTP/2 client says first.
const PREFACE_LIMIT: Duration = Duration::from_secs(10);

/// How long a listener rests that cannot accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a service that can accept nobody goes on; those who are connected do not notice, and nobody else can ask it.
const DEAF_LIMIT: Duration = Duration::from_secs(10);

/// A socket that this process bound and will remove.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Bound {
    /// Binds a service's socket. The caller holds the lease, so whatever is there is stale.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that binds")]
    pub(crate) fn bind(home: &Home, service: &str) -> Result<Self, PathError> {
        let path = home.socket(service)?;
        let io = |source| PathError::Io { path: path.clone(), source };
        // Short, because a socket path has a limit; the folder is 0700, so nobody can connect before the chmod.
        let temp = home.run().join(format!(".{:x}", std::process::id()));
        let _ = fs::remove_file(&temp);
        let listener = std::os::unix::net::UnixListener::bind(&temp).map_err(io)?;
        fs::set_permissions(&temp, fs::Permissions::from_mode(0o600)).map_err(io)?;
        fs::rename(&temp, &path).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        let inode = fs::metadata(&path).map_err(io)?.ino();
        let listener = UnixListener::from_std(listener).map_err(io)?;
        Ok(Self { listener, path, inode })
    }
}

impl Bound {
    /// Returns whether nothing stands where the socket was.
    fn is_gone(&self) -> bool {
        fs::symlink_metadata(&self.path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Another process may have bound the name since; only what this one bound is removed.
        if fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// How often a service looks whether its socket is still there.
const LOOK: Duration = Duration::from_secs(2);

/// Accepted connections of a bound socket; where the socket was removed, it is bound again.
pub(crate) struct Incoming {
    bound: Bound,
    home: Home,
    service: &'static str,
    lease: Arc<Lease>,
    look: Pin<Box<Sleep>>,
    pause: Option<Pin<Box<Sleep>>>,
    short: Option<tokio::time::Instant>,
}

impl Incoming {
    pub(crate) fn new(bound: Bound, home: Home, service: &'static str, lease: Arc<Lease>) -> Self {
        let look = Box::pin(tokio::time::sleep(LOOK));
        Self { bound, home, service, lease, look, pause: None, short: None }
    }

    /// Looks after the socket when it is time; a name that another process has taken is left to it.
    fn look(&mut self, cx: &mut Context<'_>) {
        while self.look.as_mut().poll(cx).is_ready() {
            self.look.as_mut().reset(tokio::time::Instant::now() + LOOK);
            if !self.bound.is_gone() {
                continue;
            }
            let restored = self.restore();
            let _ = restored.inspect_err(|why| {
                tracing::warn!(why, "the socket was removed and cannot be bound again; trying again");
            });
        }
    }

    fn restore(&mut self) -> Result<(), String> {
        self.home.prepare().map_err(|e| e.to_string())?;
        self.lease.renew(&self.home, self.service).map_err(|e| format!("its lease: {e}"))?;
        self.bound = Bound::bind(&self.home, self.service).map_err(|e| e.to_string())?;
        tracing::info!("the socket was removed; it is bound again");
        Ok(())
    }
}

impl Stream for Incoming {
    type Item = io::Result<Conn>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.look(cx);
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match self.bound.listener.poll_accept(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok((stream, _))) => {
                    self.short = None;
                    let peer = match stream.peer_cred() {
                        Ok(cred) => {
                            let pid = cred.pid().and_then(|pid| u32::try_from(pid).ok());
                            Peer::of_process(&self.home, cred.uid(), pid)
                        }
                        // Whoever cannot be named is not served.
                        Err(_) => continue,
                    };
                    return Poll::Ready(Some(Ok(Conn::new(Box::new(stream), peer))));
                }
                Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                // Out of files or memory; the listener stays ready, so without a pause this would be a busy loop.
                Poll::Ready(Err(e)) => {
                    let now = tokio::time::Instant::now();
                    match self.short {
                        Some(since) if now - since >= DEAF_LIMIT => {
                            self.short = None;
                            return Poll::Ready(Some(Err(e)));
                        }
                        Some(_) => {}
                        None => {
                            self.short = Some(now);
                            tracing::warn!(error = %e, "cannot accept connections; trying again");
                        }
                    }
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

/// A connection and who is on its other end.
pub struct Conn {
    io: BoxIo,
    peer: Peer,
    seen: usize,
    watch: Option<Watch>,
}

struct Watch {
    shared: Arc<Shared>,
    served: Arc<AtomicBool>,
    tail: VecDeque<u8>,
    // Until the preface is complete.
    silent: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

/// What a request knows of its connection.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    pub(crate) peer: Peer,
    pub(crate) served: Arc<AtomicBool>,
}

impl Conn {
    /// Returns a connection of a known peer.
    pub fn new(io: BoxIo, peer: Peer) -> Self {
        Self { io, peer, seen: 0, watch: None }
    }

    /// Puts a connection under the rules of a service; nothing when the service has too many.
    pub(crate) fn watched(mut self, shared: Arc<Shared>) -> Option<Self> {
        let place = shared.connection()?;
        self.watch = Some(Watch {
            shared,
            served: Arc::new(AtomicBool::new(false)),
            tail: VecDeque::with_capacity(16),
            silent: Some(Box::pin(tokio::time::sleep(PREFACE_LIMIT))),
            _place: place,
        });
        Some(self)
    }

    /// Fails when a connection has been silent for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(watch) = &mut self.watch else { return Poll::Pending };
        let Some(silent) = &mut watch.silent else { return Poll::Pending };
        std::task::ready!(silent.as_mut().poll(cx));
        watch.shared.refuse_connection("silent", || {
            format!("closed a connection that did not begin HTTP/2 within {PREFACE_LIMIT:?}")
        });
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn check_preface(&mut self, bytes: &[u8]) -> io::Result<()> {
        let expected = &PREFACE[self.seen..PREFACE.len().min(self.seen + bytes.len())];
        if bytes[..expected.len()] == *expected {
            self.seen += expected.len();
            if self.seen == PREFACE.len()
                && let Some(watch) = &mut self.watch
            {
                watch.silent = None;
            }
            return Ok(());
        }
        let what = match (self.seen, bytes[0]) {
            (0, 0x16) => "a TLS hello",
            (0, b'A'..=b'Z') => "HTTP/1",
            _ => "garbage",
        };
        if let Some(watch) = &self.watch {
            watch.shared.refuse_connection("preface", || {
                format!("closed a connection that sent {what}; this socket speaks gRPC: HTTP/2 without TLS")
            });
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "not HTTP/2"))
    }
}

impl Watch {
    /// Looks for the stream reset with which h2 answers an authority that it cannot parse.
    fn check_reset(&mut self, bytes: &[u8]) {
        if self.served.load(Relaxed) {
            return;
        }
        for byte in bytes {
            if self.tail.len() == 13 {
                self.tail.pop_front();
            }
            self.tail.push_back(*byte);
            let t = &self.tail;
            let reset = t.len() == 13
                && [t[0], t[1], t[2], t[3]] == [0, 0, 4, 3]
                && [t[9], t[10], t[11], t[12]] == [0, 0, 0, 1];
            if reset {
                self.shared.refuse_connection("authority", || {
                    "a client's call was reset with PROTOCOL_ERROR before it was read: it probably sent the \
                     socket path as :authority; set its authority to localhost \
                     (grpcurl -authority localhost; grpcio option grpc.default_authority)"
                        .to_owned()
                });
                self.tail.clear();
            }
        }
    }
}

impl Connected for Conn {
    type ConnectInfo = ConnInfo;

    fn connect_info(&self) -> ConnInfo {
        let served = self.watch.as_ref().map(|w| Arc::clone(&w.served)).unwrap_or_default();
        ConnInfo { peer: self.peer.clone(), served }
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if result.is_pending() {
            return self.poll_silence(cx);
        }
        if self.seen < PREFACE.len() && buf.filled().len() > before {
            let bytes = buf.filled()[before..].to_vec();
            if let Err(e) = self.check_preface(&bytes) {
                buf.set_filled(before);
                return Poll::Ready(Err(e));
            }
        }
        result
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(watch) = &mut self.watch {
            watch.check_reset(bytes);
        }
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
