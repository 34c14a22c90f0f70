//! Repair from a copy: the damaged file is kept aside, a new one is made of what is whole here and what the copy has, and
//! takes its place only when the chain of hashes runs through all of it, from the event before to the event after.
//!
//! While the log is damaged nothing is appended, so nothing is under way in the files. Where the log was opened with its
//! damage, or the active segment is made again, the process starts anew after its answer, since the writer went by the old
//! file; else appends are taken at once.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use mirror_contract::mirror::bus::v1::repair_response::Range;
use mirror_types::Subject;

use crate::bus::{Bus, settle};
use crate::cold::pack;
use crate::copy::{Copy, ErasedBy, note_erased, payload_line};
use crate::disk::{Disk, LogFile, fill, read_at, replace};
use crate::error::BusError;
use crate::event::{NewEvent, OWN_ID, Prepared, key_of};
use crate::log::{Log, WriteError};
use crate::recover::{last_header, scan_source};
use crate::redact::Proof;
use crate::scan::{Chain, Lines};
use crate::segments::{Damage, Segment, list, name, packed_name};
use crate::source::Source;
use crate::store::Entry;
use crate::survey::{Hole, Work, survey};
use crate::writer::Expect;

/// What was repaired and is not recorded yet: its event follows when the log takes events again.
const PENDING: &str = "repaired.json";

/// Most ranges that one event names.
const NAMED: usize = 1_000;

const CHUNK: usize = 256 << 10;

fn failed(e: impl std::fmt::Display) -> BusError {
    BusError::Read(e.to_string())
}

impl Bus {
    /// Repairs what is damaged from the copy in a folder. Blocks.
    pub(crate) fn repair(&self, from: &Path) -> Result<Vec<Range>, BusError> {
        let _turn = self.upkeep.turn();
        if self.upkeep.is_closing() {
            return Err(BusError::Read("the bus is about to end".to_owned()));
        }
        let copy = Copy::find(from, &self.segments.dir, &self.origin).map_err(BusError::CopyInvalid)?;
        let mut works = survey(&self.segments, &copy, self.known_head()).map_err(failed)?;
        for (work, hole) in works.iter().flat_map(|work| work.holes.iter().map(move |hole| (work, hole))) {
            self.segments.mark(hole.damage(work.first));
        }
        if works.iter().any(Work::is_active) {
            // What the writer had begun before it saw the damage ends first.
            let begun = self.writer.offer(Vec::new(), Expect::Nothing, true)?;
            let _ = begun.blocking_recv();
            works = survey(&self.segments, &copy, self.known_head()).map_err(failed)?;
        }
        let erased =
            if works.is_empty() { ErasedBy::new() } else { self.erased(&copy, &works).map_err(failed)? };
        let mut ranges = Vec::new();
        let mut damage = Vec::new();
        for work in &mut works {
            self.repair_one(work, &copy, &erased).map_err(failed)?;
            damage.extend(work.holes.iter().filter(|h| !h.why.is_empty()).map(|h| h.damage(work.first)));
            if work.holes.is_empty() {
                let last = work.next.map_or(work.first, |next| next - 1);
                ranges.push(Range { first: work.first, last, why: String::new() });
            }
            let told = |h: &Hole| Range { first: h.first, last: h.last, why: h.why.clone() };
            ranges.extend(work.holes.iter().map(told));
        }
        let mended: Vec<_> = ranges.iter().filter(|r| r.why.is_empty()).map(|r| (r.first, r.last)).collect();
        if let Some(worst) = ranges.first().filter(|_| mended.is_empty()) {
            let Range { first, last, why } = worst;
            return Err(BusError::CopyUnfit(format!("events {first} to {last} stay damaged: {why}")));
        }
        self.conclude(&mended, damage)?;
        Ok(ranges)
    }

    /// Returns the last event that is known to have been stored.
    fn known_head(&self) -> u64 {
        self.head().seq.max(self.index.state().0)
    }

