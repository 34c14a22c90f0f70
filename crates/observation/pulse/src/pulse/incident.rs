//! Incidents: what went wrong, why, and what was done.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::input::Outcome;

/// Root of an incident that has many.
pub(crate) const FLEET: &str = "fleet";

/// Most actions that an incident tells.
const ACTIONS: usize = 32;

/// One incident; times are wall times unless they say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Incident {
    pub(crate) id: String,
    pub(crate) cause: Cause,
    pub(crate) detail: String,
    /// An agent, a check, or "fleet".
    pub(crate) root: String,
    /// Of the fleet: the agents that failed at once.
    #[serde(default)]
    pub(crate) members: BTreeSet<String>,
    pub(crate) shadowed: BTreeSet<String>,
    pub(crate) began: u64,
    pub(crate) detected: u64,
    pub(crate) recovered: Option<u64>,
    pub(crate) actions: Vec<Act>,
    /// Number of the last action.
    pub(crate) serial: u32,
    /// When it was opened, on the boot clock.
    pub(crate) opened: u64,
    /// Of the fleet: no action before this, on the boot clock.
    #[serde(default)]
    pub(crate) not_before: u64,
    /// Since when all is well, on the boot clock.
    #[serde(skip)]
    pub(crate) fine_since: Option<u64>,
}

/// An incident as the log and those who ask are told of it; times are wall times in milliseconds since 1970.
///
/// This is the payload of `pulse.incident`, with `state`: "opened" or "closed".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) cause: Cause,
    pub(crate) detail: String,
    pub(crate) root: String,
    pub(crate) shadowed: BTreeSet<String>,
    pub(crate) began_ms: u64,
    pub(crate) detected_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) recovered_ms: Option<u64>,
    /// Each `<remedy> <target>: <outcome>, <detail>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) actions: Vec<String>,
}

/// One action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Act {
    pub(crate) id: String,
    pub(crate) remedy: String,
    pub(crate) target: String,
    /// What it was against.
    pub(crate) cause: Cause,
    /// What was seen of it, one line.
    pub(crate) why: String,
    /// Nothing while it is under way.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) detail: String,
    pub(crate) at: u64,
    /// Whether the supervisor was asked for it and not the service remedy.
    #[serde(default)]
    pub(crate) direct: bool,
    /// Whether this process has asked and waits for the answer.
    #[serde(skip)]
    pub(crate) asked: bool,
    /// When to ask again, on the boot clock.
    #[serde(skip)]
    pub(crate) retry: u64,
}

impl Incident {
    /// Returns the action that is under way.
    pub(crate) fn open_act(&self) -> Option<&Act> {
        self.actions.iter().find(|a| a.outcome.is_none())
    }

    /// Returns the action that is under way.
    pub(crate) fn open_act_mut(&mut self) -> Option<&mut Act> {
        self.actions.iter_mut().find(|a| a.outcome.is_none())
    }

    /// Returns how many actions on a target against a cause did not help.
    pub(crate) fn failures(&self, target: &str, cause: Cause) -> usize {
        let helped =
            |a: &Act| matches!(a.outcome, None | Some(Outcome::HeldBack | Outcome::Halted | Outcome::Healed));
        self.actions.iter().filter(|a| a.target == target && a.cause == cause && !helped(a)).count()
    }

    /// Adds an action; the oldest that was held back makes room, else the oldest.
    pub(crate) fn push(&mut self, act: Act) {
        if self.actions.len() >= ACTIONS {
            let held = self.actions.iter().position(|a| a.outcome == Some(Outcome::HeldBack));
            self.actions.remove(held.unwrap_or(0));
        }
        self.actions.push(act);
    }

    /// Returns what is told of it.
    pub(crate) fn told(&self) -> Told {
        let mut shadowed = self.shadowed.clone();
        // Its root fails by itself.
        shadowed.remove(&self.root);
        Told {
            id: self.id.clone(),
            cause: self.cause,
            detail: self.detail.clone(),
            root: self.root.clone(),
            shadowed,
            began_ms: self.began,
            detected_ms: self.detected,
            recovered_ms: self.recovered,
            actions: self.actions.iter().map(Act::told).collect(),
        }
    }
}

impl Act {
    fn told(&self) -> String {
        let outcome = self.outcome.map_or("under way", Outcome::name);
        let comma = if self.detail.is_empty() { "" } else { ", " };
        format!("{} {}: {outcome}{comma}{}", self.remedy, self.target, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn act(id: &str, outcome: Option<Outcome>) -> Act {
        Act {
            id: id.into(),
            remedy: "restart".into(),
            target: "bus".into(),
            cause: Cause::Hung,
            why: String::new(),
            outcome,
            detail: "it answers".into(),
            at: 1,
            direct: false,
            asked: true,
            retry: 0,
        }
    }

    fn incident() -> Incident {
        Incident {
            id: "p1-1".into(),
            cause: Cause::Hung,
            detail: String::new(),
            root: "bus".into(),
            members: BTreeSet::new(),
            shadowed: BTreeSet::new(),
            began: 1,
            detected: 1,
            recovered: None,
            actions: Vec::new(),
            serial: 0,
            opened: 1,
            not_before: 0,
            fine_since: None,
        }
    }

    #[test]
    fn what_was_not_done_is_no_failure_of_the_remedy() {
        let mut incident = incident();
        for outcome in [Outcome::HeldBack, Outcome::Healed, Outcome::NotHealed, Outcome::NotNeeded] {
            incident.push(act("x", Some(outcome)));
        }
        incident.push(act("open", None));
        assert_eq!(incident.failures("bus", Cause::Hung), 2);
        assert_eq!((incident.failures("log", Cause::Hung), incident.failures("bus", Cause::Exited)), (0, 0));
        assert_eq!(incident.told().actions[2], "restart bus: not healed, it answers");
        assert_eq!(incident.open_act().unwrap().id, "open");
    }

    #[test]
    fn it_tells_a_bounded_number_of_actions_and_drops_held_back_ones_first() {
        let mut incident = incident();
        incident.push(act("first", Some(Outcome::Failed)));
        incident.push(act("held", Some(Outcome::HeldBack)));
        for _ in 0..ACTIONS - 1 {
            incident.push(act("x", Some(Outcome::Failed)));
        }
        assert_eq!(incident.actions.len(), ACTIONS);
        assert!(incident.actions.iter().all(|a| a.id != "held"));
        assert_eq!(incident.actions[0].id, "first");
    }
}
