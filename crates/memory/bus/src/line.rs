//! The two lines of an event: written, and read strictly. The format is `docs/FORMAT.md`.
//!
//! It refuses every byte that the writer would not have written, so that a flipped bit shows.

use std::ops::Range;

use base64::Engine as _;
use mirror_seal::{BASE64, BASE64_UNPADDED, Hash, leaf};
use mirror_types::{Cause, EventId, Hlc, Label, Model, Origin, Subject};

/// Longest header in bytes.
pub(crate) const HEADER_LIMIT: usize = 16_384;

/// Longest D line: kind, CRC, length, salt, payload, spaces.
pub(crate) const D_LIMIT: usize = 2 + 9 + 6 + 23 + mirror_types::PAYLOAD_LIMIT;

/// Longest E line.
pub(crate) const E_LIMIT: usize = 2 + 9 + 6 + HEADER_LIMIT;

/// How the payload's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    Json,
    Text,
    Base64,
    Blob,
}

impl Stored {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Base64 => "b64",
            Self::Blob => "blob",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Json, Self::Text, Self::Base64, Self::Blob].into_iter().find(|s| s.name() == name)
    }
}

/// A parsed header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) seq: u64,
    pub(crate) batch: u64,
    pub(crate) hlc: Hlc,
    pub(crate) wall_ms: u64,
    pub(crate) subject: Subject,
    pub(crate) id: EventId,
    pub(crate) prev: Hash,
    pub(crate) stored: Stored,
    pub(crate) len: usize,
    pub(crate) digest: Hash,
    pub(crate) actor: Box<str>,
    pub(crate) model: Option<Model>,
    pub(crate) causes: Vec<Cause>,
    pub(crate) labels: Vec<Label>,
    /// Where the JSON stands in the line that was parsed.
    pub(crate) json: Range<usize>,
    pub(crate) leaf: Hash,
}

/// What an E line says that the log decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) seq: u64,
    pub(crate) batch: u64,
    pub(crate) hlc: Hlc,
    pub(crate) wall_ms: u64,
    pub(crate) prev: &'a Hash,
}

/// What an E line says that the caller decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Content<'a> {
    pub(crate) subject: &'a str,
    pub(crate) id: &'a str,
    pub(crate) stored: Stored,
    pub(crate) len: usize,
    pub(crate) digest: &'a Hash,
    /// `"actor":…` to the closing brace, as made by [`provenance`].
    pub(crate) provenance: &'a str,
}

/// Returns the end of a header from `"actor"` on.
pub(crate) fn provenance(actor: &str, model: Option<&Model>, causes: &[Cause], labels: &[Label]) -> String {
    let mut text = String::with_capacity(32 + actor.len());
    text.push_str("\"actor\":\"");
    text.push_str(actor);
    text.push('"');
    if let Some(model) = model {
        text.push_str(",\"model\":\"");
        text.push_str(model.as_str());
        text.push('"');
    }
    let mut list = |name: &str, items: &mut dyn Iterator<Item = &str>| {
        let mut open = false;
        for item in items {
            text.push_str(if open { "," } else { name });
            open = true;
            text.push('"');
            text.push_str(item);
            text.push('"');
        }
        if open {
            text.push(']');
        }
    };
    list(",\"cause\":[", &mut causes.iter().map(Cause::as_str));
    list(",\"labels\":[", &mut labels.iter().map(Label::as_str));
    text.push('}');
    text
}

