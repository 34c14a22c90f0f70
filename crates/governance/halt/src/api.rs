//! The gRPC methods: parse, call, render.

use std::time::Duration;

use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::bus::v1::{AppendRequest, NewEvent, PayloadType};
use mirror_contract::mirror::halt::v1 as pb;
use mirror_contract::mirror::halt::v1::halt_service_server::HaltService;
use mirror_errors::reject;
use mirror_kit::{Channel, Trace, hold};
use tokio::sync::{Mutex, watch};
use tonic::{Request, Response, Status};

use crate::config::Config;
use crate::error::Error;
use crate::halt::{Entries, Put};
use crate::wire;

/// The service.
#[derive(Debug)]
pub(crate) struct Api {
    fold: watch::Sender<Entries>,
    bus: BusServiceClient<Channel>,
    config: Config,
    // Puts take turns, so that the limit holds and a repeated put is seen as one.
    turn: Mutex<()>,
}

impl Api {
    pub(crate) fn new(fold: watch::Sender<Entries>, bus: BusServiceClient<Channel>, config: Config) -> Self {
        Self { fold, bus, config, turn: Mutex::new(()) }
    }

    /// Appends a change and waits until the fold has it; returns its position.
    async fn record(&self, put: &Put) -> Result<u64, Error> {
        let event = NewEvent {
            subject: "halt.put".to_owned(),
            payload: serde_json::to_vec(put).map_err(|e| Error::not_recorded(&e))?.into(),
            r#type: PayloadType::Json.into(),
            // With an id, an append that is tried again after a lost answer is stored once.
            id: format!("halt-{}", Trace::fresh().to_header()),
            ..NewEvent::default()
        };
        let request = AppendRequest { event: Some(event), expect: None };
        let append = || async { self.bus.clone().append(request.clone()).await };
        let answer = hold(Duration::from_millis(self.config.hold_ms), append).await?;
        let seq = answer.into_inner().ack.map_or(0, |ack| ack.seq);
        self.fold.subscribe().wait_for(|e| e.upto() >= seq).await.map_err(|e| Error::not_recorded(&e))?;
        Ok(seq)
    }
}

#[tonic::async_trait]
impl HaltService for Api {
    async fn get_entry(
        &self,
        request: Request<pb::GetEntryRequest>,
    ) -> Result<Response<pb::GetEntryResponse>, Status> {
        let name = wire::name(request.into_inner().name).map_err(reject)?;
        let entries = self.fold.borrow();
        let entry = entries.get(&name).map_err(reject)?;
        Ok(Response::new(wire::shown(name, entry)))
    }

    async fn put_entry(
        &self,
        request: Request<pb::PutEntryRequest>,
    ) -> Result<Response<pb::PutEntryResponse>, Status> {
        let put: Put = request.into_inner().try_into().map_err(reject)?;
        let _turn = self.turn.lock().await;
        let found = self.fold.borrow().find(&put, self.config.entries).map_err(reject)?;
        let (seq, unchanged) = match found {
            Some(seq) => (seq, true),
            None => (self.record(&put).await.map_err(reject)?, false),
        };
        Ok(Response::new(pb::PutEntryResponse { seq, unchanged }))
    }
}
