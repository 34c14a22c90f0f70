//! Walks through one segment, and past what is damaged in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use crate::chain::Chain;
use crate::findings::{Place, segment_name};
use crate::generations::Generations;
use crate::line::Flaw;
use crate::read::{Found, Head, Step, find, step};
use crate::report::{FindingKind, Progress, Tail};
use crate::source::{ReadAt, Rift, Source};

/// How often in one log bytes that do not fit are read again: a live log needs it now and then, a damaged one would
/// need it for each event.
const REREADS: u32 = 256;

/// How often a segment is read from its beginning again because it was changed meanwhile.
const READINGS: usize = 3;

/// How often one place is read again while its segment is being changed, and how often that is done in one log.
const TRIES: u32 = 40;
const WAITS: u32 = 1_000;

/// How long a change is waited for before each of these readings.
const WAIT: Duration = Duration::from_millis(5);

const PROGRESS: u64 = 1 << 20;

/// A segment to walk through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    /// Its name as a number.
    pub(crate) name: u64,
    /// The name of the segment after it; none for the last, active one.
    pub(crate) next: Option<u64>,
    /// Where to begin: at 0, or where an earlier walk ended.
    pub(crate) from: u64,
    /// Whether it is compressed, and therefore sealed.
    pub(crate) packed: bool,
}

impl Segment {
    fn is_active(&self) -> bool {
        self.next.is_none() && !self.packed
    }
}

/// A segment that was opened.
pub(crate) struct Opened {
    pub(crate) bytes: Box<dyn ReadAt>,
    pub(crate) packed: bool,
}

/// Where a walk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) at: u64,
    pub(crate) tail: Tail,
}

/// Walks through the segments of one log, in order.
pub(crate) struct Walk<'p> {
    pub(crate) chain: Chain,
    pub(crate) generations: Generations,
    /// The generation that each segment had when its reading began.
    pub(crate) read: BTreeMap<u64, u64>,
    /// The segments that are compressed.
    pub(crate) packed: BTreeSet<u64>,
    rereads: u32,
    waits: u32,
    scratch: Vec<u8>,
    progress: &'p mut dyn FnMut(Progress<'_>),
    /// Bytes of the segments before this one.
    pub(crate) before: u64,
    pub(crate) total: u64,
    reported: u64,
}

impl<'p> Walk<'p> {
    pub(crate) fn new(
        chain: Chain,
        generations: Generations,
        progress: &'p mut dyn FnMut(Progress<'_>),
    ) -> Self {
        Self {
            chain,
            generations,
            read: BTreeMap::new(),
            packed: BTreeSet::new(),
            rereads: REREADS,
            waits: WAITS,
            scratch: Vec::new(),
            progress,
            before: 0,
            total: 0,
            reported: 0,
        }
    }

    /// Walks through the file of a segment, and again when damage is found and the segment was changed meanwhile.
    pub(crate) fn file(&mut self, segment: Segment, open: &dyn Fn() -> io::Result<Opened>) -> Ended {
        let mut reading = 1;
        loop {
            let generation = self.generations.get(segment.name);
            let before = self.chain.mark_here();
            let damage = self.chain.findings.damage;
            let ended = match open() {
                Ok(Opened { bytes, packed }) => {
                    if packed {
                        self.packed.insert(segment.name);
                    }
                    self.segment(Segment { packed, ..segment }, bytes)
                }
                Err(error) => {
                    self.unreadable(segment, segment.from, &error);
                    Ended { at: segment.from, tail: Tail::Clean }
                }
            };
            let now = self.generations.get(segment.name);
            let is_moving = now != generation || now % 2 == 1;
            if self.chain.findings.damage == damage || !is_moving || reading == READINGS {
                return ended;
            }
            self.chain.go_back(before);
            reading += 1;
            std::thread::park_timeout(WAIT);
        }
    }

    /// Walks through a segment once; bytes that cannot be read are a finding.
    pub(crate) fn segment(&mut self, segment: Segment, bytes: Box<dyn ReadAt + '_>) -> Ended {
        let generation = self.generations.get(segment.name);
        if segment.from == 0 {
            self.read.insert(segment.name, generation);
        }
        let mut pass = Pass {
            walk: self,
            segment,
            source: Source::new(bytes),
            proof: None,
            generation,
            again: (None, 0),
            rifts: Vec::new(),
        };
        let mut at = segment.from;
        let ran = pass.run(&mut at);
        pass.other_rifts();
        match ran {
            Ok(tail) => Ended { at, tail },
            Err(error) => {
                self.unreadable(segment, at, &error);
                Ended { at, tail: Tail::Clean }
            }
        }
    }

    /// Reports that a segment cannot be read, and goes on at the next.
    pub(crate) fn unreadable(&mut self, segment: Segment, at: u64, error: &io::Error) {
        let first = self.chain.next.max(if at == 0 { segment.name } else { 0 });
        let range = segment.next.filter(|next| *next > first).map(|next| (first, next - 1));
        let place = Place { segment: segment.name, packed: segment.packed, offset: at };
        self.chain.findings.add(FindingKind::Unreadable, place, range, format!("cannot be read: {error}"));
        self.chain.skip_to(segment.next.unwrap_or(0));
    }

    fn report(&mut self, segment: u64, at: u64, end: bool) {
        let bytes = self.before + at;
        if bytes.saturating_sub(self.reported) < PROGRESS && !end {
            return;
        }
        self.reported = bytes;
        (self.progress)(Progress {
            origin: self.chain.origin.as_deref().unwrap_or_default(),
            segment: &segment_name(segment),
            bytes,
            total: self.total.max(bytes),
            events: self.chain.events,
        });
    }
}

