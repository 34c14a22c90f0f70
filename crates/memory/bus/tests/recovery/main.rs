//! Opening a log after every kind of end, on real files: what is kept, what is cut, what is named.
//!
//! `MIRROR_TEST_ROUNDS` multiplies what is sampled for a long run.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod cold;
mod damage;
mod faults;
mod flips;
mod index;
mod repair;
mod torn;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mirror_bus::bench::Engine;
use mirror_bus::{BusError, Config, Disk, RealDisk};
use mirror_types::{Origin, Subject};

/// Returns how often to do something that is sampled.
fn rounds(normal: u64) -> u64 {
    let factor = std::env::var("MIRROR_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    normal * factor
}

fn origin() -> Origin {
    Origin::parse("0123456789abcdef.1").unwrap()
}

fn config() -> Config {
    Config { segment_first_kib: 64, segment_max_kib: 64, disk_reserve_mib: 0, ..Config::default() }
}

/// A bus folder without a service.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Returns a place in memory where there is one: for tests that open a log thousands of times.
    fn quick() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn bus(&self) -> PathBuf {
        self.0.path().join("bus")
    }

    fn segment(&self, first: u64) -> PathBuf {
        self.bus().join("log").join(origin().as_str()).join(format!("{first:020}.seg"))
    }

    fn open(&self) -> (Engine, String) {
        self.open_on(Arc::new(RealDisk))
    }

    fn open_on(&self, disk: Arc<dyn Disk>) -> (Engine, String) {
        Engine::open(&self.bus(), &origin(), &config(), disk).unwrap()
    }
}

fn append(engine: &Engine, id: &str, payload: &str) -> Result<u64, BusError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let subject = Subject::parse("local.note").unwrap();
    runtime.block_on(engine.append(&subject, Some(id), payload.to_owned().into()))
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

/// Returns where each event begins in the bytes of a segment, and where the last one ends.
fn events(segment: &[u8]) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut at = 0;
    for line in segment.split_inclusive(|b| *b == b'\n') {
        if line.starts_with(b"E ") {
            starts.push(at);
        } else if !line.starts_with(b"D ") && !line.starts_with(b"X ") {
            break;
        }
        at += line.len();
    }
    starts.push(at);
    starts
}

/// A small generator, so that a failure can be had again.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}
