//! Erased payloads: each X line must be named by a later `bus.redacted` event that the owner signed.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::VerifyingKey;
use serde::Deserialize;

use crate::findings::{Findings, Place};
use crate::keys::Envelope;
use crate::line::Flaw;
use crate::merkle::{Hash, hex};
use crate::report::{FindingKind, Redacted};

/// How many X lines may wait at once, and how many are remembered.
const WAITING: usize = 1 << 20;

/// How many proven redactions are listed, and how many unfinished ones are remembered.
const LISTED: usize = 1024;

const STATEMENT: &str = "application/vnd.mirrordna.redaction.v1+json";

/// An X line that waits for its redaction.
#[derive(Debug, Clone)]
struct Mark {
    seq: u64,
    place: Place,
    leaf: Hash,
    /// Whether it stands in the place of a record that folds are made of.
    kept: bool,
}

/// What the payload of a `bus.redacted` event says.
#[derive(Debug, Clone)]
pub(crate) struct Redaction {
    /// The events whose payloads it erases.
    events: BTreeSet<u64>,
    /// The leaves of the events that the signed statement names.
    leaves: BTreeMap<u64, String>,
    signed: Signed,
}

#[derive(Debug, Clone)]
enum Signed {
    Yes,
    /// There is no list of the keys that could have signed.
    Unchecked,
    No(String),
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    envelope: &'a serde_json::value::RawValue,
    events: Vec<u64>,
}

#[derive(Deserialize)]
struct Statement {
    v: u64,
    origin: String,
    events: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    seq: u64,
    leaf: String,
}

impl Redaction {
    /// Reads the payload of a `bus.redacted` event of a log.
    pub(crate) fn read(payload: &[u8], origin: Option<&str>, keys: Option<&[VerifyingKey]>) -> Self {
        let mut found = Self { events: BTreeSet::new(), leaves: BTreeMap::new(), signed: Signed::Unchecked };
        if let Err(why) = found.fill(payload, origin, keys) {
            found.signed = Signed::No(why);
        }
        found
    }

    fn fill(
        &mut self,
        payload: &[u8],
        origin: Option<&str>,
        keys: Option<&[VerifyingKey]>,
    ) -> Result<(), String> {
        let record: Record<'_> = serde_json::from_slice(payload)
            .map_err(|error| format!("its payload is not {{v, envelope, events}}: {error}"))?;
        self.events = record.events.into_iter().collect();
        let envelope = Envelope::parse(record.envelope.get().as_bytes()).ok_or("it has no DSSE envelope")?;
        let said = envelope.said(STATEMENT).ok_or("its envelope is of another type than a redaction's")?;
        let statement: Statement = serde_json::from_slice(&said)
            .map_err(|error| format!("its statement is not {{v, origin, events}}: {error}"))?;
        if statement.v != 1 {
            return Err(format!("its statement is of form {}, and this program knows 1", statement.v));
        }
        if origin.is_some_and(|origin| origin != statement.origin) {
            return Err(format!("its statement was signed for the log {}", statement.origin));
        }
        self.leaves = statement.events.into_iter().map(|target| (target.seq, target.leaf)).collect();
        if let Some(more) = self.events.iter().find(|seq| !self.leaves.contains_key(seq)) {
            return Err(format!("it erases event {more}, which its statement does not name"));
        }
        let Some(keys) = keys else { return Ok(()) };
        if envelope.signed_by(STATEMENT, keys).is_none() {
            return Err("no key whose owner may erase signed its statement".to_owned());
        }
        self.signed = Signed::Yes;
        Ok(())
    }
}

