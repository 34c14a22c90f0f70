//! Durable consumers of this log: served beside the log itself, and kept in it.
//!
//! What is settled is an event of the bus's own, so a consumer survives what the log survives; the machine that decides
//! is `mirror_consumers`, and here are its clock, its reader and its writer. It refuses to answer a settlement before
//! its record is durable, and to deliver records about consumers.
//! Invariant: what was answered as settled is not delivered again. A consumer that nobody pulls from costs nothing.

mod api;
mod drive;
mod registry;
mod slot;
mod snapshot;
mod store;
mod stream;
mod wire;

use std::sync::Arc;

use mirror_clock::Clock;

pub(crate) use api::ConsumeApi;
pub(crate) use registry::{Consumers, Surroundings};

/// Time for the machine: the wall time when the process began, and what has passed since.
///
/// Somebody who sets the clock changes nothing in it, and what is recorded can still be compared after a restart.
#[derive(Debug, Clone)]
pub(crate) struct Steady {
    clock: Arc<dyn Clock>,
    base_ms: u64,
}

impl Steady {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let base_ms = clock.wall_ms().saturating_sub(millis(&*clock));
        Self { clock, base_ms }
    }

    /// Returns the time in milliseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.base_ms.saturating_add(millis(&*self.clock))
    }

    /// Waits until a time.
    pub(crate) async fn until(&self, at: u64) {
        self.clock.sleep(std::time::Duration::from_millis(at.saturating_sub(self.now()))).await;
    }
}

fn millis(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.boot().as_millis()).unwrap_or(u64::MAX)
}
