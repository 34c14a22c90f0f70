//! What a lossy file system holds: each file twice, as the processes see it and as the disk has it.
//!
//! Names that were changed and not synced wait in one list, each change whole: a rename is one record of a journal.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use crate::Rng;

/// The unit in which bytes reach the disk.
const SECTOR: usize = 512;

/// Number of the root.
pub(crate) const ROOT: u64 = 1;

/// A system error number.
pub(crate) type Code = i32;

pub(crate) const EIO: Code = 5;
pub(crate) const ENOENT: Code = 2;
pub(crate) const EEXIST: Code = 17;
pub(crate) const ENOTDIR: Code = 20;
pub(crate) const ENOTEMPTY: Code = 39;

/// Bytes of a file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bytes {
    pub(crate) seen: Vec<u8>,
    synced: Vec<u8>,
    /// Sectors that differ, or may.
    dirty: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    File(Bytes),
    Dir {
        seen: BTreeMap<OsString, u64>,
        synced: BTreeMap<OsString, u64>,
    },
    Link(Vec<u8>),
    /// A socket or another node; its mode says which.
    Node,
}

#[derive(Debug, Clone)]
pub(crate) struct Inode {
    pub(crate) kind: Kind,
    /// Permissions with the type, as in `st_mode`.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Moment of the last change, in changes since the start.
    pub(crate) changed: u64,
}

/// One change of names: in each folder a name that is bound or freed.
type Change = Vec<(u64, OsString, Option<u64>)>;

/// A file system in memory.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    changes: Vec<Change>,
    tick: u64,
    rng: Rng,
    /// Whether a sync does what it says.
    honest: bool,
}

impl Tree {
    pub(crate) fn new(seed: u64, honest: bool) -> Self {
        let root = Inode { kind: folder(), mode: 0o040_700, uid: 0, gid: 0, changed: 0 };
        let inodes = BTreeMap::from([(ROOT, root)]);
        Self { inodes, next: ROOT + 1, changes: Vec::new(), tick: 0, rng: Rng::new(seed), honest }
    }

    pub(crate) fn get(&self, ino: u64) -> Result<&Inode, Code> {
        self.inodes.get(&ino).ok_or(ENOENT)
    }

    pub(crate) fn get_mut(&mut self, ino: u64) -> Result<&mut Inode, Code> {
        self.tick += 1;
        let inode = self.inodes.get_mut(&ino).ok_or(ENOENT)?;
        inode.changed = self.tick;
        Ok(inode)
    }

    pub(crate) fn names(&self, dir: u64) -> Result<&BTreeMap<OsString, u64>, Code> {
        match &self.get(dir)?.kind {
            Kind::Dir { seen, .. } => Ok(seen),
            _ => Err(ENOTDIR),
        }
    }

    pub(crate) fn lookup(&self, dir: u64, name: &OsStr) -> Result<u64, Code> {
        self.names(dir)?.get(name).copied().ok_or(ENOENT)
    }

    fn change(&mut self, change: Change) -> Result<(), Code> {
        for (dir, name, ino) in &change {
            let Kind::Dir { seen, .. } = &mut self.get_mut(*dir)?.kind else { return Err(ENOTDIR) };
            bind(seen, name, *ino);
        }
        self.changes.push(change);
        Ok(())
    }

    /// Makes an inode under a name.
    pub(crate) fn make(&mut self, dir: u64, name: &OsStr, inode: Inode) -> Result<u64, Code> {
        if self.lookup(dir, name).is_ok() {
            return Err(EEXIST);
        }
        let ino = self.next;
        self.next += 1;
        self.inodes.insert(ino, inode);
        self.change(vec![(dir, name.to_owned(), Some(ino))])?;
        Ok(ino)
    }

    pub(crate) fn unlink(&mut self, dir: u64, name: &OsStr) -> Result<(), Code> {
        let ino = self.lookup(dir, name)?;
        if self.names(ino).is_ok_and(|names| !names.is_empty()) {
            return Err(ENOTEMPTY);
        }
        // The inode stays: whoever has it open may go on using it.
        self.change(vec![(dir, name.to_owned(), None)])
    }

    pub(crate) fn link(&mut self, ino: u64, dir: u64, name: &OsStr) -> Result<(), Code> {
        self.change(vec![(dir, name.to_owned(), Some(ino))])
    }

