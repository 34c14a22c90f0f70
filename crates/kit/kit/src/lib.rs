//! The kit: what every service is built from, so that all start, serve, fail and stop alike.
//!
//! A service brings a [`Decl`] and a build function; the kit brings arguments, configuration, logs, the listener,
//! health, reflection, the guard in front of each call, drain and exit codes.
//! It refuses a client for a peer that is not declared, a call without declared options, and a home that others may enter.
//! Invariant: no request reaches a service before the guard has passed it.

mod access;
mod api;
mod config;
mod context;
mod decl;
pub mod desired;
pub mod fold;
mod guard;
mod halt;
mod held;
mod home;
mod job;
mod lease;
mod listener;
mod logs;
mod metrics;
mod peer;
mod redaction;
mod report;
mod resident;
mod run;
mod snapshot;
mod starts;
mod state;
mod tasks;

pub use access::{PrincipalKind, TABLE as ACCESS, allowed};
pub use config::{Config, ConfigError, Loaded, load as load_config};
pub use context::{Built, Context, Shutdown, StartError};
pub use decl::{
    Away, Binary, Building, Criticality, Decl, JobDecl, Keep, Need, Primitive, Service, When, check_catalogue,
};
pub use halt::{HALT_KEYS_TYPE, HALT_TYPE, Halt, HaltStatement, HaltView, ReleaseKey, ReleaseKeys};
pub use home::{HomeError, LAYOUT, Node, init, node, restore};
pub use job::{Job, JobContext, LastRun, Working, last_run, run_job};
pub use lease::{Holder, LeaseInfo, holder};
pub use listener::Conn;
pub use logs::{RollingFile, capture_for_tests};
pub use mirror_client::{Channel, Dial, SocketDial, channel, hold, trace::Trace};
pub use peer::{Peer, Principal, fleet_row, process_start};
pub use redaction::{REDACTION_TYPE, RedactionStatement, RedactionTarget};
pub use report::Refusal;
pub use resident::serve_here;
pub use run::{App, Env, Exit, main, serve};
pub use snapshot::{Snapshot, SnapshotFile, SnapshotForm};
pub use starts::failed_starts;
pub use state::{State, StateCell};
pub use tasks::{Tasks, spawn_thread};

/// Reasons that the kit itself answers with; each has a page in `docs/errors/`.
pub const REASONS: &[&str] = &[
    "KIT_PEER_UID",
    "KIT_SCOPE_DENIED",
    "KIT_HALTED",
    "KIT_DEADLINE",
    "KIT_BUSY",
    "KIT_NOT_SERVING",
    "KIT_PANIC",
    "KIT_UNDECLARED",
    "FOLD_BEHIND",
];

/// How long a service may keep draining after it was asked to stop.
///
/// launchd sends SIGKILL when the plist's `ExitTimeOut` has passed, and the plists set that to 15 s; the rest is for
/// the last log lines on a machine where many services drain at once.
pub const DRAIN_LIMIT: std::time::Duration = std::time::Duration::from_secs(8);
