//! What outlives the process: incidents, actions, limits, and what is still to be told.
//!
//! Invariant: an action that was under way when pulse ended is asked for again under the same id, or never.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::incident::{Incident, Told};
use super::input::Now;
use super::limits::Limits;
use super::tell::Record;
use super::{CLOSED, Core};

/// What is saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// The clocks when it was saved.
    boot: u64,
    wall: u64,
    serial: u64,
    incidents: Vec<Incident>,
    closed: Vec<Told>,
    limits: BTreeMap<String, Limits>,
    others: BTreeMap<String, Limits>,
    events: Vec<Record>,
    cards: BTreeMap<String, u64>,
    /// In wall time.
    maintenance_until: u64,
    /// In wall time.
    held_until: u64,
    /// In wall time.
    wake_until: u64,
}

impl Core {
    /// Returns what is to outlive the process.
    pub(crate) fn saved(&self, now: Now) -> Saved {
        let (events, cards) = self.tell.saved();
        let limits = self.targets.iter().filter(|t| t.limits != Limits::default());
        let until = |boot: u64| if boot > now.boot { super::to_wall(now, boot) } else { 0 };
        Saved {
            boot: now.boot,
            wall: now.wall,
            serial: self.serial,
            incidents: self.incidents.clone(),
            closed: self.closed.iter().cloned().collect(),
            limits: limits.map(|t| (t.spec.name.clone(), t.limits.clone())).collect(),
            others: self.others.clone(),
            events,
            cards,
            maintenance_until: until(self.maintenance_until),
            held_until: until(self.held_until),
            wake_until: until(self.wake_until),
        }
    }

    pub(crate) fn restore(&mut self, now: Now, saved: Saved) {
        // After a start of the machine its clock counts from nothing, and saved instants mean nothing.
        let rebooted = now.boot < saved.boot;
        let rebase = |limits: &mut Limits| {
            if rebooted {
                limits.rebase(now.boot);
            }
        };
        let until = |wall: u64, most: u64| {
            if wall > now.wall { now.boot + (wall - now.wall).min(most) } else { 0 }
        };
        self.maintenance_until = until(saved.maintenance_until, 86_400_000);
        self.held_until = until(saved.held_until, 3_600_000);
        self.wake_until = until(saved.wake_until, super::WAKE_GRACE);
        self.serial = saved.serial;
        self.closed = saved.closed.into_iter().take(CLOSED).collect();
        self.incidents = saved.incidents;
        if rebooted {
            for incident in &mut self.incidents {
                incident.opened = now.boot;
                incident.not_before = incident.not_before.min(now.boot + 60_000);
            }
        }
        for (name, mut limits) in saved.limits {
            rebase(&mut limits);
            if let Some(target) = self.names.get(&name).and_then(|n| self.targets.get_mut(*n)) {
                target.limits = limits;
            }
        }
        self.others = saved.others;
        self.others.values_mut().for_each(rebase);
        self.tell.restore(saved.events, saved.cards);
    }

    /// Adds incidents that the log knows and the saved state did not, oldest first.
    pub(crate) fn recall(&mut self, incidents: Vec<Told>) {
        let mut all: BTreeMap<(u64, String), Told> = BTreeMap::new();
        for incident in incidents.into_iter().chain(self.closed.drain(..)) {
            all.insert((incident.detected_ms, incident.id.clone()), incident);
        }
        self.closed = all.into_values().rev().take(CLOSED).collect();
        self.dirty = true;
    }
}
