//! Reads one event at one place, and finds the next one after damage. It changes nothing, so it can be asked again.

use std::io;

use crate::chain::Chain;
use crate::erased::Redaction;
use crate::header::{Header, Ty, VERSION, is_kept};
use crate::ids::IdKey;
use crate::line::{self, D_LIMIT, E_LIMIT, Flaw};
use crate::merkle::{Hash, leaf, sha256};
use crate::payload;
use crate::report::FindingKind;
use crate::source::{EVENT_LIMIT, Source};

/// Subject of the events that erase payloads.
const REDACTED: &[u8] = b"bus.redacted";

/// What the chain needs of a header, free of the bytes it was read from.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) newer: Option<u64>,
    /// The origin it names, unless that is known to be the origin of the log.
    pub(crate) other: Option<Box<[u8]>>,
    pub(crate) seq: u64,
    pub(crate) batch: u64,
    pub(crate) hlc: u64,
    pub(crate) is_redaction: bool,
    /// Whether its payload is never erased.
    pub(crate) is_kept: bool,
    pub(crate) id: Id,
    pub(crate) prev: Hash,
    pub(crate) leaf: Hash,
}

impl Head {
    fn new(header: &Header<'_>, bytes: &[u8], chain: &Chain) -> Self {
        let known = chain.origin.as_ref().is_some_and(|own| own.as_bytes() == header.origin);
        Self {
            newer: (header.version > VERSION).then_some(header.version),
            other: (!known).then(|| header.origin.into()),
            seq: header.seq,
            batch: header.batch,
            hlc: header.hlc,
            is_redaction: header.subject == REDACTED,
            is_kept: is_kept(header.subject),
            id: Id::new(header, chain),
            prev: header.prev,
            leaf: leaf(bytes),
        }
    }
}

/// Begins the ids that the bus gives, before the sequence of the event; callers' may not begin so.
const OWN_ID: &[u8] = b"bus:";

/// The id of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Id {
    /// The one that the bus gives this event: no other has it as long as each of them is the one of its event.
    Own,
    /// One that the bus gives to another event.
    Misnamed,
    /// One of a caller, to be compared with those of other events.
    Caller(IdKey),
}

impl Id {
    fn new(header: &Header<'_>, chain: &Chain) -> Self {
        match header.id.strip_prefix(OWN_ID) {
            None => Self::Caller(chain.ids.key(header.id)),
            Some(seq) if line::decimal(seq) == Some((header.seq, b"")) => Self::Own,
            Some(_) => Self::Misnamed,
        }
    }
}

/// What stands after an E line.
#[derive(Debug)]
pub(crate) enum Body {
    /// A payload of so many bytes that is what the header says.
    Data(usize),
    /// Such a payload that says which payloads are erased.
    Redaction(usize, Box<Redaction>),
    /// An X line that names this redaction.
    Erased(u64),
    /// A whole line that is not what the header says.
    Wrong(Flaw),
}

/// What stands at a place.
#[derive(Debug)]
pub(crate) enum Step {
    /// Two whole lines.
    Event { head: Head, body: Body, body_at: u64, end: u64 },
    /// The end of the segment: the end of the file, or only newlines up to it.
    End,
    /// Something else. `head` is there when the E line is good and the line after it is not.
    Bad { flaw: Flaw, at: u64, head: Option<Head> },
}

/// Reads what stands at `at`, after the events that `chain` has seen.
pub(crate) fn step(
    source: &mut Source<'_>,
    at: u64,
    is_last: bool,
    chain: &Chain,
    scratch: &mut Vec<u8>,
) -> io::Result<Step> {
    // The window is moved when it does not hold the event, not when it might not.
    let ends = line_ends(source.view(at, SMALL)?);
    let view = source.view(at, if ends.is_some() { 0 } else { EVENT_LIMIT })?;
    let (e_end, d_end) = ends.unzip();
    if view.is_empty() {
        return Ok(Step::End);
    }
    if view[0] == b'\n' {
        if is_last && source.is_fill(at)? {
            return Ok(Step::End);
        }
        let why = if is_last { "an empty line stands before the end of the log" } else { SEALED };
        let flaw = Flaw::torn(FindingKind::ContentAfterEnd, why);
        return Ok(Step::Bad { flaw, at, head: None });
    }
    let (header, bytes, e_len) = match event_line(view, e_end, chain.origin.as_deref()) {
        Ok(found) => found,
        Err(flaw) => return Ok(Step::Bad { flaw, at, head: None }),
    };
    let head = Head::new(&header, bytes, chain);
    let body_at = at + e_len as u64;
    match body(&header, &view[e_len..], d_end, chain, scratch) {
        Ok((body, len)) => Ok(Step::Event { head, body, body_at, end: body_at + len as u64 }),
        Err(flaw) => Ok(Step::Bad { flaw, at: body_at, head: Some(head) }),
    }
}

/// Bytes that most events fit in.
const SMALL: usize = 2 << 10;

