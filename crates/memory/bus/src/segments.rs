//! The segments of a log, as its readers know them: which there are, what is durable, and where events stand.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use mirror_types::Origin;
use tokio::sync::watch;

use crate::disk::Disk;
use crate::generation::Generations;
use crate::redact::Redactions;
use crate::source::Source;

/// One in so many events has its offset remembered.
pub(crate) const STRIDE: u64 = 64;

/// Returns a segment's file name.
pub(crate) fn name(first: u64) -> String {
    format!("{first:020}.seg")
}

/// Returns a compressed segment's file name.
pub(crate) fn packed_name(first: u64) -> String {
    format!("{first:020}.seg.zst")
}

/// A segment in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OnDisk {
    pub(crate) first: u64,
    /// Bytes of the file.
    pub(crate) size: u64,
    pub(crate) packed: bool,
}

/// Returns the segments of a folder, by first sequence; of two files of one segment the plain one counts.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<OnDisk>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file = entry.file_name();
        let Some(file) = file.to_str() else { continue };
        let plain = file.strip_suffix(".seg").map(|stem| (stem, false));
        let Some((stem, packed)) = plain.or(file.strip_suffix(".seg.zst").map(|stem| (stem, true))) else {
            continue;
        };
        if stem.len() == 20
            && let Ok(first) = stem.parse()
        {
            let size = match entry.metadata() {
                // Its other form has taken its place.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other?.len(),
            };
            found.push(OnDisk { first, size, packed });
        }
    }
    found.sort_unstable_by_key(|segment| (segment.first, segment.packed));
    found.dedup_by_key(|segment| segment.first);
    Ok(found)
}

/// A range of events that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    /// First sequence that is missing.
    pub(crate) first: u64,
    /// Last sequence that is missing; absent when nothing valid follows.
    pub(crate) last: Option<u64>,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) why: &'static str,
    /// Where the next valid event stands in the same segment.
    pub(crate) resume: Option<u64>,
}

impl Damage {
    pub(crate) fn describe(&self) -> String {
        let range = match self.last {
            Some(last) if last == self.first => format!("event {last} is"),
            Some(last) => format!("events {} to {last} are", self.first),
            None => format!("events from {} on are", self.first),
        };
        format!("{range} damaged in segment {} at byte {}: {}", name(self.segment), self.offset, self.why)
    }
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    offsets: Mutex<Vec<(u64, u64)>>,
}

impl Segment {
    pub(crate) fn new(first: u64) -> Self {
        Self { first, offsets: Mutex::new(vec![(first, 0)]) }
    }

    /// Remembers where an event stands.
    pub(crate) fn note(&self, seq: u64, offset: u64) {
        let mut offsets = self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
        if offsets.last().is_none_or(|(last, _)| seq >= last + STRIDE) {
            offsets.push((seq, offset));
        }
    }

    /// Remembers where an event stands behind damage, which cannot be read across.
    pub(crate) fn note_resume(&self, seq: u64, offset: u64) {
        let mut offsets = self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
        let at = offsets.partition_point(|(s, _)| *s < seq);
        if offsets.get(at).is_none_or(|(s, _)| *s != seq) {
            offsets.insert(at, (seq, offset));
        }
    }

    /// Forgets all places, since the file was made anew.
    pub(crate) fn forget(&self) {
        *self.offsets.lock().unwrap_or_else(PoisonError::into_inner) = vec![(self.first, 0)];
    }

    /// Returns the last known place that is not after an event.
    pub(crate) fn seek(&self, seq: u64) -> (u64, u64) {
        let offsets = self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
        let at = offsets.partition_point(|(s, _)| *s <= seq);
        offsets.get(at.saturating_sub(1)).copied().unwrap_or((self.first, 0))
    }
}

/// What readers share with the writer.
#[derive(Debug)]
pub(crate) struct Segments {
    pub(crate) dir: PathBuf,
    pub(crate) origin: Origin,
    list: RwLock<Vec<Arc<Segment>>>,
    damage: RwLock<Vec<Damage>>,
    damaged: watch::Sender<usize>,
    /// How many segments there are, so that somebody can wait for the next to be sealed.
    counted: watch::Sender<usize>,
    pub(crate) generations: Generations,
    pub(crate) redactions: Redactions,
    /// Last durable event, for whoever judges what an event names.
    durable: AtomicU64,
}

