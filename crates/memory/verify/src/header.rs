//! The header of an event: a strict parser of one JSON object whose every byte is fixed.

use crate::b64;
use crate::line::{PAYLOAD_LIMIT, decimal};
use crate::merkle::Hash;

/// The version whose headers this reader knows in full.
pub(crate) const VERSION: u64 = 1;

const LIST_LIMIT: usize = 16;

const LABELS: &str = ",\"labels\":[";

/// How a payload is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ty {
    Json,
    Text,
    Base64,
    Blob,
    /// A type of a newer version, of which nothing is known.
    Newer,
}

/// What verification needs of a header; the rest is checked and let go.
#[derive(Debug, Clone)]
pub(crate) struct Header<'a> {
    pub(crate) version: u64,
    pub(crate) origin: &'a [u8],
    pub(crate) seq: u64,
    pub(crate) batch: u64,
    pub(crate) hlc: u64,
    pub(crate) subject: &'a [u8],
    pub(crate) id: &'a [u8],
    pub(crate) prev: Hash,
    pub(crate) ty: Ty,
    pub(crate) len: usize,
    pub(crate) digest: Hash,
}

/// What is wrong with a header: which key, as the token before its value, and what.
#[derive(Debug, Clone, Copy)]
struct Wrong {
    key: &'static str,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Missing,
    Number(u64),
    Form,
    Hash,
    TooLong,
    TooMany,
    Item,
    Unsorted,
}

impl<'a> Header<'a> {
    /// Reads a header; an error says which key is wrong. `own` is an origin that is known to be one.
    #[inline]
    pub(crate) fn parse(bytes: &'a [u8], own: Option<&str>) -> Result<Self, String> {
        let mut cursor = Cursor { bytes, rest: bytes };
        match cursor.header(own.unwrap_or_default().as_bytes()) {
            Ok(header) => cursor.end(header.version).map(|()| header),
            Err(wrong) => Err(cursor.describe(wrong)),
        }
    }
}

