//! The desk: takes a request, decides by the table, records, and only then signs.
//!
//! Invariant: each signature and each refusal is durable in the log before its answer leaves.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mirror_clock::Clock;
use mirror_errors::Classify as _;
use mirror_kit::{Node, Refusal};
use mirror_paths::Home;
use mirror_seal::{Envelope, PublicKey, hex, sha256, sign_note, unhex};
use serde::Deserialize;

use crate::error::Error;
use crate::keeper::{Checkpoint, NOTE_CALLER, Purpose, rule};
use crate::log::{Act, Entry, Log, Record, entry};
use crate::recovery::ROTATE_TYPE;
use crate::ring::{KeyRow, Ring};

/// Type that the record of a signed note names.
pub(crate) const NOTE_TYPE: &str = "checkpoint";
/// Signatures that are remembered, so that a repeated request adds no record.
const RECENT: usize = 16;
/// How long a refusal of the same caller for the same reason adds no further record.
const QUIET: Duration = Duration::from_secs(60);
/// Most refusals that are remembered for that.
const REFUSALS: usize = 64;
/// Most bytes of a caller's type that a record repeats.
const SHOWN: usize = 128;

/// Who signs, and what was signed.
#[derive(Debug)]
pub(crate) struct Desk {
    home: Home,
    /// First line of this device's checkpoints.
    origin: String,
    /// Name in the signature lines of notes.
    signer: String,
    ring: Ring,
    log: Log,
    path: PathBuf,
    clock: Arc<dyn Clock>,
    last: Option<Checkpoint>,
    recent: VecDeque<Signed>,
    refused: VecDeque<(String, &'static str, Duration)>,
}

/// What identifies a signature: the same caller, type, key and digest give the same bytes again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signed {
    caller: String,
    kind: String,
    key: String,
    digest: String,
}

/// What a log says about the keys and the last checkpoint.
#[derive(Debug, Default)]
struct Told {
    made: Vec<String>,
    retired: Vec<String>,
    last: Option<Checkpoint>,
    recent: VecDeque<Signed>,
}

impl Told {
    fn take(&mut self, record: &Record) {
        let Entry { act, caller, kind, key, digest, size, root, .. } = &record.entry;
        match act {
            Act::Make => self.made.push(key.clone()),
            Act::Retire => self.retired.push(key.clone()),
            Act::Sign => {
                if let (Some(size), Some(root)) = (*size, unhex(root)) {
                    self.last = Some(Checkpoint { size, root });
                }
                let signed = Signed {
                    caller: caller.clone(),
                    kind: kind.clone(),
                    key: key.clone(),
                    digest: digest.clone(),
                };
                remember(&mut self.recent, signed);
            }
            Act::Refuse | Act::Repair => {}
        }
    }
}

fn remember(recent: &mut VecDeque<Signed>, signed: Signed) {
    recent.truncate(RECENT - 1);
    recent.push_front(signed);
}

impl Desk {
    /// Opens keys and log, and makes the keys that are missing.
    ///
    /// # Errors
    ///
    /// One sentence with what is wrong and what to do.
    pub(crate) fn open(home: &Home, node: &Node, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let ring = Ring::open(home, node.key)?;
        let path = home.keys().join("keeper.log");
        let mut told = Told::default();
        let now = clock.wall_ms();
        let (log, torn) = Log::open(&path, &home.quarantine(), now, |record| told.take(record))
            .map_err(|e| e.to_string())?;
        for row in ring.rows() {
            // A log that was deleted would let the keeper contradict what it signed.
            if !told.made.contains(&fingerprint(&row.public_key)) {
                return Err(format!(
                    "{path:?} has no record of the {} key {}; restore it from a backup, nothing is signed until then",
                    row.purpose, row.serial
                ));
            }
        }
        let mut desk = Self {
            home: home.clone(),
            origin: format!("mirrordna/{}", node.origin),
            signer: format!("mirrordna/{}", node.key.fingerprint()),
            ring,
            log,
            path,
            clock,
            last: told.last,
            recent: told.recent,
            refused: VecDeque::new(),
        };
        if let Some(torn) = torn {
            tracing::warn!(aside = %torn.aside.display(), "a torn line of the keeper's log was set aside");
            desk.own(Act::Repair, "torn", "").map_err(|e| e.to_string())?;
        }
        desk.complete(&told.made, &told.retired).map_err(|e| e.to_string())?;
        Ok(desk)
    }

    /// Brings keys, log and `halt/keys` to where a start without a kill in between would have left them.
    fn complete(&mut self, made: &[String], retired: &[String]) -> Result<(), Error> {
        for purpose in Purpose::ALL {
            if self.ring.row(purpose).is_none() {
                self.make(purpose)?;
            }
        }
        if let Some(key) =
            self.ring.recovery().map(|r| r.public().fingerprint()).filter(|key| !made.contains(key))
        {
            self.own(Act::Make, "recovery", &key)?;
        }
        let gone = self.ring.rows().iter().filter(|row| row.retired_ms.is_some());
        let gone: Vec<_> = gone.map(|row| (row.purpose.clone(), fingerprint(&row.public_key))).collect();
        for (purpose, key) in gone.into_iter().filter(|(_, key)| !retired.contains(key)) {
            self.own(Act::Retire, &purpose, &key)?;
        }
        self.write_halt_keys()
    }

