//! A file system in which only what was synced is sure to be there after the power goes.
//!
//! It lives in memory, and the kernel mounts it through FUSE, so a real process writes on it. Sectors of 512 bytes reach
//! the disk when their file is synced, names when their folder is, a rename whole. At a power cut everything else is there, or
//! is not, as a seed decides: later writes may have come first, a length may be there without its bytes.
//! It refuses every call after the cut, so nothing can be acknowledged on the strength of what is gone.

mod serve;
mod tree;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fuser::{BackgroundSession, Config, MountOption};

use self::tree::{Code, EIO, Tree};

/// A disk, and whether it has power.
#[derive(Debug)]
pub(crate) struct Disk(Mutex<State>);

#[derive(Debug)]
struct State {
    tree: Tree,
    /// Changes that are still carried out; nothing for as many as come.
    left: Option<u64>,
    done: u64,
    cut: bool,
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, run: impl FnOnce(&Tree) -> Result<T, Code>) -> Result<T, Code> {
        let state = self.lock();
        if state.cut { Err(EIO) } else { run(&state.tree) }
    }

    fn change<T>(&self, run: impl FnOnce(&mut Tree) -> Result<T, Code>) -> Result<T, Code> {
        let mut state = self.lock();
        if state.cut {
            return Err(EIO);
        }
        if let Some(left) = &mut state.left {
            if *left == 0 {
                state.cut = true;
                // The last one may have come through, but nobody is told.
                let _ = run(&mut state.tree);
                return Err(EIO);
            }
            *left -= 1;
        }
        state.done += 1;
        run(&mut state.tree)
    }
}

/// A mounted lossy file system.
#[derive(Debug)]
pub struct Lossy {
    at: PathBuf,
    disk: Arc<Disk>,
    session: Option<BackgroundSession>,
}

impl Lossy {
    /// Mounts an empty one; `honest` says whether a sync does what it says.
    ///
    /// # Errors
    ///
    /// When the kernel does not let this process mount one.
    pub fn mount(at: &Path, seed: u64, honest: bool) -> io::Result<Self> {
        Self::mount_tree(at, Tree::new(seed, honest))
    }

    fn mount_tree(at: &Path, tree: Tree) -> io::Result<Self> {
        let disk = Arc::new(Disk(Mutex::new(State { tree, left: None, done: 0, cut: false })));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("lossy".to_owned())];
        let session = fuser::spawn_mount(serve::Served(Arc::clone(&disk)), at, &config)?;
        Ok(Self { at: at.to_owned(), disk, session: Some(session) })
    }

    /// Lets the power go after so many more changes.
    pub fn cut_after(&self, changes: u64) {
        self.disk.lock().left = Some(changes);
    }

    /// Lets the power go now.
    pub fn cut(&self) {
        self.disk.lock().cut = true;
    }

    /// Returns whether the power is gone.
    pub fn is_cut(&self) -> bool {
        self.disk.lock().cut
    }

    /// Returns how many changes were carried out.
    pub fn changes(&self) -> u64 {
        self.disk.lock().done
    }

    /// Takes everything that is there for durable.
    pub fn settle(&self) {
        self.disk.lock().tree.settle();
    }

    /// Mounts what the power cut left; every process that used the file system must have ended.
    ///
    /// # Errors
    ///
    /// When it cannot be unmounted or mounted.
    pub fn after(mut self, seed: u64) -> io::Result<Self> {
        let left = self.disk.lock().tree.cut(seed);
        let at = self.at.clone();
        self.unmount()?;
        Self::mount_tree(&at, left)
    }

    fn unmount(&mut self) -> io::Result<()> {
        self.session.take().map_or(Ok(()), BackgroundSession::umount_and_join)
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        let _ = self.unmount();
    }
}
