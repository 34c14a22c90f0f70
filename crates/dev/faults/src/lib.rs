//! Faults under a real bus, and bytes that nobody wrote for everything that reads.
//!
//! Three instruments: a plan for the preloaded library `mirror-shim`, which makes file operations of a real process fail;
//! a file system that forgets what was not synced; and fuzz bodies for each reader and decoder with a mutator that knows
//! the formats. `docs/FAULTS.md` says what they found and what they cannot show.
//! It refuses to be part of a build that is shipped. Invariant: each failure can be had again from the seed it prints.

pub mod alloc;
pub mod flips;
pub mod fuzz;
mod rng;

#[cfg(all(feature = "faults", target_os = "linux"))]
pub mod lossy;
#[cfg(feature = "faults")]
pub mod rig;

pub use rng::Rng;