    pub(crate) fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), keep: bool) -> Result<(), Code> {
        let ino = self.lookup(from.0, from.1)?;
        if let Ok(other) = self.lookup(to.0, to.1) {
            if keep {
                return Err(EEXIST);
            }
            if self.names(other).is_ok_and(|names| !names.is_empty()) {
                return Err(ENOTEMPTY);
            }
        }
        self.change(vec![(from.0, from.1.to_owned(), None), (to.0, to.1.to_owned(), Some(ino))])
    }

    pub(crate) fn write(&mut self, ino: u64, at: usize, bytes: &[u8]) -> Result<(), Code> {
        let early = self.rng.one_in(4).then(|| self.rng.bits());
        let Kind::File(file) = &mut self.get_mut(ino)?.kind else { return Err(EIO) };
        let end = at + bytes.len();
        if file.seen.len() < end {
            file.seen.resize(end, 0);
        }
        file.seen[at..end].copy_from_slice(bytes);
        file.dirty.extend(at / SECTOR..end.div_ceil(SECTOR));
        if let Some(bits) = early {
            // The system writes back what it likes, when it likes.
            let nth = usize::try_from(bits).unwrap_or(0) % file.dirty.len().max(1);
            if let Some(sector) = file.dirty.iter().nth(nth).copied() {
                file.settle(sector);
            }
        }
        Ok(())
    }

    pub(crate) fn set_len(&mut self, ino: u64, len: usize) -> Result<(), Code> {
        let Kind::File(file) = &mut self.get_mut(ino)?.kind else { return Err(EIO) };
        let old = file.seen.len();
        file.seen.resize(len, 0);
        file.dirty.extend(old.min(len) / SECTOR..old.max(len).div_ceil(SECTOR));
        Ok(())
    }

    /// Makes the bytes and the length of a file durable, or the names of a folder.
    pub(crate) fn sync(&mut self, ino: u64) -> Result<(), Code> {
        if !self.honest {
            return Ok(());
        }
        if let Kind::File(file) = &mut self.get_mut(ino)?.kind {
            file.synced.resize(file.seen.len(), 0);
            for sector in std::mem::take(&mut file.dirty) {
                file.settle(sector);
            }
            return Ok(());
        }
        let (synced, waiting) =
            std::mem::take(&mut self.changes).into_iter().partition(|c| c.iter().any(|part| part.0 == ino));
        self.changes = waiting;
        self.settle_names(synced);
        Ok(())
    }

    fn settle_names(&mut self, changes: Vec<Change>) {
        for (dir, name, ino) in changes.into_iter().flatten() {
            if let Some(Inode { kind: Kind::Dir { synced, .. }, .. }) = self.inodes.get_mut(&dir) {
                bind(synced, &name, ino);
            }
        }
    }

    /// Takes everything for durable.
    pub(crate) fn settle(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        self.settle_names(changes);
        for inode in self.inodes.values_mut() {
            if let Kind::File(file) = &mut inode.kind {
                file.synced.clone_from(&file.seen);
                file.dirty.clear();
            }
        }
    }

    /// Returns what a power cut at this moment leaves.
    pub(crate) fn cut(&self, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut left = self.clone();
        let survival = *rng.pick(&[0, 20, 50, 95, 100]);
        let changes = std::mem::take(&mut left.changes);
        let kept = match rng.below(4) {
            0 => Vec::new(),
            1 => changes,
            // A journal that ends somewhere.
            2 => {
                let n = rng.below(changes.len() + 1);
                changes.into_iter().take(n).collect()
            }
            // No journal at all: later changes may be there without earlier ones.
            _ => changes.into_iter().filter(|_| rng.below(100) < survival).collect(),
        };
        left.settle_names(kept);
        let unit = if rng.one_in(2) { 1 } else { 8 };
        for inode in left.inodes.values_mut() {
            match &mut inode.kind {
                Kind::Dir { seen, synced } => seen.clone_from(synced),
                Kind::File(file) => file.cut(unit, survival, &mut rng),
                Kind::Link(_) | Kind::Node => {}
            }
        }
        left.forget();
        left.rng = rng;
        left
    }

    /// Forgets the inodes that no name leads to.
    fn forget(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut dirs = vec![ROOT];
        while let Some(dir) = dirs.pop() {
            for ino in self.names(dir).into_iter().flat_map(BTreeMap::values) {
                if reached.insert(*ino) {
                    dirs.push(*ino);
                }
            }
        }
        self.inodes.retain(|ino, _| reached.contains(ino));
    }
}