/// Appends an E line; returns the leaf.
pub(crate) fn write_e(out: &mut Vec<u8>, place: &Place<'_>, content: &Content<'_>) -> Hash {
    let start = out.len();
    // Room for the kind, the CRC and the longest length; the slack is closed below.
    const ROOM: usize = 2 + 9 + 6;
    out.extend_from_slice(&[b' '; ROOM]);
    let mut prev = [0; 44];
    let mut digest = [0; 44];
    let _ = BASE64.encode_slice(place.prev, &mut prev);
    let _ = BASE64.encode_slice(content.digest, &mut digest);
    let mut number = itoa::Buffer::new();
    // Piece by piece: this stands between a caller and its acknowledgement, and formatting takes three times as long.
    for piece in [b"{\"v\":1,\"o\":\"", place.origin.as_str().as_bytes(), b"\",\"s\":"] {
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(number.format(place.seq).as_bytes());
    out.extend_from_slice(b",\"b\":");
    out.extend_from_slice(number.format(place.batch).as_bytes());
    for piece in [b",\"t\":\"", &hex::<12>(place.hlc.ms())[..], b"-", &hex::<4>(place.hlc.counter().into())] {
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(b"\",\"w\":");
    out.extend_from_slice(number.format(place.wall_ms).as_bytes());
    for piece in [",\"k\":\"", content.subject, "\",\"id\":\"", content.id, "\",\"prev\":\""] {
        out.extend_from_slice(piece.as_bytes());
    }
    out.extend_from_slice(&prev);
    for piece in
        ["\",\"ty\":\"", content.stored.name(), "\",\"dl\":", number.format(content.len), ",\"dh\":\""]
    {
        out.extend_from_slice(piece.as_bytes());
    }
    out.extend_from_slice(&digest);
    out.extend_from_slice(b"\",");
    out.extend_from_slice(content.provenance.as_bytes());
    let len = out.len() - start - ROOM;
    let hash = leaf(&out[start + ROOM..]);
    close(out, start, ROOM, b'E', len);
    hash
}

/// Fills in kind, CRC and length before a body that starts `room` bytes after `start`, and ends the line.
fn close(out: &mut Vec<u8>, start: usize, room: usize, kind: u8, len: usize) {
    let mut number = itoa::Buffer::new();
    let digits = number.format(len);
    let slack = room - (2 + 9 + digits.len() + 1);
    out.drain(start..start + slack);
    out[start] = kind;
    let at = start + 11;
    out[at..at + digits.len()].copy_from_slice(digits.as_bytes());
    let crc = crc32c::crc32c(&out[at..]);
    out[start + 2..start + 10].copy_from_slice(&hex::<8>(crc.into()));
    out.push(b'\n');
}

/// Returns the last so many lower-case hex digits of a number.
fn hex<const DIGITS: usize>(number: u64) -> [u8; DIGITS] {
    let mut text = [0; DIGITS];
    for (i, digit) in text.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * i)) as usize & 15];
    }
    text
}

/// Returns a D line.
pub(crate) fn d_line(salt: &[u8; 16], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(48 + payload.len());
    out.extend_from_slice(b"D 00000000 ");
    out.extend_from_slice(itoa::Buffer::new().format(payload.len()).as_bytes());
    out.push(b' ');
    let mut text = [0; 22];
    let _ = BASE64_UNPADDED.encode_slice(salt, &mut text);
    out.extend_from_slice(&text);
    out.push(b' ');
    out.extend_from_slice(payload);
    let crc = crc32c::crc32c(&out[11..]);
    out[2..10].copy_from_slice(&hex::<8>(crc.into()));
    out.push(b'\n');
    out
}

/// Returns the length of the line that holds a payload of `len` bytes, without its newline.
pub(crate) fn payload_line(len: usize) -> usize {
    2 + 9 + len.to_string().len() + 1 + 23 + len
}

/// Returns the line that takes the place of an erased payload of `len` bytes, without its newline.
pub(crate) fn x_line(by: u64, len: usize) -> Vec<u8> {
    let mut out = format!("X 00000000 {by:020}").into_bytes();
    out.resize(payload_line(len), b'.');
    let crc = hex::<8>(crc32c::crc32c(&out[11..]).into());
    out[2..10].copy_from_slice(&crc);
    out
}

/// Why a line is not valid.
pub(crate) type Flaw = &'static str;

/// Checks kind and CRC of a line without its newline; returns what follows the CRC, and its place.
fn body(line: &[u8], kind: u8) -> Result<(&[u8], usize), Flaw> {
    if line.len() < 12 || line[0] != kind || line[1] != b' ' || line[10] != b' ' {
        return Err("the line's form is wrong");
    }
    let rest = &line[11..];
    if line[2..10] != hex::<8>(crc32c::crc32c(rest).into()) {
        return Err("the CRC is wrong");
    }
    Ok((rest, 11))
}

fn number(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let n: u64 = text.parse().ok().filter(|_| plain)?;
    (text.len() == 1 || !text.starts_with('0')).then_some(n)
}

fn length(rest: &[u8]) -> Option<(usize, usize)> {
    let space = rest.iter().take(7).position(|b| *b == b' ')?;
    let n = number(std::str::from_utf8(&rest[..space]).ok()?)?;
    Some((usize::try_from(n).ok()?, space + 1))
}

/// Reads an E line, without its newline.
pub(crate) fn read_e(line: &[u8], origin: &Origin) -> Result<Header, Flaw> {
    let (rest, at) = body(line, b'E')?;
    let (len, skip) = length(rest).ok_or("the header's length is malformed")?;
    let json = &rest[skip..];
    if json.len() != len || len > HEADER_LIMIT {
        return Err("the header's length is wrong");
    }
    let text = std::str::from_utf8(json).map_err(|_| "the header is not UTF-8")?;
    let mut header = parse_header(text, origin).ok_or("the header's form is wrong")?;
    header.json = at + skip..line.len();
    header.leaf = leaf(json);
    Ok(header)
}

