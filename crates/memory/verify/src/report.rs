//! What a verification found, in a form that can be printed or serialized.

use std::fmt;

use serde::Serialize;

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Origin of the log being read; empty until it is known.
    pub origin: &'a str,
    /// File name of the segment being read.
    pub segment: &'a str,
    /// Bytes of this log read so far.
    pub bytes: u64,
    /// Bytes of this log when reading began; a live log may end up with more.
    pub total: u64,
    /// Events of this log read so far.
    pub events: u64,
}

/// What is wrong in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A line is not of the form of an E, D or X line.
    BadLine,
    /// A line is longer or shorter than it says, or longer than any line may be.
    BadLength,
    /// The bytes of a line do not match its CRC.
    BadCrc,
    /// A header breaks its grammar although its CRC is right: key order, case, base64, an unknown key.
    BadHeader,
    /// Sequences are skipped, or stand again.
    SeqJump,
    /// An event does not follow the one before it: one of the two was altered.
    WrongPrev,
    /// An event of another origin.
    ForeignOrigin,
    /// A payload that is not the one its header commits to.
    PayloadDigest,
    /// An E line without a D or X line: neither a payload nor a lawful erasure.
    PayloadMissing,
    /// A payload that is not of the type its header declares.
    PayloadForm,
    /// A payload that was erased without a redaction: its X line names no `bus.redacted` event that lists it.
    RedactionUnproven,
    /// A `bus.redacted` event that no key whose owner may erase has signed.
    RedactionUnsigned,
    /// A redaction names an event that still has its payload: the bus erases it when it starts. No damage.
    RedactionUnfinished,
    /// The segment is being changed, or a change of it was cut short; the bus ends it. No damage.
    BeingChanged,
    /// There are signatures and no list of the keys that could have made them. No damage.
    SignaturesUnchecked,
    /// A part of a compressed segment that cannot be decompressed, or a seek table that is not of its frames.
    BadFrame,
    /// The file `generations` of a log cannot be understood.
    BadGenerations,
    /// A list of public keys that the device key did not sign, or that cannot be understood.
    BadKeys,
    /// A checkpoint that cannot be understood, or that no certified key has signed.
    BadCheckpoint,
    /// The log ends before a signed checkpoint: it was rolled back to an older copy, or its end was cut off.
    RolledBack,
    /// The log has another root than a signed checkpoint: it was rewritten, or it is another branch of the same log.
    Forked,
    /// The hybrid logical clock does not rise.
    HlcNotRising,
    /// `b` cannot be the first sequence of the write that stored the event.
    BadBatch,
    /// An id that an earlier event has.
    DuplicateId,
    /// Whole segments, or the end of one, are missing.
    MissingSegment,
    /// A segment whose name is not the sequence of its first event.
    SegmentName,
    /// A bad `node.json`.
    BadNode,
    /// Bytes after the place where a segment ends.
    ContentAfterEnd,
    /// A folder under `log/` that is not named as an origin.
    BadFolder,
    /// A file that the system cannot read.
    Unreadable,
    /// Written by a newer version: no damage, but this build can only read it.
    NewerVersion,
}

impl FindingKind {
    /// Returns how grave findings of this kind are.
    pub fn severity(self) -> Severity {
        match self {
            Self::NewerVersion
            | Self::RedactionUnfinished
            | Self::BeingChanged
            | Self::SignaturesUnchecked => Severity::Notice,
            _ => Severity::Damage,
        }
    }
}

/// How grave the state of a log is, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing to say.
    Clean,
    /// Whole, with something worth knowing.
    Notice,
    /// Whole, with a torn tail that was never acknowledged; the bus quarantines it when it starts.
    TornTail,
    /// Acknowledged events were hit, or something stands in the log that the bus never wrote.
    Damage,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// File name of the segment, or of the file or folder.
    pub segment: String,
    /// Byte offset in that file; in a compressed segment that of the content, as `zstdcat` shows it, but for `bad_frame`.
    pub offset: u64,
    /// First event that is affected, where known.
    pub first_seq: Option<u64>,
    /// Last event that is affected, where known.
    pub last_seq: Option<u64>,
    /// What is wrong with the first of them, in words.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first_seq, self.last_seq) {
            (Some(first), Some(last)) if first < last => write!(f, "events {first} to {last}")?,
            (Some(first), _) => write!(f, "event {first}")?,
            _ => f.write_str("log")?,
        }
        write!(f, ": {} ({} at byte {})", self.message, self.segment, self.offset)
    }
}

