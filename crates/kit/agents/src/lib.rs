//! Agents: from the catalogue to the property lists and units that keep its services and jobs, and launchd's rules.
//!
//! It refuses a property list that launchd would misread in silence: an unknown key, one given twice, a wrong type.
//! Invariant: nothing here knows a process, a clock or a socket, so that every rule can be tested in virtual time.

mod agent;
pub mod calendar;
pub mod machine;
mod plist;
mod reader;
pub mod units;

pub use agent::{Agent, BIN, HOME, JOB_TIER, NoTemplate, agents, fill};
pub use plist::{Plist, PlistError, validate};

/// Returns the label of an agent: `dev.mirrordna.<name>`.
pub fn label(agent: &str) -> String {
    format!("{LABEL_PREFIX}{agent}")
}

/// What every label begins with.
pub const LABEL_PREFIX: &str = "dev.mirrordna.";