    /// Tells readers, writer and log what is whole again.
    fn conclude(&self, mended: &[(u64, u64)], damage: Vec<Damage>) -> Result<(), BusError> {
        let (disk, bus) = (self.upkeep.disk.as_ref(), &self.upkeep.bus);
        let whole = damage.is_empty();
        let was_damaged = !self.segments.damage().is_empty();
        if !mended.is_empty() {
            note_pending(disk, bus, mended).map_err(failed)?;
        }
        if whole && was_damaged && self.upkeep.must_restart() {
            self.index.end("the log was repaired and is opened again");
            return Ok(());
        }
        self.segments.set_damage(damage);
        if whole && !mended.is_empty() {
            let event = event(&std::fs::read(bus.join(PENDING)).map_err(failed)?)?;
            if let Err(e) = settle(self.writer.record(event).blocking_recv()) {
                // The log is whole all the same; the next start records it, unless the log is sealed.
                tracing::warn!(error = %e, "what was repaired is not recorded yet");
                return Ok(());
            }
            disk.remove(&bus.join(PENDING)).and_then(|()| disk.sync_dir(bus)).map_err(failed)?;
        }
        Ok(())
    }

    /// Returns which payloads this log has erased, as far as it is whole here or in the copy.
    fn erased(&self, copy: &Copy, works: &[Work]) -> io::Result<ErasedBy> {
        let mut erased = ErasedBy::new();
        let mut note = |event: &crate::scan::Event<'_>| {
            note_erased(event, &self.origin, &mut erased);
            Ok(Ok(()))
        };
        Copy::own(&self.segments)?.each(&mut note)?;
        for hole in works.iter().flat_map(|work| &work.holes) {
            // What cannot be had is told when it is needed.
            let _ = copy.read((hole.first, hole.last), &mut note)?;
        }
        Ok(erased)
    }

    /// Makes one segment whole, as far as the copy can; holes that stay are told why.
    fn repair_one(&self, work: &mut Work, copy: &Copy, erased: &ErasedBy) -> io::Result<()> {
        let disk = self.upkeep.disk.as_ref();
        let dir = &self.segments.dir;
        let plain = dir.join(name(work.first) + ".tmp");
        loop {
            let fillable = work.holes.iter().filter(|hole| hole.why.is_empty()).count();
            if fillable == 0 && !(work.lost_table && work.holes.is_empty()) {
                return mirror_paths::absent_is_fine(disk.remove(&plain));
            }
            let whole = self.build(work, copy, erased, &plain)?;
            if whole && self.fits(work, &plain)? {
                break;
            }
        }
        self.keep(work)?;
        let (from, to) = match work.packed {
            false => (plain.clone(), dir.join(name(work.first))),
            true => {
                let packed = dir.join(packed_name(work.first) + ".tmp");
                pack(disk, &File::open(&plain)?, &packed, &mut || true)?;
                (packed, dir.join(packed_name(work.first)))
            }
        };
        if work.is_active() {
            self.upkeep.restart_is_due();
        }
        self.segments.generations.change(work.first, || {
            disk.rename(&from, &to)?;
            disk.sync_dir(dir)
        })?;
        if work.packed {
            disk.remove(&plain)?;
        }
        match self.segments.of(work.first).filter(|(segment, _)| segment.first == work.first) {
            Some((segment, _)) => segment.forget(),
            None => drop(self.segments.add(work.first)),
        }
        self.learn(work)
    }

    /// Writes the segment anew; returns whether the copy had all that was asked of it.
    fn build(&self, work: &mut Work, copy: &Copy, erased: &ErasedBy, temp: &Path) -> io::Result<bool> {
        let out = self.upkeep.disk.open(temp)?;
        out.set_len(0)?;
        let mut out = Out { file: out.as_ref(), at: 0, buf: Vec::with_capacity(CHUNK) };
        let mut source = work.file.map(|file| self.segments.salvage(file.first)).transpose()?;
        let size = source.as_ref().map_or(Ok(0), Source::len)?;
        let mut from = 0;
        let mut all = true;
        for hole in &mut work.holes {
            out.local(source.as_mut(), from, hole.offset)?;
            from = hole.resume.unwrap_or(size);
            if !hole.why.is_empty() {
                out.local(source.as_mut(), hole.offset, from)?;
                continue;
            }
            let mut take = |event: &crate::scan::Event<'_>| {
                Ok(match payload_line(event, erased) {
                    Err(why) => Err(why),
                    Ok(line) => {
                        Ok(out.put(event.e_line).and_then(|()| out.put(b"\n")).and(out.put(&line))?)
                    }
                })
            };
            if let Err(why) = copy.read((hole.first, hole.last), &mut take)? {
                hole.why = why;
                all = false;
            }
        }
        if work.holes.last().is_none_or(|hole| hole.resume.is_some()) {
            out.local(source.as_mut(), from, work.end)?;
        }
        let mut end = out.flush()?;
        if work.is_active() && !work.packed {
            let theirs = copy.file(work.first).filter(|file| !file.packed).map_or(0, |file| file.size);
            let full = end.max(size).max(theirs);
            fill(out.file, end, full)?;
            end = full;
        }
        out.file.set_len(end)?;
        out.file.sync_data()?;
        Ok(all)
    }

    /// Checks a segment that was made; holes whose events do not fit are told so.
    fn fits(&self, work: &mut Work, temp: &Path) -> io::Result<bool> {
        let origin = &self.segments.origin;
        let open = || Source::plain(temp);
        let mut start = self.before(work.first)?;
        if start.seq > 0 && start.leaf == [0; 32] {
            // Its neighbour is not whole; the events after it vouch for this one alone.
            if let Ok(event) = Lines::new(open()?, 0).event(origin)? {
                start.leaf = event.header.prev;
            }
        }
        let active = work.is_active() && !work.packed;
        let made = scan_source(&open, origin, &Segment::new(work.first), start, active, u64::MAX)?;
        let mut flaws: Vec<(u64, u64, &str)> =
            made.damage.iter().map(|d| (d.first, d.last.unwrap_or(u64::MAX), d.why)).collect();
        let last = made.chain.seq;
        let head = self.head();
        match work.next {
            Some(next) if last + 1 == next && self.follows(next, &made.chain)? => {}
            None if last != head.seq || made.chain.leaf == head.leaf => {}
            _ if made.damage.last().is_some_and(|damage| damage.last.is_none()) => {}
            _ => flaws.push((last, u64::MAX, "what comes after it is not what follows")),
        }
        let mut fit = true;
        for (first, last, flaw) in flaws {
            let near = |h: &&mut Hole| first <= h.last.saturating_add(1) && last >= h.first;
            let mut near: Vec<_> = work.holes.iter_mut().filter(near).collect();
            if near.is_empty() {
                return Err(io::Error::other(format!("event {first} does not fit: {flaw}")));
            }
            for hole in near.iter_mut().filter(|hole| hole.why.is_empty()) {
                hole.why = format!("the copy's events do not fit the chain at event {first}: {flaw}");
                fit = false;
            }
        }
        Ok(fit)
    }

    /// Returns the chain before a segment, without its leaf when what is there is not whole.
    fn before(&self, first: u64) -> io::Result<Chain> {
        let unknown = Chain { seq: first - 1, ..Chain::EMPTY };
        let files = list(&self.segments.dir)?;
        let Some(file) = files.iter().rfind(|file| file.first < first) else { return Ok(unknown) };
        let header = last_header(&self.segments, file.first)?.filter(|header| header.seq + 1 == first);
        Ok(header.map_or(unknown, |h| Chain { seq: h.seq, leaf: h.leaf, hlc: h.hlc }))
    }

    /// Returns whether the segment after follows a chain, as far as its first event is whole.
    fn follows(&self, next: u64, chain: &Chain) -> io::Result<bool> {
        let source = match self.segments.salvage(next) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            other => other?,
        };
        let mut lines = Lines::new(source, 0);
        let event = lines.event(&self.segments.origin)?;
        Ok(event.map_or(true, |event| event.header.seq != next || event.header.prev == chain.leaf))
    }

    /// Keeps the damaged file.
    fn keep(&self, work: &Work) -> io::Result<()> {
        let Some(file) = work.file else { return Ok(()) };
        let (disk, quarantine) = (self.upkeep.disk.as_ref(), self.upkeep.bus.join("quarantine"));
        let folder = quarantine.join(format!("{}-repair", self.upkeep.clock.wall_ms()));
        mirror_paths::private_dir(&folder).map_err(io::Error::other)?;
        let name = if file.packed { packed_name(file.first) } else { name(file.first) };
        let source = File::open(self.segments.dir.join(&name))?;
        let copy = disk.open(&folder.join(&name))?;
        copy.set_len(0)?;
        let mut buf = vec![0; CHUNK];
        let mut at = 0;
        loop {
            let n = read_at(&source, &mut buf, at)?;
            if n == 0 {
                break;
            }
            copy.write_all_at(&buf[..n], at)?;
            at += n as u64;
        }
        copy.sync_data()?;
        disk.sync_dir(&folder)?;
        disk.sync_dir(&quarantine)
    }

    /// Tells the index of the events that are there again.
    fn learn(&self, work: &Work) -> io::Result<()> {
        let mut lines = Lines::new(self.segments.source(work.first)?, 0);
        let mut entries = Vec::new();
        let mended = |seq| work.holes.iter().any(|h| h.why.is_empty() && (h.first..=h.last).contains(&seq));
        while let Ok(event) = lines.event(&self.segments.origin)? {
            let erased = Proof::read(&event, self.origin.as_str());
            let erased = erased.map(|proof| proof.targets.iter().map(|(seq, _)| *seq).collect());
            let header = event.header;
            if mended(header.seq) {
                let own = header.id.as_str().starts_with(OWN_ID);
                let key = (!own).then(|| key_of(header.id.as_str()));
                entries.push(Entry {
                    seq: header.seq,
                    key,
                    subject: header.subject,
                    erased: erased.unwrap_or_default(),
                });
            }
            if entries.len() >= 4_096 {
                self.index.fill(&entries).map_err(io::Error::other)?;
                entries.clear();
            }
        }
        self.index.fill(&entries).map_err(io::Error::other)
    }
}