impl Bytes {
    fn settle(&mut self, sector: usize) {
        let (start, end) = (sector * SECTOR, (sector + 1) * SECTOR);
        let end = end.min(self.synced.len()).min(self.seen.len());
        if start < end {
            self.synced[start..end].copy_from_slice(&self.seen[start..end]);
        }
    }

    fn cut(&mut self, unit: usize, survival: usize, rng: &mut Rng) {
        if self.synced.len() != self.seen.len() && rng.below(100) < survival {
            self.synced.resize(self.seen.len(), 0);
        }
        let mut last = None;
        for sector in std::mem::take(&mut self.dirty) {
            // Sectors of one page may share their fate.
            let page = sector / unit;
            let survives = match last {
                Some((same, survives)) if same == page => survives,
                _ => rng.below(100) < survival,
            };
            last = Some((page, survives));
            if survives {
                self.settle(sector);
            }
        }
        self.seen.clone_from(&self.synced);
    }
}

/// Returns an empty folder.
pub(crate) fn folder() -> Kind {
    Kind::Dir { seen: BTreeMap::new(), synced: BTreeMap::new() }
}

fn bind(names: &mut BTreeMap<OsString, u64>, name: &OsStr, ino: Option<u64>) {
    match ino {
        Some(ino) => drop(names.insert(name.to_owned(), ino)),
        None => drop(names.remove(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Inode {
        Inode { kind: Kind::File(Bytes::default()), mode: 0o100_600, uid: 0, gid: 0, changed: 0 }
    }

    fn content(tree: &Tree, name: &str) -> Option<Vec<u8>> {
        match &tree.get(tree.lookup(ROOT, OsStr::new(name)).ok()?).ok()?.kind {
            Kind::File(file) => Some(file.seen.clone()),
            _ => None,
        }
    }

    /// Cuts the power in many ways and returns what a file was each time.
    fn outcomes(tree: &Tree, name: &str) -> BTreeSet<Option<Vec<u8>>> {
        (0..200).map(|seed| content(&tree.cut(seed), name)).collect()
    }

    #[test]
    fn what_is_synced_survives_and_what_is_not_may_go() {
        let mut tree = Tree::new(1, true);
        let ino = tree.make(ROOT, OsStr::new("a"), file()).unwrap();
        tree.write(ino, 0, &[1; 2000]).unwrap();
        tree.sync(ino).unwrap();
        assert_eq!(
            outcomes(&tree, "a"),
            BTreeSet::from([None, Some(vec![1; 2000])]),
            "its name is not synced"
        );
        tree.sync(ROOT).unwrap();
        assert_eq!(outcomes(&tree, "a"), BTreeSet::from([Some(vec![1; 2000])]));
        tree.write(ino, 0, &[2; 2000]).unwrap();
        let after = outcomes(&tree, "a");
        assert!(after.contains(&Some(vec![1; 2000])) && after.contains(&Some(vec![2; 2000])));
        let torn = after.iter().flatten().filter(|b| b.contains(&1) && b.contains(&2));
        assert!(torn.count() > 2, "sectors go one by one");
    }

    #[test]
    fn a_rename_is_whole_or_not_at_all() {
        let mut tree = Tree::new(1, true);
        let old = tree.make(ROOT, OsStr::new("a"), file()).unwrap();
        tree.sync(old).unwrap();
        tree.sync(ROOT).unwrap();
        let new = tree.make(ROOT, OsStr::new("b"), file()).unwrap();
        tree.write(new, 0, b"new").unwrap();
        tree.sync(new).unwrap();
        tree.rename((ROOT, OsStr::new("b")), (ROOT, OsStr::new("a")), false).unwrap();
        assert_eq!(outcomes(&tree, "a"), BTreeSet::from([Some(Vec::new()), Some(b"new".to_vec())]));
        tree.sync(ROOT).unwrap();
        assert_eq!(outcomes(&tree, "a"), BTreeSet::from([Some(b"new".to_vec())]));
        assert_eq!(outcomes(&tree, "b"), BTreeSet::from([None]));
    }

    #[test]
    fn a_disk_that_lies_keeps_nothing_for_sure() {
        let mut tree = Tree::new(1, false);
        let ino = tree.make(ROOT, OsStr::new("a"), file()).unwrap();
        tree.write(ino, 0, b"x").unwrap();
        tree.sync(ino).unwrap();
        tree.sync(ROOT).unwrap();
        assert!(outcomes(&tree, "a").contains(&None));
    }
}
