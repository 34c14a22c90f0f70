//! The warden: writes the files, and looks after them.
//!
//! A statement is in force before anything else is done about it: the file first, then the highest epoch, then the log.
//! It frees for a verified envelope only, which the log has taken before the files change.
//! Invariant: whatever happens to the files, what the warden puts there next is an engagement of a newer epoch.

mod release;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirror_contract::mirror::keeper::v1::SignEnvelopeRequest;
use mirror_contract::mirror::keeper::v1::keeper_service_client::KeeperServiceClient;
use mirror_errors::Remote;
use mirror_kit::{Channel, Context, HALT_TYPE, Halt, HaltStatement, HaltView, State};
use mirror_seal::{Envelope, NodeKey};
use tokio::sync::{Notify, watch};

use crate::error::Error;
use crate::follow::Told;
use crate::halt::{ENGAGED, Finding, RELEASED, judge, one_line};
use crate::outbox::Outbox;
use crate::store::Store;

/// How long an engagement waits for the keeper; a service may read the file up to 100 ms after it is written, and
/// nothing may act 250 ms after the call.
const SIGNING: Duration = Duration::from_millis(100);
/// How long anything that is in force already waits for the keeper.
const SIGNING_LATER: Duration = Duration::from_secs(2);
/// Pause before something is tried again that did not succeed.
const RETRY: Duration = Duration::from_secs(2);
/// How long the same engagement is put back in place of a file that was changed again, so that whoever changes it in a
/// loop does not fill the log.
const SAME: Duration = Duration::from_secs(60);

/// The state as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Why effects are refused; nothing when they are not.
    pub(crate) reason: Option<String>,
    pub(crate) epoch: u64,
    pub(crate) since_ms: u64,
    pub(crate) release_epoch: u64,
    pub(crate) releasable: bool,
}

/// Writes the files and looks after them.
#[derive(Debug)]
pub(crate) struct Warden {
    cx: Context,
    halt: Halt,
    store: Store,
    keeper: KeeperServiceClient<Channel>,
    told: watch::Receiver<Told>,
    outbox: Arc<Outbox>,
    shown: watch::Sender<Shown>,
    wake: Notify,
    /// Held while the files change, and never while a peer is waited for, so that an engagement comes through.
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    /// Highest trusted epoch that was put or found.
    known: u64,
    /// Epoch of a release that the log is taking.
    releasing: Option<u64>,
    /// Epoch of a release that the log may hold and that is not in force: no statement of it may count any more.
    burnt: Option<u64>,
    /// Engagement that replaced a changed file, its epoch, and when.
    mended: Option<(Envelope, u64, Duration)>,
    /// What did not succeed, to be tried again.
    trouble: Option<String>,
    retry_at: Option<Duration>,
}

impl Warden {
    pub(crate) fn new(
        cx: Context,
        store: Store,
        keeper: Channel,
        told: watch::Receiver<Told>,
        outbox: Arc<Outbox>,
    ) -> Self {
        let halt = Halt::new(cx.home(), Some(cx.node().key), cx.clock());
        let keeper = KeeperServiceClient::new(keeper);
        let (shown, files) = (watch::Sender::new(Shown::default()), Mutex::default());
        Self { cx, halt, store, keeper, told, outbox, shown, wake: Notify::new(), files }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn boot(&self) -> Duration {
        self.cx.clock().boot()
    }

    /// Returns the highest epoch that is known from anywhere.
    fn known(&self, files: &Files, view: &HaltView) -> u64 {
        // What a release on its way would prove does not make the engagement before it an old one.
        let proven = self.told.borrow().proven;
        let proven = if files.releasing == Some(proven) { 0 } else { proven };
        files.known.max(view.seen).max(proven)
    }

    /// Returns the state, and its changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Shown> {
        self.publish();
        self.shown.subscribe()
    }

    /// Returns the state as the files say it now.
    pub(crate) fn shown(&self) -> Shown {
        self.publish();
        self.shown.borrow().clone()
    }

    fn publish(&self) {
        let files = self.files();
        let view = self.halt.view();
        let known = self.known(&files, &view);
        let statement = view.statement.as_ref();
        let now = Shown {
            epoch: statement.filter(|_| view.trusted).map_or(known, |statement| statement.epoch),
            since_ms: statement.filter(|_| view.halted.is_some()).map_or(0, |statement| statement.since_ms),
            release_epoch: known.saturating_add(1),
            releasable: self.halt.is_releasable(),
            reason: view.halted,
        };
        self.shown.send_if_modified(|shown| std::mem::replace(shown, now.clone()) != now);
        drop(files);
        self.tell();
    }

    /// Says in the state of the service what it cannot do.
    pub(crate) fn tell(&self) {
        let trouble = self.files().trouble.clone();
        let away = self.told.borrow().away.clone();
        let away = away.map(|why| {
            format!("the bus is away: what happens is in force and recorded later, a release waits ({why})")
        });
        let waiting = self.outbox.stuck();
        let parts: Vec<String> = [trouble, away, waiting].into_iter().flatten().collect();
        let state = if parts.is_empty() { State::Serving } else { State::Degraded };
        self.cx.state().set(state, parts.join("; "));
    }

