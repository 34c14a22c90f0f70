//! Payloads: checked, put on one line, and back.

use base64::Engine as _;
use bytes::Bytes;
use mirror_seal::BASE64;
use mirror_types::PAYLOAD_LIMIT;

use crate::error::BusError;
use crate::line::Stored;

fn invalid(why: impl Into<String>) -> BusError {
    BusError::Event { field: "payload".to_owned(), why: why.into() }
}

/// Returns the stored bytes of a payload.
pub(crate) fn encode(stored: Stored, payload: Bytes) -> Result<Bytes, BusError> {
    // Checked before any work; escaping only makes it longer.
    if payload.len() > PAYLOAD_LIMIT {
        return Err(too_long(payload.len()));
    }
    let bytes = match stored {
        Stored::Json => json(payload)?,
        Stored::Text => {
            let text = utf8(&payload)?;
            Bytes::from(serde_json::to_vec(text).map_err(|e| invalid(e.to_string()))?)
        }
        Stored::Base64 => Bytes::from(BASE64.encode(&payload)),
        Stored::Blob => blob(&payload)?,
    };
    if bytes.len() > PAYLOAD_LIMIT { Err(too_long(bytes.len())) } else { Ok(bytes) }
}

fn too_long(len: usize) -> BusError {
    invalid(format!(
        "has {len} bytes as stored and the limit is {PAYLOAD_LIMIT}; store it with BlobsService.PutBlob and append an event of type blob"
    ))
}

fn utf8(bytes: &[u8]) -> Result<&str, BusError> {
    std::str::from_utf8(bytes).map_err(|e| {
        invalid(format!("is not UTF-8 at byte {}; use type binary for other bytes", e.valid_up_to()))
    })
}

fn json(payload: Bytes) -> Result<Bytes, BusError> {
    let text = utf8(&payload)?;
    if let Err(e) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        return Err(invalid(format!("is not JSON at byte {}: {}", offset(text, &e), plain(&e))));
    }
    if let Some(at) = too_deep(&payload) {
        return Err(invalid(format!("is nested deeper than {DEPTH} levels at byte {at}")));
    }
    let breaks = |b: u8| matches!(b, b'\n' | b'\r' | b'\t');
    if memchr::memchr3(b'\n', b'\r', b'\t', &payload).is_none() {
        return Ok(payload);
    }
    // Valid JSON has these bytes only between tokens, where a space means the same.
    Ok(payload.iter().map(|b| if breaks(*b) { b' ' } else { *b }).collect())
}

/// Levels of arrays and objects that a payload may have.
const DEPTH: usize = 128;

/// Returns where valid JSON is nested too deeply.
fn too_deep(json: &[u8]) -> Option<usize> {
    // Nearly all have fewer brackets than levels are allowed, and these are counted many bytes at a time.
    if json.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() <= DEPTH {
        return None;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in json.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > DEPTH {
                    return Some(at);
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

fn offset(text: &str, error: &serde_json::Error) -> usize {
    let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    (before + error.column().saturating_sub(1)).min(text.len())
}

fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct BlobRef {
    blake3: String,
    bytes: u64,
    r#type: String,
}

fn blob(payload: &[u8]) -> Result<Bytes, BusError> {
    const FORM: &str =
        r#"must be {"blake3":"<64 lower-case hex digits>","bytes":<size>,"type":"json"|"text"|"binary"}"#;
    let blob: BlobRef =
        serde_json::from_slice(payload).map_err(|e| invalid(format!("{FORM}: {}", plain(&e))))?;
    let known = matches!(blob.r#type.as_str(), "json" | "text" | "binary");
    if !known || mirror_seal::unhex::<32>(&blob.blake3).is_none() {
        return Err(invalid(FORM));
    }
    serde_json::to_vec(&blob).map(Bytes::from).map_err(|e| invalid(e.to_string()))
}

/// Returns the payload of stored bytes that have passed their digest.
pub(crate) fn decode(stored: Stored, bytes: &[u8]) -> Option<Vec<u8>> {
    match stored {
        Stored::Json | Stored::Blob => Some(bytes.to_vec()),
        Stored::Text => serde_json::from_slice::<String>(bytes).ok().map(String::into_bytes),
        Stored::Base64 => BASE64.decode(bytes).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, any, prop, proptest};

    #[track_caller]
    fn check(stored: Stored, payload: &[u8], expected: Result<&[u8], &str>) {
        let result = encode(stored, Bytes::copy_from_slice(payload));
        match (result, expected) {
            (Ok(bytes), Ok(want)) => assert_eq!(bytes, want),
            (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{e}"),
            (result, _) => panic!("{result:?}"),
        }
    }

    #[test]
    fn payloads_are_put_on_one_line_or_refused() {
        check(Stored::Json, b"{\"a\":1}", Ok(b"{\"a\":1}"));
        check(Stored::Json, b"{\n\t\"a\": 1\r\n}", Ok(b"{  \"a\": 1  }"));
        check(Stored::Json, b"{\"a\":\n\n!}", Err("at byte 7"));
        check(Stored::Json, b"", Err("at byte 0"));
        check(Stored::Json, b"\"\xff\"", Err("is not UTF-8 at byte 1"));
        let nested = |n: usize| ["[".repeat(n), "]".repeat(n)].concat();
        check(Stored::Json, nested(128).as_bytes(), Ok(nested(128).as_bytes()));
        check(Stored::Json, nested(129).as_bytes(), Err("deeper than 128 levels at byte 128"));
        let quoted = format!("\"{}\\\"\"", "[".repeat(300));
        check(Stored::Json, quoted.as_bytes(), Ok(quoted.as_bytes()));
        check(Stored::Json, b"1 2", Err("trailing characters"));
        check(Stored::Text, b"a\n\"b\"", Ok(b"\"a\\n\\\"b\\\"\""));
        check(Stored::Text, b"\xff", Err("is not UTF-8 at byte 0"));
        check(Stored::Base64, b"\x00\xff", Ok(b"AP8="));
        check(Stored::Blob, b"{\"blake3\":\"no\"}", Err("must be {"));
        check(Stored::Base64, &[0; 60_000], Err("PutBlob"));
        check(Stored::Text, &[b'x'; 65_537], Err("PutBlob"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn text_and_bytes_survive(text in ".*", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let stored = encode(Stored::Text, Bytes::from(text.clone())).unwrap();
            assert!(!stored.contains(&b'\n'));
            assert_eq!(decode(Stored::Text, &stored).unwrap(), text.as_bytes());
            let stored = encode(Stored::Base64, Bytes::from(bytes.clone())).unwrap();
            assert_eq!(decode(Stored::Base64, &stored).unwrap(), bytes);
        }
    }
}
