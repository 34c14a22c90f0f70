//! The gRPC methods: parse, call, render.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_contract::mirror::keeper::v1 as pb;
use mirror_contract::mirror::keeper::v1::keeper_service_server::KeeperService;
use mirror_errors::{Chain, Classify as _, reject};
use mirror_kit::{Context, Peer, State};
use tonic::{Request, Response, Status};

use crate::desk::Desk;
use crate::error::Error;
use crate::wire;

/// Most records of one answer.
const PAGE: usize = 256;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    desk: Arc<Mutex<Desk>>,
    cx: Context,
}

impl Api {
    pub(crate) fn new(desk: Desk, cx: Context) -> Self {
        let api = Self { desk: Arc::new(Mutex::new(desk)), cx };
        // The kit says that the service serves, once it does.
        if !api.desk().missing().is_empty() {
            api.tell();
        }
        api
    }

    // A signature takes microseconds and its record one sync, so both are sooner done than handed to another thread.
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says in the state which keys cannot be used.
    fn tell(&self) {
        let missing = self.desk().missing();
        if missing.is_empty() {
            self.cx.state().set(State::Serving, "");
        } else {
            let keys = missing.join(" and ");
            let detail = format!("the seed of {keys} is gone; rotate it with the recovery passphrase");
            self.cx.state().set(State::Degraded, detail);
        }
    }

    /// Returns the status of an error; what the owner must mend is logged with its chain.
    fn answer(&self, error: Error) -> Status {
        if matches!(error, Error::Storage { .. } | Error::Log(_)) {
            tracing::error!(reason = error.reason(), error = %Chain(&error), "nothing was signed");
        }
        if self.desk().is_poisoned() {
            self.cx.fatal("the outcome of a write to the keeper's log is not known");
        }
        reject(error)
    }

    /// Records the callers that the guard refused.
    pub(crate) async fn record_refusals(self) {
        let Some(mut refusals) = self.cx.refusals() else { return };
        let shutdown = self.cx.shutdown();
        while let Some(Some(refusal)) = shutdown.or(refusals.recv()).await {
            let recorded = self.desk().refused(&refusal);
            if let Err(error) = recorded {
                tracing::error!(error = %Chain(&error), "a refusal was not recorded");
            }
        }
    }
}

/// Returns who calls, as the log names it.
fn caller<T>(request: &Request<T>) -> String {
    request.extensions().get::<Peer>().map_or_else(String::new, |peer| peer.principal.actor())
}

#[tonic::async_trait]
impl KeeperService for Api {
    async fn sign_note(
        &self,
        request: Request<pb::SignNoteRequest>,
    ) -> Result<Response<pb::SignNoteResponse>, Status> {
        let caller = caller(&request);
        let text = wire::text(request.into_inner()).map_err(reject)?;
        let signed = self.desk().sign_note(&caller, &text);
        let note = signed.map_err(|e| self.answer(e))?;
        Ok(Response::new(pb::SignNoteResponse { note }))
    }

    async fn sign_envelope(
        &self,
        request: Request<pb::SignEnvelopeRequest>,
    ) -> Result<Response<pb::SignEnvelopeResponse>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        let payload = wire::payload(&request).map_err(reject)?;
        let signed = self.desk().sign_envelope(&caller, &request.r#type, payload);
        let envelope = signed.map_err(|e| self.answer(e))?;
        Ok(Response::new(pb::SignEnvelopeResponse { envelope }))
    }

    async fn list_keys(
        &self,
        _: Request<pb::ListKeysRequest>,
    ) -> Result<Response<pb::ListKeysResponse>, Status> {
        let desk = self.desk();
        let mut keys = vec![wire::device(desk.device())];
        keys.extend(desk.keys().iter().map(pb::Key::from));
        keys.sort_by(|a, b| (&a.purpose, a.serial).cmp(&(&b.purpose, b.serial)));
        Ok(Response::new(pb::ListKeysResponse { keys }))
    }

    async fn rotate_key(
        &self,
        request: Request<pb::RotateKeyRequest>,
    ) -> Result<Response<pb::RotateKeyResponse>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        let proof = wire::proof(&request).map_err(reject)?;
        let rotated = self.desk().rotate(&caller, &request.purpose, proof);
        let row = rotated.map_err(|e| self.answer(e))?;
        self.tell();
        Ok(Response::new(pb::RotateKeyResponse { key: Some((&row).into()) }))
    }

    async fn list_records(
        &self,
        request: Request<pb::ListRecordsRequest>,
    ) -> Result<Response<pb::ListRecordsResponse>, Status> {
        let found = self.desk().records(request.into_inner().from, PAGE);
        let (records, head) = found.map_err(|e| self.answer(e))?;
        let records = records.into_iter().map(Into::into).collect();
        Ok(Response::new(pb::ListRecordsResponse { records, head }))
    }
}
