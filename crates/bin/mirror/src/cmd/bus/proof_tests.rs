//! Tests of proof documents.

use mirror_seal::{NodeKey, sign_note};

use super::*;

struct World {
    device: NodeKey,
    key: NodeKey,
    origin: String,
    headers: Vec<String>,
}

fn node(left: &Hash, right: &Hash) -> Hash {
    mirror_seal::sha256(&[&[1][..], left, right].concat())
}

fn world() -> World {
    let (device, key) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
    let origin = format!("{}.1", device.public().fingerprint());
    let header = |s| format!("{{\"v\":1,\"o\":\"{origin}\",\"s\":{s},\"k\":\"local.note\"}}");
    let headers = (1..=3).map(header).collect();
    World { device, key, origin, headers }
}

impl World {
    fn leaf(&self, at: usize) -> Hash {
        leaf(self.headers[at].as_bytes())
    }

    fn signed(&self, size: u64) -> Signed {
        let pair = node(&self.leaf(0), &self.leaf(1));
        let root = if size == 2 { pair } else { node(&pair, &self.leaf(2)) };
        let text = format!("mirrordna/{}\n{size}\n{}\n", self.origin, base64(&root));
        let note = sign_note(&self.key, &signer(&self.origin), &text).unwrap();
        Signed { note, certificate: self.certificate("checkpoint") }
    }

    fn certificate(&self, purpose: &str) -> Envelope {
        let public_key = self.key.public().to_hex();
        let said = format!("{{\"purpose\":\"{purpose}\",\"serial\":1,\"public_key\":\"{public_key}\"}}");
        Envelope::sign(&self.device, CERTIFICATE, said.as_bytes())
    }

    fn inclusion(&self) -> Inclusion {
        let checkpoint = self.signed(3);
        let root = hex(&read(&checkpoint.note).unwrap().root);
        Inclusion {
            header: self.headers[1].clone(),
            leaf: hex(&self.leaf(1)),
            index: 1,
            size: 3,
            root,
            hashes: vec![hex(&self.leaf(0)), hex(&self.leaf(2))],
            checkpoint,
        }
    }

    fn growth(&self) -> Growth {
        Growth { from: self.signed(2), to: self.signed(3), hashes: vec![hex(&self.leaf(2))] }
    }
}

#[test]
fn both_forms_of_a_proof_are_read_back_and_hold() {
    let w = world();
    let proof = w.inclusion();
    let json = serde_json::to_string(&Document::Inclusion(proof.clone())).unwrap();
    for text in [proof.text().unwrap(), json] {
        let read = Document::parse(&text).unwrap();
        assert_eq!(read, Document::Inclusion(proof.clone()));
        for trusted in [w.device.public(), w.key.public()] {
            let Proven::Inclusion { seq, subject, size, .. } = read.check(trusted).unwrap() else { panic!() };
            assert_eq!((seq, subject.as_str(), size), (2, "local.note", 3));
        }
    }
    let text = proof.text().unwrap();
    let lines: Vec<&str> = text.split('\n').collect();
    assert_eq!((lines[0], lines[2], lines[5]), (TLOG_PROOF, "index 1", ""));
    assert_eq!(lines[6], format!("mirrordna/{}", w.origin));

    let json = serde_json::to_string(&Document::Consistency(w.growth())).unwrap();
    let proven = Document::parse(&json).unwrap().check(w.device.public()).unwrap();
    assert!(matches!(proven, Proven::Consistency { from: 2, to: 3, .. }));
}

#[test]
fn every_changed_byte_of_a_document_is_refused() {
    let w = world();
    let inclusion = w.inclusion();
    let documents = [
        inclusion.text().unwrap(),
        serde_json::to_string(&Document::Inclusion(inclusion)).unwrap(),
        serde_json::to_string(&Document::Consistency(w.growth())).unwrap(),
    ];
    for text in documents {
        let proven = Document::parse(&text).unwrap().check(w.device.public()).unwrap();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            let read = Document::parse(&changed).and_then(|read| read.check(w.device.public()));
            // What nobody relies on may differ: the names that an envelope gives its keys, and the case of a space.
            assert!(read.is_err() || read == Ok(proven.clone()), "byte {at}: {read:?}");
        }
    }
}

#[test]
fn a_document_is_worth_what_the_trusted_key_says() {
    let (w, other) = (world(), world());
    let why = |document: Document, trusted| document.check(trusted).unwrap_err();
    let stranger = why(Document::Inclusion(w.inclusion()), other.device.public());
    assert!(stranger.contains("does not sign"), "{stranger}");

    let mut forged = w.inclusion();
    forged.checkpoint.certificate = w.certificate("halt");
    assert!(why(Document::Inclusion(forged), w.device.public()).contains("certificate"));
    let mut forged = w.inclusion();
    forged.checkpoint.certificate = other.certificate("checkpoint");
    assert!(why(Document::Inclusion(forged), w.device.public()).contains("certificate"));

    let mut grown = w.growth();
    grown.from = other.signed(2);
    assert!(why(Document::Consistency(grown), w.device.public()).contains("does not sign"));
    let mut swapped = w.growth();
    std::mem::swap(&mut swapped.from, &mut swapped.to);
    assert!(why(Document::Consistency(swapped), w.device.public()).contains("does not prove"));
}

#[test]
fn the_right_path_of_another_event_is_refused() {
    let w = world();
    let mut proof = w.inclusion();
    proof.header = w.headers[0].clone();
    assert!(Document::Inclusion(proof.clone()).check(w.device.public()).unwrap_err().contains("its leaf"));
    proof.leaf = hex(&w.leaf(0));
    assert!(Document::Inclusion(proof).check(w.device.public()).unwrap_err().contains("its path"));
    for (index, size) in [(0, 3), (2, 3), (1, 4), (1, 2)] {
        let wrong = Inclusion { index, size, ..w.inclusion() };
        assert!(Document::Inclusion(wrong).check(w.device.public()).is_err(), "{index} of {size}");
    }
    let many = Inclusion { hashes: vec!["00".repeat(32); 129], ..w.inclusion() };
    assert!(Document::Inclusion(many).check(w.device.public()).unwrap_err().contains("129 hashes"));
}
