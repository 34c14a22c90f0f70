//! What must hold from event to event: sequence, chain, clock, writes, ids.

use std::sync::Arc;

use crate::Options;
use crate::erased::{By, Erasures, Redaction};
use crate::findings::{Findings, Place};
use crate::ids::Ids;
use crate::keys::Keys;
use crate::merkle::{Frontier, Hash, hex};
use crate::read::{Body, Head, Id};
use crate::report::{FindingKind, OriginReport, Root, Tail};

/// The state of a log up to a place in it.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    /// Origin, once known.
    pub(crate) origin: Option<Box<str>>,
    /// Sequence that must come next.
    pub(crate) next: u64,
    pub(crate) findings: Findings,
    pub(crate) events: u64,
    /// Leaf of the event before, unless damage hides it.
    link: Option<Hash>,
    /// Whether every leaf so far is in the tree.
    whole: bool,
    hlc: Option<u64>,
    /// Sequence and batch of the last event that was read.
    last: (u64, u64),
    head: Option<(u64, Hash)>,
    first: u64,
    tree: Frontier,
    pub(crate) ids: Ids,
    /// Events with the id that the bus gave them, which needs no comparing with others.
    own_ids: u64,
    pub(crate) erasures: Erasures,
    /// Whose signatures count.
    pub(crate) keys: Arc<Keys>,
    payload_bytes: u64,
    /// Sizes at which the root is asked for and not yet passed, the smallest last.
    marks: Vec<u64>,
    roots: Vec<Root>,
}

impl Chain {
    pub(crate) fn new(origin: Option<&str>, options: &Options) -> Self {
        let mut marks = options.marks.clone();
        marks.sort_unstable_by(|a, b| b.cmp(a));
        marks.dedup();
        Self {
            origin: origin.map(Into::into),
            next: 1,
            findings: Findings::default(),
            events: 0,
            link: Some([0; 32]),
            whole: true,
            hlc: None,
            last: (0, 0),
            head: None,
            first: 0,
            tree: Frontier::default(),
            ids: Ids::new(options.ids),
            own_ids: 0,
            erasures: Erasures::default(),
            keys: Arc::default(),
            payload_bytes: 0,
            marks,
            roots: Vec::new(),
        }
    }

    /// Asks for the roots at further sizes.
    pub(crate) fn ask(&mut self, sizes: impl Iterator<Item = u64>) {
        self.marks.extend(sizes);
        self.marks.sort_unstable_by(|a, b| b.cmp(a));
        self.marks.dedup();
    }

    /// Returns the state as it is, without the ids, which stay.
    pub(crate) fn mark_here(&mut self) -> Self {
        self.settle_ids();
        let ids = std::mem::replace(&mut self.ids, Ids::new(0));
        let mut here = self.clone();
        here.ids.compared = ids.compared;
        self.ids = ids;
        here
    }

    /// Goes back to a state that was marked; the ids seen since stay, each with the event that has it.
    pub(crate) fn go_back(&mut self, mut to: Self) {
        let compared = to.ids.compared;
        std::mem::swap(&mut self.ids, &mut to.ids);
        *self = to;
        self.ids.compared = compared;
        self.ids.forget_waiting();
    }

    /// Reads the payload of a `bus.redacted` event.
    pub(crate) fn redaction(&self, payload: &[u8]) -> Redaction {
        Redaction::read(payload, self.origin.as_deref(), self.keys.release.as_deref())
    }

    /// Goes on at `seq` after damage that is reported elsewhere.
    pub(crate) fn skip_to(&mut self, seq: u64) {
        if seq > self.next {
            self.next = seq;
            self.link = None;
            self.whole = false;
        }
    }

    /// Returns whether an event is of this log, as far as its origin is known.
    pub(crate) fn is_own(&self, origin: &[u8]) -> bool {
        self.origin.as_ref().is_none_or(|own| own.as_bytes() == origin)
    }

    /// Takes the next header and reports each rule that it breaks; returns whether it stands at its place.
    pub(crate) fn header(&mut self, place: Place, head: &Head) -> bool {
        let seq = head.seq;
        let mut own = true;
        match (&self.origin, &head.other) {
            (_, None) => {}
            (None, Some(origin)) => self.origin = Some(String::from_utf8_lossy(origin).into()),
            (Some(_), Some(origin)) => {
                own = false;
                let why = format!("the event is of another origin, {}", String::from_utf8_lossy(origin));
                self.findings.add(FindingKind::ForeignOrigin, place, Some((seq, seq)), why);
                if seq != self.next {
                    return false;
                }
            }
        }
        if seq < self.next {
            let why = "a sequence that was already read stands here again";
            self.findings.add(FindingKind::SeqJump, place, Some((seq, seq)), why);
            return false;
        }
        if seq > self.next {
            let why = "the sequence jumps over them";
            self.findings.add(FindingKind::SeqJump, place, Some((self.next, seq - 1)), why);
            self.skip_to(seq);
        }
        let Some(next) = seq.checked_add(1) else {
            self.findings.add(FindingKind::SeqJump, place, Some((seq, seq)), "the sequence has no successor");
            return false;
        };
        self.rules(place, head);
        if !head.is_redaction || !own {
            self.erasures.settle(place, seq, &By::Other, &mut self.findings);
        }
        self.tree.push(head.leaf);
        self.link = Some(head.leaf);
        self.hlc = Some(head.hlc);
        self.last = (seq, head.batch.min(seq));
        self.next = next;
        self.head = Some((seq, head.leaf));
        if self.events == 0 {
            self.first = seq;
        }
        self.events += 1;
        self.whole &= own;
        self.mark(seq);
        true
    }

