//! The log itself: one writer, one write and one sync for a batch, segments filled ahead of use.
//!
//! Synchronous and alone on its thread. Invariant: the chain in memory advances only after the sync.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use mirror_seal::Hash;
use mirror_types::{Hlc, Origin};

use crate::config::Config;
use crate::disk::{Disk, LogFile, fill};
use crate::erase::{ending, finish};
use crate::event::{OWN_ID, Prepared};
use crate::line::{Content, Header, Place, write_e};
use crate::recover::{Torn, cut, last_header, scan, settle};
use crate::scan::Chain;
use crate::seal;
use crate::segments::{Damage, OnDisk, STRIDE, Segment, Segments, list, name};

/// Name of the segment that is filled ahead of use.
const NEXT: &str = "next.fill";

/// Why a log cannot take a batch.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// There is no room for another segment; nothing was written.
    NoRoom(io::Error),
    /// A write or sync failed; its outcome is unknown.
    Failed(io::Error),
}

/// What opening a log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recovery {
    pub(crate) torn: Option<Torn>,
    pub(crate) damage: Vec<Damage>,
    /// Events that the index knows and the log does not.
    pub(crate) lost: u64,
    /// The last event that was found.
    pub(crate) after: u64,
}

impl Recovery {
    /// Returns whether the log ends as it was left.
    pub(crate) fn is_clean(&self) -> bool {
        self.torn.is_none() && self.damage.is_empty() && self.lost == 0
    }
}

#[derive(Debug)]
struct Active {
    file: Box<dyn LogFile>,
    segment: Arc<Segment>,
    len: u64,
    size: u64,
}

/// A placed event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) seq: u64,
    pub(crate) leaf: Hash,
}

/// A point in a batch to which it can be taken back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    chain: Chain,
    len: usize,
    starts: usize,
}

/// The log of this device.
#[derive(Debug)]
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    config: Config,
    origin: Origin,
    segments: Arc<Segments>,
    active: Active,
    /// After the last durable event.
    durable: Chain,
    /// After the last event of the batch.
    chain: Chain,
    batch: Vec<u8>,
    starts: Vec<(u64, usize)>,
    filling: Option<JoinHandle<io::Result<u64>>>,
    sealed: Option<u64>,
}

