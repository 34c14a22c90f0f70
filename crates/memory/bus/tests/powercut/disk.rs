//! A disk that forgets what was not synced.
//!
//! It keeps two copies of each file: what the process sees, as in the page cache, and what is on the disk. Bytes reach the
//! disk by `sync_data`, lengths by `sync_data` and `set_len`, names by `sync_dir`. At a power cut only the disk is left,
//! with a random part of the bytes and names that were still on their way. A killed process loses neither.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use mirror_bus::{Disk, LogFile};

/// The unit in which bytes reach the disk.
const SECTOR: u64 = 512;

/// Small numbers that a seed decides.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    /// Returns a number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// The folders of one simulated machine.
#[derive(Debug, Clone)]
pub(crate) struct World(PathBuf);

impl World {
    /// Makes an empty machine.
    pub(crate) fn new(root: &Path) -> Self {
        let world = Self(root.to_owned());
        for dir in [world.live(), world.part("cache"), world.part("synced"), world.part("names")] {
            mirror_paths::private_dir(&dir).unwrap();
        }
        let key = mirror_seal::NodeKey::generate().unwrap().public();
        let (origin, key) = (format!("{}.1", key.fingerprint()), key.to_hex());
        let node = serde_json::json!({ "format": 1, "origin": origin, "public_key": key });
        fs::write(world.live().join("node.json"), node.to_string() + "\n").unwrap();
        world.settle();
        world
    }

    /// Takes over a machine that another process made.
    pub(crate) fn at(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Returns the bus folder as the process sees it.
    pub(crate) fn live(&self) -> PathBuf {
        self.part("live")
    }

    pub(crate) fn part(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Returns where the names of a folder stand on the disk.
    fn names(&self, dir: &Path) -> PathBuf {
        let relative = dir.strip_prefix(self.live()).unwrap().to_string_lossy().replace('/', "+");
        self.part("names").join(format!("dir+{relative}"))
    }

    /// Lists a folder as the process sees it; the index and the lock are not under test.
    fn listing(&self, dir: &Path) -> String {
        let mut rows = BTreeSet::new();
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if dir == self.live() && (name.starts_with("index") || name == "LOCK") {
                continue;
            }
            let meta = entry.metadata().unwrap();
            let kind = if meta.is_dir() { "d" } else { "f" };
            rows.insert(format!("{kind} {} {name}\n", meta.ino()));
        }
        rows.into_iter().collect()
    }

    fn sync_names(&self, dir: &Path) -> io::Result<()> {
        let (path, temp) = (self.names(dir), self.part("names").join("temp"));
        fs::write(&temp, self.listing(dir))?;
        fs::rename(&temp, path)
    }

    /// Cuts the power: what the process sees next is what the disk has, and a random part of what was under way.
    pub(crate) fn power_cut(&self, rng: &mut Rng) {
        let after = self.part("after");
        let sector = if rng.below(2) == 0 { SECTOR } else { 4096 };
        let survival = [0, 20, 50, 95, 100][usize::try_from(rng.below(5)).unwrap()];
        self.cut_dir(&self.live(), &after, sector, survival, rng);
        if rng.below(2) == 0 {
            copy_tree(&self.live().join("index"), &after.join("index"));
        }
        fs::remove_dir_all(self.live()).unwrap();
        fs::rename(after, self.live()).unwrap();
        self.settle();
    }

    fn cut_dir(&self, dir: &Path, to: &Path, sector: u64, survival: u64, rng: &mut Rng) {
        mirror_paths::private_dir(to).unwrap();
        let synced = fs::read_to_string(self.names(dir)).unwrap_or_default();
        // Names under way come as a whole or not at all: a rename is one record of the journal.
        let names = if rng.below(2) == 0 { self.listing(dir) } else { synced };
        for row in names.lines() {
            let mut parts = row.splitn(3, ' ');
            let (kind, ino, name) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            if kind == "d" {
                self.cut_dir(&dir.join(name), &to.join(name), sector, survival, rng);
            } else {
                fs::write(to.join(name), self.cut_file(ino, sector, survival, rng)).unwrap();
            }
        }
    }

    fn cut_file(&self, ino: &str, sector: u64, survival: u64, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = fs::read(self.part("synced").join(ino)).unwrap_or_default();
        let seen = fs::read(self.part("cache").join(ino)).unwrap_or_default();
        if bytes.len() != seen.len() && rng.below(100) < survival {
            bytes.resize(seen.len(), 0);
        }
        let sector = usize::try_from(sector).unwrap();
        for (disk, seen) in bytes.chunks_mut(sector).zip(seen.chunks(sector)) {
            let len = disk.len().min(seen.len());
            if disk[..len] != seen[..len] && rng.below(100) < survival {
                disk[..len].copy_from_slice(&seen[..len]);
            }
        }
        bytes
    }

    /// Takes everything that the process sees for durable.
    pub(crate) fn settle(&self) {
        for part in ["cache", "synced", "names"] {
            fs::remove_dir_all(self.part(part)).unwrap();
            mirror_paths::private_dir(&self.part(part)).unwrap();
        }
        let mut dirs = vec![self.live()];
        while let Some(dir) = dirs.pop() {
            self.sync_names(&dir).unwrap();
            for row in self.listing(&dir).lines() {
                let name = row.splitn(3, ' ').nth(2).unwrap();
                let path = dir.join(name);
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    let ino = fs::metadata(&path).unwrap().ino().to_string();
                    fs::copy(&path, self.part("synced").join(&ino)).unwrap();
                    fs::hard_link(&path, self.part("cache").join(&ino)).unwrap();
                }
            }
        }
    }
}