struct Pass<'w, 'p, 's> {
    walk: &'w mut Walk<'p>,
    segment: Segment,
    source: Source<'s>,
    /// Offset and batch of an E line further on, kept so that each of many damages need not look for it again.
    proof: Option<(u64, u64)>,
    /// The generation of the segment before what is in the window was read.
    generation: u64,
    /// The place that is read again, and how often it was.
    again: (Option<u64>, u32),
    /// The rifts that are reported, by where they begin in the file.
    rifts: Vec<u64>,
}

impl Pass<'_, '_, '_> {
    fn run(&mut self, at: &mut u64) -> io::Result<Tail> {
        let is_active = self.segment.is_active();
        loop {
            self.walk.report(self.segment.name, *at, false);
            let Walk { chain, scratch, .. } = &mut *self.walk;
            match step(&mut self.source, *at, is_active, chain, scratch)? {
                Step::Event { head, body, body_at, end } => {
                    let in_place = self.header(*at, &head);
                    self.walk.chain.body(self.place(body_at), &head, body, in_place);
                    *at = end;
                }
                Step::End => {
                    if *at == 0 {
                        self.empty();
                    }
                    self.walk.report(self.segment.name, *at, true);
                    return Ok(Tail::Clean);
                }
                Step::Bad { .. } if self.is_worth_another_look(*at) => self.source.forget(),
                Step::Bad { flaw, at: bad_at, head } => match self.pass_by(*at, bad_at, flaw, head)? {
                    Past::Next(next) => *at = next,
                    Past::End => return Ok(Tail::Clean),
                    Past::Torn(tail) => return Ok(tail),
                },
            }
        }
    }

    /// Returns whether what does not fit at `at` is read again: once, and as long as the segment is being changed.
    fn is_worth_another_look(&mut self, at: u64) -> bool {
        if self.again.0 != Some(at) {
            self.again = (Some(at), 0);
        }
        let now = self.walk.generations.get(self.segment.name);
        let is_moving = now % 2 == 1 || now != self.generation;
        // Before the bytes are read again, so that a change after this is noticed.
        self.generation = now;
        let (left, pause) = match self.again.1 {
            0 => (&mut self.walk.rereads, false),
            1..TRIES if is_moving => (&mut self.walk.waits, true),
            _ => return false,
        };
        if *left == 0 {
            return false;
        }
        *left -= 1;
        self.again.1 += 1;
        if pause {
            std::thread::park_timeout(WAIT);
        }
        true
    }

    /// Returns the rift because of which the content from one place to another is not what it was.
    fn rift(&self, from: u64, until: Option<u64>) -> Option<Rift> {
        self.source.rifts().into_iter().find(|Rift { content: (begin, end), .. }| {
            until.is_none_or(|until| *begin < until) && (*end > from || (*end == from && until.is_none()))
        })
    }

    /// Reports the rifts that no event lies in.
    fn other_rifts(&mut self) {
        for rift in self.source.rifts() {
            if !self.rifts.contains(&rift.at) {
                self.rifts.push(rift.at);
                self.add(FindingKind::BadFrame, rift.at, None, &rift.why);
            }
        }
    }

    fn place(&self, offset: u64) -> Place {
        Place { segment: self.segment.name, packed: self.segment.packed, offset }
    }

    /// Checks the name of the segment against its first event, then hands the header to the chain.
    fn header(&mut self, at: u64, head: &Head) -> bool {
        if at == 0 {
            if head.seq == self.segment.name {
                self.arrive();
            } else {
                let why = "the segment is not named after its first event";
                self.add(FindingKind::SegmentName, at, Some((head.seq, head.seq)), why);
            }
        }
        self.walk.chain.header(self.place(at), head)
    }

    /// Reports the events that are missing between the segments before and this one.
    fn arrive(&mut self) {
        let (name, next) = (self.segment.name, self.walk.chain.next);
        if name > next {
            let why = "they are missing: the end of the segment before is cut off, or a segment is gone";
            self.add(FindingKind::MissingSegment, 0, Some((next, name - 1)), why);
            self.walk.chain.skip_to(name);
        }
    }

    fn empty(&mut self) {
        if self.segment.name < self.walk.chain.next {
            let why = "the segment is empty and named after an event that another segment has";
            self.add(FindingKind::SegmentName, 0, None, why);
        }
        self.arrive();
    }

    fn add(&mut self, kind: FindingKind, offset: u64, range: Option<(u64, u64)>, why: &str) {
        let place = self.place(offset);
        self.walk.chain.findings.add(kind, place, range, why);
    }

    /// Decides what bad bytes are, reports them, and finds where to go on.
    ///
    /// `at` is where the event begins, `bad_at` its bad line, `head` its header when that is good.
    fn pass_by(&mut self, at: u64, bad_at: u64, flaw: Flaw, head: Option<Head>) -> io::Result<Past> {
        if at == 0 && head.is_none() {
            self.arrive();
        }
        let first = head.as_ref().map_or(self.walk.chain.next, |head| head.seq);
        let from = bad_at.max(at + 1);
        let next = find(&mut self.source, from, |_| true)?;
        if flaw.torn && self.segment.is_active() && !self.is_acknowledged(next.as_ref(), first)? {
            let bytes = self.source.content_end(at)? - at;
            self.walk.report(self.segment.name, at + bytes, true);
            return Ok(Past::Torn(Tail::Torn {
                segment: segment_name(self.segment.name),
                offset: at,
                bytes,
            }));
        }
        if let Some(head) = &head {
            let in_place = self.header(at, head);
            if in_place {
                self.walk.chain.hidden(self.place(bad_at), head);
            }
        }
        // Of the damaged events only the first can have a good header, so what follows it up to `go_on` is lost.
        let own = next.as_ref().filter(|next| self.walk.chain.is_own(&next.origin));
        let go_on = own.map(|next| next.seq).or(if next.is_none() { self.segment.next } else { None });
        let last = go_on.and_then(|go_on| go_on.checked_sub(1)).filter(|last| *last >= first);
        let range = match (last, &head, &next) {
            (Some(last), _, _) => Some((first, last)),
            (None, Some(_), _) => Some((first, first)),
            (None, None, None) if self.segment.next.is_none() => Some((first, first)),
            (None, None, _) => None,
        };
        self.tell(at, bad_at, flaw, head.as_ref(), range, next.as_ref());
        if let Some(go_on) = go_on {
            self.walk.chain.skip_to(go_on);
        }
        match next {
            Some(next) => Ok(Past::Next(next.offset)),
            None => {
                self.walk.report(self.segment.name, bad_at, true);
                Ok(Past::End)
            }
        }
    }

    /// Reports bad bytes, or leaves them to the redaction that may be at work on them.
    fn tell(
        &mut self,
        at: u64,
        bad_at: u64,
        flaw: Flaw,
        head: Option<&Head>,
        range: Option<(u64, u64)>,
        next: Option<&Found>,
    ) {
        let place = self.place(bad_at);
        if let Some(rift) = self.rift(at, next.map(|next| next.offset)) {
            if !self.rifts.contains(&rift.at) {
                self.rifts.push(rift.at);
            }
            let why = format!("{}: {}", rift.why, flaw.message);
            return self.add(FindingKind::BadFrame, rift.at, range, &why);
        }
        match head {
            Some(head) if flaw.torn && self.generation % 2 == 1 && range == Some((head.seq, head.seq)) => {
                let Walk { chain, .. } = &mut *self.walk;
                chain.erasures.tear(place, head.seq, flaw, &mut chain.findings);
            }
            _ => self.walk.chain.findings.add(flaw.kind, place, range, flaw.message),
        }
    }

    /// Returns whether a whole E line further on shows that `missing` was acknowledged: its write began after it.
    fn is_acknowledged(&mut self, next: Option<&Found>, missing: u64) -> io::Result<bool> {
        let Some(next) = next else { return Ok(false) };
        if self.proof.is_some_and(|(offset, batch)| offset >= next.offset && batch > missing) {
            return Ok(true);
        }
        let chain = &self.walk.chain;
        let proof = find(&mut self.source, next.offset, |found| {
            found.batch > missing && chain.is_own(&found.origin)
        })?;
        self.proof = proof.map(|found| (found.offset, found.batch));
        Ok(self.proof.is_some())
    }
}

/// Where to go on after bad bytes.
enum Past {
    Next(u64),
    End,
    Torn(Tail),
}
