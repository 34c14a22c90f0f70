//! The second reader of the bus's log: it checks every byte against `docs/FORMAT.md` and names what is wrong.
//!
//! It refuses to share code with the writer, so that one mistake cannot hide in both; it takes no lock, writes
//! nothing and allocates from no length that it has not checked.
//! Invariant: a report without damage means that every event from 1 to the head is there, whole, in order and chained,
//! and that each erased payload has the event that erased it.
//!
//! The bytes of each line are checked in the order bounds, CRC, grammar, chain, payload. After damage the reader goes
//! on at the next whole E line, so that a report names ranges. What does not fit is read a second time before it is
//! reported: the log may be growing, or a payload may be erased, while it is read.

mod b64;
mod chain;
mod checkpoints;
mod erased;
mod findings;
mod folder;
mod generations;
mod header;
mod ids;
mod keys;
mod line;
mod log;
mod merkle;
mod node;
mod packed;
mod payload;
mod read;
mod report;
mod source;
mod walk;

#[cfg(test)]
mod testlog;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use mirror_errors::{Classify, Detail, Kind};

pub use report::{Finding, FindingKind, OriginReport, Progress, Redacted, Report, Root, Severity, Tail};

/// Why nothing could be verified at all; damage is in the [`Report`] instead.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The folder is not part of a bus.
    #[error(
        "{} holds neither log/<origin>/ nor segments (<20 digits>.seg); name the bus folder of a home",
        path.display()
    )]
    NotALog {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be read.
    #[error("{} cannot be read; check that it exists and that its owner runs this", path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Classify for VerifyError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotALog { .. } => Kind::Invalid,
            Self::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Kind::NotFound
            }
            Self::Unreadable { .. } => Kind::Precondition,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotALog { .. } => "BUS_VERIFY_NOT_A_LOG",
            Self::Unreadable { .. } => "BUS_VERIFY_UNREADABLE",
        }
    }

    fn details(&self) -> Vec<Detail> {
        let (Self::NotALog { path } | Self::Unreadable { path, .. }) = self;
        vec![Detail::Resource("folder", path.display().to_string())]
    }
}

/// Verifies every log in the `bus/` folder of a home, or the one log of a `log/<origin>` folder.
///
/// Signatures are checked with the public keys of the home, or those in the copy; every checkpoint there is compared.
///
/// `progress` is called about once per mebibyte read. Damage is no error: it is in the report. A segment that cannot be
/// read is a finding, and the others are still verified.
pub fn verify(bus_dir: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report, VerifyError> {
    verify_with(bus_dir, &Options::default(), progress)
}

/// What a verification takes and gives beside the usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Most ids of callers that are compared with all before them; each takes about 20 bytes of memory.
    pub ids: u64,
    /// Sizes at which the root of the tree is reported.
    pub marks: Vec<u64>,
    /// Whether the checkpoints in the folder are compared.
    pub checkpoints: bool,
    /// Further checkpoints to compare, from elsewhere.
    pub notes: Vec<Note>,
}

/// A signed checkpoint from elsewhere: a phone, a peer, a piece of paper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What findings call it.
    pub name: String,
    /// The note.
    pub text: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { ids: ids::LIMIT, marks: Vec::new(), checkpoints: true, notes: Vec::new() }
    }
}

/// Verifies as [`verify`] does, in the memory that is given, and reports the roots that are asked for.
pub fn verify_with(
    bus_dir: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, VerifyError> {
    folder::verify(bus_dir, options, progress)
}