/// What stands where an X line says that a redaction is.
#[derive(Debug)]
pub(crate) enum By<'a> {
    /// A `bus.redacted` event with its payload.
    Redaction(&'a Redaction),
    /// A `bus.redacted` event whose payload is not there.
    Hidden,
    /// Another event.
    Other,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Erasures {
    waiting: BTreeMap<u64, Vec<Mark>>,
    count: usize,
    /// Events that have an X line.
    erased: BTreeSet<u64>,
    /// Payload lines that are half overwritten, in segments that are being changed.
    torn: BTreeMap<u64, (Place, Flaw)>,
    /// Events that a redaction names and that still had their payloads, with the redaction and its place.
    unfinished: Vec<(u64, u64, Place)>,
    pub(crate) unchecked: u64,
    pub(crate) proven: u64,
    pub(crate) listed: Vec<Redacted>,
}

impl Erasures {
    /// Notes that the payload of `seq` says that it was erased by `by`.
    pub(crate) fn note(
        &mut self,
        place: Place,
        (seq, leaf, kept): (u64, Hash, bool),
        by: u64,
        findings: &mut Findings,
    ) {
        if self.erased.len() < WAITING {
            self.erased.insert(seq);
        }
        let why = match by.cmp(&seq) {
            std::cmp::Ordering::Equal => "erased without a redaction: the X line names its own event",
            std::cmp::Ordering::Less => "erased without a redaction: the X line names an earlier event",
            std::cmp::Ordering::Greater if self.count == WAITING => {
                "too many X lines wait for their redaction"
            }
            std::cmp::Ordering::Greater => {
                self.waiting.entry(by).or_default().push(Mark { seq, place, leaf, kept });
                self.count += 1;
                return;
            }
        };
        findings.add(FindingKind::RedactionUnproven, place, Some((seq, seq)), why);
    }

    /// Notes a payload line that is neither D nor X, in a segment that is being changed.
    pub(crate) fn tear(&mut self, place: Place, seq: u64, flaw: Flaw, findings: &mut Findings) {
        if self.torn.len() < LISTED {
            self.torn.insert(seq, (place, flaw));
        } else {
            findings.add(flaw.kind, place, Some((seq, seq)), flaw.message);
        }
    }

    /// Settles the X lines that name the event `by`, which stands at `place`, now that it is read.
    pub(crate) fn settle(&mut self, place: Place, by: u64, what: &By<'_>, findings: &mut Findings) {
        let marks = if self.count == 0 { None } else { self.waiting.remove(&by) };
        let marks = marks.unwrap_or_default();
        self.count -= marks.len();
        let redaction = match what {
            By::Redaction(redaction) => *redaction,
            By::Hidden | By::Other if marks.is_empty() => return,
            By::Hidden => {
                return unproven(&marks, findings, &format!("event {by}, whose payload is damaged"));
            }
            By::Other => return unproven(&marks, findings, &format!("event {by}, which is no bus.redacted")),
        };
        match &redaction.signed {
            Signed::Yes => {}
            Signed::Unchecked => self.unchecked += 1,
            Signed::No(why) => {
                let why = format!("redaction by nobody: {why}");
                findings.add(FindingKind::RedactionUnsigned, place, Some((by, by)), why);
                let whom = format!("event {by}, which nobody who may erase has signed");
                return unproven(&marks, findings, &whom);
            }
        }
        for mark in &marks {
            let why = if !redaction.events.contains(&mark.seq) {
                format!("event {by}, which does not list it")
            } else if redaction.leaves.get(&mark.seq).is_none_or(|leaf| *leaf != hex(&mark.leaf)) {
                format!("event {by}, whose statement was signed for another event in its place")
            } else if mark.kept {
                format!(
                    "event {by}, and a record of the blobs, the bus, the halt, the keeper or the witness, or a dead letter, is never erased"
                )
            } else {
                self.proven += 1;
                if self.listed.len() < LISTED {
                    self.listed.push(Redacted { seq: mark.seq, by });
                }
                continue;
            };
            unproven(std::slice::from_ref(mark), findings, &why);
        }
        self.not_erased(place, by, redaction, findings);
    }

    /// Notes the events that a redaction lists and that it has not erased.
    fn not_erased(&mut self, place: Place, by: u64, redaction: &Redaction, findings: &mut Findings) {
        for seq in &redaction.events {
            if *seq >= by || *seq == 0 {
                let why =
                    format!("redaction by nobody: it erases event {seq}, which does not come before it");
                findings.add(FindingKind::RedactionUnsigned, place, Some((by, by)), why);
            } else if let Some((place, flaw)) = self.torn.remove(seq) {
                let why = format!(
                    "the segment is being changed: its payload is half erased by event {by}; the bus ends it ({})",
                    flaw.message
                );
                findings.add(FindingKind::BeingChanged, place, Some((*seq, *seq)), why);
            } else if !self.erased.contains(seq) && self.unfinished.len() < LISTED {
                self.unfinished.push((*seq, by, place));
            }
        }
    }

    /// Reports the X lines whose event never came, and the redactions that `stands` says were not carried out.
    pub(crate) fn finish(&mut self, findings: &mut Findings, stands: impl Fn(u64) -> bool) {
        for (by, marks) in std::mem::take(&mut self.waiting) {
            unproven(&marks, findings, &format!("event {by}, which is not in the log"));
        }
        for (seq, (place, flaw)) in std::mem::take(&mut self.torn) {
            findings.add(flaw.kind, place, Some((seq, seq)), flaw.message);
        }
        for (seq, by, place) in std::mem::take(&mut self.unfinished) {
            // A later redaction may have erased it instead.
            if !self.erased.contains(&seq) && stands(seq) {
                let why =
                    format!("redaction not finished: event {by} erases it; the bus does when it starts");
                findings.add(FindingKind::RedactionUnfinished, place, Some((seq, seq)), why);
            }
        }
        self.listed.sort_unstable();
    }
}

fn unproven(marks: &[Mark], findings: &mut Findings, names: &str) {
    for Mark { seq, place, .. } in marks {
        let why = format!("erased without a redaction: the X line names {names}");
        findings.add(FindingKind::RedactionUnproven, *place, Some((*seq, *seq)), why);
    }
}
