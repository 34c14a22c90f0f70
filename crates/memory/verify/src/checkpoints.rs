//! Checkpoints: signed statements of which root a log has at a size. What the chain cannot show, they do.
//!
//! A note is a C2SP signed-note (<https://c2sp.org/signed-note>) over a C2SP tlog-checkpoint
//! (<https://c2sp.org/tlog-checkpoint>) of three lines.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::VerifyingKey;
use sha2::{Digest as _, Sha256};

use crate::findings::Findings;
use crate::folder::{list, open};
use crate::header::is_origin;
use crate::keys::{Keys, bounded, is_by};
use crate::line::decimal;
use crate::merkle::{Hash, hex};
use crate::report::{FindingKind, OriginReport};
use crate::{Note, b64};

/// Most notes of one log that are looked at, the newest first.
const NOTES: usize = 1 << 16;

/// What a note says of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    name: String,
    pub(crate) size: u64,
    root: Hash,
}

/// The checkpoints of one log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims {
    pub(crate) claims: Vec<Claim>,
    /// Whether there was no list of the keys that could have signed them.
    pub(crate) unchecked: bool,
}

impl Claims {
    /// Reads the checkpoints of a log in a bus folder, and those given; what is wrong with them is a finding.
    pub(crate) fn read(
        folder: Option<&Path>,
        given: &[Note],
        origin: &str,
        keys: &Keys,
        findings: &mut Findings,
    ) -> Self {
        let mut found = Self::default();
        for name in folder.map(names).unwrap_or_default() {
            let path = folder.map(|folder| folder.join(&name)).unwrap_or_default();
            match open(&path).and_then(bounded) {
                Ok(text) => found.take(&name, &text, origin, keys, findings),
                // The witness deletes those that others cover.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let why = format!("the checkpoint cannot be read: {error}");
                    findings.add_named(FindingKind::BadCheckpoint, name, 0, None, why);
                }
            }
        }
        for note in given.iter().filter(|note| note.origin() == Some(origin)) {
            found.take(&note.name, note.text.as_bytes(), origin, keys, findings);
        }
        found
    }

    fn take(&mut self, name: &str, text: &[u8], origin: &str, keys: &Keys, findings: &mut Findings) {
        match parse(name, text, origin, keys.checkpoint.as_deref()) {
            Ok(claim) => {
                self.unchecked |= keys.checkpoint.is_none();
                self.claims.push(claim);
            }
            Err(why) => findings.add_named(FindingKind::BadCheckpoint, name.to_owned(), 0, None, why),
        }
    }

    /// Compares what was claimed with the log as it was read.
    pub(crate) fn compare(mut self, log: &mut OriginReport, findings: &mut Findings) {
        self.claims.sort_by(|a, b| (a.size, &a.name).cmp(&(b.size, &b.name)));
        let mut forked = false;
        // The largest sizes at which a checkpoint fits: so far, and below the one that is looked at.
        let (mut fits, mut fits_below) = (0, 0);
        let word = if self.unchecked { ", whose signature was not checked," } else { "" };
        let newest = self.claims.last();
        for claim in &self.claims {
            let (name, size, head) = (claim.name.clone(), claim.size, log.head_seq);
            if fits < size {
                fits_below = fits;
            }
            let root = log.roots.iter().find(|root| root.size == size).map(|root| root.root_hex.as_str());
            if size > head {
                // The newest says all that those before it say.
                if newest != Some(claim) {
                    continue;
                }
                let why = format!(
                    "rolled back or cut off: the log ends at event {head}, and this checkpoint{word} covers {size}"
                );
                findings.add_named(FindingKind::RolledBack, name, 0, Some((head + 1, size)), why);
            } else if root.is_some_and(|root| root == hex(&claim.root)) {
                log.checkpoints += 1;
                fits = size;
            } else if root.is_some() && !forked {
                // What is wrong at one size is wrong at all that follow.
                forked = true;
                let why = format!(
                    "forked or rewritten before event {}: the first {size} events have another root than this \
                     checkpoint{word} says; the last one that fits covers {fits_below}",
                    size + 1,
                );
                findings.add_named(FindingKind::Forked, name, 0, Some((fits_below + 1, size)), why);
            }
        }
        log.covered = fits;
    }
}

/// Returns the names of the notes in a folder, the newest first.
fn names(folder: &Path) -> Vec<String> {
    let is_note = |name: &String| {
        let digits = name.strip_suffix(".note").filter(|digits| digits.len() == 20);
        name == "latest" || digits.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
    };
    let all = list(folder).unwrap_or_default();
    all.into_iter().rev().filter_map(|name| name.into_string().ok()).filter(is_note).take(NOTES).collect()
}

/// Reads a note about a log; an error says why it does not count. Without keys its signature is not looked at.
fn parse(name: &str, note: &[u8], origin: &str, keys: Option<&[VerifyingKey]>) -> Result<Claim, String> {
    let note = std::str::from_utf8(note).map_err(|_| "the checkpoint is not UTF-8")?;
    let at = note.rfind("\n\n").ok_or("the checkpoint has no empty line before its signatures")?;
    let (text, signatures) = note.split_at(at + 1);
    let form = "the checkpoint is not mirrordna/<origin>, a size and a root, a line each";
    let (size, root) = statement(text, origin).ok_or(form)?;
    if name.strip_suffix(".note").is_some_and(|digits| digits.len() == 20 && digits.parse() != Ok(size)) {
        return Err(format!("the checkpoint covers {size} events, which is not what its name says"));
    }
    let device = origin.split('.').next().unwrap_or_default();
    let signer = format!("mirrordna/{device}");
    let is_signed = |key: &VerifyingKey| is_signed(text, signatures, &signer, key);
    if keys.is_some_and(|keys| !keys.iter().any(is_signed)) {
        return Err(
            "no key that the device key certified for checkpoints has signed the checkpoint".to_owned()
        );
    }
    Ok(Claim { name: name.to_owned(), size, root })
}

fn statement(text: &str, origin: &str) -> Option<(u64, Hash)> {
    let rest = text.strip_prefix("mirrordna/")?.strip_prefix(origin)?.strip_prefix('\n')?;
    let (size, rest) = decimal(rest.as_bytes())?;
    let root = rest.strip_prefix(b"\n")?.strip_suffix(b"\n")?;
    Some((size, b64::hash(root.try_into().ok()?)?))
}

fn is_signed(text: &str, signatures: &str, signer: &str, key: &VerifyingKey) -> bool {
    let mut id = Sha256::new_with_prefix(signer);
    id.update([b'\n', 1]);
    id.update(key.as_bytes());
    let id = id.finalize();
    signatures.lines().take(100).any(|line| {
        let blob = line.strip_prefix("\u{2014} ").and_then(|line| line.strip_prefix(signer));
        let blob = blob.and_then(|rest| STANDARD.decode(rest.strip_prefix(' ')?).ok()).unwrap_or_default();
        blob.split_at_checked(4)
            .is_some_and(|(hint, signature)| *hint == id[..4] && is_by(key, text.as_bytes(), signature))
    })
}

impl Note {
    /// Returns the log that the note is about.
    pub(crate) fn origin(&self) -> Option<&str> {
        let origin = self.text.lines().next()?.strip_prefix("mirrordna/")?;
        is_origin(origin.as_bytes()).then_some(origin)
    }
}
