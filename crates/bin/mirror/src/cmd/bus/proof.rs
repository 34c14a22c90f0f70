//! Proofs as documents: what a person keeps in a file and checks with nothing but a public key.
//!
//! That an event is in the log is a C2SP tlog-proof (<https://c2sp.org/tlog-proof>) or JSON, that the log only grew is
//! JSON; `docs/FORMAT.md` has both. It refuses whatever does not follow from the key that the reader trusts: a document's
//! own word counts for nothing. Invariant: what a document is said to prove follows from its signed checkpoints.

use mirror_seal::{
    Envelope, Hash, PublicKey, base64, hex, leaf, open_note, unbase64, unhex, verify_consistency,
    verify_inclusion,
};
use serde::{Deserialize, Serialize};

/// First line of a tlog-proof.
const TLOG_PROOF: &str = "c2sp.org/tlog-proof@v1";

/// Type of a key's certificate.
const CERTIFICATE: &str = "application/vnd.mirrordna.key.v1+json";

/// Most hashes of a proof: no tree is higher.
const HASHES: usize = 128;

/// A signed checkpoint, and the certificate of the key that signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signed {
    pub(super) note: String,
    pub(super) certificate: Envelope,
}

/// A proof that the log holds an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Inclusion {
    /// The header, as it is hashed.
    pub(super) header: String,
    /// The leaf, 64 hex digits; it follows from the header and is there for people.
    pub(super) leaf: String,
    /// Position in the tree, from 0: one less than the sequence.
    pub(super) index: u64,
    /// Size and root of the tree; the note says both.
    pub(super) size: u64,
    pub(super) root: String,
    pub(super) hashes: Vec<String>,
    pub(super) checkpoint: Signed,
}

/// A proof that the log only grew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Growth {
    pub(super) from: Signed,
    pub(super) to: Signed,
    pub(super) hashes: Vec<String>,
}

/// A document; its JSON says by `proof` which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "proof", rename_all = "lowercase")]
pub(super) enum Document {
    Inclusion(Inclusion),
    Consistency(Growth),
}

/// What a tlog-proof has beside the path: enough to compute the leaf and to find the key.
#[derive(Serialize, Deserialize)]
struct Extra {
    v: u32,
    header: String,
    certificate: Envelope,
}

/// What a document proves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "proven", rename_all = "lowercase")]
pub(super) enum Proven {
    Inclusion { origin: String, seq: u64, subject: String, leaf: String, size: u64, root: String },
    Consistency { origin: String, from: u64, from_root: String, to: u64, to_root: String },
}

/// The tree that a checkpoint is about.
#[derive(Debug, PartialEq, Eq)]
struct Tree {
    origin: String,
    size: u64,
    root: Hash,
}

fn hashes(texts: &[String]) -> Result<Vec<Hash>, String> {
    if texts.len() > HASHES {
        return Err(format!("it has {} hashes, more than any tree needs", texts.len()));
    }
    let read = texts.iter().map(|text| unhex(text)).collect::<Option<_>>();
    read.ok_or_else(|| "a hash is not 64 lower-case hex digits".to_owned())
}

/// Returns the name that signs the checkpoints of a log.
pub(super) fn signer(origin: &str) -> String {
    format!("mirrordna/{}", origin.split('.').next().unwrap_or_default())
}

/// Returns the key that a certificate of the device key certifies for checkpoints.
fn certified(certificate: &Envelope, device: PublicKey) -> Option<PublicKey> {
    #[derive(Deserialize)]
    struct Certified {
        purpose: String,
        public_key: String,
    }
    let payload = certificate.open(device, CERTIFICATE).ok()?;
    let certified: Certified = serde_json::from_slice(&payload).ok()?;
    (certified.purpose == "checkpoint").then(|| PublicKey::from_hex(&certified.public_key).ok()).flatten()
}

impl Signed {
    /// Returns the tree that the checkpoint is about, when the trusted key leads to its signature.
    fn open(&self, trusted: PublicKey) -> Result<Tree, String> {
        let tree = read(&self.note).ok_or("its checkpoint has not the three lines of one")?;
        let name = signer(&tree.origin);
        // The trusted key is the device's, or the very one that signs.
        if open_note(&self.note, &name, trusted).is_ok() {
            return Ok(tree);
        }
        if !tree.origin.starts_with(&format!("{}.", trusted.fingerprint())) {
            let (log, key) = (&tree.origin, trusted.fingerprint());
            return Err(format!("it is of the log {log}, which the trusted key {key} does not sign"));
        }
        let key = certified(&self.certificate, trusted)
            .ok_or("its certificate is none of the device key for checkpoints")?;
        match open_note(&self.note, &name, key) {
            Ok(_) => Ok(tree),
            Err(_) => Err("the signature of its checkpoint is wrong".to_owned()),
        }
    }
}

