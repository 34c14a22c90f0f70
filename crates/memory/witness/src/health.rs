//! The parts of the service that may be away or wrong, joined into its one state.
//!
//! Invariant: the service is degraded exactly as long as one of its parts says why.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use mirror_kit::{State, StateCell};

/// A part, in the order of its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The log is not the one that was signed.
    Divergence,
    /// The log is damaged.
    Damage,
    /// The keeper's log is not the one that was read.
    Records,
    /// A checkpoint could not be signed or stored.
    Signing,
    /// What the keeper's log says could not be recorded.
    Telling,
    /// An event could not be recorded.
    Outbox,
    /// The bus is away.
    Bus,
}

/// What each part has to say.
#[derive(Debug)]
pub(crate) struct Health {
    cell: StateCell,
    says: Mutex<BTreeMap<Part, String>>,
}

impl Health {
    pub(crate) fn new(cell: StateCell) -> Self {
        Self { cell, says: Mutex::default() }
    }

    /// Says what is wrong with a part; returns whether it is news.
    pub(crate) fn bad(&self, part: Part, why: impl Into<String>) -> bool {
        let why = why.into();
        self.change(|says| says.insert(part, why.clone()).is_none_or(|before| before != why))
    }

    /// Says that a part is well; returns whether it was not.
    pub(crate) fn good(&self, part: Part) -> bool {
        self.change(|says| says.remove(&part).is_some())
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<Part, String>) -> bool) -> bool {
        let mut says = self.says.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut says) {
            return false;
        }
        match says.is_empty() {
            true => self.cell.set(State::Serving, ""),
            false => self.cell.set(State::Degraded, says.values().cloned().collect::<Vec<_>>().join("; ")),
        }
        true
    }
}