/// A payload that was lawfully erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Redacted {
    /// The event whose payload it was.
    pub seq: u64,
    /// The `bus.redacted` event.
    pub by: u64,
}

/// How a log ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Tail {
    /// Only newlines follow the last event.
    Clean,
    /// Bytes follow that are no whole event and that nothing shows to have been acknowledged.
    Torn {
        /// File name of the segment.
        segment: String,
        /// Where the last valid event ends.
        offset: u64,
        /// How many bytes, up to the last that is not a newline.
        bytes: u64,
    },
}

/// The root of the tree over the first events of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Root {
    /// How many events.
    pub size: u64,
    /// Root of the RFC 6962 tree over their leaves, 64 hex digits.
    pub root_hex: String,
}

/// The state of the log of one origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OriginReport {
    /// The origin; empty when neither the folder nor an event names one.
    pub origin: String,
    /// How many segments were read.
    pub segments: u64,
    /// How many of them are compressed.
    pub compressed: u64,
    /// How many headers stand at their place in the log.
    pub events: u64,
    /// Sequence of the first of them, 0 when there is none.
    pub first_seq: u64,
    /// Sequence of the last of them, 0 when there is none.
    pub head_seq: u64,
    /// Leaf of the last of them, 64 hex digits.
    pub head_leaf_hex: Option<String>,
    /// Root of the RFC 6962 tree over all leaves, 64 hex digits; none when a leaf is missing.
    pub root_hex: Option<String>,
    /// The roots that were asked for, by size; one is left out when a leaf before it is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<Root>,
    /// Bytes of the payloads that are there and match.
    pub payload_bytes: u64,
    /// How many ids were compared with all before them: fewer than `events` in a log too long for memory.
    pub ids_compared: u64,
    /// How many checkpoints the log agrees with.
    pub checkpoints: u64,
    /// Up to which event they cover it, 0 when there is none.
    pub covered: u64,
    /// Payloads lawfully erased, by sequence; at most 1,024 are listed.
    pub redacted: Vec<Redacted>,
    /// How many there are in all.
    pub redacted_count: u64,
    /// How the log ends.
    pub tail: Tail,
    /// What is wrong, in the order found; at most 256 are listed.
    pub findings: Vec<Finding>,
    /// How many findings are not listed.
    pub findings_left_out: u64,
}

impl OriginReport {
    /// Returns how grave the state of this log is.
    pub fn severity(&self) -> Severity {
        let tail = match self.tail {
            Tail::Clean => Severity::Clean,
            Tail::Torn { .. } => Severity::TornTail,
        };
        worst(&self.findings).max(tail)
    }
}

/// The state of a bus folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Origin of this node after `node.json`, when that file is there and good.
    pub node_origin: Option<String>,
    /// One report for each log, by origin.
    pub origins: Vec<OriginReport>,
    /// What is wrong outside the logs, `node.json` and folder names; at most 256 are listed.
    pub findings: Vec<Finding>,
    /// How many of these are not listed.
    pub findings_left_out: u64,
}

impl Report {
    /// Returns how grave the state is: that of the worst log.
    pub fn severity(&self) -> Severity {
        let logs = self.origins.iter().map(OriginReport::severity).max().unwrap_or(Severity::Clean);
        worst(&self.findings).max(logs)
    }

    /// Returns whether no acknowledged event is damaged; a torn tail and a newer version do not count as damage.
    pub fn is_intact(&self) -> bool {
        self.severity() < Severity::Damage
    }
}

fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|finding| finding.kind.severity()).max().unwrap_or(Severity::Clean)
}
