//! Whether a payload is of the type that its header declares.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;

use crate::header::Ty;
use crate::line::{Data, decimal};

/// Checks a payload; `scratch` is reused from call to call.
pub(crate) fn check(ty: Ty, data: &Data<'_>, scratch: &mut Vec<u8>) -> Result<(), &'static str> {
    let payload = data.payload;
    let good = match ty {
        Ty::Json | Ty::Text if is_plain(data) => true,
        Ty::Json => text(payload).is_some_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok()),
        Ty::Text => {
            let framed = payload.len() >= 2 && payload.starts_with(b"\"") && payload.ends_with(b"\"");
            framed && text(payload).is_some_and(|text| serde_json::from_str::<String>(text).is_ok())
        }
        Ty::Base64 => {
            scratch.clear();
            STANDARD.decode_vec(payload, scratch).is_ok()
        }
        Ty::Blob => is_blob(payload),
        Ty::Newer => true,
    };
    if good {
        return Ok(());
    }
    Err(match ty {
        Ty::Json => "the payload of type json is not one JSON text in UTF-8",
        Ty::Text => "the payload of type text is not one JSON string in UTF-8",
        Ty::Base64 => "the payload of type b64 is not canonical base64 with padding",
        Ty::Blob => "the payload of type blob is not {\"blake3\":…,\"bytes\":…,\"type\":…} with a known type",
        Ty::Newer => "the payload is of an unknown type",
    })
}

/// Returns whether a payload is a JSON string without an escape; that it has no control characters was seen before.
fn is_plain(data: &Data<'_>) -> bool {
    let inside = data.payload.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
    inside.is_some_and(|inside| {
        memchr::memchr2(b'"', b'\\', inside).is_none() && (data.is_ascii || text(inside).is_some())
    })
}

fn text(payload: &[u8]) -> Option<&str> {
    std::str::from_utf8(payload).ok()
}

fn is_blob(payload: &[u8]) -> bool {
    let rest = payload.strip_prefix(b"{\"blake3\":\"").and_then(|rest| rest.split_at_checked(64));
    let Some((hash, rest)) = rest else { return false };
    let size = rest.strip_prefix(b"\",\"bytes\":").and_then(decimal);
    let Some((_, rest)) = size else { return false };
    let ty = rest.strip_prefix(b",\"type\":\"").and_then(|rest| rest.strip_suffix(b"\"}"));
    hash.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && matches!(ty, Some(b"json" | b"text" | b"binary"))
}