#[derive(Debug)]
struct Cursor<'a> {
    bytes: &'a [u8],
    /// What is not read yet.
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    #[inline]
    fn header(&mut self, own: &[u8]) -> Result<Header<'a>, Wrong> {
        let version = self.number("{\"v\":", 1)?;
        let origin = self.text(",\"o\":\"", 37, |text| text == own || is_origin(text))?;
        let seq = self.number(",\"s\":", 1)?;
        let batch = self.number(",\"b\":", 1)?;
        let hlc = self.hlc(",\"t\":\"")?;
        self.number(",\"w\":", 0)?;
        let subject = self.text(",\"k\":\"", 255, is_subject)?;
        let id = self.class(",\"id\":\"", 128, ID)?;
        let prev = self.hash(",\"prev\":\"")?;
        let known = |text: &[u8]| version > VERSION || parse_ty(text) != Ty::Newer;
        let ty = parse_ty(self.text(",\"ty\":\"", 64, known)?);
        let len = match usize::try_from(self.number(",\"dl\":", 0)?) {
            Ok(len) if len <= PAYLOAD_LIMIT => len,
            _ => return Err(Wrong { key: ",\"dl\":", what: What::TooLong }),
        };
        let digest = self.hash(",\"dh\":\"")?;
        self.text(",\"actor\":\"", 128, is_actor)?;
        if self.rest != b"}" {
            self.optional()?;
        }
        Ok(Header { version, origin, seq, batch, hlc, subject, id, prev, ty, len, digest })
    }

    fn optional(&mut self) -> Result<(), Wrong> {
        if self.is_at(",\"model\":") {
            self.class(",\"model\":\"", 128, MODEL)?;
        }
        if self.is_at(",\"cause\":") {
            self.list(",\"cause\":[", 64, is_cause)?;
        }
        if self.is_at(",\"labels\":") {
            self.list(LABELS, 64, is_label)?;
        }
        Ok(())
    }

    #[inline]
    fn is_at(&self, token: &str) -> bool {
        self.rest.starts_with(token.as_bytes())
    }

    #[inline]
    fn skip(&mut self, token: &'static str) -> Result<(), Wrong> {
        match self.rest.strip_prefix(token.as_bytes()) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(Wrong { key: token, what: What::Missing }),
        }
    }

    #[inline]
    fn number(&mut self, key: &'static str, least: u64) -> Result<u64, Wrong> {
        self.skip(key)?;
        match decimal(self.rest) {
            Some((value, rest)) if value >= least => {
                self.rest = rest;
                Ok(value)
            }
            _ => Err(Wrong { key, what: What::Number(least) }),
        }
    }

    /// Reads `<12 hex digits>-<4 hex digits>"`.
    #[inline]
    fn hlc(&mut self, key: &'static str) -> Result<u64, Wrong> {
        self.skip(key)?;
        let value =
            self.rest.split_first_chunk::<18>().and_then(|(text, rest)| Some((parse_hlc(text)?, rest)));
        let (value, rest) = value.ok_or(Wrong { key, what: What::Form })?;
        self.rest = rest;
        Ok(value)
    }

    /// Reads one or more characters of a class, up to a quotation mark.
    #[inline]
    fn class(&mut self, key: &'static str, limit: usize, class: u8) -> Result<&'a [u8], Wrong> {
        let good = |text: &[u8]| !text.is_empty() && all_of(text, class);
        self.text(key, limit, good)
    }

    #[inline]
    fn text(
        &mut self,
        key: &'static str,
        limit: usize,
        good: impl Fn(&[u8]) -> bool,
    ) -> Result<&'a [u8], Wrong> {
        self.skip(key)?;
        let reach = &self.rest[..self.rest.len().min(limit + 1)];
        match memchr::memchr(b'"', reach) {
            Some(end) if good(&reach[..end]) => {
                self.rest = &self.rest[end + 1..];
                Ok(&reach[..end])
            }
            _ => Err(Wrong { key, what: What::Form }),
        }
    }

    #[inline]
    fn hash(&mut self, key: &'static str) -> Result<Hash, Wrong> {
        self.skip(key)?;
        let found = self.rest.split_first_chunk::<44>();
        let found = found.and_then(|(text, rest)| Some((b64::hash(text)?, rest.strip_prefix(b"\"")?)));
        let (hash, rest) = found.ok_or(Wrong { key, what: What::Hash })?;
        self.rest = rest;
        Ok(hash)
    }

    fn list(&mut self, key: &'static str, limit: usize, good: fn(&[u8]) -> bool) -> Result<(), Wrong> {
        self.skip(key)?;
        let mut before: &[u8] = b"";
        for count in 0.. {
            if count == LIST_LIMIT {
                return Err(Wrong { key, what: What::TooMany });
            }
            let item = self.text("\"", limit, good).map_err(|_| Wrong { key, what: What::Item })?;
            if key == LABELS && before >= item {
                return Err(Wrong { key, what: What::Unsorted });
            }
            before = item;
            if !self.is_at(",\"") {
                break;
            }
            self.skip(",")?;
        }
        self.skip("]")
    }

    #[cold]
    fn describe(&self, Wrong { key, what }: Wrong) -> String {
        let (at, name) = (self.bytes.len() - self.rest.len(), name(key));
        match what {
            What::Missing => {
                format!("the header has no {key} at byte {at}: keys have a fixed order and no spaces")
            }
            What::Number(least) => format!("the header's {name} is not a whole number from {least}"),
            What::Form => format!("the header's {name} is not of its form"),
            What::Hash => format!("the header's {name} is not 32 bytes of canonical base64"),
            What::TooLong => format!("the header's {name} is over the limit of {PAYLOAD_LIMIT} bytes"),
            What::TooMany => format!("the header's {name} has over {LIST_LIMIT} items"),
            What::Item => format!("the header's {name} has an item that is not of its form, or none"),
            What::Unsorted => format!("the header's {name} are not sorted and distinct"),
        }
    }

    /// Checks that the object ends here, or, in a newer version, that only further keys follow.
    #[inline]
    fn end(&self, version: u64) -> Result<(), String> {
        if self.rest == b"}" { Ok(()) } else { self.newer(version) }
    }

    #[cold]
    fn newer(&self, version: u64) -> Result<(), String> {
        let rest = self.rest;
        if version == VERSION {
            return Err(format!(
                "the header has something at byte {} that version {VERSION} does not know, or a key out of order",
                self.bytes.len() - rest.len()
            ));
        }
        let object = std::str::from_utf8(self.bytes).ok().filter(|text| {
            let plain = !text.bytes().any(|byte| byte < b' ');
            plain && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
        });
        match object {
            Some(_) if rest.starts_with(b",\"") && rest.ends_with(b"}") => Ok(()),
            _ => Err(format!("the header of version {version} is not a JSON object on one line")),
        }
    }
}

/// Returns the bare key of a token such as `,"dh":"`.
fn name(token: &str) -> &str {
    token.split('"').nth(1).unwrap_or(token)
}

