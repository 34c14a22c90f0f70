//! The header of an event: a strict parser of one JSON object whose every byte is fixed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::line::{PAYLOAD_LIMIT, decimal};
use crate::merkle::Hash;

/// The version whose headers this reader knows in full.
pub(crate) const VERSION: u64 = 1;

const LIST_LIMIT: usize = 16;

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

impl<'a> Header<'a> {
    /// Reads a header; an error says which key is wrong.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let mut cursor = Cursor { bytes, at: 0 };
        let version = cursor.number("{\"v\":", 1)?;
        let origin = cursor.text(",\"o\":\"", 37, is_origin)?;
        let seq = cursor.number(",\"s\":", 1)?;
        let batch = cursor.number(",\"b\":", 1)?;
        let hlc =
            parse_hlc(cursor.text(",\"t\":\"", 17, |text| parse_hlc(text).is_some())?).unwrap_or_default();
        cursor.number(",\"w\":", 0)?;
        let subject = cursor.text(",\"k\":\"", 255, is_subject)?;
        let id = cursor.text(",\"id\":\"", 128, is_id)?;
        let prev = cursor.hash(",\"prev\":\"")?;
        let known = |text: &[u8]| version > VERSION || parse_ty(text) != Ty::Newer;
        let ty = parse_ty(cursor.text(",\"ty\":\"", 64, known)?);
        let len = match usize::try_from(cursor.number(",\"dl\":", 0)?) {
            Ok(len) if len <= PAYLOAD_LIMIT => len,
            _ => return Err(format!("the header's dl is over the limit of {PAYLOAD_LIMIT} bytes")),
        };
        let digest = cursor.hash(",\"dh\":\"")?;
        cursor.text(",\"actor\":\"", 128, is_actor)?;
        if cursor.is_at(",\"model\":") {
            cursor.text(",\"model\":\"", 128, is_model)?;
        }
        if cursor.is_at(",\"cause\":") {
            cursor.list(",\"cause\":[", 64, is_cause)?;
        }
        if cursor.is_at(",\"labels\":") {
            let labels = cursor.list(",\"labels\":[", 64, is_label)?;
            if !labels.is_sorted_by(|a, b| a < b) {
                return Err("the header's labels are not sorted and distinct".to_owned());
            }
        }
        cursor.end(version)?;
        Ok(Self { version, origin, seq, batch, hlc, subject, id, prev, ty, len, digest })
    }
}

#[derive(Debug)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    fn is_at(&self, token: &str) -> bool {
        self.bytes[self.at..].starts_with(token.as_bytes())
    }

    #[inline]
    fn skip(&mut self, token: &str) -> Result<(), String> {
        if self.is_at(token) {
            self.at += token.len();
            return Ok(());
        }
        Err(format!("the header has no {token} at byte {}: keys have a fixed order and no spaces", self.at))
    }

    #[inline]
    fn number(&mut self, key: &str, least: u64) -> Result<u64, String> {
        self.skip(key)?;
        match decimal(&self.bytes[self.at..]) {
            Some((value, rest)) if value >= least => {
                self.at = self.bytes.len() - rest.len();
                Ok(value)
            }
            _ => Err(format!("the header's {} is not a whole number from {least}", name(key))),
        }
    }

    #[inline]
    fn text(&mut self, key: &str, limit: usize, good: impl Fn(&[u8]) -> bool) -> Result<&'a [u8], String> {
        self.skip(key)?;
        let rest = &self.bytes[self.at..];
        let rest = &rest[..rest.len().min(limit + 1)];
        match memchr::memchr(b'"', rest) {
            Some(end) if good(&rest[..end]) => {
                self.at += end + 1;
                Ok(&rest[..end])
            }
            _ => Err(format!("the header's {} is not of its form", name(key))),
        }
    }

    #[inline]
    fn hash(&mut self, key: &str) -> Result<Hash, String> {
        let text = self.text(key, 44, |text| text.len() == 44)?;
        let mut bytes = [0; 36];
        match STANDARD.decode_slice(text, &mut bytes) {
            Ok(32) => {
                let mut hash = [0; 32];
                hash.copy_from_slice(&bytes[..32]);
                Ok(hash)
            }
            _ => Err(format!("the header's {} is not 32 bytes of canonical base64", name(key))),
        }
    }

    fn list(&mut self, key: &str, limit: usize, good: fn(&[u8]) -> bool) -> Result<Vec<&'a [u8]>, String> {
        self.skip(key)?;
        let mut items = Vec::with_capacity(LIST_LIMIT);
        loop {
            if items.len() == LIST_LIMIT {
                return Err(format!("the header's {} has over {LIST_LIMIT} items", name(key)));
            }
            let Ok(item) = self.text("\"", limit, good) else {
                return Err(format!(
                    "the header's {} has an item that is not of its form, or none",
                    name(key)
                ));
            };
            items.push(item);
            if self.is_at(",") {
                self.at += 1;
            } else {
                break;
            }
        }
        self.skip("]")?;
        Ok(items)
    }

    /// Checks that the object ends here, or, in a newer version, that only further keys follow.
    fn end(&self, version: u64) -> Result<(), String> {
        let rest = &self.bytes[self.at..];
        if rest == b"}" {
            return Ok(());
        }
        if version == VERSION {
            return Err(format!(
                "the header has something at byte {} that version {VERSION} does not know, or a key out of order",
                self.at
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

/// Reads `<12 hex digits>-<4 hex digits>`.
fn parse_hlc(text: &[u8]) -> Option<u64> {
    if text.len() != 17 || text[12] != b'-' {
        return None;
    }
    let mut value = 0_u64;
    for digit in text[..12].iter().chain(&text[13..]) {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = (value << 4) | u64::from(digit);
    }
    Some(value)
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

fn is_word(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')
}

/// Returns how many words of `[a-z0-9-]` are joined by single dots, none when the text is not of that form.
#[inline]
fn words(text: &[u8]) -> Option<usize> {
    let mut count = 0;
    for word in text.split(|byte| *byte == b'.') {
        if word.is_empty() || !word.iter().all(|byte| is_word(*byte)) {
            return None;
        }
        count += 1;
    }
    Some(count)
}

fn is_subject(text: &[u8]) -> bool {
    words(text).is_some_and(|count| count <= 8)
}

fn is_label(text: &[u8]) -> bool {
    words(text).is_some()
}

fn is_id(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'-'))
}

fn is_model(text: &[u8]) -> bool {
    let extra = |b: &u8| matches!(b, b'_' | b'.' | b':' | b'/' | b'@' | b'-');
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || extra(b))
}

fn is_actor(text: &[u8]) -> bool {
    let service = |name: &[u8]| !name.is_empty() && name.iter().all(|byte| is_word(*byte));
    text == b"local" || text.strip_prefix(b"svc:").is_some_and(service)
}