    /// Returns whether the log may not be written any more; the process must start again.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.log.is_poisoned()
    }

    /// Returns the purposes whose key is certified and whose seed is gone.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        Purpose::ALL.into_iter().filter(|p| self.ring.key(*p).is_none()).map(Purpose::name).collect()
    }

    /// Signs a checkpoint.
    pub(crate) fn sign_note(&mut self, caller: &str, text: &str) -> Result<String, Error> {
        let digest = hex(&sha256(text.as_bytes()));
        let signed = self.try_note(caller, text, &digest);
        self.or_refuse(caller, NOTE_TYPE, &digest, signed)
    }

    fn try_note(&mut self, caller: &str, text: &str, digest: &str) -> Result<String, Error> {
        if caller != NOTE_CALLER {
            return Err(Error::CallerDenied { caller: caller.to_owned(), what: "checkpoints".to_owned() });
        }
        let checkpoint = Checkpoint::parse(text, &self.origin).map_err(Error::Note)?;
        if let Some(last) = self.last.filter(|last| !checkpoint.may_follow(last)) {
            return Err(Error::Forked { signed: last.size, asked: checkpoint.size });
        }
        let key = self.ring.key(Purpose::Checkpoint).ok_or(Error::KeyMissing(Purpose::Checkpoint.name()))?;
        let note =
            sign_note(key, &self.signer, text).map_err(|_| Error::Note("is none that a note may have"))?;
        let key = key.public();
        let (size, root) = (Some(checkpoint.size), hex(&checkpoint.root));
        self.record(caller, NOTE_TYPE, key, digest, size, root)?;
        self.last = Some(checkpoint);
        Ok(note)
    }

    /// Signs a payload as an envelope.
    pub(crate) fn sign_envelope(
        &mut self,
        caller: &str,
        kind: &str,
        payload: &[u8],
    ) -> Result<String, Error> {
        let digest = hex(&sha256(payload));
        let signed = self.try_envelope(caller, kind, payload, &digest);
        self.or_refuse(caller, kind, &digest, signed)
    }

    fn try_envelope(
        &mut self,
        caller: &str,
        kind: &str,
        payload: &[u8],
        digest: &str,
    ) -> Result<String, Error> {
        let rule = rule(caller, kind)
            .ok_or_else(|| Error::CallerDenied { caller: caller.to_owned(), what: shown(kind) })?;
        (rule.check)(payload, self.seen()).map_err(Error::Payload)?;
        if rule.purpose == Purpose::Halt {
            self.write_halt_keys()?;
        }
        let key = self.ring.key(rule.purpose).ok_or(Error::KeyMissing(rule.purpose.name()))?;
        let envelope = Envelope::sign(key, kind, payload).to_json();
        let key = key.public();
        self.record(caller, kind, key, digest, None, String::new())?;
        Ok(envelope)
    }

    /// Puts `halt/keys` right when it was changed or is gone: without it nobody believes what the key signs.
    fn write_halt_keys(&mut self) -> Result<(), Error> {
        // A kit may be made while the keeper runs, and its key must stay.
        if let Err(error) = self.ring.refresh_recovery() {
            tracing::warn!(%error, "the recovery key is the one that was read before");
        }
        self.ring.write_halt_keys().map_err(Error::storage(self.home.halt().join("keys")))
    }

    /// Returns the highest epoch of the halt that was seen; 0 where that cannot be read.
    fn seen(&self) -> u64 {
        let text = fs::read_to_string(self.home.halt().join("seen"));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Records a signature, unless it is one that was recorded a moment ago.
    fn record(
        &mut self,
        caller: &str,
        kind: &str,
        key: PublicKey,
        digest: &str,
        size: Option<u64>,
        root: String,
    ) -> Result<(), Error> {
        let key = key.fingerprint();
        let signed = Signed {
            caller: caller.to_owned(),
            kind: kind.to_owned(),
            key: key.clone(),
            digest: digest.to_owned(),
        };
        if self.recent.contains(&signed) {
            return Ok(());
        }
        let digest = digest.to_owned();
        self.append(Entry { key, digest, size, root, ..entry(self.now(), Act::Sign, caller, kind) })?;
        remember(&mut self.recent, signed);
        Ok(())
    }

    /// Records a refusal before it is told; the same one again within a minute is told without a record.
    fn or_refuse<T>(
        &mut self,
        caller: &str,
        kind: &str,
        digest: &str,
        done: Result<T, Error>,
    ) -> Result<T, Error> {
        let error = match done {
            Ok(value) => return Ok(value),
            // Nobody was refused, and the log is what failed.
            Err(error @ (Error::Storage { .. } | Error::Log(_))) => return Err(error),
            Err(error) => error,
        };
        let (reason, now) = (error.reason(), self.clock.boot());
        self.refused.retain(|(.., at)| now.saturating_sub(*at) < QUIET);
        if !self.refused.iter().any(|(who, why, _)| who == caller && *why == reason) {
            tracing::warn!(caller, kind = shown(kind), reason, "refused to sign");
            let (digest, reason_text) = (digest.to_owned(), reason.to_owned());
            let refusal = entry(self.now(), Act::Refuse, caller, &shown(kind));
            self.append(Entry { digest, reason: reason_text, ..refusal })?;
            self.refused.truncate(REFUSALS - 1);
            self.refused.push_front((caller.to_owned(), reason, now));
        }
        Err(error)
    }

    /// Records a caller that the guard refused.
    pub(crate) fn refused(&mut self, refusal: &Refusal) -> Result<(), Error> {
        let caller = refusal.uid.map_or_else(|| "local".to_owned(), |uid| format!("uid:{uid}"));
        let reason = refusal.reason.to_owned();
        let refusal = entry(self.now(), Act::Refuse, &caller, &shown(&refusal.method));
        self.append(Entry { reason, ..refusal }).map(|_| ())
    }

    /// Retires the key of a purpose and makes a new one.
    pub(crate) fn rotate(&mut self, caller: &str, purpose: &str, proof: &[u8]) -> Result<KeyRow, Error> {
        let rotated = self.try_rotate(purpose, proof);
        self.or_refuse(caller, ROTATE_TYPE, &hex(&sha256(proof)), rotated)
    }

    fn try_rotate(&mut self, purpose: &str, proof: &[u8]) -> Result<KeyRow, Error> {
        #[derive(Deserialize)]
        struct Said {
            purpose: String,
            serial: u32,
        }
        let purpose = Purpose::parse(purpose).ok_or_else(|| Error::Purpose(shown(purpose)))?;
        let envelope =
            Envelope::from_json(proof).map_err(|_| Error::Proof("must be a DSSE envelope in JSON"))?;
        let recovery = self.ring.refresh_recovery();
        let recovery =
            recovery.map_err(|_| Error::Proof("cannot be checked: keys/recovery.json is damaged"))?;
        let recovery = recovery
            .ok_or(Error::Proof("cannot be checked: this home has no recovery key; run: mirror init"))?;
        let said = envelope
            .open(recovery.public(), ROTATE_TYPE)
            .map_err(|_| Error::Proof("must be signed by the recovery key"))?;
        let said: Said =
            serde_json::from_slice(&said).map_err(|_| Error::Proof("must name purpose and serial"))?;
        let serial = self.ring.row(purpose).map_or(0, |row| row.serial);
        if said.purpose != purpose.name() || said.serial != serial {
            return Err(Error::Proof("must name the purpose and the serial of the key in use"));
        }
        let old = self.ring.row(purpose).map(|row| fingerprint(&row.public_key));
        let row = self.make(purpose)?;
        if let Some(old) = old {
            self.own(Act::Retire, purpose.name(), &old)?;
        }
        self.write_halt_keys()?;
        Ok(row)
    }

    /// Makes the next key of a purpose, recorded before it exists.
    fn make(&mut self, purpose: Purpose) -> Result<KeyRow, Error> {
        let failed =
            |e: mirror_seal::SealError| Error::storage("the random source")(std::io::Error::other(e));
        let (key, row) = self.ring.make(purpose, self.now()).map_err(failed)?;
        self.own(Act::Make, purpose.name(), &fingerprint(&row.public_key))?;
        self.ring.put(purpose, key, row.clone()).map_err(Error::storage(self.home.keys()))?;
        Ok(row)
    }

    /// Records an act of the keeper's own.
    fn own(&mut self, act: Act, kind: &str, key: &str) -> Result<(), Error> {
        let key = key.to_owned();
        self.append(Entry { key, ..entry(self.now(), act, "keeper", kind) }).map(|_| ())
    }

    fn append(&mut self, entry: Entry) -> Result<Record, Error> {
        self.log.append(entry).map_err(Error::storage(&self.path))
    }

    fn now(&self) -> u64 {
        self.clock.wall_ms()
    }

    /// Returns the public half of the device key.
    pub(crate) fn device(&self) -> PublicKey {
        self.ring.device()
    }

    /// Returns all keys but the device key.
    pub(crate) fn keys(&self) -> &[KeyRow] {
        self.ring.rows()
    }

    /// Returns records from a number on, and the number of the last one.
    pub(crate) fn records(&self, from: u64, limit: usize) -> Result<(Vec<Record>, u64), Error> {
        Ok((self.log.list(from, limit)?, self.log.head()))
    }
}

/// Returns the fingerprint of a public key in hex; the text itself where it is none.
pub(crate) fn fingerprint(public_key: &str) -> String {
    PublicKey::from_hex(public_key).map_or_else(|_| public_key.to_owned(), PublicKey::fingerprint)
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

#[cfg(test)]
mod tests;