/// Reads `<12 hex digits>-<4 hex digits>"`.
#[inline]
fn parse_hlc(text: &[u8; 18]) -> Option<u64> {
    let (ms, _) = text.split_first_chunk::<12>()?;
    let count: &[u8; 4] = text[13..17].first_chunk()?;
    let (mut value, mut bad) = (0_u64, 0);
    for digit in ms {
        let digit = HEX[usize::from(*digit)];
        bad |= digit;
        value = (value << 4) | u64::from(digit);
    }
    for digit in count {
        let digit = HEX[usize::from(*digit)];
        bad |= digit;
        value = (value << 4) | u64::from(digit);
    }
    (bad < 16 && text[12] == b'-' && text[17] == b'"').then_some(value)
}

fn parse_ty(text: &[u8]) -> Ty {
    match text {
        b"json" => Ty::Json,
        b"text" => Ty::Text,
        b"b64" => Ty::Base64,
        b"blob" => Ty::Blob,
        _ => Ty::Newer,
    }
}

/// Returns whether a text is an origin: 16 lower-case hex digits, a dot, an epoch from 1.
pub(crate) fn is_origin(text: &[u8]) -> bool {
    let Some((fingerprint, rest)) = text.split_at_checked(16) else { return false };
    let hex = fingerprint.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let epoch = rest.strip_prefix(b".").and_then(decimal);
    hex && epoch.is_some_and(|(epoch, rest)| epoch > 0 && rest.is_empty())
}

fn is_cause(text: &[u8]) -> bool {
    let Some(slash) = memchr::memchr(b'/', text) else { return false };
    let seq = decimal(&text[slash + 1..]);
    is_origin(&text[..slash]) && seq.is_some_and(|(seq, rest)| seq > 0 && rest.is_empty())
}

/// Classes of characters, a bit each.
const WORD: u8 = 1;
const DOT: u8 = 2;
const ID: u8 = 4;
const MODEL: u8 = 8;

const CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    loop {
        let mut class = match byte {
            b'a'..=b'z' | b'0'..=b'9' => WORD | ID | MODEL,
            b'A'..=b'Z' | b'_' | b':' => ID | MODEL,
            b'/' | b'@' => MODEL,
            _ => 0,
        };
        if byte == b'-' {
            class = WORD | ID | MODEL;
        }
        if byte == b'.' {
            class = DOT | ID | MODEL;
        }
        table[byte as usize] = class;
        if byte == 255 {
            return table;
        }
        byte += 1;
    }
}

/// The value of each lower-case hex digit, 0xff for what is none.
pub(crate) const HEX: [u8; 256] = hex_values();

const fn hex_values() -> [u8; 256] {
    let mut table = [0xff; 256];
    let mut i = 0_u8;
    while i < 16 {
        let digit = if i < 10 { b'0' + i } else { b'a' - 10 + i };
        table[digit as usize] = i;
        i += 1;
    }
    table
}

/// Returns whether all characters are of a class; without an early way out, whose place no processor can foresee.
#[inline]
fn all_of(text: &[u8], class: u8) -> bool {
    text.iter().fold(class, |all, byte| all & CLASSES[usize::from(*byte)]) != 0
}

/// Returns how many words of `[a-z0-9-]` are joined by single dots, none when the text is not of that form.
#[inline]
fn words(text: &[u8]) -> Option<usize> {
    let (mut dots, mut before, mut bad) = (0, DOT, 0);
    for byte in text {
        let class = CLASSES[usize::from(*byte)] & (WORD | DOT);
        // Neither of the two, or a dot where a word begins.
        bad |= u8::from(class == 0) | (class & before & DOT);
        dots += usize::from(class & DOT != 0);
        before = class;
    }
    (bad == 0 && before == WORD).then_some(dots + 1)
}

fn is_subject(text: &[u8]) -> bool {
    words(text).is_some_and(|count| count <= 8)
}

fn is_label(text: &[u8]) -> bool {
    words(text).is_some()
}

fn is_actor(text: &[u8]) -> bool {
    let service = |name: &[u8]| !name.is_empty() && all_of(name, WORD);
    text == b"local" || text.strip_prefix(b"svc:").is_some_and(service)
}

/// Returns whether events of a subject are never erased: folds and proofs of rights are made of them.
pub(crate) fn is_kept(subject: &[u8]) -> bool {
    let first = subject.split(|byte| *byte == b'.').next().unwrap_or_default();
    matches!(first, b"blobs" | b"bus" | b"dead" | b"halt" | b"keeper" | b"witness")
}
