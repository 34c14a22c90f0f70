//! The gRPC methods: parse, call, render.

use std::sync::Arc;

use mirror_contract::mirror::witness::v1 as pb;
use mirror_contract::mirror::witness::v1::witness_service_server::WitnessService;
use mirror_errors::reject;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::notary::Call;
use crate::notes::{Checkpoint, Notes};
use crate::proofs;
use crate::scrub::Desk;
use crate::tree::Tree;
use crate::wire;
use crate::witness::Claim;

/// The service.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) latest: watch::Sender<Option<Checkpoint>>,
    pub(crate) notes: Notes,
    pub(crate) notary: mpsc::Sender<Call>,
    pub(crate) desk: Desk,
    pub(crate) tree: Arc<Tree>,
}

impl Api {
    async fn checkpoint(&self) -> Result<Checkpoint, Error> {
        let stopping = || Error::KeeperAway("the witness is stopping".to_owned());
        let (call, answer) = oneshot::channel();
        self.notary.send(call).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    async fn list(&self, before: u64, limit: usize) -> Result<Vec<Checkpoint>, Error> {
        let notes = self.notes.clone();
        let listed = tokio::task::spawn_blocking(move || notes.list(before, limit)).await;
        let listed = listed.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        listed.map_err(|e| Error::storage(self.notes.dir(), e))
    }

    /// Returns what the newest checkpoint says: what every proof leads to.
    fn signed(&self) -> Result<Claim, Error> {
        self.latest.borrow().as_ref().map(|newest| newest.claim).ok_or(Error::NoCheckpoint)
    }

    /// Returns the checkpoint of a tree; empty when none was signed, or another.
    async fn note(&self, tree: Claim) -> Result<String, Error> {
        let notes = self.notes.clone();
        let read = tokio::task::spawn_blocking(move || notes.read(tree.size)).await;
        let read = read.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        let found = read.map_err(|e| Error::storage(self.notes.dir(), e))?;
        Ok(found.filter(|found| found.claim == tree).map(|found| found.note).unwrap_or_default())
    }

    async fn inclusion(&self, seq: u64, size: u64) -> Result<pb::ProveInclusionResponse, Error> {
        let signed = self.signed()?;
        let (seq, size) = proofs::asked_inclusion(seq, size, signed)?;
        let make = move |tiles: &_| proofs::inclusion(tiles, seq, size, signed);
        let found = self.tree.prove(signed.size, Some(signed), make).await?;
        let note = self.note(found.tree).await?;
        Ok(wire::inclusion(seq, &found, note))
    }

    async fn growth(&self, from: u64, to: u64) -> Result<pb::ProveConsistencyResponse, Error> {
        let signed = self.signed()?;
        let (from, to) = proofs::asked_growth(from, to, signed)?;
        let make = move |tiles: &_| proofs::growth(tiles, from, to, signed);
        let found = self.tree.prove(signed.size, Some(signed), make).await?;
        let notes = [self.note(found.from).await?, self.note(found.to).await?];
        Ok(wire::growth(&found, notes))
    }
}

#[tonic::async_trait]
impl WitnessService for Api {
    async fn get_checkpoint(
        &self,
        _: Request<pb::GetCheckpointRequest>,
    ) -> Result<Response<pb::GetCheckpointResponse>, Status> {
        let latest = self.latest.borrow().clone().ok_or(Error::NoCheckpoint).map_err(reject)?;
        Ok(Response::new(pb::GetCheckpointResponse { checkpoint: Some(latest.into()) }))
    }

    async fn list_checkpoints(
        &self,
        request: Request<pb::ListCheckpointsRequest>,
    ) -> Result<Response<pb::ListCheckpointsResponse>, Status> {
        let pb::ListCheckpointsRequest { before_size, limit } = request.into_inner();
        let limit = wire::limit(limit).map_err(reject)?;
        let before = if before_size == 0 { u64::MAX } else { before_size };
        let listed = self.list(before, limit).await.map_err(reject)?;
        let checkpoints = listed.into_iter().map(Into::into).collect();
        Ok(Response::new(pb::ListCheckpointsResponse { checkpoints }))
    }

    async fn run_checkpoint(
        &self,
        _: Request<pb::RunCheckpointRequest>,
    ) -> Result<Response<pb::RunCheckpointResponse>, Status> {
        let checkpoint = self.checkpoint().await.map_err(reject)?;
        Ok(Response::new(pb::RunCheckpointResponse { checkpoint: Some(checkpoint.into()) }))
    }

    async fn prove_inclusion(
        &self,
        request: Request<pb::ProveInclusionRequest>,
    ) -> Result<Response<pb::ProveInclusionResponse>, Status> {
        let pb::ProveInclusionRequest { seq, size } = request.into_inner();
        Ok(Response::new(self.inclusion(seq, size).await.map_err(reject)?))
    }

    async fn prove_consistency(
        &self,
        request: Request<pb::ProveConsistencyRequest>,
    ) -> Result<Response<pb::ProveConsistencyResponse>, Status> {
        let pb::ProveConsistencyRequest { from_size, to_size } = request.into_inner();
        Ok(Response::new(self.growth(from_size, to_size).await.map_err(reject)?))
    }

    async fn get_verification(
        &self,
        _: Request<pb::GetVerificationRequest>,
    ) -> Result<Response<pb::GetVerificationResponse>, Status> {
        Ok(Response::new(self.desk.standing().into()))
    }

    async fn run_verification(
        &self,
        _: Request<pb::RunVerificationRequest>,
    ) -> Result<Response<pb::RunVerificationResponse>, Status> {
        Ok(Response::new(pb::RunVerificationResponse { begun: self.desk.begin() }))
    }
}
