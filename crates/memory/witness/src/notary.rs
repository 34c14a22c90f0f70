//! Has the head signed when it is due, and keeps what was signed.
//!
//! It refuses to sign before the log was read to its end and held against what was signed before, and ever again once
//! the two differ: that is the owner's to decide. The fold says whether they do, and a proof from the tiles has to say the
//! same. Invariant: each checkpoint on disk is of a log that holds the ones before.

use std::sync::Arc;
use std::time::Duration;

use mirror_clock::Clock;
use mirror_contract::mirror::bus::v1::GetStatusRequest;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::keeper::v1::keeper_service_client::KeeperServiceClient;
use mirror_contract::mirror::keeper::v1::{ListKeysRequest, SignNoteRequest};
use mirror_errors::Remote;
use mirror_kit::{Channel, Context, hold};
use mirror_seal::{PublicKey, hex};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use crate::cadence::{Cadence, Due, superseded};
use crate::checkpoint;
use crate::error::Error;
use crate::follow::{Progress, Shared, save};
use crate::health::{Health, Part};
use crate::keys;
use crate::notes::{Checkpoint, Notes};
use crate::outbox::Outbox;
use crate::store::Store;
use crate::tree::Tree;
use crate::witness::{Claim, Conflict};

/// Pause after a signature that could not be had.
const PAUSE: Duration = Duration::from_secs(10);

/// Time between two looks for checkpoints that are superseded.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// A call for a checkpoint, and where its answer goes.
pub(crate) type Call = oneshot::Sender<Result<Checkpoint, Error>>;

/// What the notary works with.
pub(crate) struct Parts {
    pub(crate) cx: Context,
    pub(crate) bus: Channel,
    pub(crate) keeper: Channel,
    pub(crate) shared: Arc<Shared>,
    pub(crate) tree: Arc<Tree>,
    pub(crate) store: Store,
    pub(crate) notes: Notes,
    pub(crate) health: Arc<Health>,
    pub(crate) outbox: Outbox,
    pub(crate) cadence: Cadence,
    /// How long a call waits for a peer.
    pub(crate) hold: Duration,
    /// The newest checkpoint.
    pub(crate) latest: watch::Sender<Option<Checkpoint>>,
}

/// Has checkpoints signed.
pub(crate) struct Notary {
    parts: Parts,
    bus: BusServiceClient<Channel>,
    keeper: KeeperServiceClient<Channel>,
    clock: Arc<dyn Clock>,
    progress: watch::Receiver<Progress>,
    signers: Vec<PublicKey>,
    /// When the last checkpoint of this process was made, on the boot clock.
    made: Option<Duration>,
    pruned: Option<Duration>,
    /// No signature is asked for before then.
    not_before: Duration,
    /// Why nothing is signed any more.
    diverged: Option<String>,
}

#[derive(Serialize)]
struct Diverged {
    v: u32,
    by: &'static str,
    size: u64,
    root: String,
    found: String,
}

