//! Requests inward, with all validation; answers outward.

use mirror_contract::mirror::keeper::v1 as pb;
use mirror_contract::timestamp;
use mirror_seal::PublicKey;

use crate::desk::fingerprint;
use crate::error::Error;
use crate::log::Record;
use crate::ring::KeyRow;

/// Longest payload, in bytes.
const PAYLOAD: usize = 64 << 10;
/// Longest text of a note, in bytes; a checkpoint has about a hundred.
const TEXT: usize = 1024;
/// Longest proof of a rotation, in bytes.
const PROOF: usize = 8 << 10;

/// Checks the size of a note's text.
pub(crate) fn text(request: pb::SignNoteRequest) -> Result<String, Error> {
    if request.text.len() > TEXT {
        return Err(Error::Note("must be at most 1,024 bytes"));
    }
    Ok(request.text)
}

/// Checks the size of a payload.
pub(crate) fn payload(request: &pb::SignEnvelopeRequest) -> Result<&[u8], Error> {
    if request.payload.is_empty() || request.payload.len() > PAYLOAD {
        return Err(Error::Payload("must be 1 to 65,536 bytes"));
    }
    Ok(&request.payload)
}

/// Checks the size of a proof.
pub(crate) fn proof(request: &pb::RotateKeyRequest) -> Result<&[u8], Error> {
    if request.proof.len() > PROOF {
        return Err(Error::Proof("must be at most 8,192 bytes"));
    }
    Ok(request.proof.as_bytes())
}

/// Returns the device key as a key on the wire.
pub(crate) fn device(key: PublicKey) -> pb::Key {
    pb::Key {
        purpose: "device".to_owned(),
        serial: 1,
        public_key: key.to_hex(),
        fingerprint: key.fingerprint(),
        ..pb::Key::default()
    }
}

impl From<&KeyRow> for pb::Key {
    fn from(row: &KeyRow) -> Self {
        Self {
            purpose: row.purpose.clone(),
            serial: row.serial,
            public_key: row.public_key.clone(),
            fingerprint: fingerprint(&row.public_key),
            created: Some(timestamp(row.created_ms)),
            retired: row.retired_ms.map(timestamp),
            certificate: row.certificate.clone(),
        }
    }
}

impl From<Record> for pb::KeeperRecord {
    fn from(Record { number, entry, hash }: Record) -> Self {
        Self {
            number,
            at: Some(timestamp(entry.at_ms)),
            act: entry.act.name().to_owned(),
            caller: entry.caller,
            r#type: entry.kind,
            key: entry.key,
            digest: entry.digest,
            reason: entry.reason,
            hash,
            size: entry.size.unwrap_or(0),
            root: entry.root,
        }
    }
}

/// Runs every check of a request on bytes that nobody wrote, for fuzzing.
#[doc(hidden)]
pub fn fuzz_wire(bytes: &[u8]) {
    if let Some(request) = mirror_contract::decode(bytes) {
        let _ = text(request);
    }
    if let Some(request) = mirror_contract::decode(bytes) {
        let _ = payload(&request);
    }
    if let Some(request) = mirror_contract::decode(bytes) {
        let _ = proof(&request);
    }
}
