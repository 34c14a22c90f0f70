//! The methods.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use mirror_contract::mirror::blobs::v1 as pb;
use mirror_errors::{Chain, Classify as _, reject};
use mirror_kit::Context;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status, Streaming};

use crate::blob::{Content, Digest};
use crate::config::Rules;
use crate::error::BlobsError;
use crate::store::{Reading, Receipt, Store, Upload};
use crate::wire::{First, Next};

/// How long a call waits for another of its sort to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// The service.
#[derive(Debug)]
pub(crate) struct Api {
    store: Store,
    cx: Context,
    uploads: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    idle: Duration,
}

/// Runs file work where it does not hold up other calls.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobsError> + Send + 'static,
) -> Result<T, BlobsError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(e) => Err(BlobsError::storage("finish before the service ends")(std::io::Error::other(e))),
        },
    }
}

/// Returns the status of an error; what the owner must mend is logged with its chain.
fn answer(error: BlobsError) -> Status {
    if matches!(
        error,
        BlobsError::Corrupt { .. } | BlobsError::Storage { .. } | BlobsError::DiskReserve { .. }
    ) {
        tracing::warn!(reason = error.reason(), error = %Chain(&error), "the store needs attention");
    }
    reject(error)
}

/// An upload between two chunks. When its call ends, the file is removed on a thread that may wait for the disk.
struct Held(Option<Upload>);

impl Drop for Held {
    fn drop(&mut self) {
        if let (Some(upload), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(upload));
        }
    }
}

impl Api {
    pub(crate) fn new(store: Store, rules: &Rules, cx: Context) -> Self {
        let slots = |n| Arc::new(Semaphore::new(n));
        Self { store, cx, uploads: slots(rules.uploads), reads: slots(rules.reads), idle: rules.idle }
    }

    async fn slot(
        &self,
        slots: &Arc<Semaphore>,
        what: &'static str,
    ) -> Result<OwnedSemaphorePermit, BlobsError> {
        let free = Arc::clone(slots).acquire_owned();
        tokio::select! {
            biased;
            permit = free => permit.map_err(|_| BlobsError::Busy { what }),
            () = self.cx.clock().sleep(PATIENCE) => Err(BlobsError::Busy { what }),
        }
    }

    async fn next<S>(&self, messages: &mut S) -> Result<Option<pb::PutBlobRequest>, BlobsError>
    where
        S: Stream<Item = Result<pb::PutBlobRequest, Status>> + Unpin,
    {
        tokio::select! {
            biased;
            message = messages.next() => message
                .transpose()
                .map_err(|e| BlobsError::Chunk(format!("could not be read: {}", e.message()))),
            () = self.cx.clock().sleep(self.idle) => Err(BlobsError::Stalled(self.idle)),
        }
    }

    async fn put<S>(&self, mut messages: S) -> Result<Receipt, BlobsError>
    where
        S: Stream<Item = Result<pb::PutBlobRequest, Status>> + Unpin,
    {
        let _slot = self.slot(&self.uploads, "uploads").await?;
        let first = self.next(&mut messages).await?.map(First::try_from).transpose()?.unwrap_or_default();
        let store = self.store.clone();
        let begun = blocking(move || {
            let mut upload = store.begin(first.expected)?;
            upload.write(&first.chunk).map(|()| upload)
        });
        let mut held = Held(Some(begun.await?));
        while let Some(message) = self.next(&mut messages).await? {
            let Next(chunk) = message.try_into()?;
            let Some(mut upload) = held.0.take() else { break };
            held.0 = Some(blocking(move || upload.write(&chunk).map(|()| upload)).await?);
        }
        // A call that its caller cancels reads as an ended stream too (tonic 0.14, `decode.rs`). The connection looks for
        // the cancellation whenever the handler pauses, and then drops it: so it must pause before it stores anything.
        tokio::task::yield_now().await;
        let lost = || BlobsError::storage("finish an upload")(std::io::Error::other("its file is gone"));
        let upload = held.0.take().ok_or_else(lost)?;
        blocking(move || upload.commit()).await
    }

    async fn read(
        &self,
        request: pb::GetBlobRequest,
    ) -> Result<impl Stream<Item = Result<Bytes, BlobsError>> + use<>, BlobsError> {
        let digest = Digest::try_from(request)?;
        let slot = self.slot(&self.reads, "reads").await?;
        let store = self.store.clone();
        let reading = blocking(move || store.read(digest)).await?;
        Ok(stream::try_unfold((reading, slot), |(mut reading, slot): (Reading, _)| {
            blocking(move || Ok(reading.next()?.map(|chunk| (chunk, (reading, slot)))))
        }))
    }

    async fn check(&self, request: pb::CheckBlobRequest) -> Result<Content, BlobsError> {
        let digest = Digest::try_from(request)?;
        let slot = self.slot(&self.reads, "reads").await?;
        let store = self.store.clone();
        // The slot goes along: a check whose caller has left still reads to its end.
        blocking(move || {
            let _slot = slot;
            store.check(digest)
        })
        .await
    }

    async fn info(&self, request: pb::GetBlobInfoRequest) -> Result<Content, BlobsError> {
        let digest = Digest::try_from(request)?;
        let store = self.store.clone();
        blocking(move || store.info(digest)).await
    }
}

#[tonic::async_trait]
impl pb::blobs_service_server::BlobsService for Api {
    /// A drain does not end it: a stream cut short would look like a whole blob.
    type GetBlobStream = Pin<Box<dyn Stream<Item = Result<pb::GetBlobResponse, Status>> + Send>>;

    async fn put_blob(
        &self,
        request: Request<Streaming<pb::PutBlobRequest>>,
    ) -> Result<Response<pb::PutBlobResponse>, Status> {
        let receipt = self.put(request.into_inner()).await.map_err(answer)?;
        if receipt.replaced {
            let digest = receipt.content.digest;
            tracing::warn!(%digest, "a damaged file of this blob was moved to quarantine and replaced");
        }
        Ok(Response::new(receipt.into()))
    }

    async fn get_blob(
        &self,
        request: Request<pb::GetBlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        let chunks = self.read(request.into_inner()).await.map_err(answer)?;
        let messages = chunks.map_ok(|chunk| pb::GetBlobResponse { chunk }).map_err(answer);
        Ok(Response::new(Box::pin(messages)))
    }

    async fn get_blob_info(
        &self,
        request: Request<pb::GetBlobInfoRequest>,
    ) -> Result<Response<pb::GetBlobInfoResponse>, Status> {
        let content = self.info(request.into_inner()).await.map_err(answer)?;
        Ok(Response::new(content.into()))
    }

    async fn check_blob(
        &self,
        request: Request<pb::CheckBlobRequest>,
    ) -> Result<Response<pb::CheckBlobResponse>, Status> {
        let content = self.check(request.into_inner()).await.map_err(answer)?;
        Ok(Response::new(content.into()))
    }
}