/// Returns the lengths of the first two lines of a view, when both end in it.
#[inline]
fn line_ends(view: &[u8]) -> Option<(usize, usize)> {
    let near = &view[..view.len().min(SMALL)];
    let first = memchr::memchr(b'\n', near)?;
    let second = memchr::memchr(b'\n', &near[first + 1..])?;
    Some((first, second))
}

const SEALED: &str = "an empty line stands in a sealed segment, which ends after its last event";

/// Reads an E line with its newline; returns the header, its bytes, and the length of the whole.
fn event_line<'v>(
    view: &'v [u8],
    end: Option<usize>,
    own: Option<&str>,
) -> Result<(Header<'v>, &'v [u8], usize), Flaw> {
    let line = until_newline(view, end, E_LIMIT, "E")?;
    let bytes = line::event(line)?;
    let header = Header::parse(bytes, own).map_err(|why| Flaw::damage(FindingKind::BadHeader, why))?;
    Ok((header, bytes, line.len() + 1))
}

/// Reads the line after an E line; returns what it is and its length with the newline.
fn body(
    header: &Header<'_>,
    view: &[u8],
    end: Option<usize>,
    chain: &Chain,
    scratch: &mut Vec<u8>,
) -> Result<(Body, usize), Flaw> {
    let missing = |what| Flaw::torn(FindingKind::PayloadMissing, what);
    match view.first() {
        None => return Err(missing("the file ends after the E line")),
        Some(b'\n') => return Err(missing("an empty line follows the E line")),
        Some(b'E') if view.starts_with(b"E ") => return Err(missing("another E line follows the E line")),
        Some(_) => {}
    }
    let line = until_newline(view, end, D_LIMIT, "D or X")?;
    let body = match line[0] {
        b'X' => Body::Erased(line::erased(line, header.len)?),
        _ => match line::data(line) {
            Ok(data) => match matched(header, &data, scratch) {
                Body::Data(len) if header.subject == REDACTED => {
                    Body::Redaction(len, Box::new(chain.redaction(data.payload)))
                }
                body => body,
            },
            Err(flaw) if flaw.torn => return Err(flaw),
            Err(flaw) => Body::Wrong(flaw),
        },
    };
    Ok((body, line.len() + 1))
}

fn matched(header: &Header<'_>, data: &line::Data<'_>, scratch: &mut Vec<u8>) -> Body {
    if data.payload.len() != header.len {
        let why = format!("the payload has {} bytes, its header says {}", data.payload.len(), header.len);
        return Body::Wrong(Flaw::damage(FindingKind::BadLength, why));
    }
    if sha256(&data.salt, data.payload) != header.digest {
        let why = "the payload is not the one that its header commits to";
        return Body::Wrong(Flaw::damage(FindingKind::PayloadDigest, why));
    }
    let ty = if header.version > VERSION { Ty::Newer } else { header.ty };
    match payload::check(ty, data, scratch) {
        Ok(()) => Body::Data(data.payload.len()),
        Err(why) => Body::Wrong(Flaw::damage(FindingKind::PayloadForm, why)),
    }
}

/// Returns the line at the front of `view`, without its newline, when it has at most `limit` bytes; `end` is its length
/// where that is known and small.
#[inline]
fn until_newline<'v>(view: &'v [u8], end: Option<usize>, limit: usize, name: &str) -> Result<&'v [u8], Flaw> {
    if let Some(end) = end {
        return Ok(&view[..end]);
    }
    let reach = &view[..view.len().min(limit + 1)];
    match memchr::memchr(b'\n', reach) {
        Some(end) => Ok(&view[..end]),
        None if view.len() <= limit => {
            Err(Flaw::torn(FindingKind::BadLine, format!("the file ends within the {name} line")))
        }
        None => {
            let why = format!("the {name} line has no newline after the {limit} bytes it may have");
            Err(Flaw::torn(FindingKind::BadLength, why))
        }
    }
}

/// A whole E line found after damage.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) offset: u64,
    pub(crate) seq: u64,
    pub(crate) batch: u64,
    pub(crate) origin: Box<[u8]>,
}

/// Returns the first whole E line from `at` on that `wanted` accepts, wherever in a line it begins: damage may have
/// eaten the newline before it.
pub(crate) fn find(
    source: &mut Source<'_>,
    at: u64,
    mut wanted: impl FnMut(&Found) -> bool,
) -> io::Result<Option<Found>> {
    let mut offset = at;
    loop {
        let view = source.view(offset, E_LIMIT + 1)?;
        if view.is_empty() {
            return Ok(None);
        }
        let Some(skip) = memchr::memchr(b'E', view) else {
            offset += view.len() as u64;
            continue;
        };
        if skip > 0 {
            offset += skip as u64;
            continue;
        }
        if view.starts_with(b"E ")
            && let Ok((header, _, len)) = event_line(view, None, None)
        {
            let found = Found { offset, seq: header.seq, batch: header.batch, origin: header.origin.into() };
            if wanted(&found) {
                return Ok(Some(found));
            }
            offset += len as u64;
            continue;
        }
        offset += 1;
    }
}