impl Segments {
    pub(crate) fn new(dir: PathBuf, origin: Origin, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let generations = Generations::open(&dir, disk)?;
        let (damaged, counted) = (watch::channel(0).0, watch::channel(0).0);
        let (list, damage) = (RwLock::default(), RwLock::default());
        let (redactions, durable) = (Redactions::default(), AtomicU64::new(0));
        Ok(Self { dir, origin, list, damage, damaged, counted, generations, redactions, durable })
    }

    /// Returns the last durable event.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Notes the last durable event.
    pub(crate) fn note_durable(&self, seq: u64) {
        self.durable.store(seq, Ordering::Release);
    }

    /// Returns the segments of somebody else's log, which is only read.
    pub(crate) fn foreign(dir: PathBuf, origin: Origin) -> Self {
        let generations = Generations::none(&dir);
        let (damaged, counted) = (watch::channel(0).0, watch::channel(0).0);
        let (redactions, durable) = (Redactions::default(), AtomicU64::new(0));
        let (list, damage) = (RwLock::default(), RwLock::default());
        Self { dir, origin, list, damage, damaged, counted, generations, redactions, durable }
    }

    pub(crate) fn add(&self, first: u64) -> Arc<Segment> {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let segment = Arc::new(Segment::new(first));
        let at = list.partition_point(|s| s.first < first);
        list.insert(at, Arc::clone(&segment));
        self.counted.send_replace(list.len());
        segment
    }

    /// Returns how many segments there are, and tells when there is another one.
    pub(crate) fn watch_count(&self) -> watch::Receiver<usize> {
        self.counted.subscribe()
    }

    /// Returns the first sequences of all segments, in order.
    pub(crate) fn firsts(&self) -> Vec<u64> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).iter().map(|s| s.first).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.list.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Returns the first position of the log, 1 unless older segments were taken away.
    pub(crate) fn oldest(&self) -> u64 {
        self.list.read().unwrap_or_else(PoisonError::into_inner).first().map_or(1, |s| s.first)
    }

    /// Returns the segment that holds an event, and the first sequence of the next segment.
    pub(crate) fn of(&self, seq: u64) -> Option<(Arc<Segment>, Option<u64>)> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let at = list.partition_point(|s| s.first <= seq);
        let segment = list.get(at.checked_sub(1)?)?;
        Some((Arc::clone(segment), list.get(at).map(|s| s.first)))
    }

    pub(crate) fn open(&self, segment: &Segment) -> io::Result<Source> {
        self.source(segment.first)
    }

    /// Opens a segment in the form that it has now.
    pub(crate) fn source(&self, first: u64) -> io::Result<Source> {
        match Source::plain(&self.dir.join(name(first))) {
            // It is removed only after its compressed form is there.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Source::packed(&self.dir.join(packed_name(first)))
            }
            other => other,
        }
    }

    /// Opens a segment, of which as much is read as can be.
    pub(crate) fn salvage(&self, first: u64) -> io::Result<Source> {
        match self.source(first)? {
            Source::Plain(file) => Ok(Source::Plain(file)),
            Source::Packed(packed) => packed.salvage().map(|packed| Source::Packed(Box::new(packed))),
        }
    }

    /// Records damage; returns whether it is news.
    pub(crate) fn mark(&self, damage: Damage) -> bool {
        let mut all = self.damage.write().unwrap_or_else(PoisonError::into_inner);
        let news = !all.iter().any(|d| d.first == damage.first);
        if news {
            all.push(damage);
            all.sort_by_key(|d| d.first);
            self.damaged.send_replace(all.len());
        }
        news
    }

    /// Takes this for all that is damaged.
    pub(crate) fn set_damage(&self, damage: Vec<Damage>) {
        let count = damage.len();
        *self.damage.write().unwrap_or_else(PoisonError::into_inner) = damage;
        self.damaged.send_replace(count);
    }

    /// Returns how many ranges are damaged, and tells when another one is found.
    pub(crate) fn watch_damage(&self) -> watch::Receiver<usize> {
        self.damaged.subscribe()
    }

    pub(crate) fn damage(&self) -> Vec<Damage> {
        self.damage.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the damage that hides an event.
    pub(crate) fn damage_at(&self, seq: u64) -> Option<Damage> {
        let all = self.damage.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|d| d.first <= seq && d.last.is_none_or(|last| seq <= last)).cloned()
    }
}
