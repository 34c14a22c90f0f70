//! The contract's lock and laws: what reviewers read, what may not change, how it must be written.
//!
//! Invariant: `proto/CONTRACT.lock` is the contract; a line of a stable package may be added and never taken away.

pub mod compat;
pub mod law;
pub mod lock;

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use prost_reflect::DescriptorPool;

/// Path of the lock from the root.
pub const LOCK: &str = "proto/CONTRACT.lock";

/// Returns the contract, with its custom options.
///
/// # Errors
///
/// When the compiled descriptor cannot be decoded.
pub fn pool() -> Result<DescriptorPool> {
    DescriptorPool::decode(mirror_contract::DESCRIPTOR).context("decode the contract's descriptor")
}

/// Returns the lock of the last commit, or nothing where there is no commit, no lock in it, or no git.
pub fn committed(root: &Path) -> Option<String> {
    let out = Command::new("git").args(["show", &format!("HEAD:{LOCK}")]).current_dir(root).output().ok()?;
    String::from_utf8(out.stdout).ok().filter(|_| out.status.success())
}
