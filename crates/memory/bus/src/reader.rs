//! Reading events back: forwards from any position, on the caller's own thread, checked line by line.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::BusError;
use crate::line::{Header, Payload};
use crate::payload;
use crate::recover::{Erased, rescan};
use crate::scan::{Event, Lines};
use crate::segments::{Damage, STRIDE, Segment, Segments};

/// How often an event is sought again that was not where it should be: its segment may be under change.
const RESCANS: usize = 8;

/// A stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) header: Header,
    pub(crate) json: String,
    pub(crate) body: Body,
}

/// A stored payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// As it was handed in, with its salt.
    Here { payload: Bytes, salt: [u8; 16] },
    /// Erased by the event of this sequence.
    Redacted { by: u64 },
}

impl Record {
    /// Returns roughly the bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        let payload = match &self.body {
            Body::Here { payload, .. } => payload.len(),
            Body::Redacted { .. } => 0,
        };
        size_of::<Self>() + self.json.len() + payload
    }
}

/// A place in the log from which events are read in order.
#[derive(Debug)]
pub(crate) struct Cursor {
    segments: Arc<Segments>,
    next: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    lines: Lines,
    segment: Arc<Segment>,
    /// First sequence of the segment after this one, as known when it was opened.
    until: Option<u64>,
    /// State of all segments when the window was opened.
    version: u64,
}

impl Cursor {
    /// Returns a cursor before the event `next`, from 1.
    pub(crate) fn new(segments: Arc<Segments>, next: u64) -> Self {
        Self { segments, next, open: None }
    }

    /// Returns the sequence of the event that is read next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Reads the next event if it is at most `head`, which must be durable; `want` is asked before the payload is.
    ///
    /// Returns nothing after `head`; an event that is not wanted is stepped over.
    pub(crate) fn read(
        &mut self,
        head: u64,
        want: &mut dyn FnMut(&Header) -> bool,
    ) -> Result<Option<Record>, BusError> {
        while self.next <= head {
            if let Some(damage) = self.segments.damage_at(self.next) {
                return Err(BusError::Damaged(damage.describe()));
            }
            let record = self.step(head, want)?;
            self.next += 1;
            if record.is_some() {
                return Ok(record);
            }
        }
        Ok(None)
    }

    fn step(&mut self, head: u64, want: &mut dyn FnMut(&Header) -> bool) -> Result<Option<Record>, BusError> {
        let failed = |e: io::Error| BusError::Read(e.to_string());
        if self.open.as_ref().is_some_and(|open| open.until == Some(self.next)) {
            self.open = None;
        }
        let mut fresh = false;
        let mut rescans = 0;
        loop {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => {
                    fresh = true;
                    // Before the file is, so that a change meanwhile is not missed.
                    match self.seek(self.segments.generations.version()) {
                        Err(e) if e.kind() == io::ErrorKind::NotFound && rescans < RESCANS => {
                            rescans += 1;
                            self.lost_segment(head);
                            if let Some(damage) = self.segments.damage_at(self.next) {
                                return Err(BusError::Damaged(damage.describe()));
                            }
                            continue;
                        }
                        other => other.map_err(failed)?,
                    }
                }
            };
            let event = open.lines.event(&self.segments.origin).map_err(failed)?;
            if self.segments.generations.version() != open.version {
                // A payload that was read ahead may be erased by now, or the file another one.
                fresh = false;
                continue;
            }
            if let Ok(event) = &event
                && event.header.seq <= self.next
                && event.header.seq.is_multiple_of(STRIDE)
            {
                // A sealed segment is not read when the log is opened; who comes by leaves marks.
                open.segment.note(event.header.seq, event.offset);
            }
            let result = match event {
                Ok(event) if event.header.seq < self.next => None,
                Ok(event) if event.header.seq == self.next => {
                    if let Payload::Redacted { by } = event.payload {
                        let (segment, offset) = (open.segment.first, event.offset);
                        self.judge(Erased { seq: self.next, by, segment, offset })?;
                    }
                    Some(want(&event.header).then(|| record(&event)))
                }
                _ if !fresh => {
                    // What was read ahead may be stale, or the log went on in a new segment.
                    fresh = true;
                    let rolled =
                        self.segments.of(self.next).is_some_and(|(s, _)| s.first != open.segment.first);
                    if !rolled {
                        open.lines.refresh();
                        self.open = Some(open);
                    }
                    continue;
                }
                _ if rescans < RESCANS => {
                    rescans += 1;
                    let (segment, next) = (Arc::clone(&open.segment), open.until);
                    if rescan(&self.segments, &segment, next, head).map_err(failed)? {
                        tracing::error!(segment = segment.first, "the log is damaged; appends are refused");
                    }
                    if let Some(damage) = self.segments.damage_at(self.next) {
                        return Err(BusError::Damaged(damage.describe()));
                    }
                    continue;
                }
                _ => return Err(BusError::Read(format!("event {} is not where the log says", self.next))),
            };
            self.open = Some(open);
            if let Some(result) = result {
                return Ok(result);
            }
        }
    }

    /// Makes sure that an erased payload was erased by a redaction that names it.
    fn judge(&self, erased: Erased) -> Result<(), BusError> {
        let Some(damage) = erased.judge(&self.segments) else { return Ok(()) };
        let error = BusError::Damaged(damage.describe());
        if self.segments.mark(damage) {
            tracing::error!(seq = erased.seq, "the log is damaged; appends are refused");
        }
        Err(error)
    }

    /// Records that the file of the segment that holds the next event is gone.
    fn lost_segment(&self, head: u64) {
        let Some((segment, until)) = self.segments.of(self.next) else { return };
        let why = "the segment is missing";
        let last = Some(until.map_or(head, |next| next - 1));
        let damage =
            Damage { first: segment.first, last, segment: segment.first, offset: 0, why, resume: None };
        if self.segments.mark(damage) {
            tracing::error!(segment = segment.first, why, "the log is damaged; appends are refused");
        }
    }

    fn seek(&self, version: u64) -> io::Result<Open> {
        let (segment, until) =
            self.segments.of(self.next).ok_or_else(|| io::Error::other("no segment holds it"))?;
        let (_, offset) = segment.seek(self.next);
        let lines = Lines::new(self.segments.open(&segment)?, offset).small();
        Ok(Open { lines, segment, until, version })
    }
}

fn record(event: &Event<'_>) -> Record {
    let json = String::from_utf8_lossy(&event.e_line[event.header.json.clone()]).into_owned();
    let body = match &event.payload {
        Payload::Redacted { by } => Body::Redacted { by: *by },
        Payload::Here { salt, at } => {
            let stored = &event.d_line[at.clone()];
            // The digest has been checked, so what cannot be decoded was stored so.
            let payload = payload::decode(event.header.stored, stored).unwrap_or_else(|| stored.to_vec());
            Body::Here { payload: payload.into(), salt: *salt }
        }
    };
    Record { header: event.header.clone(), json, body }
}