    /// Has a statement signed by the keeper; nothing when it does not answer in time or does not agree.
    async fn sign(&self, statement: &HaltStatement, limit: Duration) -> Result<Envelope, String> {
        let payload = serde_json::to_vec(statement).map_err(|e| e.to_string())?;
        let request = SignEnvelopeRequest { r#type: HALT_TYPE.to_owned(), payload };
        let mut keeper = self.keeper.clone();
        let answer = tokio::time::timeout(limit, keeper.sign_envelope(request)).await;
        let answer = answer.map_err(|_| "the keeper does not answer".to_owned())?;
        let answer = answer.map_err(|status| Remote::from_status(&status).to_string())?;
        let envelope =
            Envelope::from_json(answer.get_ref().envelope.as_bytes()).map_err(|e| e.to_string())?;
        if self.halt.keys().trust(self.cx.node().key, &envelope, statement) {
            Ok(envelope)
        } else {
            Err("halt/keys does not name the keeper's key".to_owned())
        }
    }

    /// Engages the halt unless it is engaged; it is in force when this returns. Returns whether the log has it.
    pub(crate) async fn engage(&self, reason: &str) -> Result<bool, Error> {
        let mut statement = HaltStatement {
            epoch: 0,
            engaged: true,
            reason: reason.to_owned(),
            since_ms: self.cx.clock().wall_ms(),
        };
        let overtakes = {
            let files = self.files();
            let view = self.halt.view();
            // Whoever stops the system while it is being released means it.
            let engaged = view.statement.as_ref().is_some_and(|statement| statement.engaged);
            if engaged && view.halted.is_some() && files.releasing.is_none() {
                drop(files);
                return Ok(self.outbox.is_empty());
            }
            statement.epoch = self.next(&files, &view);
            files.releasing.is_some()
        };
        // The keeper signs only the next epoch, and that is the release's until it is known what became of it.
        let signed = if overtakes { Err(String::new()) } else { self.sign(&statement, SIGNING).await };
        self.put(statement, signed)?;
        self.wake.notify_one();
        Ok(self.outbox.drained(Duration::from_secs(1)).await)
    }

    /// Returns the epoch of the next engagement.
    fn next(&self, files: &Files, view: &HaltView) -> u64 {
        // A release on its way has the next epoch; an engagement that overtakes it must be newer.
        self.known(files, view).max(files.releasing.unwrap_or(0)).saturating_add(1)
    }

    /// Puts an engagement in force, signed or not, and hands it to the log. An empty reason for a missing signature is
    /// nobody's trouble: the next look has it signed.
    fn put(&self, mut statement: HaltStatement, signed: Result<Envelope, String>) -> Result<(), Error> {
        let mut files = self.files();
        let view = self.halt.view();
        let known = self.known(&files, &view);
        if view.halted.is_some() && files.releasing.is_none() && judge(&view, known) == Finding::Sound {
            // Somebody was faster while the keeper was asked.
            return Ok(());
        }
        // For the same reason the signature may be of an old epoch.
        let next = self.next(&files, &view);
        let trusted = signed.is_ok() && statement.epoch == next;
        let envelope = match signed {
            Ok(envelope) if trusted => envelope,
            other => {
                let why = other.err().unwrap_or_default();
                if !why.is_empty() {
                    self.hurt(&mut files, format!("the engagement is in force and not signed: {why}"));
                }
                statement.epoch = next;
                unsigned(&statement).map_err(|e| Error::Storage { path: self.store.state(), source: e })?
            }
        };
        self.store
            .put_state(&envelope)
            .map_err(|source| Error::Storage { path: self.store.state(), source })?;
        tracing::info!(epoch = statement.epoch, reason = statement.reason, trusted, "the halt is engaged");
        if trusted {
            files.known = statement.epoch;
            files.trouble = None;
            self.raise(&mut files, statement.epoch);
        }
        self.outbox.put(ENGAGED, &statement, trusted, &envelope, self.halt.keys_envelope());
        drop(files);
        self.publish();
        Ok(())
    }

    fn raise(&self, files: &mut Files, epoch: u64) {
        if let Err(error) = self.store.put_seen(epoch) {
            // The files disagree for now, which halts.
            self.hurt(files, format!("halt/seen cannot be written: {error}"));
        }
    }

    /// Notes what did not succeed, and that it is to be tried again.
    fn hurt(&self, files: &mut Files, why: String) {
        if files.trouble.as_ref() != Some(&why) {
            tracing::warn!(why, "the halt needs a further step, which is tried again");
        }
        files.trouble = Some(why);
        files.retry_at = Some(self.boot() + RETRY);
    }

    /// Returns whether something is to be tried again by now.
    pub(crate) fn is_due(&self) -> bool {
        self.files().retry_at.is_some_and(|at| self.boot() >= at)
    }

    /// Waits until somebody has changed something that is to be looked at.
    pub(crate) fn woken(&self) -> impl Future<Output = ()> + '_ {
        self.wake.notified()
    }