fn parse_header(text: &str, origin: &Origin) -> Option<Header> {
    let mut p = Fields(text);
    p.eat("{\"v\":1,\"o\":")?;
    if p.string()? != origin.as_str() {
        return None;
    }
    let seq = p.field(",\"s\":")?.number()?;
    let batch = p.field(",\"b\":")?.number()?;
    let hlc = Hlc::parse(p.field(",\"t\":")?.string()?)?;
    let wall_ms = p.field(",\"w\":")?.number()?;
    let subject = Subject::parse(p.field(",\"k\":")?.string()?).ok()?;
    let id = EventId::parse(p.field(",\"id\":")?.string()?).ok()?;
    let prev = hash(p.field(",\"prev\":")?.string()?)?;
    let stored = Stored::parse(p.field(",\"ty\":")?.string()?)?;
    let len = usize::try_from(p.field(",\"dl\":")?.number()?).ok()?;
    let digest = hash(p.field(",\"dh\":")?.string()?)?;
    let actor = p.field(",\"actor\":")?.string()?.into();
    let model = if p.eat(",\"model\":").is_some() { Some(Model::parse(p.string()?).ok()?) } else { None };
    let causes = p.list(",\"cause\":[", |t| Cause::parse(t).ok())?;
    let labels = p.list(",\"labels\":[", |t| Label::parse(t).ok())?;
    let sorted = labels.windows(2).all(|pair| pair[0] < pair[1]);
    let valid =
        p.0 == "}" && sorted && seq > 0 && batch > 0 && batch <= seq && len <= mirror_types::PAYLOAD_LIMIT;
    valid.then_some(Header {
        seq,
        batch,
        hlc,
        wall_ms,
        subject,
        id,
        prev,
        stored,
        len,
        digest,
        actor,
        model,
        causes,
        labels,
        json: 0..0,
        leaf: [0; 32],
    })
}

fn hash(text: &str) -> Option<Hash> {
    let mut bytes = [0; 33];
    let n = BASE64.decode_slice(text, &mut bytes).ok()?;
    (n == 32 && text.len() == 44).then(|| {
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[..32]);
        hash
    })
}

struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn eat(&mut self, part: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(part)?;
        Some(())
    }

    fn field(&mut self, part: &str) -> Option<&mut Self> {
        self.eat(part).map(|()| self)
    }

    fn string(&mut self) -> Option<&'a str> {
        let rest = self.0.strip_prefix('"')?;
        let end = rest.find('"')?;
        let text = &rest[..end];
        // No header string needs an escape, so none may have one.
        if text.contains('\\') || text.bytes().any(|b| !(0x20..0x7f).contains(&b)) {
            return None;
        }
        self.0 = &rest[end + 1..];
        Some(text)
    }

    fn number(&mut self) -> Option<u64> {
        let end = self.0.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(self.0.len());
        let n = number(&self.0[..end])?;
        self.0 = &self.0[end..];
        Some(n)
    }

    fn list<T>(&mut self, open: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        let mut items = Vec::new();
        if self.eat(open).is_none() {
            return Some(items);
        }
        loop {
            items.push(parse(self.string()?)?);
            if items.len() > mirror_types::LIST_LIMIT {
                return None;
            }
            if self.eat("]").is_some() {
                return Some(items);
            }
            self.eat(",")?;
        }
    }
}

/// What stands after an E line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    /// The salt, and where the payload stands in the line.
    Here { salt: [u8; 16], at: Range<usize> },
    /// Erased by the event of this sequence.
    Redacted { by: u64 },
}

/// Reads the line after an E line, without its newline.
pub(crate) fn read_d(line: &[u8], header: &Header) -> Result<Payload, Flaw> {
    if line.first() == Some(&b'X') {
        return read_x(line, header);
    }
    let (rest, at) = body(line, b'D')?;
    let (len, skip) = length(rest).ok_or("the payload's length is malformed")?;
    let rest = &rest[skip..];
    if rest.len() < 23 || rest[22] != b' ' {
        return Err("the salt is malformed");
    }
    let mut salt = [0; 18];
    let n = BASE64_UNPADDED.decode_slice(&rest[..22], &mut salt).map_err(|_| "the salt is malformed")?;
    let payload = &rest[23..];
    if n != 16 || payload.len() != len || len != header.len {
        return Err("the payload's length is wrong");
    }
    let mut short = [0; 16];
    short.copy_from_slice(&salt[..16]);
    if mirror_seal::salted(&short, payload) != header.digest {
        return Err("the payload is not what the header commits to");
    }
    Ok(Payload::Here { salt: short, at: at + skip + 23..line.len() })
}