/// What is written of a new segment.
struct Out<'a> {
    file: &'a dyn LogFile,
    at: u64,
    buf: Vec<u8>,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buf.extend_from_slice(bytes);
        if self.buf.len() >= CHUNK { self.flush().map(drop) } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<u64> {
        self.file.write_all_at(&self.buf, self.at)?;
        self.at += self.buf.len() as u64;
        self.buf.clear();
        Ok(self.at)
    }

    /// Takes over what stands here.
    fn local(&mut self, source: Option<&mut Source>, from: u64, to: u64) -> io::Result<()> {
        let Some(source) = source else { return Ok(()) };
        let mut buf = vec![0; CHUNK];
        let mut at = from;
        while at < to {
            let len = buf.len().min(usize::try_from(to - at).unwrap_or(CHUNK));
            let n = source.read_at(&mut buf[..len], at)?;
            if n == 0 {
                return Err(io::Error::other("the segment became shorter while it was repaired"));
            }
            self.put(&buf[..n])?;
            at += n as u64;
        }
        Ok(())
    }
}

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Repaired {
    v: u32,
    ranges: Vec<Named>,
    /// Ranges beyond those that are named.
    more: usize,
}

#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
struct Named {
    first: u64,
    last: u64,
}

/// Notes what was repaired, beside what was before.
fn note_pending(disk: &dyn Disk, bus: &Path, ranges: &[(u64, u64)]) -> io::Result<()> {
    let path = bus.join(PENDING);
    let old = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let mut pending = Repaired { v: 1, ..old.unwrap_or_default() };
    pending.ranges.extend(ranges.iter().map(|(first, last)| Named { first: *first, last: *last }));
    pending.more += pending.ranges.len().saturating_sub(NAMED);
    pending.ranges.truncate(NAMED);
    replace(disk, &path, &serde_json::to_vec(&pending)?)
}