    /// Looks at the files, and mends what is to be mended; it never frees.
    pub(crate) async fn check(&self) {
        if let Some((statement, limit)) = self.examine() {
            let signed = self.sign(&statement, limit).await;
            self.mend(statement, signed);
        }
        self.publish();
    }

    /// Judges the files; returns the engagement that is to be put there.
    fn examine(&self) -> Option<(HaltStatement, Duration)> {
        let mut files = self.files();
        files.retry_at = None;
        let view = self.halt.view();
        let known = self.known(&files, &view);
        let told = self.told.borrow().clone();
        match judge(&view, known) {
            // The release is recorded, or about to be.
            _ if files.releasing.is_some() => None,
            Finding::Sound => {
                files.trouble = None;
                if let Some(statement) = &view.statement {
                    self.settle(&mut files, &view, statement, &told);
                }
                None
            }
            // Without halt/seen everything is refused; what it was, only the log can say.
            _ if view.floor.is_none() && !told.caught_up => {
                files.trouble = Some("halt/seen is missing and the log has not been read yet".to_owned());
                None
            }
            finding => {
                if view.floor.is_none_or(|floor| floor < known) {
                    self.raise(&mut files, known);
                }
                self.answer(&mut files, &view, finding, known)
            }
        }
    }

    fn answer(
        &self,
        files: &mut Files,
        view: &HaltView,
        finding: Finding,
        known: u64,
    ) -> Option<(HaltStatement, Duration)> {
        let now_ms = self.cx.clock().wall_ms();
        let epoch = self.next(files, view);
        match finding {
            Finding::Sound => None,
            Finding::Unsigned(statement) => {
                if let Some(envelope) = &view.envelope {
                    self.outbox.put(ENGAGED, &statement, false, envelope, self.halt.keys_envelope());
                }
                let reason = one_line(&statement.reason);
                let since_ms = if statement.since_ms == 0 { now_ms } else { statement.since_ms.min(now_ms) };
                Some((HaltStatement { epoch, engaged: true, reason, since_ms }, SIGNING_LATER))
            }
            Finding::Unsound(_) if files.burnt.take() == Some(known) => {
                let reason = "a release did not come into force".to_owned();
                Some((HaltStatement { epoch, engaged: true, reason, since_ms: now_ms }, SIGNING_LATER))
            }
            Finding::Unsound(why) => {
                tracing::warn!(why, "the halt's files were changed by somebody else; the halt is engaged");
                let recent = files
                    .mended
                    .as_ref()
                    .filter(|(_, epoch, at)| *epoch == known && self.boot() < *at + SAME);
                if let Some((envelope, ..)) = recent {
                    if let Err(error) = self.store.put_state(envelope) {
                        self.hurt(files, format!("halt/state cannot be written: {error}"));
                    }
                    return None;
                }
                let reason = one_line(&format!("found changed: {why}"));
                Some((HaltStatement { epoch, engaged: true, reason, since_ms: now_ms }, SIGNING))
            }
        }
    }

    fn mend(&self, statement: HaltStatement, signed: Result<Envelope, String>) {
        let engaged = self.halt.view().statement.is_some_and(|statement| statement.engaged);
        match signed {
            Ok(envelope) => {
                let epoch = statement.epoch;
                let mended = (envelope.clone(), epoch, self.boot());
                if let Err(error) = self.put(statement, Ok(envelope)) {
                    return self.fail(&error);
                }
                self.files().mended = Some(mended);
            }
            // An engagement stands there, and another one that is not signed would be no better.
            Err(why) if engaged => {
                let mut files = self.files();
                self.hurt(&mut files, format!("the engagement is in force and not signed: {why}"));
            }
            Err(why) => {
                if let Err(error) = self.put(statement, Err(why)) {
                    self.fail(&error);
                }
            }
        }
    }

    fn fail(&self, error: &Error) {
        let mut files = self.files();
        self.hurt(&mut files, error.to_string());
    }

    /// Brings the highest epoch and the log to where a sound statement is.
    fn settle(&self, files: &mut Files, view: &HaltView, statement: &HaltStatement, told: &Told) {
        files.known = files.known.max(statement.epoch);
        if view.floor.is_some_and(|floor| floor < statement.epoch) {
            self.raise(files, statement.epoch);
        }
        if told.caught_up
            && statement.epoch > told.proven
            && let Some(envelope) = &view.envelope
        {
            let subject = if statement.engaged { ENGAGED } else { RELEASED };
            self.outbox.put(subject, statement, true, envelope, self.halt.keys_envelope());
        }
    }
}

/// Returns an engagement by a key that nobody knows: it needs no proof to be in force.
fn unsigned(statement: &HaltStatement) -> std::io::Result<Envelope> {
    let key = NodeKey::generate().map_err(std::io::Error::other)?;
    Ok(Envelope::sign(&key, HALT_TYPE, &serde_json::to_vec(statement)?))
}
