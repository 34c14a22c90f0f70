//! Reads the whole log again and again with the second, independent reader, to find damage before somebody needs what
//! was damaged, and to compare each checkpoint on disk with the log as it lies there.
//!
//! A pass runs on a thread of its own that rests about four times as long as it works. What it finds is believed when a second
//! reading finds it too, since the log grows while it is read.
//! Invariant: each finding is recorded once, ever, and the service is degraded until a pass no longer has it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mirror_kit::{Context, spawn_thread};
use mirror_seal::hex;
use mirror_verify::{Options, Progress, Severity, VerifyError, verify_with};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::health::{Health, Part};
use crate::notes::Notes;
use crate::outbox::Outbox;
use crate::store::Store;
use crate::witness::Claim;

/// Ids that a pass compares: 2 MB of memory. The bus's index holds them all.
const IDS: u64 = 65_536;

/// Most findings that are kept and recorded.
const FINDINGS: usize = 64;

/// How long a pass rests after each mebibyte, which takes it a quarter of that to read.
const REST: Duration = Duration::from_millis(20);

const MEBIBYTE: u64 = 1 << 20;

/// What a whole pass found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verified {
    /// When it ended, in milliseconds since 1970.
    pub(crate) finished_ms: u64,
    /// Events of this device's log that it verified.
    pub(crate) events: u64,
    /// One sentence each, at most 64.
    pub(crate) findings: Vec<String>,
}

/// How verification stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Standing {
    /// Whether a pass is under way.
    pub(crate) running: bool,
    /// What the last whole pass found.
    pub(crate) last: Option<Verified>,
}

/// A finding as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Damage {
    v: u32,
    origin: String,
    kind: String,
    segment: String,
    offset: u64,
    first: u64,
    last: u64,
    message: String,
}

impl Damage {
    fn sentence(&self, own: &str) -> String {
        let log = if self.origin == own || self.origin.is_empty() {
            String::new()
        } else {
            format!("log {}: ", self.origin)
        };
        let events = match (self.first, self.last) {
            (0, _) => String::new(),
            (first, last) if first < last => format!("events {first} to {last}: "),
            (first, _) => format!("event {first}: "),
        };
        let (message, segment, offset) = (&self.message, &self.segment, self.offset);
        format!("{log}{events}{message} ({segment} at byte {offset}).")
    }
}

/// How far passes are, and the way to begin one.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    standing: Arc<Mutex<Standing>>,
    begin: mpsc::Sender<()>,
}

impl Desk {
    /// Returns how verification stands.
    pub(crate) fn standing(&self) -> Standing {
        self.lock().clone()
    }

    /// Begins a pass, unless one is under way; returns whether it did.
    pub(crate) fn begin(&self) -> bool {
        let begun = !std::mem::replace(&mut self.lock().running, true);
        if begun {
            // A full queue holds a wish for the same pass.
            let _ = self.begin.try_send(());
        }
        begun
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What passes work with.
pub(crate) struct Parts {
    pub(crate) cx: Context,
    pub(crate) store: Store,
    pub(crate) notes: Notes,
    pub(crate) health: Arc<Health>,
    pub(crate) outbox: Outbox,
    /// Time to the first pass.
    pub(crate) first: Duration,
    /// Time from the end of a pass to the next.
    pub(crate) every: Duration,
}

/// Starts the passes; what an earlier process found still stands.
pub(crate) fn start(parts: Parts, last: Option<Verified>) -> Desk {
    let (begin, begun) = mpsc::channel(1);
    tell(&parts.health, last.as_ref());
    let standing = Arc::new(Mutex::new(Standing { running: false, last }));
    let desk = Desk { standing, begin };
    let cx = parts.cx.clone();
    cx.tasks().spawn(run(cx.clone(), parts, desk.clone(), begun));
    desk
}

async fn run(cx: Context, parts: Parts, desk: Desk, mut begun: mpsc::Receiver<()>) {
    let shutdown = cx.shutdown();
    let mut wait = parts.first;
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            _ = begun.recv() => {}
            () = cx.clock().sleep(wait) => {}
        }
        wait = parts.every;
        desk.lock().running = true;
        let (rest, pass) = pass(&parts);
        let done = shutdown.or(pass).await;
        // With the sender the rests of the pass end, and with the process the pass.
        drop(rest);
        match done {
            None => return,
            Some(Ok((events, damages))) => finish(&parts, &desk, events, damages).await,
            Some(Err(_)) => tracing::warn!("a verification of the log ended without a result"),
        }
        desk.lock().running = false;
    }
}

type Found = (u64, Vec<Damage>);

/// Starts a pass; returns what keeps its rests, and its result.
fn pass(parts: &Parts) -> (std::sync::mpsc::Sender<()>, oneshot::Receiver<Found>) {
    let (rest, resting) = std::sync::mpsc::channel();
    let (done, result) = oneshot::channel();
    let read = Read {
        bus: parts.cx.home().bus(),
        origin: parts.cx.node().origin.as_str().to_owned(),
        notes: parts.notes.clone(),
    };
    let run = move || {
        let (events, mut damages) = read.once(&resting);
        if !damages.is_empty() {
            let again = read.once(&resting).1;
            damages.retain(|damage| {
                let same = |a: &Damage| {
                    (&a.kind, &a.segment, a.offset) == (&damage.kind, &damage.segment, damage.offset)
                };
                again.iter().any(same)
            });
        }
        let _ = done.send((events, damages));
    };
    if let Err(error) = spawn_thread("verify", run) {
        tracing::warn!(%error, "a verification of the log could not begin");
    }
    (rest, result)
}

