//! Folders: finds the logs, their segments in order, and `node.json`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::chain::Chain;
use crate::findings::{Findings, segment_name};
use crate::header::is_origin;
use crate::merkle::hex;
use crate::report::{FindingKind, OriginReport, Progress, Report, Tail};
use crate::walk::{Segment, Walk};
use crate::{Options, VerifyError};

const NODE_LIMIT: u64 = 4096;

/// How often the folder is listed again to follow a log that goes on growing while it is read.
const LISTINGS: usize = 8;

type Watch<'a> = &'a mut dyn FnMut(Progress<'_>);

pub(crate) fn verify(dir: &Path, options: &Options, progress: Watch<'_>) -> Result<Report, VerifyError> {
    let unreadable = |source| VerifyError::Unreadable { path: dir.to_owned(), source };
    let top = list(dir).map_err(unreadable)?;
    let has = |name: &str| top.iter().any(|entry| entry == name);
    if has("log") {
        return bus(dir, options, progress);
    }
    let name = fs::canonicalize(dir).ok().and_then(|path| path.file_name().map(OsStr::to_owned));
    let origin = name.and_then(|name| name.into_string().ok()).filter(|name| is_origin(name.as_bytes()));
    if origin.is_some() || top.iter().any(|name| is_segment_like(name)) {
        let log = log(dir, origin.as_deref(), options, progress).map_err(unreadable)?;
        return Ok(report(None, vec![log], Findings::default()));
    }
    if has("node.json") {
        let mut findings = Findings::default();
        let node_origin = node(dir, &mut findings);
        return Ok(report(node_origin, Vec::new(), findings));
    }
    Err(VerifyError::NotALog { path: dir.to_owned() })
}

fn bus(dir: &Path, options: &Options, progress: Watch<'_>) -> Result<Report, VerifyError> {
    let mut findings = Findings::default();
    let node_origin = node(dir, &mut findings);
    let logs = dir.join("log");
    let mut origins = Vec::new();
    for name in list(&logs).map_err(|source| VerifyError::Unreadable { path: logs.clone(), source })? {
        let path = logs.join(&name);
        let shown = name.to_string_lossy().into_owned();
        // A stray file, such as a file manager leaves, is no log.
        if !path.is_dir() || shown.starts_with('.') {
            continue;
        }
        if !is_origin(shown.as_bytes()) {
            let why = "the folder is not named <16 hex digits>.<epoch>, so its log is not read".to_owned();
            findings.add_named(FindingKind::BadFolder, shown, 0, None, why);
            continue;
        }
        match log(&path, Some(&shown), options, progress) {
            Ok(report) => origins.push(report),
            Err(error) => {
                let why = format!("the folder cannot be read: {error}");
                findings.add_named(FindingKind::Unreadable, shown, 0, None, why);
            }
        }
    }
    Ok(report(node_origin, origins, findings))
}

fn report(node_origin: Option<String>, origins: Vec<OriginReport>, findings: Findings) -> Report {
    Report { node_origin, origins, findings: findings.list, findings_left_out: findings.left_out }
}

/// Verifies the log in one folder.
fn log(dir: &Path, origin: Option<&str>, options: &Options, progress: Watch<'_>) -> io::Result<OriginReport> {
    let mut walk = Walk::new(Chain::new(origin, options), progress);
    let mut names = segments(dir, &mut walk.chain.findings)?;
    walk.total =
        names.iter().filter_map(|name| fs::metadata(path_of(dir, *name)).ok()).map(|m| m.len()).sum();
    let mut tail = Tail::Clean;
    let mut first = 0;
    let mut from = 0;
    for _ in 0..LISTINGS {
        for (i, name) in names.iter().enumerate().skip(first) {
            let segment = Segment { name: *name, next: names.get(i + 1).copied(), from };
            match open(&path_of(dir, *name)) {
                Ok(file) => {
                    let ended = walk.segment(segment, Box::new(file));
                    (from, tail) = (ended.at, ended.tail);
                }
                Err(error) => walk.unreadable(segment, from, &error),
            }
            if segment.next.is_some() {
                walk.before += from;
                from = 0;
            }
        }
        let again = segments(dir, &mut Findings::default())?;
        let grown = names.last().is_some_and(|last| again.last().is_some_and(|newest| newest > last));
        let Some(last) = names.last().filter(|_| grown) else { break };
        // The segment that was the last is sealed by now: what came after the place where it ended is read too.
        first = again.iter().position(|name| name == last).unwrap_or(again.len());
        names = again;
    }
    Ok(walk.chain.finish(names.len() as u64, tail))
}

fn path_of(dir: &Path, segment: u64) -> PathBuf {
    dir.join(segment_name(segment))
}

/// Opens a segment, unless it is something that could block, such as a pipe.
fn open(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    File::open(path)
}

/// Returns the names of the segments as numbers, in order.
fn segments(dir: &Path, findings: &mut Findings) -> io::Result<Vec<u64>> {
    let mut names = Vec::new();
    for name in list(dir)? {
        if !is_segment_like(&name) {
            continue;
        }
        let shown = name.to_string_lossy();
        match shown.strip_suffix(".seg").and_then(|digits| digits.parse::<u64>().ok()) {
            Some(number) if number > 0 && segment_name(number) == shown => names.push(number),
            _ => {
                let why =
                    "the file is not named after a sequence, <20 digits>.seg, so it is not read".to_owned();
                findings.add_named(FindingKind::SegmentName, shown.into_owned(), 0, None, why);
            }
        }
    }
    Ok(names)
}

fn is_segment_like(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    bytes.ends_with(b".seg") && !bytes.starts_with(b".")
}

/// Returns the names in a folder, sorted.
fn list(dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names =
        fs::read_dir(dir)?.map(|entry| entry.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    format: u64,
    origin: String,
    public_key: String,
}

#[derive(Deserialize)]
struct Format {
    format: u64,
}

/// Checks `node.json` and returns the origin it names.
fn node(dir: &Path, findings: &mut Findings) -> Option<String> {
    let mut text = Vec::new();
    let read = open(&dir.join("node.json")).and_then(|file| file.take(NODE_LIMIT + 1).read_to_end(&mut text));
    let result = match read {
        Err(error) => Err((FindingKind::BadNode, format!("cannot be read: {error}"))),
        Ok(_) => parse_node(&text),
    };
    match result {
        Ok(origin) => Some(origin),
        Err((kind, why)) => {
            findings.add_named(kind, "node.json".to_owned(), 0, None, why);
            None
        }
    }
}

fn parse_node(text: &[u8]) -> Result<String, (FindingKind, String)> {
    let bad = |why: String| (FindingKind::BadNode, why);
    if text.len() as u64 > NODE_LIMIT {
        return Err(bad(format!("is longer than {NODE_LIMIT} bytes")));
    }
    let form = |error: serde_json::Error| bad(format!("is not {{format, origin, public_key}}: {error}"));
    let format = serde_json::from_slice::<Format>(text).map_err(form)?.format;
    if format > 1 {
        let why = format!("is of format {format}; update this program before writing here");
        return Err((FindingKind::NewerVersion, why));
    }
    let node: Node = serde_json::from_slice(text).map_err(form)?;
    if node.format != 1 {
        return Err(bad(format!("has the format {}, the first is 1", node.format)));
    }
    if !is_origin(node.origin.as_bytes()) {
        return Err(bad("has an origin that is not <16 hex digits>.<epoch>".to_owned()));
    }
    let key = unhex(&node.public_key)
        .ok_or_else(|| bad("has a public_key that is not 64 lower-case hex digits".to_owned()))?;
    let digest: [u8; 32] = Sha256::digest(key).into();
    if !node.origin.starts_with(&hex(&digest[..8])) {
        return Err(bad("has an origin that is not the fingerprint of its public_key".to_owned()));
    }
    Ok(node.origin)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
