//! The gRPC methods of consumers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use mirror_contract::mirror::bus::v1 as pb;
use mirror_errors::reject;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::registry::Consumers;
use super::slot::Fetching;
use super::stream::consume;
use super::wire;
use crate::api::Caller;
use crate::error::BusError;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct ConsumeApi(pub(crate) Arc<Consumers>);

impl ConsumeApi {
    /// Runs something to its end, although the caller may go away: what is stored must also be taken in.
    async fn whole<T: Send + 'static>(
        &self,
        run: impl Future<Output = Result<T, BusError>> + Send + 'static,
    ) -> Result<T, BusError> {
        let (reply, answer) = oneshot::channel();
        self.0.tasks.spawn(async move {
            // Whoever asked may have gone away.
            let _ = reply.send(run.await);
        });
        answer.await.unwrap_or(Err(BusError::OutcomeUnknown))
    }

    /// Waits for the first events and takes them.
    async fn take(&self, caller: &Caller, request: &pb::FetchRequest) -> Result<Vec<pb::Delivery>, BusError> {
        let (max, wait_ms) = wire::fetch(request)?;
        let slot = self.0.of(&request.name, &caller.actor)?;
        let (puller, mut parcels) = slot.join(max, caller.private, Some(wait_ms))?;
        let fetching = Fetching { slot: Arc::clone(&slot), puller, now: self.0.time.clone() };
        self.0.see_to(&slot);
        let late = async {
            if wait_ms == 0 {
                // The task that delivers says when there is nothing.
                std::future::pending::<()>().await;
            }
            self.0.time.until(self.0.time.now().saturating_add(wait_ms)).await;
        };
        let parcel = tokio::select! {
            biased;
            parcel = parcels.recv() => parcel,
            () = late => Some(Ok(Vec::new())),
            () = self.0.shutdown.requested() => Some(Ok(Vec::new())),
        };
        let mut deliveries = parcel.unwrap_or_else(|| Err(slot.missing()))?;
        fetching.keep();
        // What came in the very moment.
        while let Ok(Ok(more)) = parcels.try_recv() {
            deliveries.extend(more);
        }
        Ok(deliveries)
    }
}

#[tonic::async_trait]
impl pb::consumer_service_server::ConsumerService for ConsumeApi {
    async fn create_consumer(
        &self,
        request: Request<pb::CreateConsumerRequest>,
    ) -> Result<Response<pb::CreateConsumerResponse>, Status> {
        let caller = Caller::of(&request);
        let head = self.0.bus.head().seq;
        let (config, filter) = wire::config(request.into_inner().config, head).map_err(reject)?;
        let this = Arc::clone(&self.0);
        let made = self.whole(async move { this.create(config, filter, caller.actor).await }).await;
        let (consumer, created) = made.map_err(reject)?;
        Ok(Response::new(pb::CreateConsumerResponse { consumer: Some(consumer), created }))
    }

    async fn delete_consumer(
        &self,
        request: Request<pb::DeleteConsumerRequest>,
    ) -> Result<Response<pb::DeleteConsumerResponse>, Status> {
        let caller = Caller::of(&request);
        let (this, name) = (Arc::clone(&self.0), request.into_inner().name);
        self.whole(async move { this.delete(&name, &caller.actor).await }).await.map_err(reject)?;
        Ok(Response::new(pb::DeleteConsumerResponse {}))
    }

    async fn list_consumers(
        &self,
        request: Request<pb::ListConsumersRequest>,
    ) -> Result<Response<pb::ListConsumersResponse>, Status> {
        let consumers = self.0.list(&request.into_inner().name);
        Ok(Response::new(pb::ListConsumersResponse { consumers }))
    }

    type ConsumeStream = Pin<Box<dyn Stream<Item = Result<pb::ConsumeResponse, Status>> + Send>>;

    async fn consume(
        &self,
        request: Request<Streaming<pb::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let caller = Caller::of(&request);
        let (answers, receiver) = mpsc::channel(4);
        let task = consume(Arc::clone(&self.0), caller, request.into_inner(), answers);
        let shutdown = self.0.shutdown.clone();
        self.0.tasks.spawn(async move {
            shutdown.or(task).await;
        });
        Ok(Response::new(Box::pin(self.0.shutdown.end(ReceiverStream::new(receiver)))))
    }

    async fn fetch(&self, request: Request<pb::FetchRequest>) -> Result<Response<pb::FetchResponse>, Status> {
        let caller = Caller::of(&request);
        let deliveries = self.take(&caller, request.get_ref()).await.map_err(reject)?;
        Ok(Response::new(pb::FetchResponse { deliveries }))
    }

    async fn settle(
        &self,
        request: Request<pb::SettleRequest>,
    ) -> Result<Response<pb::SettleResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        if request.settlements.is_empty() {
            return Err(reject(wire::invalid("settlements", "is empty")));
        }
        let slot = self.0.of(&request.name, &caller.actor).map_err(reject)?;
        let settlements = wire::settlements(request.settlements).map_err(reject)?;
        let settling = slot.settle(settlements, self.0.time.now()).map_err(reject)?;
        self.0.see_to(&slot);
        let stale = settling.done().await.map_err(reject)?;
        Ok(Response::new(pb::SettleResponse { stale }))
    }
}
