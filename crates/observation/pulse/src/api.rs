//! The gRPC methods: parse, call, render.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use mirror_clock::Clock;
use mirror_contract::mirror::bus::v1::AppendRequest;
use mirror_contract::mirror::pulse::v1 as pb;
use mirror_contract::mirror::pulse::v1::pulse_service_server::PulseService;
use mirror_errors::reject;
use mirror_kit::{Shutdown, Trace, hold};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status};

use crate::engine::Shared;
use crate::error::Error;
use crate::hands::{Hands, event};
use crate::pulse::{Input, View};
use crate::wire;

/// Shortest time between two answers of a watch.
const ROUND: Duration = Duration::from_millis(250);
/// How long a bus that is away is waited for.
const HOLD: Duration = Duration::from_secs(10);
/// Longest wait for a sweep.
const SWEEP: Duration = Duration::from_secs(30);
/// Time between two looks at a sweep.
const LOOK: Duration = Duration::from_millis(50);

/// The service.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) shared: Shared,
    pub(crate) hands: Hands,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shutdown: Shutdown,
}

impl Api {
    /// Hands something to the engine; an error means that the service ends, and with it the call.
    async fn tell(&self, input: Input) {
        let _ = self.inputs.send(input).await;
    }

    async fn record(&self, maintenance: &wire::Maintenance) -> Result<(), Error> {
        let payload = json!({ "for_ms": maintenance.for_ms, "reason": maintenance.reason }).to_string();
        let id = format!("pulse-maintenance-{}", Trace::fresh().to_header());
        let request = AppendRequest { event: Some(event(id, "pulse.maintenance", payload)), expect: None };
        hold(HOLD, || async { self.hands.bus.clone().append(request.clone()).await }).await?;
        Ok(())
    }

    /// Waits until something holds, for as long as a sweep may take.
    async fn until(&self, mut holds: impl FnMut() -> bool) {
        let waiting = async {
            while !holds() {
                tokio::time::sleep(LOOK).await;
            }
        };
        // Whoever waited in vain is told how things stand.
        let _ = tokio::time::timeout(SWEEP, waiting).await;
    }
}

#[tonic::async_trait]
impl PulseService for Api {
    type WatchPulseStream = Pin<Box<dyn Stream<Item = Result<pb::WatchPulseResponse, Status>> + Send>>;

    async fn get_pulse(
        &self,
        _: Request<pb::GetPulseRequest>,
    ) -> Result<Response<pb::GetPulseResponse>, Status> {
        Ok(Response::new(pb::GetPulseResponse { pulse: Some(self.shared.view().into()) }))
    }

    async fn watch_pulse(
        &self,
        _: Request<pb::WatchPulseRequest>,
    ) -> Result<Response<Self::WatchPulseStream>, Status> {
        let mut receiver = self.shared.watch();
        receiver.mark_changed();
        let pulses = changes(receiver, Arc::clone(&self.clock));
        Ok(Response::new(Box::pin(self.shutdown.clone().end(pulses))))
    }

    async fn run_sweep(
        &self,
        _: Request<pb::RunSweepRequest>,
    ) -> Result<Response<pb::RunSweepResponse>, Status> {
        if self.shared.with(|core| core.is_sweeping()) {
            return Err(reject(Error::Sweeping));
        }
        let before = self.shared.with(|core| core.sweeps());
        self.tell(Input::Sweep).await;
        self.until(|| self.shared.with(|core| core.sweeps()) > before).await;
        Ok(Response::new(pb::RunSweepResponse { pulse: Some(self.shared.view().into()) }))
    }

    async fn list_incidents(
        &self,
        request: Request<pb::ListIncidentsRequest>,
    ) -> Result<Response<pb::ListIncidentsResponse>, Status> {
        let limit = wire::limit(request.get_ref());
        let incidents = self.shared.with(|core| core.closed().take(limit).cloned().map(Into::into).collect());
        Ok(Response::new(pb::ListIncidentsResponse { incidents }))
    }

    async fn put_maintenance(
        &self,
        request: Request<pb::PutMaintenanceRequest>,
    ) -> Result<Response<pb::PutMaintenanceResponse>, Status> {
        let maintenance: wire::Maintenance = request.into_inner().try_into().map_err(reject)?;
        let held = || {
            let now = self.shared.now();
            self.shared.with(|core| core.maintenance(now))
        };
        // To end what does not last is nothing to record.
        if maintenance.for_ms > 0 || held().is_some() {
            self.record(&maintenance).await.map_err(reject)?;
            let changes = self.shared.with(|core| core.maintenances());
            self.tell(Input::Maintenance(maintenance.for_ms)).await;
            self.until(|| self.shared.with(|core| core.maintenances()) > changes).await;
        }
        Ok(Response::new(pb::PutMaintenanceResponse { until: held().map(mirror_contract::timestamp) }))
    }
}

/// Returns the pulse as it is and whenever it says something else, with a pause after each.
fn changes(
    receiver: watch::Receiver<Arc<View>>,
    clock: Arc<dyn Clock>,
) -> impl Stream<Item = Result<pb::WatchPulseResponse, Status>> + Unpin {
    Box::pin(stream::unfold((receiver, clock, None), |(mut receiver, clock, pause)| async move {
        if let Some(pause) = pause {
            clock.sleep(pause).await;
        }
        receiver.changed().await.ok()?;
        let view = View::clone(&receiver.borrow_and_update());
        let response = pb::WatchPulseResponse { pulse: Some(view.into()) };
        Some((Ok(response), (receiver, clock, Some(ROUND))))
    }))
}
