//! Logs of a real bus, tampered with in every way that docs/VERIFY.md names: what is found, and where.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod forge;
mod live;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use mirror_bus::bench::Engine;
use mirror_bus::{Config, RealDisk};
use mirror_types::{Origin, Subject};
use mirror_verify::{FindingKind, Note, Options, Report, verify_with};
use sha2::{Digest as _, Sha256};

const EVENTS: u64 = 150;

/// Sizes that are signed.
const SIGNED: [u64; 3] = [40, 90, EVENTS];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn device() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

fn witness() -> SigningKey {
    SigningKey::from_bytes(&[4; 32])
}

fn fingerprint() -> String {
    hex(&Sha256::digest(device().verifying_key().as_bytes())[..8])
}

fn origin() -> Origin {
    Origin::parse(&format!("{}.1", fingerprint())).unwrap()
}

fn envelope(key: &SigningKey, ty: &str, said: &str) -> String {
    let message = format!("DSSEv1 {} {ty} {} {said}", ty.len(), said.len());
    let sig = STANDARD.encode(key.sign(message.as_bytes()).to_bytes());
    let said = STANDARD.encode(said);
    serde_json::json!({ "payload": said, "payloadType": ty, "signatures": [{ "keyid": "", "sig": sig }] })
        .to_string()
}

/// Returns a signed checkpoint.
fn note(key: &SigningKey, size: u64, root_hex: &str) -> String {
    let bytes: Vec<u8> =
        (0..64).step_by(2).map(|at| u8::from_str_radix(&root_hex[at..at + 2], 16).unwrap()).collect();
    let text = format!("mirrordna/{}\n{size}\n{}\n", origin().as_str(), STANDARD.encode(bytes));
    let name = format!("mirrordna/{}", fingerprint());
    let id = [name.as_bytes(), b"\n\x01", key.verifying_key().as_bytes()].concat();
    let blob = [&Sha256::digest(id)[..4], &key.sign(text.as_bytes()).to_bytes()].concat();
    format!("{text}\n\u{2014} {name} {}\n", STANDARD.encode(blob))
}

/// A bus folder with what vouches for it.
struct Place(tempfile::TempDir);

impl Place {
    fn empty() -> Self {
        let place = Self(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap());
        for name in ["bus", "bus/log"] {
            mirror_paths::private_dir(&place.0.path().join(name)).unwrap();
        }
        let key = hex(device().verifying_key().as_bytes());
        let node =
            format!("{{\"format\":1,\"origin\":\"{}\",\"public_key\":\"{key}\"}}\n", origin().as_str());
        fs::write(place.bus().join("node.json"), node).unwrap();
        place
    }

    /// A log of a real bus in several segments, with signed checkpoints.
    fn whole() -> Self {
        let place = Self::empty();
        place.append(&place.open(), 1..=EVENTS);
        place.sign();
        place
    }

    fn bus(&self) -> PathBuf {
        self.0.path().join("bus")
    }

    fn log(&self) -> PathBuf {
        self.bus().join("log").join(origin().as_str())
    }

    fn notes(&self) -> PathBuf {
        self.bus().join("checkpoints").join(origin().as_str())
    }

    fn open(&self) -> Engine {
        let config =
            Config { segment_first_kib: 64, segment_max_kib: 64, disk_reserve_mib: 0, ..Config::default() };
        Engine::open(&self.bus(), &origin(), &config, Arc::new(RealDisk)).unwrap().0
    }

    fn append(&self, engine: &Engine, which: std::ops::RangeInclusive<u64>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let subject = Subject::parse("local.note").unwrap();
        for n in which {
            let payload = format!("{{\"n\":{n},\"text\":\"{}\"}}", "lorem ipsum ".repeat(90));
            runtime.block_on(engine.append(&subject, Some(&format!("id-{n}")), payload.into())).unwrap();
        }
        engine.close();
    }

    /// Writes the list of keys, and checkpoints of the log as it is.
    fn sign(&self) {
        let key = hex(witness().verifying_key().as_bytes());
        let said =
            format!("{{\"purpose\":\"checkpoint\",\"serial\":1,\"public_key\":\"{key}\",\"created_ms\":1}}");
        let certificate = envelope(&device(), "application/vnd.mirrordna.key.v1+json", &said);
        let row = serde_json::json!({ "purpose": "checkpoint", "serial": 1, "public_key": key, "created_ms": 1,
            "certificate": certificate });
        let list = serde_json::json!({ "format": 1, "keys": [row] });
        fs::create_dir_all(self.0.path().join("keys")).unwrap();
        fs::write(self.0.path().join("keys/keys.json"), list.to_string()).unwrap();
        fs::create_dir_all(self.notes()).unwrap();
        let options = Options { marks: SIGNED.to_vec(), ..Options::default() };
        for root in &verify_with(&self.bus(), &options, &mut |_| {}).unwrap().origins[0].roots {
            let note = note(&witness(), root.size, &root.root_hex);
            fs::write(self.notes().join(format!("{:020}.note", root.size)), &note).unwrap();
            fs::write(self.notes().join("latest"), note).unwrap();
        }
    }

    /// Returns a copy of all of it.
    fn copy(&self) -> Self {
        let place = Self(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap());
        for name in ["bus", "keys"] {
            copy(&self.0.path().join(name), &place.0.path().join(name));
        }
        place
    }

    fn report(&self) -> Report {
        self.report_with(Vec::new())
    }

    fn report_with(&self, notes: Vec<Note>) -> Report {
        verify_with(&self.bus(), &Options { notes, ..Options::default() }, &mut |_| {}).unwrap()
    }

    /// Returns the first sequences of the segments.
    fn firsts(&self) -> Vec<u64> {
        let mut firsts: Vec<u64> = fs::read_dir(self.log())
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".seg")?.parse().ok())
            .collect();
        firsts.sort_unstable();
        firsts
    }

    fn segment(&self, first: u64) -> PathBuf {
        self.log().join(format!("{first:020}.seg"))
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.metadata().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Returns what was found: kind, first and last event, 0 where they are not known.
fn found(report: &Report) -> Vec<(FindingKind, u64, u64)> {
    let all = report.findings.iter().chain(report.origins.iter().flat_map(|log| &log.findings));
    all.map(|f| (f.kind, f.first_seq.unwrap_or_default(), f.last_seq.unwrap_or_default())).collect()
}
