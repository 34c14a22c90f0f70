//! `mirror bus import`: takes in a verified copy of a log.
//!
//! The own log is restored only where there is none yet. Another device's log lies beside it, is replaced only by a longer
//! copy of itself, and is never written by the bus.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use mirror_errors::Kind;
use mirror_paths::sync_dir;
use mirror_verify::{FindingKind, Options, OriginReport, Report, Severity};
use serde_json::json;

use crate::args::LogImportArgs;
use crate::cmd::bus::copy::{self, failed};
use crate::cmd::bus::verify::{damage, look};
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::Out;
use crate::text::some;

/// What became of one log of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// The own log, where there was none.
    Restored,
    /// Another device's log, new here.
    Stored,
    /// A longer copy of a log that was here.
    Extended,
    /// All of it was here.
    Kept,
}

impl Done {
    fn name(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Stored => "stored",
            Self::Extended => "extended",
            Self::Kept => "no change",
        }
    }
}

/// How a copy relates to what is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// Nothing is here.
    New,
    /// All of the copy is here.
    Here,
    /// The copy goes on after all that is here.
    Longer,
    /// The two agree up to no common end.
    Fork,
}

pub(crate) fn run(ctx: &Ctx, out: &mut Out, args: &LogImportArgs) -> Result<(), Failure> {
    let home = ctx.home()?;
    let bus = home.bus();
    let own = mirror_kit::node(&home).map_err(|error| Failure::home(&error))?.origin.as_str().to_owned();
    let report = look(out, &args.dir, Vec::new())?;
    sound(&args.dir, &report)?;
    let lock = lock(&bus.join("import.lock"), "another import is at work")?;
    let mut done = Vec::new();
    for log in report.origins.iter().filter(|log| log.events > 0) {
        let what = one(&args.dir, &bus, log, log.origin == own)?;
        done.push((log.origin.clone(), log.events, what));
    }
    drop(lock);
    if done.is_empty() {
        return Err(refused(format!("{} holds a log without events", args.dir.display())));
    }
    for (origin, events, what) in done {
        if out.json_wanted() {
            out.json(&json!({ "origin": origin, "events": events, "result": what.name() }))?;
        } else {
            out.line(&format!("log     {origin}: {}, {}", some(events, "event"), what.name()))?;
        }
    }
    Ok(())
}

fn refused(why: impl Into<String>) -> Failure {
    Failure::new(Kind::Precondition, "CLI_COPY_REFUSED", why)
}

/// Refuses a copy that is damaged, or that holds a payload which should be erased.
fn sound(dir: &Path, report: &Report) -> Result<(), Failure> {
    if let Some(first) = damage(report) {
        let why = format!("the copy in {} is damaged: {first}", dir.display());
        return Err(Failure::new(Kind::Corrupt, "CLI_COPY_DAMAGED", why)
            .hint(format!("see all of it with: mirror bus verify {}", dir.display())));
    }
    let unfinished = |log: &OriginReport| {
        let kinds = [FindingKind::RedactionUnfinished, FindingKind::BeingChanged];
        log.severity() > Severity::Notice || log.findings.iter().any(|f| kinds.contains(&f.kind))
    };
    if report.origins.iter().any(unfinished) {
        let why = "the copy was taken while the log was written; make one with: mirror bus export DIR";
        return Err(refused(why));
    }
    Ok(())
}

