//! Folders: finds the logs of a bus folder, and what vouches for them.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoints::Claims;
use crate::findings::Findings;
use crate::header::is_origin;
use crate::keys::Keys;
use crate::log::{self, is_segment_like};
use crate::node::Node;
use crate::report::{FindingKind, OriginReport, Progress, Report};
use crate::{Options, VerifyError};

pub(crate) type Watch<'a> = &'a mut dyn FnMut(Progress<'_>);

pub(crate) fn verify(dir: &Path, options: &Options, progress: Watch<'_>) -> Result<Report, VerifyError> {
    let unreadable = |source| VerifyError::Unreadable { path: dir.to_owned(), source };
    let top = list(dir).map_err(unreadable)?;
    let has = |name: &str| top.iter().any(|entry| entry == name);
    if has("log") {
        return bus(dir, options, progress);
    }
    let whole = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let name = whole.file_name().map(OsStr::to_owned);
    let origin = name.and_then(|name| name.into_string().ok()).filter(|name| is_origin(name.as_bytes()));
    if origin.is_some() || top.iter().any(|name| is_segment_like(name)) {
        let mut findings = Findings::default();
        // One log of a bus folder has what vouches for it two folders up.
        let around = whole.parent().filter(|parent| parent.ends_with("log")).and_then(Path::parent);
        let vouched = match (&origin, around) {
            (Some(origin), Some(bus)) => {
                Vouched::read(Some(bus), Node::quiet(bus).as_ref(), origin, options, &mut findings)
            }
            _ => Vouched::default(),
        };
        let log =
            one(dir, origin.as_deref(), vouched, options, progress, &mut findings).map_err(unreadable)?;
        foreign_notes(std::slice::from_ref(&log), options, &mut findings);
        return Ok(report(None, vec![log], findings));
    }
    if has("node.json") {
        let mut findings = Findings::default();
        let node = Node::read(dir, &mut findings);
        foreign_notes(&[], options, &mut findings);
        return Ok(report(node, Vec::new(), findings));
    }
    Err(VerifyError::NotALog { path: dir.to_owned() })
}

fn bus(dir: &Path, options: &Options, progress: Watch<'_>) -> Result<Report, VerifyError> {
    let mut findings = Findings::default();
    let node = Node::read(dir, &mut findings);
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
        let vouched = Vouched::read(Some(dir), node.as_ref(), &shown, options, &mut findings);
        match one(&path, Some(&shown), vouched, options, progress, &mut findings) {
            Ok(report) => origins.push(report),
            Err(error) => {
                let why = format!("the folder cannot be read: {error}");
                findings.add_named(FindingKind::Unreadable, shown, 0, None, why);
            }
        }
    }
    gone(dir, &origins, options, &mut findings);
    foreign_notes(&origins, options, &mut findings);
    Ok(report(node, origins, findings))
}

/// What vouches for a log from outside of it.
#[derive(Default)]
struct Vouched {
    keys: Keys,
    claims: Claims,
}

impl Vouched {
    /// Reads it before the log, which then is at least as long as the checkpoints say.
    fn read(
        bus: Option<&Path>,
        node: Option<&Node>,
        origin: &str,
        options: &Options,
        findings: &mut Findings,
    ) -> Self {
        let keys = bus.map(|bus| Keys::read(bus, node, origin, findings)).unwrap_or_default();
        let folder: Option<PathBuf> =
            bus.filter(|_| options.checkpoints).map(|bus| bus.join("checkpoints").join(origin));
        let claims = Claims::read(folder.as_deref(), &options.notes, origin, &keys, findings);
        Self { keys, claims }
    }
}

/// Verifies one log, and compares it with what vouches for it.
fn one(
    dir: &Path,
    origin: Option<&str>,
    vouched: Vouched,
    options: &Options,
    progress: Watch<'_>,
    findings: &mut Findings,
) -> io::Result<OriginReport> {
    let Vouched { keys, claims } = vouched;
    let unchecked = claims.unchecked;
    let sizes: Vec<u64> = claims.claims.iter().map(|claim| claim.size).collect();
    let (mut log, unsigned) = log::verify(dir, origin, options, Arc::new(keys), &sizes, progress)?;
    let mut compared = Findings::default();
    claims.compare(&mut log, &mut compared);
    log.roots.retain(|root| options.marks.contains(&root.size));
    log.findings.extend(compared.list);
    if unchecked || unsigned > 0 {
        let why =
            "there is no list of the device's public keys here, so signatures were not checked".to_owned();
        let name = origin.unwrap_or_default().to_owned();
        findings.add_named(FindingKind::SignaturesUnchecked, name, 0, None, why);
    }
    Ok(log)
}

/// Reports the checkpoints of logs that are not there any more.
fn gone(dir: &Path, origins: &[OriginReport], options: &Options, findings: &mut Findings) {
    for name in list(&dir.join("checkpoints")).unwrap_or_default().into_iter().filter(|_| options.checkpoints)
    {
        let shown = name.to_string_lossy().into_owned();
        let has_notes = list(&dir.join("checkpoints").join(&name)).is_ok_and(|notes| !notes.is_empty());
        if is_origin(shown.as_bytes()) && has_notes && origins.iter().all(|log| log.origin != shown) {
            let why = "there are checkpoints of this log, and the log is gone".to_owned();
            findings.add_named(FindingKind::RolledBack, shown, 0, None, why);
        }
    }
}

/// Reports the given checkpoints that are about no log here.
fn foreign_notes(origins: &[OriginReport], options: &Options, findings: &mut Findings) {
    for note in &options.notes {
        let about = note.origin();
        if origins.iter().all(|log| about != Some(log.origin.as_str())) {
            let why = match about {
                Some(origin) => format!("the checkpoint is of the log {origin}, which is not here"),
                None => "it is no checkpoint: its first line is not mirrordna/<origin>".to_owned(),
            };
            findings.add_named(FindingKind::BadCheckpoint, note.name.clone(), 0, None, why);
        }
    }
}

fn report(node: Option<Node>, origins: Vec<OriginReport>, findings: Findings) -> Report {
    let node_origin = node.map(|node| node.origin);
    Report { node_origin, origins, findings: findings.list, findings_left_out: findings.left_out }
}

/// Opens a file, unless it is something that could block, such as a pipe.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    File::open(path)
}

/// Returns the names in a folder, sorted.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<OsString>> {
    let mut names =
        fs::read_dir(dir)?.map(|entry| entry.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}