fn read_x(line: &[u8], header: &Header) -> Result<Payload, Flaw> {
    let (rest, _) = body(line, b'X')?;
    if line.len() != payload_line(header.len) || rest.len() < 20 || rest[20..].iter().any(|b| *b != b'.') {
        return Err("the erased line's form is wrong");
    }
    let text = std::str::from_utf8(&rest[..20]).map_err(|_| "the erased line's form is wrong")?;
    let by: u64 = text.parse().map_err(|_| "the erased line's form is wrong")?;
    if by > header.seq && text.bytes().all(|b| b.is_ascii_digit()) {
        Ok(Payload::Redacted { by })
    } else {
        Err("the erased line names no later event")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, any, prop, proptest};

    pub(crate) fn sample(payload: &[u8]) -> (Origin, Vec<u8>, Hash) {
        let origin = Origin::parse("0123456789abcdef.1").unwrap();
        let label = [Label::parse("a").unwrap(), Label::parse("b.c").unwrap()];
        let cause = [Cause::parse("0123456789abcdef.1/3").unwrap()];
        let model = Model::parse("m/1").unwrap();
        let salt = [7; 16];
        let digest = mirror_seal::salted(&salt, payload);
        let place = Place {
            origin: &origin,
            seq: 42,
            batch: 40,
            hlc: Hlc::new(1_000, 3),
            wall_ms: 1_001,
            prev: &[9; 32],
        };
        let content = Content {
            subject: "local.note",
            id: "bus:42",
            stored: Stored::Text,
            len: payload.len(),
            digest: &digest,
            provenance: &provenance("local", Some(&model), &cause, &label),
        };
        let mut out = Vec::new();
        let leaf = write_e(&mut out, &place, &content);
        out.extend_from_slice(&d_line(&salt, payload));
        (origin, out, leaf)
    }

    fn read(origin: &Origin, bytes: &[u8]) -> Result<(Header, Payload), Flaw> {
        let mut lines = bytes.split(|b| *b == b'\n');
        let header = read_e(lines.next().unwrap_or_default(), origin)?;
        let payload = read_d(lines.next().unwrap_or_default(), &header)?;
        let end: Vec<_> = lines.collect();
        if end.len() == 1 && end[0].is_empty() { Ok((header, payload)) } else { Err("more lines") }
    }

    #[test]
    fn an_event_survives_its_lines() {
        let (origin, bytes, leaf) = sample(b"\"hi\"");
        let (header, payload) = read(&origin, &bytes).unwrap();
        assert_eq!((header.seq, header.batch, header.wall_ms), (42, 40, 1_001));
        assert_eq!(header.leaf, leaf);
        assert_eq!(header.labels.len(), 2);
        assert_eq!(header.model.unwrap().as_str(), "m/1");
        let d = bytes.split(|b| *b == b'\n').nth(1).unwrap();
        match payload {
            Payload::Here { at, .. } => assert_eq!(&d[at], b"\"hi\""),
            Payload::Redacted { .. } => panic!("the payload is here"),
        }
    }

    #[test]
    fn every_flipped_bit_shows() {
        let (origin, bytes, _) = sample(b"\"hello, world\"");
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(read(&origin, &bad).is_err(), "bit {bit} of byte {at} is not seen");
            }
        }
    }

    #[test]
    fn an_erased_line_is_read_at_equal_length_only() {
        let (origin, bytes, _) = sample(b"");
        let e_end = bytes.iter().position(|b| *b == b'\n').unwrap();
        let header = read_e(&bytes[..e_end], &origin).unwrap();
        let erased = x_line(50, 0);
        assert_eq!(erased.len(), bytes.len() - e_end - 2, "an empty payload has room for it too");
        assert_eq!(read_d(&erased, &header), Ok(Payload::Redacted { by: 50 }));
        assert!(read_d(&x_line(50, 1), &header).is_err());
        assert!(read_d(&x_line(42, 0), &header).is_err(), "an event cannot erase itself");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn garbage_is_refused_without_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let origin = Origin::parse("0123456789abcdef.1").unwrap();
            assert!(read_e(&line, &origin).is_err());
            let (_, bytes, _) = sample(b"1");
            let e_end = bytes.iter().position(|b| *b == b'\n').unwrap();
            let header = read_e(&bytes[..e_end], &origin).unwrap();
            assert!(read_d(&line, &header).is_err());
        }
    }
}