impl Notary {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            bus: BusServiceClient::new(parts.bus.clone()),
            keeper: KeeperServiceClient::new(parts.keeper.clone()),
            clock: parts.cx.clock(),
            progress: parts.shared.progress(),
            signers: Vec::new(),
            made: None,
            pruned: None,
            not_before: Duration::ZERO,
            diverged: None,
            parts,
        }
    }

    /// Runs until the service is to stop.
    pub(crate) async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        let shutdown = self.parts.cx.shutdown();
        loop {
            let progress = *self.progress.borrow_and_update();
            let wait = self.wait(&progress);
            let clock = Arc::clone(&self.clock);
            let pause = async move {
                match wait {
                    Some(wait) => clock.sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                call = calls.recv() => match call {
                    Some(call) => {
                        let Some(answer) = shutdown.or(self.called()).await else { return };
                        // Who called may have gone.
                        let _ = call.send(answer);
                    }
                    None => return,
                },
                () = pause => if shutdown.or(self.act(&progress)).await.is_none() {
                    return;
                },
                changed = self.progress.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Returns the time until there is something to do; none when only news can bring it.
    fn wait(&self, progress: &Progress) -> Option<Duration> {
        if self.diverged.is_some() {
            return None;
        }
        let due = match progress.conflict {
            Some(_) => Duration::ZERO,
            None if !progress.caught_up => return None,
            None => {
                let ago = self.made.map(|made| self.clock.boot().saturating_sub(made));
                match self.parts.cadence.due(progress.size, progress.foreign, self.signed(), ago) {
                    Due::Now => Duration::ZERO,
                    Due::In(wait) => wait,
                    Due::Never => return None,
                }
            }
        };
        Some(due.max(self.not_before.saturating_sub(self.clock.boot())))
    }

    /// Returns how many events the newest checkpoint covers.
    fn signed(&self) -> u64 {
        self.parts.latest.borrow().as_ref().map_or(0, |checkpoint| checkpoint.claim.size)
    }

    async fn act(&mut self, progress: &Progress) {
        let result = match progress.conflict {
            Some(conflict) => self.judge(conflict).await,
            None => self.sign(Duration::ZERO).await.map(drop),
        };
        match result {
            Ok(()) => self.not_before = Duration::ZERO,
            Err(_) => self.not_before = self.clock.boot() + PAUSE,
        }
    }

    /// Answers a call for a checkpoint of the head as it is now.
    async fn called(&mut self) -> Result<Checkpoint, Error> {
        let limit = self.parts.hold;
        let away = |why: String| Error::BusAway(why);
        let status = hold(limit, || async { self.bus.clone().get_status(GetStatusRequest {}).await }).await;
        let head = status.map_err(|s| away(Remote::from_status(&s).to_string()))?.into_inner().head;
        let ready =
            self.progress.wait_for(|now| now.conflict.is_some() || (now.caught_up && now.size >= head));
        let progress = match tokio::time::timeout(limit, ready).await {
            Ok(Ok(progress)) => *progress,
            _ => return Err(away("the log is not yet read to its end".to_owned())),
        };
        if let Some(conflict) = progress.conflict {
            self.judge(conflict).await?;
        }
        if progress.size == 0 {
            return Err(Error::NoCheckpoint);
        }
        self.sign(limit).await
    }

    /// Has the fold as it is signed, and stores the checkpoint; the last one when nothing came after it.
    async fn sign(&mut self, limit: Duration) -> Result<Checkpoint, Error> {
        if let Some(why) = &self.diverged {
            return Err(Error::Diverged(why.clone()));
        }
        let claim = self.parts.shared.fold().claim();
        let last = self.parts.latest.borrow().clone();
        if let Some(last) = last.as_ref().filter(|last| last.claim.size >= claim.size) {
            return Ok(last.clone());
        }
        let signed = match self.proven(claim, last.map(|last| last.claim)).await {
            Ok(()) => self.signature(claim, limit).await,
            Err(error) => Err(error),
        };
        let checkpoint = match signed {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                if self.diverged.is_none() {
                    self.parts.health.bad(Part::Signing, error.to_string());
                }
                return Err(error);
            }
        };
        if let Err(error) = self.keep(&checkpoint).await {
            self.parts.health.bad(Part::Signing, error.to_string());
            return Err(error);
        }
        self.parts.shared.fold().agree(checkpoint.claim);
        self.parts.latest.send_replace(Some(checkpoint.clone()));
        self.made = Some(self.clock.boot());
        self.parts.health.good(Part::Signing);
        save(&self.parts.store, &self.parts.shared).await;
        self.prune().await;
        Ok(checkpoint)
    }

    /// Proves from the tiles that the log as the fold has it only grew since the last checkpoint.
    async fn proven(&mut self, claim: Claim, last: Option<Claim>) -> Result<(), Error> {
        match self.parts.tree.check(claim, last).await {
            Err(Error::Unproven { .. }) => Err(self.diverge("proof", Conflict { claim, found: None })),
            other => other,
        }
    }

    /// Gets the keeper's signature on a claim, and verifies it.
    async fn signature(&mut self, claim: Claim, limit: Duration) -> Result<Checkpoint, Error> {
        let origin = self.parts.cx.node().origin.as_str().to_owned();
        let request = SignNoteRequest { text: checkpoint::text(&origin, &claim) };
        let answer = hold(limit, || async { self.keeper.clone().sign_note(request.clone()).await }).await;
        let note = match answer {
            Ok(answer) => answer.into_inner().note,
            Err(status) if Remote::from_status(&status).reason == "KEEPER_NOTE_FORKED" => {
                return Err(self.diverge("keeper", Conflict { claim, found: None }));
            }
            Err(status) => return Err(refused(&status)),
        };
        if !keys::is_signed(&note, &origin, &claim, &self.signers) {
            let device = self.parts.cx.node().key;
            let keys = self.keeper.list_keys(ListKeysRequest {}).await.map_err(|s| refused(&s))?;
            self.signers = keys::in_use(&keys.get_ref().keys, device);
        }
        if !keys::is_signed(&note, &origin, &claim, &self.signers) {
            let why = "no key that the device key certifies for checkpoints signed the note";
            return Err(Error::NoteRefused(why.to_owned()));
        }
        Ok(Checkpoint { claim, note, at_ms: self.clock.wall_ms() })
    }

    async fn keep(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let (notes, checkpoint) = (self.parts.notes.clone(), checkpoint.clone());
        let written = tokio::task::spawn_blocking(move || notes.write(&checkpoint)).await;
        let written = written.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        written.map_err(|e| Error::storage(self.parts.notes.dir(), e))
    }

    async fn prune(&mut self) {
        let now = self.clock.boot();
        if self.pruned.is_some_and(|pruned| now.saturating_sub(pruned) < PRUNE_EVERY) {
            return;
        }
        self.pruned = Some(now);
        let (notes, wall) = (self.parts.notes.clone(), self.clock.wall_ms());
        let pruned = tokio::task::spawn_blocking(move || notes.remove(&superseded(&notes.times()?, wall)));
        if let Ok(Err(error)) = pruned.await {
            tracing::warn!(%error, "superseded checkpoints were not removed");
        }
    }

    /// Decides what a claim is that the log does not bear out: signed, then the log is not the one that was signed;
    /// not signed, then it is nothing.
    async fn judge(&mut self, conflict: Conflict) -> Result<(), Error> {
        if let Some(why) = &self.diverged {
            return Err(Error::Diverged(why.clone()));
        }
        let size = conflict.claim.size;
        let keys = self.keeper.list_keys(ListKeysRequest {}).await.map_err(|status| {
            let error = refused(&status);
            let why = format!(
                "the log differs from the checkpoint of {size} events, and its signature cannot be checked"
            );
            self.parts.health.bad(Part::Signing, format!("{why}: {error}"));
            error
        })?;
        let signers = keys::signers(&keys.get_ref().keys, self.parts.cx.node().key);
        let (notes, dir) = (self.parts.notes.clone(), self.parts.notes.dir().to_owned());
        let origin = self.parts.cx.node().origin.as_str().to_owned();
        let is_signed = tokio::task::spawn_blocking(move || {
            let Some(found) = notes.read(size)? else { return Ok(false) };
            let signed = found.claim == conflict.claim
                && keys::is_signed(&found.note, &origin, &found.claim, &signers);
            if !signed {
                notes.set_aside(size, "it differs from the log, and no key of this device signed it")?;
            }
            Ok(signed)
        });
        let is_signed = is_signed.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        if is_signed.map_err(|e| Error::storage(&dir, e))? {
            return Err(self.diverge("checkpoint", conflict));
        }
        self.parts.health.good(Part::Signing);
        self.parts.shared.dismiss(conflict);
        let latest = self.parts.notes.newest().map_err(|e| Error::storage(&dir, e))?;
        self.parts.latest.send_replace(latest);
        Ok(())
    }

    /// Stops signing, says so, and has it recorded.
    fn diverge(&mut self, by: &'static str, conflict: Conflict) -> Error {
        let Conflict { claim, found } = conflict;
        let size = claim.size;
        let differs = match (by, found) {
            ("keeper", _) => {
                format!("the keeper has signed another state of this log than its first {size} events")
            }
            ("proof", _) => {
                format!("no proof leads from the last checkpoint to the state of its first {size} events")
            }
            (_, Some(_)) => format!("its first {size} events are not those of a signed checkpoint"),
            (_, None) => format!("it is shorter than a signed checkpoint, which covers {size} events"),
        };
        let why = format!(
            "the log was rolled back or replaced: {differs}; restore it from a backup or a peer, nothing is signed until then"
        );
        tracing::error!("{why}");
        self.parts.health.bad(Part::Divergence, why.clone());
        self.parts.health.good(Part::Signing);
        let found = found.map(|root| hex(&root)).unwrap_or_default();
        let event = Diverged { v: 1, by, size, root: hex(&claim.root), found };
        self.parts.outbox.put("witness.diverged", &event);
        self.diverged = Some(why.clone());
        Error::Diverged(why)
    }
}

fn refused(status: &Status) -> Error {
    let remote = Remote::from_status(status);
    if Remote::is_away(status) || remote.kind.is_retryable() || remote.reason.is_empty() {
        Error::KeeperAway(remote.to_string())
    } else {
        Error::NoteRefused(remote.to_string())
    }
}
