//! The tiles on disk: derived data, which any peer can read and anybody can delete.
//!
//! A file is whole or not there. It refuses a file of another length, as if there were none. Invariant: the partial tiles of a size are there before it is signed, and none
//! stays beside the full tile that it became.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mirror_paths::{absent_is_fine, private_dir, write_atomic};
use mirror_seal::{Hash, Tile, TileEdge, TileReader};

use crate::store::read;

/// The folder of one log's tiles.
#[derive(Debug, Clone)]
pub(crate) struct Tiles {
    dir: PathBuf,
}

impl Tiles {
    /// Returns the folder of a log under the bus folder.
    pub(crate) fn at(bus: &Path, origin: &str) -> Self {
        Self { dir: bus.join("tiles").join(origin) }
    }

    /// Returns the folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the hashes of a tile; none when no file of it can be read, or none has as many.
    pub(crate) fn read(&self, tile: Tile) -> Option<Vec<Hash>> {
        // A partial tile goes when it has become full.
        [tile, tile.full()].into_iter().find_map(|name| tile.decode(&self.bytes(name)?))
    }

    fn bytes(&self, tile: Tile) -> Option<Vec<u8>> {
        read(&self.dir.join(tile.path())).ok().flatten()
    }

    /// Returns whether there is a file of a tile, whatever is in it.
    pub(crate) fn has(&self, tile: Tile) -> bool {
        self.dir.join(tile.path()).exists()
    }

    /// Writes a tile, unless its file has the same bytes.
    fn write(&self, tile: Tile, hashes: &[Hash]) -> io::Result<()> {
        let path = self.dir.join(tile.path());
        let bytes = Tile::encode(hashes);
        if self.bytes(tile).as_ref() != Some(&bytes) {
            private_dir(path.parent().unwrap_or(&self.dir)).map_err(io::Error::other)?;
            write_atomic(&path, &bytes)?;
        }
        if tile.is_full() {
            absent_is_fine(fs::remove_dir_all(self.dir.join(format!("{}.p", tile.path()))))?;
        }
        Ok(())
    }

    /// Adds leaves to an edge, and writes the tiles that they complete.
    pub(crate) fn extend(&self, edge: &mut TileEdge, leaves: &[Hash]) -> io::Result<()> {
        leaves.iter().try_for_each(|leaf| edge.push(*leaf, |tile, hashes| self.write(tile, hashes)))
    }

    /// Writes the partial tiles that the tree had at some sizes.
    pub(crate) fn settle(&self, edge: &TileEdge, sizes: impl IntoIterator<Item = u64>) -> io::Result<()> {
        // Many sizes share the tiles of the upper levels.
        let partials: BTreeMap<_, _> = sizes.into_iter().flat_map(|size| edge.partials(size)).collect();
        partials.into_iter().try_for_each(|(tile, hashes)| self.write(tile, hashes))
    }

    /// Removes all tiles.
    pub(crate) fn clear(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_dir_all(&self.dir))
    }
}

impl TileReader for &Tiles {
    type Error = ();

    fn tile(&mut self, tile: Tile) -> Result<Vec<Hash>, ()> {
        self.read(tile).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_seal::{TILE_WIDTH, leaf, tiles_of};
    use std::os::unix::fs::PermissionsExt as _;

    fn fixture() -> (tempfile::TempDir, Tiles) {
        let temp = tempfile::tempdir().unwrap();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let tiles = Tiles::at(temp.path(), "0123456789abcdef.1");
        (temp, tiles)
    }

    fn leaves(count: u32) -> Vec<Hash> {
        (0..count).map(|n| leaf(&n.to_be_bytes())).collect()
    }

    /// Returns the paths of all files, in order of name.
    fn files(tiles: &Tiles) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![tiles.dir().to_owned()];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(tiles.dir()).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn partial_tiles_of_each_size_stay_until_the_tile_is_full() {
        let (_temp, tiles) = fixture();
        let (mut edge, leaves) = (TileEdge::default(), leaves(600));
        let mut at = 0;
        for size in [7, 9, 255, 300, 511] {
            tiles.extend(&mut edge, &leaves[at..size]).unwrap();
            tiles.settle(&edge, [size as u64]).unwrap();
            at = size;
            let names = files(&tiles);
            for tile in tiles_of(size as u64) {
                assert!(names.contains(&tile.path()), "{size}: {names:?}");
            }
        }
        assert_eq!(files(&tiles), ["tile/0/000", "tile/0/001.p/255", "tile/0/001.p/44", "tile/1/000.p/1"]);
        let partial = Tile { level: 0, index: 0, width: 9 };
        assert_eq!(tiles.read(partial).unwrap(), leaves[..9], "a full tile stands for the partial ones");
        tiles.extend(&mut edge, &leaves[at..600]).unwrap();
        tiles.settle(&edge, [600]).unwrap();
        let names = ["tile/0/000", "tile/0/001", "tile/0/002.p/88", "tile/1/000.p/1", "tile/1/000.p/2"];
        assert_eq!(files(&tiles), names);
        tiles.clear().unwrap();
        tiles.clear().unwrap();
        assert!(!tiles.dir().exists());
    }

    #[test]
    fn a_file_of_another_length_is_no_tile_and_is_written_again() {
        let (_temp, tiles) = fixture();
        let leaves = leaves(256);
        tiles.extend(&mut TileEdge::default(), &leaves).unwrap();
        let tile = Tile { level: 0, index: 0, width: TILE_WIDTH };
        let path = tiles.dir().join(tile.path());
        let good = fs::read(&path).unwrap();
        for bad in [Vec::new(), good[..8191].to_vec(), [&good[..], b"x"].concat(), vec![0; 1 << 20]] {
            fs::write(&path, bad).unwrap();
            assert_eq!(tiles.read(tile), None);
            tiles.extend(&mut TileEdge::default(), &leaves).unwrap();
            assert_eq!(tiles.read(tile).unwrap(), leaves);
        }
        let made = fs::metadata(&path).unwrap().modified().unwrap();
        tiles.extend(&mut TileEdge::default(), &leaves).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), made, "the same bytes are not written");
    }
}