impl Log {
    /// Opens the log of an origin under the bus's folder. `seen` is the highest sequence that the index has.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        bus: &Path,
        origin: &Origin,
        config: Config,
        seen: u64,
        wall_ms: u64,
    ) -> io::Result<(Self, Recovery)> {
        let dir = bus.join("log").join(origin.as_str());
        let quarantine = bus.join("quarantine");
        for dir in [&dir, &quarantine] {
            mirror_paths::private_dir(dir).map_err(io::Error::other)?;
        }
        clear_away(disk.as_ref(), &dir)?;
        // A process that was killed may have left a name that only memory holds.
        for dir in [&dir, &bus.join("log"), bus] {
            disk.sync_dir(dir)?;
        }
        let segments = Arc::new(Segments::new(dir.clone(), origin.clone(), Arc::clone(&disk))?);
        // Where a change was under way, the sealed segments are read too.
        let changed = segments.generations.unfinished();
        let doubtful = |first| segments.generations.is_suspect() || changed.contains(&first);
        let found = list(&dir)?;
        if found.is_empty() {
            let size = config.first_segment();
            make(disk.as_ref(), &dir, size)?;
            disk.rename(&dir.join(NEXT), &dir.join(name(1)))?;
            disk.sync_dir(&dir)?;
        }
        let found = if found.is_empty() { list(&dir)? } else { found };
        let ending = match found.last().filter(|last| !last.packed) {
            Some(last) => ending(&segments, last.first)?,
            None => None,
        };
        if let Some(ending) = &ending {
            finish(disk.as_ref(), &segments, &found, ending, seen)?;
        }
        let mut recovery = Recovery::default();
        let mut erased = Vec::new();
        let mut chain = Chain::EMPTY;
        let mut end = 0;
        let mut last_write = 0;
        let mut last = None;
        for (i, OnDisk { first, size, packed }) in found.iter().enumerate() {
            let segment = segments.add(*first);
            if *first != chain.seq + 1 {
                let (from, to, why) = if *first > chain.seq {
                    (chain.seq + 1, first - 1, "the segments before it are missing")
                } else {
                    (*first, chain.seq, "the segment stands where another one is")
                };
                let (last, segment) = (Some(to), *first);
                recovery.damage.push(Damage { first: from, last, segment, offset: 0, why, resume: None });
                chain = Chain { seq: first - 1, ..Chain::EMPTY };
            }
            if let Some(OnDisk { first: next, .. }) = found.get(i + 1)
                && !doubtful(*first)
            {
                // A sealed segment is trusted when it ends where the next begins; readers check every line.
                if let Some(header) = last_header(&segments, *first)?.filter(|h| h.seq + 1 == *next) {
                    chain = Chain { seq: header.seq, leaf: header.leaf, hlc: header.hlc };
                    continue;
                }
            }
            let active = i + 1 == found.len() && !packed;
            if chain.seq > 0 && chain.leaf == [0; 32] {
                // What stood before is missing, so the first event is taken at its word.
                if let Ok(Ok(event)) =
                    crate::scan::Lines::new(segments.open(&segment)?, 0).event(origin).as_ref()
                {
                    chain.leaf = event.header.prev;
                }
            }
            let mut scanned = scan(&segments, &segment, chain, active, seen)?;
            chain = scanned.chain;
            end = scanned.end;
            last_write = scanned.last_write;
            if let (Some(OnDisk { first: next, .. }), Some(open)) =
                (found.get(i + 1), scanned.damage.last_mut().filter(|d| d.last.is_none()))
            {
                // The next segment begins where this one must have ended.
                open.last = Some(next - 1);
                chain = Chain { seq: next - 1, ..Chain::EMPTY };
            }
            recovery.damage.extend(scanned.damage);
            erased.extend(scanned.erased);
            recovery.torn = scanned.torn.or(recovery.torn);
            last = Some((segment, *size, *packed));
        }
        for damage in &recovery.damage {
            segments.mark(damage.clone());
        }
        segments.note_durable(chain.seq);
        for damage in erased.iter().filter_map(|erased| erased.judge(&segments)) {
            segments.mark(damage.clone());
            recovery.damage.push(damage);
        }
        recovery.damage.sort_by_key(|damage| damage.first);
        if let Some(torn) = recovery.torn.as_ref().filter(|_| recovery.damage.is_empty()) {
            cut(disk.as_ref(), &segments, torn, &quarantine, wall_ms)?;
        }
        recovery.after = chain.seq;
        let (mut segment, mut size, packed) =
            last.ok_or_else(|| io::Error::other("the log has no segment"))?;
        let mut path = dir.join(name(segment.first));
        if packed {
            // What follows a compressed segment is gone, so a new one begins here; but not after damage, whose end is unknown.
            (end, last_write) = (0, 0);
            size = make(disk.as_ref(), &dir, config.first_segment())?;
            path = dir.join(NEXT);
            if recovery.damage.is_empty() {
                path = dir.join(name(chain.seq + 1));
                disk.rename(&dir.join(NEXT), &path)?;
                disk.sync_dir(&dir)?;
                segment = segments.add(chain.seq + 1);
            }
        }
        let file = disk.open(&path)?;
        if recovery.damage.is_empty() {
            recovery.lost = seen.saturating_sub(chain.seq);
            settle(file.as_ref(), &path, last_write, end)?;
        }
        let sealed = match ending {
            Some(ending) => Some(ending.header),
            // A segment that was begun and not written yet.
            None => match found.iter().rev().nth(1) {
                Some(before) if end == 0 && chain.seq > 0 => last_header(&segments, before.first)?,
                _ => None,
            },
        };
        let is_seal = |last: &Header| last.seq == chain.seq && last.leaf == chain.leaf && seal::is_seal(last);
        let sealed = sealed.filter(is_seal).map(|last| last.seq);
        let log = Self {
            disk,
            config,
            origin: origin.clone(),
            segments,
            active: Active { file, segment, len: end, size },
            durable: chain,
            chain,
            batch: Vec::new(),
            starts: Vec::new(),
            filling: None,
            sealed,
        };
        Ok((log, recovery))
    }

    /// Takes the segments for settled whose change was under way: what could be finished is.
    pub(crate) fn rest(&self) -> io::Result<()> {
        let generations = &self.segments.generations;
        generations.unfinished().into_iter().try_for_each(|first| generations.finish(first))
    }

    pub(crate) fn segments(&self) -> Arc<Segments> {
        Arc::clone(&self.segments)
    }

    pub(crate) fn head(&self) -> Chain {
        self.durable
    }

    /// Returns the event that sealed the log.
    pub(crate) fn sealed(&self) -> Option<u64> {
        self.sealed
    }

    /// Takes no event after the last one.
    pub(crate) fn seal(&mut self) {
        self.sealed = Some(self.durable.seq);
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.segments.dir.clone()
    }

    /// Makes sure that a batch of up to `bytes` can be written.
    pub(crate) fn room(&mut self, bytes: usize) -> Result<(), WriteError> {
        debug_assert!(self.batch.is_empty(), "a batch is being placed");
        if self.active.len + bytes as u64 > self.active.size {
            self.roll(bytes as u64)?;
        }
        if self.filling.is_none() && self.active.len > self.active.size / 2 {
            let (disk, dir) = (Arc::clone(&self.disk), self.dir());
            let size = self.config.next_segment(self.active.size);
            self.filling = mirror_kit::spawn_thread("bus-fill", move || make(disk.as_ref(), &dir, size)).ok();
        }
        Ok(())
    }

    /// Returns how many bytes the batch that is being placed can grow by, of at most `limit` in all.
    pub(crate) fn left(&self, limit: usize) -> usize {
        let room = usize::try_from(self.active.size - self.active.len).unwrap_or(usize::MAX);
        room.min(limit).saturating_sub(self.batch.len())
    }

    /// Returns the size of a new segment that takes `need` bytes.
    fn filled(&mut self, need: u64) -> io::Result<u64> {
        let need = need.next_multiple_of(1 << 16);
        match self.filling.take().map(JoinHandle::join) {
            Some(Ok(Ok(size))) if size >= need => return Ok(size),
            Some(Ok(Err(e))) if !is_full(&e) => return Err(e),
            _ => {}
        }
        let dir = self.dir();
        let size = self.config.next_segment(self.active.size).max(need);
        match make(self.disk.as_ref(), &dir, size) {
            // On a volume that is nearly full, a small one may still fit.
            Err(e) if is_full(&e) => make(self.disk.as_ref(), &dir, self.config.first_segment().max(need)),
            other => other,
        }
    }

    fn roll(&mut self, need: u64) -> Result<(), WriteError> {
        let refused = |e| match is_full(&e) {
            true => WriteError::NoRoom(e),
            false => WriteError::Failed(e),
        };
        if self.active.len == 0 {
            // A segment without an event cannot be sealed: the next one would have its name.
            return self.grow(need).map_err(refused);
        }
        let dir = self.dir();
        let size = self.filled(need).map_err(refused)?;
        // Sealed before the next is named: only the last segment may have a tail.
        self.active.file.set_len(self.active.len).map_err(WriteError::Failed)?;
        self.active.size = self.active.len;
        let first = self.durable.seq + 1;
        let path = dir.join(name(first));
        self.disk.rename(&dir.join(NEXT), &path).map_err(WriteError::Failed)?;
        self.disk.sync_dir(&dir).map_err(WriteError::Failed)?;
        let file = self.disk.open(&path).map_err(WriteError::Failed)?;
        let segment = self.segments.add(first);
        self.active = Active { file, segment, len: 0, size };
        Ok(())
    }

    /// Makes the active segment large enough.
    fn grow(&mut self, need: u64) -> io::Result<()> {
        let size = need.next_multiple_of(1 << 16);
        let (free, _) = self.disk.space(&self.segments.dir)?;
        if free < size - self.active.size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let (file, before) = (&self.active.file, self.active.size);
        match fill(file.as_ref(), before, size).and_then(|()| file.sync_data()) {
            Ok(()) => {
                self.active.size = size;
                Ok(())
            }
            Err(e) => {
                // What could not be filled must not keep the last space.
                let _ = file.set_len(before);
                Err(e)
            }
        }
    }

    /// Places an event at the end of the batch.
    pub(crate) fn place(&mut self, event: &Prepared, wall_ms: u64, hlc_ms: u64) -> Placed {
        let seq = self.chain.seq + 1;
        let hlc: Hlc = self.chain.hlc.next(hlc_ms);
        if seq.is_multiple_of(STRIDE) || self.starts.is_empty() {
            self.starts.push((seq, self.batch.len()));
        }
        let place = Place {
            origin: &self.origin,
            seq,
            batch: self.durable.seq + 1,
            hlc,
            wall_ms,
            prev: &self.chain.leaf,
        };
        let own;
        let id = match &event.id {
            Some(id) => id.as_str(),
            None => {
                own = [OWN_ID, itoa::Buffer::new().format(seq)].concat();
                &own
            }
        };
        let content = Content {
            subject: event.subject.as_str(),
            id,
            stored: event.stored,
            len: event.len,
            digest: &event.digest,
            provenance: &event.provenance,
        };
        let leaf = write_e(&mut self.batch, &place, &content);
        self.batch.extend_from_slice(&event.d_line);
        self.chain = Chain { seq, leaf, hlc };
        Placed { seq, leaf }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { chain: self.chain, len: self.batch.len(), starts: self.starts.len() }
    }

    /// Takes the batch back to a mark.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        self.chain = mark.chain;
        self.batch.truncate(mark.len);
        self.starts.truncate(mark.starts);
    }

    /// Writes and syncs the batch. After an error the log must not be used again.
    pub(crate) fn commit(&mut self) -> Result<(), WriteError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let offset = self.active.len;
        self.active.file.write_all_at(&self.batch, offset).map_err(WriteError::Failed)?;
        self.active.file.sync_data().map_err(WriteError::Failed)?;
        for (seq, start) in self.starts.drain(..) {
            self.active.segment.note(seq, offset + start as u64);
        }
        self.active.len += self.batch.len() as u64;
        self.durable = self.chain;
        self.segments.note_durable(self.durable.seq);
        self.batch.clear();
        // One very large batch must not hold its memory for ever.
        self.batch.shrink_to(4 << 20);
        Ok(())
    }

    /// Returns the bytes of the active segment that are in use.
    pub(crate) fn active_bytes(&self) -> u64 {
        self.active.len
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // The next one to open the log must not meet a thread that still fills a segment.
        if let Some(fill) = self.filling.take() {
            let _ = fill.join();
        }
    }
}

/// Removes what a process left half made, and the compressed form of a segment that still has its plain one.
fn clear_away(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let file = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let twice =
            file.strip_suffix(".seg.zst").is_some_and(|stem| dir.join(format!("{stem}.seg")).exists());
        let half = [".seg.tmp", ".seg.zst.tmp"].iter().any(|end| file.ends_with(end));
        if file == NEXT || half || twice {
            disk.remove(&path)?;
        }
    }
    Ok(())
}

pub(crate) fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes a segment full of newlines under the name of the next one.
fn make(disk: &dyn Disk, dir: &Path, size: u64) -> io::Result<u64> {
    // Asked first, so that a volume without room is not filled to the brim in vain.
    if disk.space(dir).is_ok_and(|(free, _)| free < size) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let file = disk.open(&dir.join(NEXT))?;
    let result = file.set_len(0).and_then(|()| fill(file.as_ref(), 0, size)).and_then(|()| file.sync_data());
    match result {
        Ok(()) => Ok(size),
        Err(e) => {
            // What could not be filled must not keep the last space.
            let _ = file.set_len(0);
            Err(e)
        }
    }
}