fn event(pending: &[u8]) -> Result<Prepared, BusError> {
    // Read and written again, so that nothing else gets into the log by that file.
    let repaired: Repaired = serde_json::from_slice(pending).map_err(failed)?;
    let payload = serde_json::to_string(&repaired).map_err(failed)?;
    let subject = Subject::parse("bus.repaired").map_err(failed)?;
    Prepared::new(NewEvent::json(subject, payload), "svc:bus")
}

/// Appends what a process before this one repaired and could not record.
pub(crate) fn record_pending(log: &mut Log, disk: &dyn Disk, bus: &Path, wall_ms: u64) -> io::Result<()> {
    let path: PathBuf = bus.join(PENDING);
    let Ok(bytes) = std::fs::read(&path) else { return Ok(()) };
    if log.sealed().is_some() {
        return Ok(());
    }
    match event(&bytes) {
        Err(e) => tracing::warn!(error = %e, "what was repaired cannot be recorded"),
        Ok(event) => {
            match log.room(event.cost()) {
                Ok(()) => {}
                // It is recorded when there is room.
                Err(WriteError::NoRoom(_)) => return Ok(()),
                Err(WriteError::Failed(e)) => return Err(e),
            }
            log.place(&event, wall_ms, wall_ms);
            log.commit().map_err(|(WriteError::NoRoom(e) | WriteError::Failed(e))| e)?;
        }
    }
    disk.remove(&path)?;
    disk.sync_dir(bus)
}
