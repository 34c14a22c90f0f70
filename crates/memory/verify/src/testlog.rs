//! Writes small logs after `docs/FORMAT.md`, for tests and measurements: the format's third telling, and the plainest.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha256};

/// The device key of the test node, and the key of its owner.
pub(crate) fn device() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub(crate) fn owner() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

/// Returns a DSSE envelope as JSON.
pub(crate) fn envelope(key: &SigningKey, ty: &str, said: &str) -> String {
    let message = format!("DSSEv1 {} {ty} {} {said}", ty.len(), said.len());
    let (said, sig) = (STANDARD.encode(said), STANDARD.encode(key.sign(message.as_bytes()).to_bytes()));
    format!(
        "{{\"payload\":\"{said}\",\"payloadType\":\"{ty}\",\"signatures\":[{{\"keyid\":\"\",\"sig\":\"{sig}\"}}]}}"
    )
}

/// Returns what `halt/keys` says of a node whose owner has one key.
pub(crate) fn halt_keys() -> String {
    let key = hex(owner().verifying_key().as_bytes());
    let said = format!("{{\"keys\":[{{\"kind\":\"recovery\",\"public_key\":\"{key}\"}}]}}");
    envelope(&device(), "application/vnd.mirrordna.halt-keys.v1+json", &said)
}

/// Where an event stands in the bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) seq: u64,
    pub(crate) batch: u64,
    pub(crate) start: usize,
    pub(crate) body: usize,
    pub(crate) end: usize,
}

/// What is to be appended.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) subject: &'static str,
    pub(crate) id: Option<String>,
    pub(crate) ty: &'static str,
    pub(crate) payload: Vec<u8>,
    /// The optional keys, beginning with a comma.
    pub(crate) extra: &'static str,
}

impl Draft {
    pub(crate) fn new(subject: &'static str, ty: &'static str, payload: impl Into<Vec<u8>>) -> Self {
        Self { subject, id: None, ty, payload: payload.into(), extra: "" }
    }
}

/// A log being written.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) origin: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) spans: Vec<Span>,
    pub(crate) leaves: Vec<[u8; 32]>,
    prev: [u8; 32],
}

impl Log {
    pub(crate) fn new() -> Self {
        let print = Sha256::digest(device().verifying_key().as_bytes());
        let origin = format!("{}.1", hex(&print[..8]));
        Self { origin, bytes: Vec::new(), spans: Vec::new(), leaves: Vec::new(), prev: [0; 32] }
    }

    /// Appends drafts in one write.
    pub(crate) fn write(&mut self, drafts: &[Draft]) {
        let batch = self.next();
        for draft in drafts {
            let header = self.header(batch, draft);
            self.push(&header, &draft.payload);
        }
    }

    /// Returns the sequence of the next event.
    pub(crate) fn next(&self) -> u64 {
        self.spans.last().map_or(1, |span| span.seq + 1)
    }

    /// Returns the header that a draft would get as the next event.
    pub(crate) fn header(&self, batch: u64, draft: &Draft) -> String {
        let seq = self.next();
        let (origin, Draft { subject, ty, payload, extra, .. }) = (&self.origin, draft);
        let id = draft.id.clone().unwrap_or_else(|| format!("ev-{seq}"));
        let (prev, len) = (STANDARD.encode(self.prev), payload.len());
        let digest: [u8; 32] = Sha256::new().chain_update(salt(seq)).chain_update(payload).finalize().into();
        let (ms, digest) = (1_767_225_600_000 + seq, STANDARD.encode(digest));
        format!(
            "{{\"v\":1,\"o\":\"{origin}\",\"s\":{seq},\"b\":{batch},\"t\":\"{ms:012x}-0000\",\"w\":{ms},\
             \"k\":\"{subject}\",\"id\":\"{id}\",\"prev\":\"{prev}\",\"ty\":\"{ty}\",\"dl\":{len},\
             \"dh\":\"{digest}\",\"actor\":\"local\"{extra}}}"
        )
    }

    /// Appends a header as it is, right or wrong, and a payload, with the CRCs that they need.
    pub(crate) fn push(&mut self, header: &str, payload: &[u8]) {
        let (seq, start) = (self.next(), self.bytes.len());
        self.bytes.extend(event_line(header));
        let body = self.bytes.len();
        self.bytes.extend(data_line(&salt(seq), payload));
        let batch =
            header.split("\"b\":").nth(1).and_then(|b| b.split(',').next()?.parse().ok()).unwrap_or(seq);
        self.spans.push(Span { seq, batch, start, body, end: self.bytes.len() });
        self.prev = Sha256::new().chain_update([0]).chain_update(header).finalize().into();
        self.leaves.push(self.prev);
    }

    /// Returns the redaction of some events, signed by the owner.
    pub(crate) fn redaction(&self, events: &[u64]) -> Draft {
        self.redaction_by(&owner(), events)
    }

    pub(crate) fn redaction_by(&self, key: &SigningKey, events: &[u64]) -> Draft {
        let target = |seq: &u64| {
            let leaf =
                seq.checked_sub(1).and_then(|at| self.leaves.get(at as usize)).copied().unwrap_or_default();
            format!("{{\"seq\":{seq},\"leaf\":\"{}\"}}", hex(&leaf))
        };
        let targets = events.iter().map(target).collect::<Vec<_>>().join(",");
        let said = format!("{{\"v\":1,\"origin\":\"{}\",\"events\":[{targets}],\"at_ms\":1}}", self.origin);
        let envelope = envelope(key, "application/vnd.mirrordna.redaction.v1+json", &said);
        let payload = format!("{{\"v\":1,\"envelope\":{envelope},\"events\":{events:?}}}");
        Draft::new("bus.redacted", "json", payload)
    }

    /// Overwrites the payload of `seq` by an X line that names `by`.
    pub(crate) fn erase(&mut self, seq: u64, by: u64) {
        let Some(span) = self.spans.iter().find(|span| span.seq == seq).copied() else { return };
        let line = erased_line(by, span.end - span.body);
        self.bytes[span.body..span.end].copy_from_slice(&line);
    }

    /// Returns the bytes of the events `first` to `last`.
    pub(crate) fn events(&self, first: u64, last: u64) -> Vec<u8> {
        let inside = self.spans.iter().filter(|span| (first..=last).contains(&span.seq));
        inside.flat_map(|span| &self.bytes[span.start..span.end]).copied().collect()
    }
}

pub(crate) fn salt(seq: u64) -> [u8; 16] {
    let mut salt = [0; 16];
    salt.copy_from_slice(&Sha256::digest(seq.to_be_bytes())[..16]);
    salt
}

pub(crate) fn event_line(header: &str) -> Vec<u8> {
    line('E', format!("{} {header}", header.len()).as_bytes())
}

pub(crate) fn data_line(salt: &[u8; 16], payload: &[u8]) -> Vec<u8> {
    let mut body = format!("{} {} ", payload.len(), STANDARD_NO_PAD.encode(salt)).into_bytes();
    body.extend_from_slice(payload);
    line('D', &body)
}

/// Returns an X line of `len` bytes with its newline.
pub(crate) fn erased_line(by: u64, len: usize) -> Vec<u8> {
    let dots = ".".repeat(len.saturating_sub(11 + 20 + 1));
    line('X', format!("{by:020}{dots}").as_bytes())
}

pub(crate) fn line(tag: char, body: &[u8]) -> Vec<u8> {
    let mut line = format!("{tag} {:08x} ", crc32c::crc32c(body)).into_bytes();
    line.extend_from_slice(body);
    line.push(b'\n');
    line
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