/// Reads the text of a checkpoint; whoever relies on it must have verified the note.
fn read(note: &str) -> Option<Tree> {
    let (text, _) = note.rsplit_once("\n\n")?;
    let [origin, size, root] = text.split('\n').collect::<Vec<_>>().try_into().ok()?;
    let tree = Tree {
        origin: origin.strip_prefix("mirrordna/")?.to_owned(),
        size: size.parse().ok()?,
        root: unbase64(root)?.try_into().ok()?,
    };
    (tree.size.to_string() == size).then_some(tree)
}

impl Inclusion {
    /// Returns the document as a tlog-proof.
    pub(super) fn text(&self) -> Result<String, String> {
        let certificate = self.checkpoint.certificate.clone();
        let extra = Extra { v: 1, header: self.header.clone(), certificate };
        let extra = serde_json::to_vec(&extra).map_err(|e| e.to_string())?;
        let path: String = hashes(&self.hashes)?.iter().map(|hash| format!("{}\n", base64(hash))).collect();
        let (index, note) = (self.index, &self.checkpoint.note);
        Ok(format!("{TLOG_PROOF}\nextra {}\nindex {index}\n{path}\n{note}", base64(&extra)))
    }

    fn of_text(text: &str) -> Result<Self, String> {
        let (proof, note) =
            text.split_once("\n\n").ok_or("no empty line parts the proof from its checkpoint")?;
        let mut lines = proof.split('\n').skip(1);
        let extra = lines.next().and_then(|line| unbase64(line.strip_prefix("extra ")?));
        let extra = extra.ok_or("its second line is not \"extra \" and base64")?;
        let extra: Extra = serde_json::from_slice(&extra).map_err(|e| format!("its extra data: {e}"))?;
        if extra.v != 1 {
            return Err(format!("its extra data has the form {}, and this build knows 1", extra.v));
        }
        let given = lines.next().and_then(|line| line.strip_prefix("index ")).unwrap_or_default();
        let index: u64 = given.parse().map_err(|_| "its third line is not \"index \" and a number")?;
        if index.to_string() != given {
            return Err("its index has leading zeros or a sign".to_owned());
        }
        let path = lines.map(|line| unbase64(line).filter(|hash| hash.len() == 32).map(|hash| hex(&hash)));
        let hashes = path.collect::<Option<_>>().ok_or("a line of its path is no hash in base64")?;
        let tree = read(note).ok_or("its checkpoint has not the three lines of one")?;
        let checkpoint = Signed { note: note.to_owned(), certificate: extra.certificate };
        let (leaf, root) = (hex(&leaf(extra.header.as_bytes())), hex(&tree.root));
        Ok(Self { header: extra.header, leaf, index, size: tree.size, root, hashes, checkpoint })
    }

    fn check(&self, trusted: PublicKey) -> Result<Proven, String> {
        #[derive(Deserialize)]
        struct Header {
            o: String,
            s: u64,
            k: String,
        }
        let Tree { origin, size, root } = self.checkpoint.open(trusted)?;
        if (self.size, &self.root) != (size, &hex(&root)) {
            return Err("its size and root are not those of its checkpoint".to_owned());
        }
        let found = leaf(self.header.as_bytes());
        if self.leaf != hex(&found) {
            return Err("its leaf is not the hash of its header".to_owned());
        }
        if !verify_inclusion(&found, self.index, size, &hashes(&self.hashes)?, &root) {
            return Err(format!("its path does not lead from the event to the root of {size} events"));
        }
        let header: Header = serde_json::from_str(&self.header).map_err(|e| format!("its header: {e}"))?;
        if (&header.o, header.s.checked_sub(1)) != (&origin, Some(self.index)) {
            return Err("its header is of another place".to_owned());
        }
        let (leaf, root) = (self.leaf.clone(), hex(&root));
        Ok(Proven::Inclusion { origin, seq: header.s, subject: header.k, leaf, size, root })
    }
}

impl Growth {
    fn check(&self, trusted: PublicKey) -> Result<Proven, String> {
        let (from, to) = (self.from.open(trusted)?, self.to.open(trusted)?);
        if from.origin != to.origin {
            return Err("its checkpoints are of two logs".to_owned());
        }
        if !verify_consistency(from.size, to.size, &hashes(&self.hashes)?, &from.root, &to.root) {
            let (from, to) = (from.size, to.size);
            return Err(format!("it does not prove that the log of {to} events begins with that of {from}"));
        }
        let (from_root, to_root) = (hex(&from.root), hex(&to.root));
        Ok(Proven::Consistency { origin: to.origin, from: from.size, from_root, to: to.size, to_root })
    }
}

impl Document {
    /// Reads a document in either form; says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(&format!("{TLOG_PROOF}\n")) {
            return Inclusion::of_text(text).map(Self::Inclusion);
        }
        serde_json::from_str(text).map_err(|e| format!("it is neither a {TLOG_PROOF} nor our JSON: {e}"))
    }

    /// Returns what the document proves to whoever trusts a key; else what is wrong with it.
    pub(super) fn check(&self, trusted: PublicKey) -> Result<Proven, String> {
        match self {
            Self::Inclusion(proof) => proof.check(trusted),
            Self::Consistency(proof) => proof.check(trusted),
        }
    }
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