/// Copies a folder, if it is there.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    let Ok(entries) = fs::read_dir(from) else { return };
    mirror_paths::private_dir(to).unwrap();
    for entry in entries {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.metadata().unwrap().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The disk of a [`World`].
#[derive(Debug, Clone)]
pub(crate) struct PowerCutDisk {
    world: World,
    /// Whether `sync_data` does what it says.
    honest: bool,
    cache: Arc<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    /// Sectors on their way, by file.
    dirty: Mutex<HashMap<u64, BTreeSet<u64>>>,
    fail_sync: AtomicBool,
    forget: AtomicBool,
    operations: AtomicU64,
    /// Where the process stops; 0 for never.
    stop_at: AtomicU64,
}

impl Cache {
    /// Counts an operation; returns whether the process is to stop in the middle of it.
    fn is_last(&self) -> bool {
        let stop_at = self.stop_at.load(SeqCst);
        self.operations.fetch_add(1, SeqCst) >= stop_at && stop_at > 0
    }

    /// Tells the parent that the moment has come, and stands still until it kills.
    fn stop(&self) -> ! {
        let pipe: OwnedFd = io::stdin().as_fd().try_clone_to_owned().unwrap();
        UnixStream::from(pipe).write_all(b"stopped\n").unwrap();
        loop {
            std::thread::park();
        }
    }
}

impl PowerCutDisk {
    pub(crate) fn new(world: World) -> Self {
        Self { world, honest: true, cache: Arc::default() }
    }

    /// Returns a disk whose `sync_data` does nothing.
    pub(crate) fn lying(world: World) -> Self {
        Self { honest: false, ..Self::new(world) }
    }

    /// Stops the process in the middle of an operation, counted from 0; in the next one when that has no middle.
    pub(crate) fn stop_at(&self, operation: u64) {
        self.cache.stop_at.store(operation, SeqCst);
    }

    /// Lets the next `sync_data` fail; with `forget` as Linux does, which then takes the bytes for clean.
    pub(crate) fn fail_next_sync(&self, forget: bool) {
        self.cache.fail_sync.store(true, SeqCst);
        self.cache.forget.store(forget, SeqCst);
    }
}

#[derive(Debug)]
struct CutFile {
    seen: File,
    disk: File,
    ino: u64,
    honest: bool,
    cache: Arc<Cache>,
}

impl CutFile {
    fn dirty<T>(&self, run: impl FnOnce(&mut BTreeSet<u64>) -> T) -> T {
        run(self.cache.dirty.lock().unwrap().entry(self.ino).or_default())
    }

    fn sync(&self) -> io::Result<()> {
        let last = self.cache.is_last();
        let sectors = self.dirty(std::mem::take);
        let mut buf = [0; SECTOR as usize];
        // Backwards, so that a kill on the way leaves the end without the beginning.
        for (i, sector) in sectors.iter().rev().enumerate() {
            if last && i >= sectors.len() / 2 {
                self.cache.stop();
            }
            let n = self.seen.read_at(&mut buf, sector * SECTOR)?;
            FileExt::write_all_at(&self.disk, &buf[..n], sector * SECTOR)?;
        }
        self.disk.set_len(self.seen.metadata()?.len())
    }
}

impl LogFile for CutFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.dirty(|d| d.extend(offset / SECTOR..(offset + bytes.len() as u64).div_ceil(SECTOR)));
        if self.cache.is_last() {
            FileExt::write_all_at(&self.seen, &bytes[..bytes.len() / 2], offset)?;
            self.cache.stop();
        }
        FileExt::write_all_at(&self.seen, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.cache.fail_sync.swap(false, SeqCst) {
            if self.cache.forget.load(SeqCst) {
                self.dirty(BTreeSet::clear);
            }
            return Err(io::Error::from_raw_os_error(5));
        }
        if self.honest { self.sync() } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.cache.is_last() {
            self.cache.stop();
        }
        self.seen.set_len(len)?;
        self.sync()
    }
}

impl Disk for PowerCutDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        let open =
            |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let seen = open(path)?;
        let ino = seen.metadata()?.ino();
        let cached = self.world.part("cache").join(ino.to_string());
        let disk = open(&self.world.part("synced").join(ino.to_string()))?;
        if !cached.exists() {
            fs::hard_link(path, &cached)?;
        }
        let mut dirty = self.cache.dirty.lock().unwrap();
        if let std::collections::hash_map::Entry::Vacant(entry) = dirty.entry(ino) {
            // Another process left these on their way.
            let (a, b) = (fs::read(&cached)?, fs::read(self.world.part("synced").join(ino.to_string()))?);
            let sector = SECTOR as usize;
            let differ = |i: &u64| {
                let at = usize::try_from(*i).unwrap() * sector;
                a.get(at..a.len().min(at + sector)) != b.get(at..b.len().min(at + sector))
            };
            entry.insert((0..(a.len() as u64).div_ceil(SECTOR)).filter(differ).collect());
        }
        drop(dirty);
        Ok(Box::new(CutFile { seen, disk, ino, honest: self.honest, cache: Arc::clone(&self.cache) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        if self.cache.is_last() {
            self.cache.stop();
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.cache.is_last() {
            self.cache.stop();
        }
        self.world.sync_names(dir)
    }

    fn space(&self, _: &Path) -> io::Result<(u64, u64)> {
        Ok((1 << 40, 1 << 40))
    }
}
