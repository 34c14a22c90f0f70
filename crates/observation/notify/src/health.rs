//! What the state of the service says: the bus first, then the channels.
//!
//! A network that is away is normal and only waits; what a person must mend makes the service degraded.

use std::sync::{Arc, Mutex, PoisonError};

use mirror_kit::{State, StateCell};

/// What is wrong, by part; shared between the tasks.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    cell: StateCell,
    parts: Arc<Mutex<Parts>>,
}

#[derive(Debug, Default)]
struct Parts {
    bus: Option<String>,
    desktop: Option<String>,
    ntfy: Option<Trouble>,
}

/// What is wrong with a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// One clause.
    pub(crate) why: String,
    /// Whether it lasts until a person mends something.
    pub(crate) person: bool,
}

impl Health {
    pub(crate) fn new(cell: StateCell) -> Self {
        Self { cell, parts: Arc::default() }
    }

    /// Notes that the bus is away, or not.
    pub(crate) fn bus(&self, why: Option<String>) {
        self.set(|parts| parts.bus = why);
    }

    /// Notes that the desktop cannot be used.
    pub(crate) fn desktop(&self, why: &str) {
        self.set(|parts| parts.desktop = Some(why.to_owned()));
    }

    /// Notes how the ntfy server is.
    pub(crate) fn ntfy(&self, trouble: Option<Trouble>) {
        self.set(|parts| parts.ntfy = trouble);
    }

    fn set(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        let (state, detail) = parts.state();
        self.cell.set(state, detail);
    }
}

impl Parts {
    fn state(&self) -> (State, String) {
        if let Some(why) = &self.bus {
            return (State::Degraded, format!("the bus is away, cards may be old: {why}"));
        }
        match &self.ntfy {
            Some(Trouble { why, person: true }) => (State::Degraded, format!("ntfy: {why}")),
            _ if self.desktop.is_some() => (State::Degraded, self.desktop.clone().unwrap_or_default()),
            Some(Trouble { why, person: false }) => (State::Serving, format!("ntfy waits: {why}")),
            None => (State::Serving, String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_must_mend_comes_before_what_mends_itself() {
        let waits = Trouble { why: "no network".into(), person: false };
        let mut parts = Parts { ntfy: Some(waits), ..Parts::default() };
        assert_eq!(parts.state(), (State::Serving, "ntfy waits: no network".into()));
        parts.desktop = Some("desktop: none".into());
        assert_eq!(parts.state(), (State::Degraded, "desktop: none".into()));
        parts.ntfy = Some(Trouble { why: "the token is refused".into(), person: true });
        assert_eq!(parts.state(), (State::Degraded, "ntfy: the token is refused".into()));
        parts.bus = Some("gone".into());
        assert!(parts.state().1.starts_with("the bus is away"));
        assert_eq!(Parts::default().state(), (State::Serving, String::new()));
    }
}
