//! Whose signatures count: the device key of `node.json`, and what it signed for.
//!
//! `keys/keys.json` has certificates for the keys that sign checkpoints, `halt/keys` the keys whose owner may erase. A
//! home has both folders beside `bus/`, an export in itself, and the log of another device under `origins/<origin>/`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::Deserialize;

use crate::findings::Findings;
use crate::folder::open;
use crate::node::{Node, unhex};
use crate::report::FindingKind;

/// Most bytes that are read of a file of keys or of a note.
const LIMIT: u64 = 1 << 20;

/// Folder of what is known of other devices, in the bus folder.
const ORIGINS: &str = "origins";

const CERTIFICATE: &str = "application/vnd.mirrordna.key.v1+json";
const RELEASE: &str = "application/vnd.mirrordna.halt-keys.v1+json";

/// The keys that count for one log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    /// Those that the device key certified for checkpoints, retired ones too; none when there is no list.
    pub(crate) checkpoint: Option<Vec<VerifyingKey>>,
    /// Those whose owner may have payloads erased; none when there is no list.
    pub(crate) release: Option<Vec<VerifyingKey>>,
}

#[derive(Deserialize)]
struct List {
    keys: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    purpose: String,
    serial: u64,
    public_key: String,
    certificate: String,
}

#[derive(Deserialize)]
struct Certificate {
    purpose: String,
    serial: u64,
    public_key: String,
}

#[derive(Deserialize)]
struct Released {
    keys: Vec<Release>,
}

#[derive(Deserialize)]
struct Release {
    kind: String,
    public_key: String,
}

impl Keys {
    /// Reads the keys for the log of an origin in a bus folder; what is wrong with them is a finding.
    pub(crate) fn read(bus: &Path, node: Option<&Node>, origin: &str, findings: &mut Findings) -> Self {
        let other = bus.join(ORIGINS).join(origin);
        let own = node.filter(|node| node.is_device_of(origin)).map(|node| node.key);
        let (device, folders) = match own {
            // An import keeps what the home may have lost.
            Some(key) => (Some(key), vec![bus.to_owned(), above(bus), other]),
            None => {
                let there = Node::quiet(&other).filter(|node| node.is_device_of(origin)).map(|node| node.key);
                (there, vec![other])
            }
        };
        let Some(device) = device.and_then(|key| VerifyingKey::from_bytes(&key).ok()) else {
            return Self::default();
        };
        let mut keys = Self::default();
        for folder in folders {
            let found = list(&folder, "keys/keys.json", findings, |text| certified(text, &device));
            join(&mut keys.checkpoint, found);
            let found = list(&folder, "halt/keys", findings, |text| released(text, &device));
            join(&mut keys.release, found);
        }
        keys
    }
}

fn join(all: &mut Option<Vec<VerifyingKey>>, found: Option<Vec<VerifyingKey>>) {
    if let Some(found) = found {
        let all = all.get_or_insert_default();
        all.extend(found);
        // A home and its import have mostly the same ones.
        all.sort_unstable_by_key(VerifyingKey::to_bytes);
        all.dedup();
    }
}

fn above(bus: &Path) -> PathBuf {
    let whole = std::path::absolute(bus).unwrap_or_else(|_| bus.to_owned());
    whole.parent().map_or(whole.clone(), Path::to_owned)
}

fn list(
    folder: &Path,
    name: &str,
    findings: &mut Findings,
    parse: impl Fn(&[u8]) -> Result<Vec<VerifyingKey>, String>,
) -> Option<Vec<VerifyingKey>> {
    let result = match open(&folder.join(name)).and_then(bounded) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        // A copy of a bus folder may lie where its owner cannot look further up.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
        Err(error) => Err(format!("cannot be read: {error}")),
        Ok(text) => parse(&text),
    };
    match result {
        Ok(keys) => Some(keys),
        Err(why) => {
            findings.add_named(FindingKind::BadKeys, name.to_owned(), 0, None, why);
            None
        }
    }
}

/// Reads a whole file of at most a mebibyte.
pub(crate) fn bounded(file: File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {LIMIT} bytes")));
    }
    Ok(text)
}

/// Returns the keys for checkpoints of `keys.json`, each with a certificate that says the same.
fn certified(text: &[u8], device: &VerifyingKey) -> Result<Vec<VerifyingKey>, String> {
    let list: List = serde_json::from_slice(text).map_err(|error| format!("is no list of keys: {error}"))?;
    let mut keys = Vec::new();
    for row in list.keys {
        let (purpose, serial) = (&row.purpose, row.serial);
        let said = Envelope::parse(row.certificate.as_bytes())
            .and_then(|envelope| envelope.signed_by(CERTIFICATE, std::slice::from_ref(device)))
            .and_then(|said| serde_json::from_slice::<Certificate>(&said).ok())
            .filter(|said| {
                (&said.purpose, said.serial, &said.public_key) == (purpose, serial, &row.public_key)
            });
        if said.is_none() {
            return Err(format!("has a key, {purpose} {serial}, that the device key did not certify"));
        }
        if purpose == "checkpoint" {
            keys.extend(key(&row.public_key));
        }
    }
    Ok(keys)
}

/// Returns the keys of `halt/keys` whose owner may have payloads erased.
fn released(text: &[u8], device: &VerifyingKey) -> Result<Vec<VerifyingKey>, String> {
    let said = Envelope::parse(text)
        .and_then(|envelope| envelope.signed_by(RELEASE, std::slice::from_ref(device)))
        .ok_or("is not signed by the device key")?;
    let said: Released = serde_json::from_slice(&said).map_err(|error| format!("names no keys: {error}"))?;
    let may = |row: &&Release| matches!(row.kind.as_str(), "recovery" | "device");
    Ok(said.keys.iter().filter(may).filter_map(|row| key(&row.public_key)).collect())
}

fn key(hex: &str) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(&unhex(hex)?).ok().filter(|key| !key.is_weak())
}

/// Returns whether a key made a signature, as strictly as the standard allows.
pub(crate) fn is_by(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
    Signature::from_slice(signature).is_ok_and(|signature| key.verify_strict(message, &signature).is_ok())
}

/// A DSSE envelope: signed bytes with their type.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Envelope {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<Signed>,
}

#[derive(Debug, Clone, Deserialize)]
struct Signed {
    sig: String,
}

impl Envelope {
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// Returns the bytes, whoever signed them; nothing when the envelope is of another type.
    pub(crate) fn said(&self, payload_type: &str) -> Option<Vec<u8>> {
        (self.payload_type == payload_type).then(|| STANDARD.decode(&self.payload).ok()).flatten()
    }

    /// Returns the bytes when one of the keys signed them as this type.
    pub(crate) fn signed_by(&self, payload_type: &str, keys: &[VerifyingKey]) -> Option<Vec<u8>> {
        let said = self.said(payload_type)?;
        let mut message =
            format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), said.len()).into_bytes();
        message.extend_from_slice(&said);
        let mut signatures =
            self.signatures.iter().take(16).filter_map(|signed| STANDARD.decode(&signed.sig).ok());
        let is_signed = |signature: Vec<u8>| keys.iter().any(|key| is_by(key, &message, &signature));
        signatures.any(is_signed).then_some(said)
    }
}