async fn finish(parts: &Parts, desk: &Desk, events: u64, damages: Vec<Damage>) {
    let own = parts.cx.node().origin.as_str();
    let verified = Verified {
        finished_ms: parts.cx.clock().wall_ms(),
        events,
        findings: damages.iter().map(|damage| damage.sentence(own)).collect(),
    };
    if let Some(first) = verified.findings.first() {
        tracing::error!(findings = verified.findings.len(), first, "the log is damaged");
    }
    for damage in &damages {
        parts.outbox.put("witness.damage", damage);
    }
    tell(&parts.health, Some(&verified));
    desk.lock().last = Some(verified.clone());
    let store = parts.store.clone();
    let saved = tokio::task::spawn_blocking(move || store.save_verified(&verified)).await;
    if let Ok(Err(error)) = saved {
        tracing::warn!(%error, "the result of the verification was not saved");
    }
}

fn tell(health: &Health, last: Option<&Verified>) {
    match last.and_then(|last| last.findings.first().map(|first| (first, last.findings.len()))) {
        Some((first, 1)) => health.bad(Part::Damage, format!("the log is damaged: {first}")),
        Some((first, n)) => {
            health.bad(Part::Damage, format!("the log is damaged in {n} places, first: {first}"))
        }
        None => health.good(Part::Damage),
    };
}

struct Read {
    bus: PathBuf,
    origin: String,
    notes: Notes,
}

impl Read {
    /// Reads the log once; returns how many events it verified, and what is wrong.
    fn once(&self, resting: &std::sync::mpsc::Receiver<()>) -> Found {
        // Before the log, which then is at least as long as they say.
        let claims = self.notes.claims();
        let marks = claims.iter().flatten().map(|claim| claim.size).collect();
        // They are compared here, with what the notary believes.
        let options = Options { ids: IDS, marks, checkpoints: false, ..Options::default() };
        let mut rested = 0;
        let mut progress = |now: Progress<'_>| {
            // Bytes are counted anew for each log.
            if now.bytes.abs_diff(rested) < MEBIBYTE {
                return;
            }
            rested = now.bytes;
            // Nothing is ever sent: this ends early only with the service.
            let _ = resting.recv_timeout(REST);
        };
        let report = match verify_with(&self.bus, &options, &mut progress) {
            Ok(report) => report,
            // A bus that never stored an event has no folder for its log.
            Err(VerifyError::NotALog { .. }) => return (0, Vec::new()),
            Err(error) => {
                let why = mirror_errors::Chain(&error).to_string();
                return (0, vec![self.damage("unreadable", "bus", why)]);
            }
        };
        let mut damages = Vec::new();
        let mut events = 0;
        for log in &report.origins {
            damages.extend(log.findings.iter().filter_map(|finding| of(finding, &log.origin)));
            if log.origin == self.origin {
                events = log.events;
                match &claims {
                    Ok(claims) => damages.extend(self.compare(claims, log)),
                    Err(error) => damages.push(self.damage("unreadable", "checkpoints", error.to_string())),
                }
            }
        }
        damages.extend(report.findings.iter().filter_map(|finding| of(finding, "")));
        damages.truncate(FINDINGS);
        (events, damages)
    }

    /// Returns the checkpoints that are not of the log as it lies on disk.
    fn compare(&self, claims: &[Claim], log: &mirror_verify::OriginReport) -> Vec<Damage> {
        let roots: HashMap<u64, &str> =
            log.roots.iter().map(|root| (root.size, root.root_hex.as_str())).collect();
        let mut wrong = Vec::new();
        for claim in claims {
            let why = match roots.get(&claim.size) {
                Some(root) if **root == *hex(&claim.root) => continue,
                Some(_) => "the log on disk has another root than this checkpoint",
                None if claim.size > log.head_seq => "the log on disk ends before this checkpoint",
                // The tree cannot be computed past damage, which is a finding of its own.
                None => continue,
            };
            wrong.push(self.damage("checkpoint", &format!("{:020}.note", claim.size), why.to_owned()));
        }
        wrong
    }

    fn damage(&self, kind: &str, segment: &str, message: String) -> Damage {
        let (kind, segment) = (kind.to_owned(), segment.to_owned());
        Damage { v: 1, origin: self.origin.clone(), kind, segment, offset: 0, first: 0, last: 0, message }
    }
}

/// Returns a finding as it is recorded; none for one that is no damage.
fn of(finding: &mirror_verify::Finding, origin: &str) -> Option<Damage> {
    let kind = serde_json::to_value(finding.kind).ok()?.as_str()?.to_owned();
    let damage = Damage {
        v: 1,
        origin: origin.to_owned(),
        kind,
        segment: finding.segment.clone(),
        offset: finding.offset,
        first: finding.first_seq.unwrap_or_default(),
        last: finding.last_seq.unwrap_or_default(),
        message: finding.message.clone(),
    };
    (finding.kind.severity() == Severity::Damage).then_some(damage)
}
