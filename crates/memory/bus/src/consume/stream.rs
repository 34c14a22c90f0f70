//! A stream that pulls: requests in, deliveries and what became of settlements out.

use std::sync::Arc;

use mirror_contract::mirror::bus::v1 as pb;
use mirror_errors::reject;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::registry::Consumers;
use super::slot::{Parcel, Settling, Slot};
use super::wire::{self, REQUEST_LIMIT, invalid};
use crate::api::Caller;
use crate::error::BusError;

/// Requests of one stream whose settlements may wait for their record.
const IN_FLIGHT: usize = 64;

type Answers = mpsc::Sender<Result<pb::ConsumeResponse, Status>>;

/// Serves one stream to its end.
pub(super) async fn consume(
    consumers: Arc<Consumers>,
    caller: Caller,
    mut requests: Streaming<pb::ConsumeRequest>,
    answers: Answers,
) {
    let first = tokio::select! {
        first = requests.message() => first,
        () = answers.closed() => return,
    };
    let Ok(Some(first)) = first else { return };
    let joined = consumers.of(&first.name, &caller.actor).and_then(|slot| {
        let (puller, parcels) = slot.join(0, caller.private, None)?;
        Ok((slot, puller, parcels))
    });
    let (slot, puller, parcels) = match joined {
        Ok(joined) => joined,
        Err(e) => {
            let _ = answers.send(Err(reject(e))).await;
            return;
        }
    };
    let session = Session { consumers: &consumers, slot: &slot, puller, answers: &answers };
    let failure = session.run(first, requests, parcels).await;
    // What is still in these hands is due again. When the process ends it is not told from a kill: no attempt counts.
    if !consumers.shutdown.is_requested() {
        let mut inner = slot.lock();
        inner.doors.remove(&puller);
        inner.consumer.leave(puller, consumers.time.now());
        drop(inner);
        consumers.see_to(&slot);
    }
    if let Some(failure) = failure {
        let _ = answers.send(Err(failure)).await;
    }
}

struct Session<'a> {
    consumers: &'a Arc<Consumers>,
    slot: &'a Arc<Slot>,
    puller: u64,
    answers: &'a Answers,
}

impl Session<'_> {
    /// Runs until the client ends, or something fails; returns the failure.
    async fn run(
        &self,
        first: pb::ConsumeRequest,
        requests: Streaming<pb::ConsumeRequest>,
        parcels: mpsc::Receiver<Parcel>,
    ) -> Option<Status> {
        let (queue, told) = mpsc::channel(IN_FLIGHT);
        let settling = async {
            // Both at once; what was settled is told although the requests have ended.
            let (taken, told) = futures::join!(self.take_in(first, requests, queue), self.tell(told));
            taken.or(told)
        };
        tokio::select! {
            failure = settling => failure,
            failure = self.hand_out(parcels) => failure,
            () = self.answers.closed() => None,
        }
    }

    async fn take_in(
        &self,
        first: pb::ConsumeRequest,
        mut requests: Streaming<pb::ConsumeRequest>,
        queue: mpsc::Sender<(u64, Settling)>,
    ) -> Option<Status> {
        let mut request = first;
        loop {
            match self.request(request) {
                Err(e) => return Some(reject(e)),
                Ok((0, _)) => {}
                Ok(settling) => {
                    if queue.send(settling).await.is_err() {
                        return None;
                    }
                }
            }
            match requests.message().await {
                Ok(Some(next)) => request = next,
                // The client ended, or went away.
                Ok(None) | Err(_) => return None,
            }
        }
    }

    fn request(&self, request: pb::ConsumeRequest) -> Result<(u64, Settling), BusError> {
        if !request.name.is_empty() && request.name != self.slot.name {
            let why = format!("is {:?}, and this stream is of {:?}", request.name, self.slot.name);
            return Err(invalid("name", why));
        }
        if request.credit > REQUEST_LIMIT {
            let why = format!("is {}, at most {REQUEST_LIMIT} are allowed", request.credit);
            return Err(invalid("credit", why));
        }
        let settlements = wire::settlements(request.settlements)?;
        let count = settlements.len() as u64;
        let settling = self.slot.settle(settlements, self.consumers.time.now())?;
        if request.credit > 0 {
            self.slot.lock().consumer.credit(self.puller, request.credit);
        }
        self.consumers.see_to(self.slot);
        Ok((count, settling))
    }

    /// Tells what became of settlements, in their order.
    async fn tell(&self, mut told: mpsc::Receiver<(u64, Settling)>) -> Option<Status> {
        let mut settled = 0;
        while let Some((count, settling)) = told.recv().await {
            let stale = match settling.done().await {
                Ok(stale) => stale,
                Err(e) => return Some(reject(e)),
            };
            settled += count;
            let answer = pb::ConsumeResponse { deliveries: Vec::new(), settled, stale };
            if self.answers.send(Ok(answer)).await.is_err() {
                return None;
            }
        }
        None
    }

    async fn hand_out(&self, mut parcels: mpsc::Receiver<Parcel>) -> Option<Status> {
        loop {
            let parcel = parcels.recv().await;
            // There is room for the next.
            self.slot.wake.notify_one();
            let deliveries = match parcel {
                Some(Ok(deliveries)) => deliveries,
                Some(Err(e)) => return Some(reject(e)),
                None if self.slot.lock().gone => return Some(reject(self.slot.missing())),
                None => {
                    return Some(reject(BusError::Read("the consumer cannot go on; pull again".to_owned())));
                }
            };
            let answer = pb::ConsumeResponse { deliveries, ..Default::default() };
            if self.answers.send(Ok(answer)).await.is_err() {
                return None;
            }
        }
    }
}
