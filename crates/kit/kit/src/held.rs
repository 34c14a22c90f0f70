//! The body of a streamed answer: it keeps the stream's slot, outlives a panic, and ends when its service drains.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use mirror_errors::reject;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tonic::body::Body;

use crate::guard::GuardError;

/// Service whose drain ends a stream, and the signal of it.
pub(crate) type Drain = Option<(&'static str, BoxFuture<'static, ()>)>;

/// Keeps a stream's slot until its last byte is sent or its reader is gone.
pub(crate) fn hold(response: Response<Body>, permit: OwnedSemaphorePermit, drain: Drain) -> Response<Body> {
    response.map(|body| Body::new(Held { body, drain, _permit: permit }))
}

struct Held {
    body: Body,
    drain: Drain,
    _permit: OwnedSemaphorePermit,
}

impl Held {
    /// Ends the stream with an error.
    fn fail(&mut self, error: GuardError) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        self.body = Body::empty();
        self.drain = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(reject(error).add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

impl http_body::Body for Held {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        // Unwinding through the connection would end every other call on it.
        let frame = match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut self.body).poll_frame(cx))) {
            Ok(frame) => frame,
            Err(_) => return self.fail(GuardError::Panic),
        };
        // After the body, so that what is ready is still sent.
        if frame.is_pending()
            && let Some((service, draining)) = &mut self.drain
        {
            let service = *service;
            std::task::ready!(draining.poll_unpin(cx));
            return self.fail(GuardError::NotServing { service, state: "draining", detail: String::new() });
        }
        frame
    }

    // An error instead of a stream is one header frame; an empty data frame after it is against the protocol, and
    // clients built on grpc-core then lose the error.
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
