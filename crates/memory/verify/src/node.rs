//! `node.json`: which device a bus folder belongs to.

use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::findings::Findings;
use crate::folder::open;
use crate::header::is_origin;
use crate::merkle::hex;
use crate::report::FindingKind;

const LIMIT: u64 = 4096;

/// A device, as its `node.json` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) origin: String,
    pub(crate) key: [u8; 32],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u64,
    origin: String,
    public_key: String,
}

#[derive(Deserialize)]
struct Format {
    format: u64,
}

impl Node {
    /// Reads the file of a folder; what is wrong with it is a finding.
    pub(crate) fn read(dir: &Path, findings: &mut Findings) -> Option<Self> {
        let mut text = Vec::new();
        let read = open(&dir.join("node.json")).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut text));
        let result = match read {
            Err(error) => Err((FindingKind::BadNode, format!("cannot be read: {error}"))),
            Ok(_) => parse(&text),
        };
        match result {
            Ok(node) => Some(node),
            Err((kind, why)) => {
                findings.add_named(kind, "node.json".to_owned(), 0, None, why);
                None
            }
        }
    }

    /// Reads the file of a folder where there is a good one.
    pub(crate) fn quiet(dir: &Path) -> Option<Self> {
        Self::read(dir, &mut Findings::default())
    }

    /// Returns whether the device writes the log of an origin, in this epoch or another.
    pub(crate) fn is_device_of(&self, origin: &str) -> bool {
        self.origin.split('.').next() == origin.split('.').next()
    }
}

fn parse(text: &[u8]) -> Result<Node, (FindingKind, String)> {
    let bad = |why: String| (FindingKind::BadNode, why);
    if text.len() as u64 > LIMIT {
        return Err(bad(format!("is longer than {LIMIT} bytes")));
    }
    let form = |error: serde_json::Error| bad(format!("is not {{format, origin, public_key}}: {error}"));
    let format = serde_json::from_slice::<Format>(text).map_err(form)?.format;
    if format > 1 {
        let why = format!("is of format {format}; update this program before writing here");
        return Err((FindingKind::NewerVersion, why));
    }
    let file: File = serde_json::from_slice(text).map_err(form)?;
    if file.format != 1 {
        return Err(bad(format!("has the format {}, the first is 1", file.format)));
    }
    if !is_origin(file.origin.as_bytes()) {
        return Err(bad("has an origin that is not <16 hex digits>.<epoch>".to_owned()));
    }
    let key = unhex(&file.public_key)
        .ok_or_else(|| bad("has a public_key that is not 64 lower-case hex digits".to_owned()))?;
    let digest: [u8; 32] = Sha256::digest(key).into();
    if !file.origin.starts_with(&hex(&digest[..8])) {
        return Err(bad("has an origin that is not the fingerprint of its public_key".to_owned()));
    }
    Ok(Node { origin: file.origin, key })
}

/// Reads 32 bytes of 64 lower-case hex digits.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