/// Takes a lock that nobody else may hold.
fn lock(path: &Path, held: &str) -> Result<File, Failure> {
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = open.map_err(failed("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(refused(format!("{held}: {} is locked", path.display()))),
        Err(TryLockError::Error(error)) => Err(Failure::file("lock", path, &error)),
    }
}

fn one(dir: &Path, bus: &Path, copy: &OriginReport, is_own: bool) -> Result<Done, Failure> {
    let origin = &copy.origin;
    let stored = bus.join("log").join(origin);
    let place = Place {
        stored: stored.clone(),
        fresh: hidden(bus, "import", origin),
        old: hidden(bus, "old", origin),
    };
    place.mend()?;
    let from = if dir.join("log").is_dir() { dir.join("log").join(origin) } else { dir.to_owned() };
    let relation = relation(&from, &stored, copy)?;
    let done = match (relation, is_own) {
        (Relation::Fork, _) => return Err(fork(dir, &stored, origin)),
        (Relation::Here, _) => Done::Kept,
        (Relation::Longer, true) => {
            let why = "the copy has more events than the log of this home, which is not overwritten";
            return Err(refused(why)
                .hint("to put a damaged range right, use: mirror bus repair --from DIR")
                .hint("to go on from the copy, restore it to a new home: mirror recover --kit FILE, then import"));
        }
        (Relation::New, true) => {
            let _lock = lock(&bus.join("LOCK"), "the bus is running; end the fleet first")?;
            place.put(&from, copy)?;
            Done::Restored
        }
        (Relation::New, false) => {
            place.put(&from, copy)?;
            Done::Stored
        }
        (Relation::Longer, false) => {
            place.put(&from, copy)?;
            Done::Extended
        }
    };
    vouch(dir, bus, origin, done)?;
    Ok(done)
}

fn hidden(bus: &Path, what: &str, origin: &str) -> PathBuf {
    bus.join("log").join(format!(".{what}-{origin}"))
}

fn fork(dir: &Path, stored: &Path, origin: &str) -> Failure {
    let why = format!(
        "the copy is a fork: it contradicts what is stored of the log {origin}; nothing was changed, and both are kept, \
         here in {} and there in {}",
        stored.display(),
        dir.display()
    );
    Failure::new(Kind::Conflict, "CLI_COPY_FORKED", why)
        .hint("a signed checkpoint tells which one is right: mirror bus verify DIR --checkpoint FILE")
}

/// Compares a copy with what is stored, by the roots of their trees.
fn relation(from: &Path, stored: &Path, copy: &OriginReport) -> Result<Relation, Failure> {
    if !stored.is_dir() || copy::segments(stored)?.is_empty() {
        return Ok(Relation::New);
    }
    let here = read(stored, vec![copy.events])?;
    if here.severity() == Severity::Damage {
        let first = here.findings.first().map(ToString::to_string).unwrap_or_default();
        let why = format!("what is stored of the log {} is damaged: {first}", copy.origin);
        return Err(Failure::new(Kind::Corrupt, "CLI_COPY_DAMAGED", why)
            .hint("repair it with: mirror bus repair --from DIR"));
    }
    if here.events == 0 {
        return Ok(Relation::New);
    }
    if copy.events <= here.events {
        let root = here.roots.iter().find(|root| root.size == copy.events).map(|root| &root.root_hex);
        return Ok(if root == copy.root_hex.as_ref() { Relation::Here } else { Relation::Fork });
    }
    let there = read(from, vec![here.events])?;
    let root = there.roots.iter().find(|root| root.size == here.events).map(|root| &root.root_hex);
    Ok(if root == here.root_hex.as_ref() { Relation::Longer } else { Relation::Fork })
}

/// Reads the log in one folder, without what vouches for it.
fn read(dir: &Path, marks: Vec<u64>) -> Result<OriginReport, Failure> {
    let options = Options { marks, checkpoints: false, ..Options::default() };
    let report =
        mirror_verify::verify_with(dir, &options, &mut |_| {}).map_err(|error| Failure::of(&error))?;
    report.origins.into_iter().next().ok_or_else(|| Failure::bug("a folder of segments has no log"))
}

/// Where a log lies, and where it lies before and after it takes that place.
struct Place {
    stored: PathBuf,
    fresh: PathBuf,
    old: PathBuf,
}

impl Place {
    /// Ends what an import that was killed had begun.
    fn mend(&self) -> Result<(), Failure> {
        if self.old.is_dir() && !self.stored.is_dir() {
            fs::rename(&self.old, &self.stored).map_err(failed("name", &self.stored))?;
        }
        for left in [&self.fresh, &self.old] {
            if left.is_dir() {
                fs::remove_dir_all(left).map_err(failed("remove", left))?;
            }
        }
        Ok(())
    }

    /// Copies a log, verifies the copy, and puts it in its place.
    fn put(&self, from: &Path, copy: &OriginReport) -> Result<(), Failure> {
        copy::folder(&self.fresh)?;
        for (_, name) in copy::segments(from)? {
            let target = self.fresh.join(&name);
            copy::file(&from.join(&name), &target, u64::MAX)?;
        }
        sync_dir(&self.fresh).map_err(failed("sync", &self.fresh))?;
        let written = read(&self.fresh, Vec::new())?;
        if written.root_hex != copy.root_hex || written.severity() == Severity::Damage {
            let why = "what was written is not what was read; the copy was changed, or the disk is failing";
            return Err(Failure::new(Kind::Corrupt, "CLI_COPY_DAMAGED", why));
        }
        let logs = self.stored.parent().unwrap_or(&self.stored);
        if self.stored.is_dir() {
            fs::rename(&self.stored, &self.old).map_err(failed("name", &self.old))?;
        }
        fs::rename(&self.fresh, &self.stored).map_err(failed("name", &self.stored))?;
        sync_dir(logs).map_err(failed("sync", logs))?;
        if self.old.is_dir() {
            fs::remove_dir_all(&self.old).map_err(failed("remove", &self.old))?;
        }
        Ok(())
    }
}

/// Takes in what vouches for a log: checkpoints, tiles, and the public keys, which lie apart from those of this home.
fn vouch(dir: &Path, bus: &Path, origin: &str, done: Done) -> Result<(), Failure> {
    let other = bus.join(copy::ORIGINS).join(origin);
    for name in ["node.json", copy::KEYS[0], copy::KEYS[1]] {
        let target = other.join(name);
        // The keys of a longer copy are newer.
        if done != Done::Kept || !target.exists() {
            let sources = [dir.to_owned(), dir.join(copy::ORIGINS).join(origin)];
            let source = sources.iter().rev().find(|folder| folder.join(name).is_file());
            if let Some(source) = source {
                copy::small(&source.join(name), &target)?;
            }
        }
    }
    let part = |name: &str| (dir.join(name).join(origin), bus.join(name).join(origin));
    let (from, to) = part("checkpoints");
    copy::checkpoints(&from, &to, u64::MAX)?;
    let (from, to) = part("tiles");
    copy::tree(&from, &to)
}
