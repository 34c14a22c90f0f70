//! Which calls fail, and what must come of it.

/// What a fault under load must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nobody is told that an append succeeded; the process ends, and its successor recovers.
    Ends,
    /// Nobody notices.
    Goes,
    /// Appends are refused until the fault is lifted, and the process stays.
    Refuses,
    /// The process may end or stay, as long as nothing is lost.
    Any,
}

#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) rule: String,
    pub(crate) outcome: Outcome,
}

/// Calls on the active segment: each is met by every batch.
const BATCH: &[&str] = &["pwrite .seg$", "fdatasync .seg$"];

/// Calls by which a segment is sealed and the next one named: each is met once a roll.
const ROLL: &[&str] = &[
    "pwrite next.fill$",
    "fdatasync next.fill$",
    "fsync next.fill$",
    "ftruncate next.fill$",
    "open next.fill$",
    "ftruncate .seg$",
    "fsync .seg$",
    "rename .seg$",
    "open .seg$",
    "fsync .1$",
];

/// Calls by which the next segment is filled, where a full disk is no failure.
const FILL: &[&str] =
    &["pwrite next.fill$", "fdatasync next.fill$", "open next.fill$", "ftruncate next.fill$"];

pub(crate) fn under_load(depth: u64) -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |rule: String, outcome| all.push(Case { rule, outcome });
    for call in BATCH {
        for n in 1..=depth {
            for action in ["EIO", "ENOSPC", "KILL"] {
                add(format!("{call} {n} 1 {action}"), Outcome::Ends);
            }
        }
    }
    for n in 1..=depth {
        add(format!("pwrite .seg$ {n} 1 TORN"), Outcome::Ends);
    }
    for call in ROLL {
        for n in 1..=depth.div_ceil(3) {
            for action in ["EIO", "KILL"] {
                add(format!("{call} {n} 1 {action}"), Outcome::Ends);
            }
        }
    }
    add("pwrite next.fill$ 1 1 TORN".to_owned(), Outcome::Ends);
    for call in FILL {
        add(format!("{call} 1 0 ENOSPC"), Outcome::Refuses);
    }
    for rule in [
        "pwrite .seg$ 1 5 SHORT",
        "pwrite .seg$ 2 5 EINTR",
        "fdatasync .seg$ 1 3 EINTR",
        "fsync .seg$ 1 1 EINTR",
        "pwrite next.fill$ 1 4 SHORT",
        "pwrite next.fill$ 1 4 EINTR",
        "fdatasync next.fill$ 1 2 EINTR",
        "ftruncate next.fill$ 1 2 EINTR",
        "open .seg$ 1 1 EINTR",
        "ftruncate .seg$ 1 1 EINTR",
    ] {
        add(rule.to_owned(), Outcome::Goes);
    }
    for rule in [
        "pwrite bus/index/ 1 0 EIO",
        "pwrite bus/index/ 1 0 ENOSPC",
        "pwrite bus/index/ 1 1 TORN",
        "pwrite bus/index/ 2 1 KILL",
        "sync_file_range bus/index/ 1 0 EIO",
        "sync_file_range bus/index/ 1 1 KILL",
    ] {
        add(rule.to_owned(), Outcome::Any);
    }
    all
}

/// Calls of a first start.
pub(crate) const FIRST_START: &[&str] = &[
    "write node.json 1 1 EIO",
    "write node.json 1 1 TORN",
    "write node.json 1 1 KILL",
    "fsync node.json 1 1 EIO",
    "rename node.json$ 1 1 EIO",
    "rename node.json$ 1 1 KILL",
    "fsync /bus$ 1 1 EIO",
    "write node.seed 1 1 TORN",
    "rename node.seed$ 1 1 KILL",
    "fsync /keys$ 1 1 EIO",
    "open LOCK$ 1 1 EIO",
    "open next.fill$ 1 1 EIO",
    "pwrite next.fill$ 1 1 EIO",
    "pwrite next.fill$ 1 1 ENOSPC",
    "pwrite next.fill$ 1 1 KILL",
    "fdatasync next.fill$ 1 1 EIO",
    "rename .seg$ 1 1 EIO",
    "rename .seg$ 1 1 KILL",
    "fsync .1$ 1 1 EIO",
    "fsync .1$ 2 1 KILL",
    "fdatasync .seg$ 1 1 EIO",
];

/// Calls of a recovery from a torn tail.
pub(crate) const RECOVERY: &[&str] = &[
    "open bus/quarantine 2 1 EIO",
    "open bus/quarantine 3 1 EIO",
    "pwrite bus/quarantine 1 1 EIO",
    "pwrite bus/quarantine 1 1 TORN",
    "pwrite bus/quarantine 1 1 ENOSPC",
    "fdatasync bus/quarantine 1 1 EIO",
    "fdatasync bus/quarantine 1 1 KILL",
    "fsync torn-tail$ 1 1 EIO",
    "fsync bus/quarantine$ 2 1 EIO",
    "pwrite .seg$ 1 1 EIO",
    "pwrite .seg$ 1 1 TORN",
    "pwrite .seg$ 1 1 KILL",
    "fdatasync .seg$ 1 1 EIO",
    "fdatasync .seg$ 1 1 KILL",
    "pwrite .seg$ 2 1 EIO",
    "pwrite .seg$ 3 1 EIO",
    "fdatasync .seg$ 2 1 EIO",
    "fdatasync .seg$ 2 1 KILL",
    "fdatasync .seg$ 3 1 EIO",
];
