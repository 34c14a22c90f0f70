//! Entries for fuzzing: each takes bytes that nobody wrote. No part of the service's surface.

use std::io;
use std::path::Path;

use mirror_contract::mirror::bus::v1 as pb;
use mirror_types::Origin;

use crate::event::Prepared;
use crate::generation::Generations;
use crate::line::{read_d, read_e};
use crate::recover::scan;
use crate::scan::Chain;
use crate::segments::{Segments, name};
use crate::source::Source;
use crate::wire;

/// Reads a segment from its bytes, in a folder of its own; `seen` is what an index would have seen.
pub fn segment(dir: &Path, origin: &Origin, bytes: &[u8], active: bool, seen: u64) -> io::Result<()> {
    std::fs::write(dir.join(name(1)), bytes)?;
    let disk = std::sync::Arc::new(crate::disk::RealDisk);
    let segments = Segments::new(dir.to_owned(), origin.clone(), disk)?;
    let segment = segments.add(1);
    scan(&segments, &segment, Chain::EMPTY, active, seen).map(drop)
}

/// Returns the compressed form of a segment's bytes.
pub fn pack(dir: &Path, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let (plain, packed) = (dir.join("plain"), dir.join("packed"));
    std::fs::write(&plain, bytes)?;
    crate::cold::pack(&crate::disk::RealDisk, &std::fs::File::open(&plain)?, &packed, &mut || true)?;
    std::fs::read(packed)
}

/// Reads a compressed segment from its bytes to its end, or to 16 MiB of content.
pub fn packed(dir: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = dir.join("packed");
    std::fs::write(&path, bytes)?;
    let mut source = Source::packed(&path)?;
    let (mut buf, mut at) = (vec![0; 64 << 10], 0);
    while at < 16 << 20 {
        match source.read_at(&mut buf, at)? {
            0 => break,
            n => at += n as u64,
        }
    }
    let _ = source.flaw(0, at);
    Ok(())
}

/// Reads a file of generations.
pub fn generations(dir: &Path, bytes: &[u8]) -> io::Result<()> {
    std::fs::write(dir.join("generations"), bytes)?;
    let found = Generations::open(dir, std::sync::Arc::new(crate::disk::RealDisk))?;
    let _ = (found.get(1), found.unfinished());
    Ok(())
}

/// Reads lines, each pair as an event's.
pub fn lines(origin: &Origin, bytes: &[u8]) {
    let mut lines = bytes.split(|b| *b == b'\n');
    while let Some(line) = lines.next() {
        if let Ok(header) = read_e(line, origin) {
            let _ = read_d(lines.next().unwrap_or_default(), &header);
        }
    }
}

/// Runs every check of a request.
pub fn wire(bytes: &[u8]) {
    if let Some(request) = mirror_contract::decode::<pb::AppendRequest>(bytes) {
        let _ = wire::expect(request.expect);
        if let Ok(event) = wire::required(request.event) {
            let _ = Prepared::new(event, "local");
        }
    }
    if let Some(request) = mirror_contract::decode::<pb::AppendBatchRequest>(bytes) {
        let _ = wire::expect(request.expect);
        let _ = wire::batch(request.events);
    }
    if let Some(request) = mirror_contract::decode::<pb::ReadRequest>(bytes) {
        let _ = wire::Filter::new(request.filter);
    }
}
