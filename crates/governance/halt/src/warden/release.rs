//! Releasing: the owner's proof, then the log, then the files; a stop that comes in between wins.
//!
//! Invariant: a release that the log may hold and that did not come into force can never be used.

use std::time::Duration;

use mirror_kit::HaltStatement;
use mirror_seal::Envelope;

use super::Warden;
use crate::error::Error;
use crate::halt::{RELEASED, claim};

impl Warden {
    /// Releases the halt with the owner's proof, once the log has it.
    pub(crate) async fn release(&self, envelope: &Envelope, limit: Duration) -> Result<(), Error> {
        let statement = claim(envelope).ok_or(Error::Proof("must hold a statement of the halt"))?;
        if statement.engaged {
            return Err(Error::Proof("must release the halt; to engage it needs no proof"));
        }
        if !self.halt.is_releasable() {
            return Err(Error::NoKey);
        }
        let keys = self.halt.keys();
        if statement.epoch == 0 || !keys.trust(self.cx.node().key, envelope, &statement) {
            return Err(Error::Proof("must be signed by a key that may release, such as the recovery key"));
        }
        let mut told = self.told.clone();
        let reading = told.wait_for(|told| told.caught_up && told.away.is_none());
        if tokio::time::timeout(limit, reading).await.is_err() {
            return Err(Error::NotRecorded("the bus is away, or its log has not been read yet".to_owned()));
        }
        let before = {
            let mut files = self.files();
            let view = self.halt.view();
            if view.halted.is_none() && view.envelope.as_ref() == Some(envelope) {
                return Ok(());
            }
            let wanted = self.next(&files, &view);
            if statement.epoch != wanted {
                return Err(Error::Stale { found: statement.epoch, wanted });
            }
            if files.releasing.replace(statement.epoch).is_some() {
                return Err(Error::NotRecorded("another release is on its way".to_owned()));
            }
            view.envelope
        };
        // A caller that goes away must not leave the mark behind.
        let mut mark = Releasing { warden: self, epoch: statement.epoch, done: false };
        let recorded =
            self.outbox.record(RELEASED, &statement, envelope, self.halt.keys_envelope(), limit).await;
        let done = recorded
            .map_err(Error::NotRecorded)
            .and_then(|()| self.free(&statement, envelope, before.as_ref()));
        mark.done = done.is_ok();
        drop(mark);
        self.publish();
        done
    }

    /// Puts a release in force that the log has.
    fn free(
        &self,
        statement: &HaltStatement,
        envelope: &Envelope,
        before: Option<&Envelope>,
    ) -> Result<(), Error> {
        let mut files = self.files();
        let view = self.halt.view();
        let known = self.known(&files, &view);
        // Somebody engaged the halt again in the meantime, and a stop wins.
        if known >= statement.epoch || view.envelope.as_ref() != before {
            let wanted = known.max(statement.epoch).saturating_add(1);
            return Err(Error::Stale { found: statement.epoch, wanted });
        }
        let storage = |path| move |source| Error::Storage { path, source };
        self.store.put_seen(statement.epoch).map_err(storage(self.store.seen()))?;
        self.store.put_state(envelope).map_err(storage(self.store.state()))?;
        files.known = statement.epoch;
        files.trouble = None;
        tracing::info!(epoch = statement.epoch, "the halt is released");
        Ok(())
    }
}

/// The mark that a release is on its way.
struct Releasing<'a> {
    warden: &'a Warden,
    epoch: u64,
    done: bool,
}

impl Drop for Releasing<'_> {
    fn drop(&mut self) {
        let mut files = self.warden.files();
        files.releasing = None;
        if !self.done {
            // The log may have it, and whoever finds it there must not be able to use it.
            files.known = files.known.max(self.epoch);
            files.burnt = Some(self.epoch);
        }
        drop(files);
        self.warden.wake.notify_one();
    }
}