    /// Notes the root when it is asked for at this size.
    fn mark(&mut self, size: u64) {
        while self.marks.last().is_some_and(|mark| *mark <= size) {
            let mark = self.marks.pop();
            if mark == Some(size) && self.whole {
                self.roots.push(Root { size, root_hex: hex(&self.tree.root()) });
            }
        }
    }

    fn rules(&mut self, place: Place, head: &Head) {
        let seq = Some((head.seq, head.seq));
        if let Some(version) = head.newer {
            let why = format!("the event is of version {version}; update this program before writing here");
            self.findings.add(FindingKind::NewerVersion, place, seq, why);
        }
        if self.link.is_some_and(|link| link != head.prev) {
            let why = if head.seq == 1 {
                "prev of the first event is not zero"
            } else {
                "prev is not the leaf of the event before: one of the two was altered"
            };
            self.findings.add(FindingKind::WrongPrev, place, seq, why);
        }
        if self.hlc.is_some_and(|before| before >= head.hlc) {
            let why = "the hybrid logical clock does not rise";
            self.findings.add(FindingKind::HlcNotRising, place, seq, why);
        }
        let (last_seq, last_batch) = self.last;
        let same_write = head.batch == last_batch;
        let later_write = last_seq < head.batch && head.batch <= head.seq;
        if !same_write && !later_write {
            let why = format!(
                "b is {}, which is neither that of the event before ({last_batch}) nor of a write that began after it",
                head.batch
            );
            self.findings.add(FindingKind::BadBatch, place, seq, why);
        }
        match head.id {
            Id::Own => self.own_ids += 1,
            Id::Misnamed => {
                let why = "the id is one that the bus gives, to another event";
                self.findings.add(FindingKind::BadHeader, place, seq, why);
            }
            Id::Caller(id) if self.ids.add(id, head.seq, place) => self.settle_ids(),
            Id::Caller(_) => {}
        }
    }

    fn settle_ids(&mut self) {
        for (seq, place) in self.ids.settle() {
            let why = "an earlier event has the same id";
            self.findings.add(FindingKind::DuplicateId, place, Some((seq, seq)), why);
        }
    }

    /// Takes what stands after a header.
    #[inline]
    pub(crate) fn body(&mut self, place: Place, head: &Head, body: Body, in_place: bool) {
        match body {
            Body::Data(len) if in_place => self.payload_bytes += len as u64,
            Body::Data(_) => {}
            other => self.odd_body(place, head, other, in_place),
        }
    }

    fn odd_body(&mut self, place: Place, head: &Head, body: Body, in_place: bool) {
        let seq = head.seq;
        match body {
            Body::Redaction(len, redaction) if in_place => {
                self.payload_bytes += len as u64;
                self.erasures.settle(place, seq, &By::Redaction(&redaction), &mut self.findings);
            }
            Body::Erased(by) if in_place => {
                self.erasures.note(place, (seq, head.leaf, head.is_kept), by, &mut self.findings);
                self.hidden(place, head);
            }
            Body::Data(_) | Body::Redaction(..) | Body::Erased(_) => {}
            Body::Wrong(flaw) => {
                self.findings.add(flaw.kind, place, Some((seq, seq)), flaw.message);
                self.hidden(place, head);
            }
        }
    }

    /// Settles a redaction whose payload is not there.
    pub(crate) fn hidden(&mut self, place: Place, head: &Head) {
        if head.is_redaction {
            self.erasures.settle(place, head.seq, &By::Hidden, &mut self.findings);
        }
    }

    /// Ends the log and returns its report.
    ///
    /// `stands` says whether an event still is as it was read.
    pub(crate) fn finish(mut self, segments: u64, tail: Tail, stands: impl Fn(u64) -> bool) -> OriginReport {
        self.settle_ids();
        self.erasures.finish(&mut self.findings, stands);
        OriginReport {
            origin: self.origin.map(String::from).unwrap_or_default(),
            segments,
            events: self.events,
            first_seq: self.first,
            head_seq: self.head.map(|(seq, _)| seq).unwrap_or_default(),
            head_leaf_hex: self.head.map(|(_, leaf)| hex(&leaf)),
            root_hex: self.whole.then(|| hex(&self.tree.root())),
            roots: self.roots,
            payload_bytes: self.payload_bytes,
            ids_compared: self.own_ids + self.ids.compared,
            compressed: 0,
            checkpoints: 0,
            covered: 0,
            redacted: self.erasures.listed,
            redacted_count: self.erasures.proven,
            tail,
            findings: self.findings.list,
            findings_left_out: self.findings.left_out,
        }
    }
}
