//! A copy of the log, from which damage is repaired: read only, and not to be trusted before its events fit the chain.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mirror_types::Origin;

use crate::line::{Payload, x_line};
use crate::redact::Proof;
use crate::scan::{Event, Lines};
use crate::segments::{OnDisk, Segments, list};

/// Payloads that this log erased: the event, and the one that erased it.
pub(crate) type ErasedBy = HashMap<u64, u64>;

/// Takes an event, or says why it is not taken.
pub(crate) type Take<'a> = &'a mut dyn FnMut(&Event<'_>) -> io::Result<Result<(), String>>;

/// The log in a folder that somebody named.
#[derive(Debug)]
pub(crate) struct Copy {
    segments: Segments,
    files: Vec<OnDisk>,
}

impl Copy {
    /// Finds the copy of a log in a folder: that of a bus, of a home, of an export, or that of one log.
    pub(crate) fn find(from: &Path, own: &Path, origin: &Origin) -> Result<Self, String> {
        if !from.is_absolute() {
            return Err(format!("{from:?} is not an absolute path"));
        }
        let name = origin.as_str();
        let places = [
            from.join("log").join(name),
            from.join("bus").join("log").join(name),
            from.join(name),
            from.to_owned(),
        ];
        let files = |dir: &PathBuf| list(dir).ok().filter(|files| !files.is_empty());
        let found = places.iter().find_map(|dir| Some((dir.clone(), files(dir)?)));
        let Some((dir, files)) = found else {
            return Err(match fs::metadata(from) {
                Err(e) => format!("{from:?} cannot be read: {e}"),
                Ok(_) => format!("{from:?} holds no segments of the log {name}"),
            });
        };
        let same = |a: &Path, b: &Path| fs::canonicalize(a).ok() == fs::canonicalize(b).ok();
        if same(&dir, own) {
            return Err(format!("{from:?} is this log itself; name a copy of it"));
        }
        let segments = Segments::foreign(dir, origin.clone());
        for file in &files {
            segments.add(file.first);
        }
        Ok(Self { segments, files })
    }

    /// Takes the files of this log for a copy of itself, to read past its damage.
    pub(crate) fn own(own: &Segments) -> io::Result<Self> {
        let files = list(&own.dir)?;
        let segments = Segments::foreign(own.dir.clone(), own.origin.clone());
        for file in &files {
            segments.add(file.first);
        }
        Ok(Self { segments, files })
    }

    /// Hands out every event that is whole by itself.
    pub(crate) fn each(&self, take: Take<'_>) -> io::Result<()> {
        for first in self.firsts() {
            let mut lines = Lines::new(self.segments.salvage(first)?, 0);
            loop {
                let at = lines.offset();
                if let Ok(event) = lines.event(&self.segments.origin)? {
                    let _ = take(&event)?;
                    continue;
                }
                let Some(place) = self.behind(first, at, u64::MAX)? else { break };
                lines = Lines::new(self.segments.salvage(first)?, place);
            }
        }
        Ok(())
    }

    /// Returns the first events of the copy's segments.
    pub(crate) fn firsts(&self) -> Vec<u64> {
        self.segments.firsts()
    }

    /// Returns the copy's file of a segment.
    pub(crate) fn file(&self, first: u64) -> Option<OnDisk> {
        self.files.iter().find(|file| file.first == first).copied()
    }

    /// Hands out the events of a range in order, each whole by itself; says why one cannot be had.
    pub(crate) fn read(&self, range: (u64, u64), take: Take<'_>) -> io::Result<Result<(), String>> {
        let (mut next, last) = range;
        while next <= last {
            let Some((segment, until)) = self.segments.of(next) else {
                return Ok(Err(format!("the copy begins after event {next}")));
            };
            let mut lines = Lines::new(self.segments.salvage(segment.first)?, 0);
            while next <= last && until.is_none_or(|until| next < until) {
                let at = lines.offset();
                match lines.event(&self.segments.origin)? {
                    Ok(event) if event.header.seq < next => {}
                    Ok(event) if event.header.seq == next => {
                        if let Err(why) = take(&event)? {
                            return Ok(Err(why));
                        }
                        next += 1;
                    }
                    _ => match self.behind(segment.first, at, next)? {
                        Some(place) => lines = Lines::new(self.segments.salvage(segment.first)?, place),
                        None => return Ok(Err(format!("the copy has no whole event {next}"))),
                    },
                }
            }
        }
        Ok(Ok(()))
    }

    /// Returns where a whole event up to `next` begins, behind a flaw.
    fn behind(&self, segment: u64, flaw: u64, next: u64) -> io::Result<Option<u64>> {
        let origin = &self.segments.origin;
        let mut lines = Lines::new(self.segments.salvage(segment)?, flaw);
        while let Some((at, header)) = lines.next_header(origin)? {
            if header.seq > next {
                return Ok(None);
            }
            if Lines::new(self.segments.salvage(segment)?, at).event(origin)?.is_ok() {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

/// Returns the D or X line of a copied event as it must stand in this log, with its newline.
///
/// What this log erased stays erased, whatever the copy has; what the copy alone erased does not become so here.
pub(crate) fn payload_line(event: &Event<'_>, erased_here: &ErasedBy) -> Result<Vec<u8>, String> {
    let seq = event.header.seq;
    let here = erased_here.get(&seq).copied();
    let line = match (&event.payload, here) {
        (Payload::Here { .. }, Some(by)) => {
            return Ok([x_line(by, event.header.len).as_slice(), b"\n"].concat());
        }
        (Payload::Redacted { by }, here) if here != Some(*by) => {
            return Err(format!(
                "the copy's payload of event {seq} is erased by event {by}, and this log has no such erasure"
            ));
        }
        _ => event.d_line,
    };
    Ok([line, b"\n"].concat())
}

/// Notes which payloads an event proves to be erased.
pub(crate) fn note_erased(event: &Event<'_>, origin: &Origin, into: &mut ErasedBy) {
    let Some(proof) = Proof::read(event, origin.as_str()) else { return };
    for (seq, _) in proof.targets {
        into.entry(seq).or_insert(proof.seq);
    }
}
