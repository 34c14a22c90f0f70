//! Erasing payloads and ending logs: by whose word, at which moment, and what is left after every crash.
//!
//! `MIRROR_TEST_ROUNDS` cuts redactions off at every single write.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod crash;
mod seal;
mod service;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mirror_bus::bench::Engine;
use mirror_bus::{BusError, Config, Disk, RealDisk};
use mirror_types::{Origin, Subject};

fn origin() -> Origin {
    Origin::parse("0123456789abcdef.1").unwrap()
}

fn config() -> Config {
    Config {
        segment_first_kib: 64,
        segment_max_kib: 64,
        disk_reserve_mib: 0,
        compress_after_days: 0,
        ..Config::default()
    }
}

/// A bus folder without a service.
struct Place(tempfile::TempDir);

impl Place {
    /// In memory where there is one: a log is opened often.
    fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn bus(&self) -> PathBuf {
        self.0.path().join("bus")
    }

    fn log(&self) -> PathBuf {
        self.bus().join("log").join(origin().as_str())
    }

    fn open(&self) -> Engine {
        self.open_on(Arc::new(RealDisk)).0
    }

    fn open_on(&self, disk: Arc<dyn Disk>) -> (Engine, String) {
        Engine::open(&self.bus(), &origin(), &config(), disk).unwrap()
    }
}

fn append_to(engine: &Engine, subject: &str, id: Option<&str>, payload: &str) -> Result<u64, BusError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let subject = Subject::parse(subject).unwrap();
    runtime.block_on(engine.append(&subject, id, payload.to_owned().into()))
}

fn append(engine: &Engine, n: u64) -> Result<u64, BusError> {
    append_to(engine, "local.note", Some(&format!("id-{n}")), &secret(n))
}

/// The payload of an event, which stands nowhere else.
fn secret(n: u64) -> String {
    format!("\"secret {n}: {}\"", "x".repeat(5_000))
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    mirror_paths::private_dir(to).unwrap();
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

/// Returns the files of a folder that hold some bytes, compressed segments as what they hold.
fn holding(dir: &Path, needle: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, needle));
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        if path.extension().is_some_and(|e| e == "zst") {
            bytes = zstd::decode_all(&*bytes).unwrap();
        }
        if memchr::memmem::find(&bytes, needle.as_bytes()).is_some() {
            found.push(path);
        }
    }
    found
}

/// Checks with the second reader that nothing is damaged, and returns how many payloads it takes for lawfully erased.
fn verified(bus: &Path, case: &str) -> u64 {
    let log = bus.join("log").join(origin().as_str());
    let report = mirror_verify::verify(&log, &mut |_| {}).unwrap();
    assert!(report.is_intact(), "{case}: {report:#?}");
    report.origins.iter().map(|origin| origin.redacted_count).sum()
}
