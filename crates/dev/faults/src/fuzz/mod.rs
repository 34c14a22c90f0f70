//! Fuzz bodies: each takes bytes that nobody wrote and must neither panic nor believe a length in them.
//!
//! A body is a plain function of bytes, so cargo-fuzz could call the same ones. Its seeds are valid inputs; [`run()`] spoils
//! them and counts. Invariant: an input is decided by the body's name, the seed and its number alone.

pub(crate) mod log;
mod message;
mod mutate;
mod repair;
mod run;
mod text;
mod wire;

pub use run::{Outcome, Plan, input, run};

use crate::Rng;

/// Makes spoiled bytes pass their checksums again.
pub type Repair = fn(&mut Vec<u8>, &mut Rng);

/// Memory that any input may take, in bytes.
const ROOM: usize = 64 << 10;

/// Memory that an input may take for each of its bytes.
const FACTOR: usize = 16;

/// What is done with the bytes.
#[derive(Debug, Clone, Copy)]
pub enum Run {
    /// A function of the bytes.
    Plain(fn(&[u8])),
    /// A decoder of the contract's table.
    Decoder(fn(&[u8]) -> bool),
}

/// One thing that reads.
#[derive(Debug, Clone, Copy)]
pub struct Body {
    /// Name, `<what>-<part>` or `decode:<message>`.
    pub name: &'static str,
    /// The function.
    pub run: Run,
    /// Returns valid inputs.
    pub seeds: fn(&str) -> Vec<Vec<u8>>,
    /// What lets a spoiled input go further.
    pub repair: Repair,
    /// Bytes that an input may take beside [`limit`](Self::limit)'s share of its length, with the reason where it is
    /// declared.
    pub room: usize,
    /// Bytes that an input may take for each of its own.
    pub factor: usize,
}

impl Body {
    const PLAIN: Self = Self {
        name: "",
        run: Run::Plain(|_| {}),
        seeds: |_| Vec::new(),
        repair: repair::none,
        room: ROOM,
        factor: FACTOR,
    };

    /// Returns how many bytes an input of some length may take.
    pub fn limit(&self, len: usize) -> usize {
        self.room + self.factor * len
    }

    /// Runs the body.
    pub fn call(&self, bytes: &[u8]) {
        match self.run {
            Run::Plain(run) => run(bytes),
            Run::Decoder(run) => {
                std::hint::black_box(run(bytes));
            }
        }
    }
}

/// Returns all bodies.
pub fn bodies() -> Vec<Body> {
    let mut all = Vec::new();
    all.extend(log::BODIES);
    all.extend(text::BODIES);
    all.extend(wire::BODIES);
    all.extend(wire::decoders());
    all
}
