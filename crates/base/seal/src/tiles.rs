//! Hash tiles: the tree in files of at most 256 hashes, after C2SP tlog-tiles (<https://c2sp.org/tlog-tiles>).
//!
//! A tile of level 0 holds leaf hashes; one of a level above holds the roots of full tiles of the level below, so every
//! hash stands for 256^level leaves. It refuses names that the specification does not allow.
//! Invariant: a full tile never changes, and a partial one is a prefix of what it becomes.

use crate::Hash;
use crate::merkle::node;

/// Hashes in a full tile.
pub const TILE_WIDTH: usize = 256;

/// Highest level: a tree of 2^64 leaves has none above it.
const LEVELS: u8 = 8;

/// The name of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    /// Level, from 0: each hash stands for 256^level leaves.
    pub level: u8,
    /// Position in its level, from 0.
    pub index: u64,
    /// Number of hashes, 1 to 256.
    pub width: usize,
}

impl Tile {
    /// Returns the tile at a place as it is in a tree of `size` leaves; none when it has no hash there.
    pub fn of(level: u8, index: u64, size: u64) -> Option<Self> {
        let whole = hashes(level, size).checked_sub(index.checked_mul(TILE_WIDTH as u64)?)?;
        let width = usize::try_from(whole).map_or(TILE_WIDTH, |whole| whole.min(TILE_WIDTH));
        (width > 0).then_some(Self { level, index, width })
    }

    /// Returns whether it has all its hashes.
    pub fn is_full(self) -> bool {
        self.width == TILE_WIDTH
    }

    /// Returns the tile at the same place with all its hashes.
    #[must_use]
    pub fn full(self) -> Self {
        Self { width: TILE_WIDTH, ..self }
    }

    /// Returns the path below the folder of a log, such as `tile/0/x001/234.p/7`.
    pub fn path(self) -> String {
        // Three digits a folder: no folder is crowded, and no file has the name of a folder.
        let mut groups = vec![format!("{:03}", self.index % 1000)];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(format!("x{:03}", rest % 1000));
            rest /= 1000;
        }
        groups.reverse();
        let part = if self.is_full() { String::new() } else { format!(".p/{}", self.width) };
        format!("tile/{}/{}{part}", self.level, groups.join("/"))
    }

    /// Reads a path; none when no tile has it.
    pub fn parse(path: &str) -> Option<Self> {
        let (level, name) = path.strip_prefix("tile/")?.split_once('/')?;
        let (name, width) = match name.split_once(".p/") {
            Some((name, width)) => (name, width.parse().ok().filter(|width| *width < TILE_WIDTH)?),
            None => (name, TILE_WIDTH),
        };
        let mut index: u64 = 0;
        for group in name.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            index = index.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
        }
        let tile = Self { level: level.parse().ok()?, index, width };
        // One tile has one path: every other spelling is refused by writing it again.
        (tile.width > 0 && tile.level < LEVELS && tile.path() == path).then_some(tile)
    }

    /// Returns the bytes of its file.
    pub fn encode(hashes: &[Hash]) -> Vec<u8> {
        hashes.concat()
    }

    /// Reads its file; none when it has another length. A longer file of the same tile is a later state of it.
    pub fn decode(self, bytes: &[u8]) -> Option<Vec<Hash>> {
        let (hashes, rest) = bytes.as_chunks();
        if !rest.is_empty() || hashes.len() > TILE_WIDTH {
            return None;
        }
        hashes.get(..self.width).map(<[Hash]>::to_vec)
    }
}

/// Returns how many hashes a level has in a tree of `size` leaves.
fn hashes(level: u8, size: u64) -> u64 {
    size.checked_shr(u32::from(level) * 8).unwrap_or(0)
}

/// Returns all tiles of a tree, level by level.
pub fn tiles_of(size: u64) -> impl Iterator<Item = Tile> {
    (0..LEVELS).flat_map(move |level| {
        let count = hashes(level, size).div_ceil(TILE_WIDTH as u64);
        (0..count).filter_map(move |index| Tile::of(level, index, size))
    })
}

/// Returns the partial tiles of a tree: at most one a level.
pub fn partial_tiles(size: u64) -> impl Iterator<Item = Tile> {
    (0..LEVELS).filter_map(move |level| {
        let full = hashes(level, size) / TILE_WIDTH as u64;
        Tile::of(level, full, size)
    })
}

/// Returns the root over the hashes of a tile, or over any power of two of them: what stands for them one level up.
pub fn subtree(hashes: &[Hash]) -> Option<Hash> {
    if !hashes.len().is_power_of_two() {
        return None;
    }
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row.chunks_exact(2).map(|pair| node(&pair[0], &pair[1])).collect();
    }
    row.pop()
}

/// The tiles along the right edge of a tree that grows: of each level the hashes of the one that is not full.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TileEdge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

impl TileEdge {
    /// Returns the edge of a tree of `size` leaves whose partial tiles `read` returns.
    ///
    /// # Errors
    ///
    /// Whatever `read` fails with; none when what it returns has another width.
    pub fn load<E>(
        size: u64,
        mut read: impl FnMut(Tile) -> Result<Option<Vec<Hash>>, E>,
    ) -> Result<Option<Self>, E> {
        let mut levels = vec![Vec::new(); (0..LEVELS).filter(|level| hashes(*level, size) > 0).count()];
        for tile in partial_tiles(size) {
            match read(tile)? {
                Some(found) if found.len() == tile.width => levels[usize::from(tile.level)] = found,
                _ => return Ok(None),
            }
        }
        Ok(Some(Self { size, levels }))
    }

    /// Returns the number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf; `full` takes each tile that it completes, the lowest first.
    ///
    /// # Errors
    ///
    /// Whatever `full` fails with; the edge is spoilt then.
    pub fn push<E>(
        &mut self,
        leaf: Hash,
        mut full: impl FnMut(Tile, &[Hash]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.size += 1;
        let mut hash = Some(leaf);
        for level in 0..LEVELS {
            let Some(next) = hash.take() else { break };
            if self.levels.len() == usize::from(level) {
                self.levels.push(Vec::new());
            }
            let row = &mut self.levels[usize::from(level)];
            row.push(next);
            if row.len() == TILE_WIDTH {
                let index = hashes(level, self.size) / TILE_WIDTH as u64 - 1;
                full(Tile { level, index, width: TILE_WIDTH }, row)?;
                hash = subtree(row);
                row.clear();
            }
        }
        Ok(())
    }

    /// Returns the partial tiles of the tree when it had `size` leaves, with their hashes.
    ///
    /// Those that have become full since are left out.
    pub fn partials(&self, size: u64) -> Vec<(Tile, &[Hash])> {
        let is_here = |tile: &Tile| hashes(tile.level, self.size) / TILE_WIDTH as u64 == tile.index;
        partial_tiles(size.min(self.size))
            .filter(is_here)
            .filter_map(|tile| Some((tile, self.levels.get(usize::from(tile.level))?.get(..tile.width)?)))
            .collect()
    }
}

#[cfg(test)]
#[path = "tiles_tests.rs"]
mod tests;
