//! Drills: test agents that do what they are told, and stand-ins for what a test cannot have.
//!
//! The agents run beside the real services in the binary `mirror-drill`, and misbehave on order. The model of launchd
//! gives the exit codes that launchd gives, does what launchd does behind one's back, and fails on demand.
//! It refuses to be more patient than launchd: a load during an unload fails here too.
//! Invariant: an agent's life follows `mirror_agents::machine`, the rules that `mirror up` keeps as well.

mod agent;
mod catalogue;
pub mod job;
pub mod model;
mod order;
pub mod server;

pub use catalogue::{DEPENDENTS, HUB, LEAVES, app, plant};
pub use order::{Order, clear, give};
