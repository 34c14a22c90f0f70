//! The state of a service and the reason for it.

use tokio::sync::watch;

/// Whether a service does its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not yet ready.
    Starting,
    /// Does its whole job.
    Serving,
    /// Does a part of it.
    Degraded,
    /// Does not do it.
    NotServing,
    /// Finishing calls before it exits.
    Draining,
}

impl State {
    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Degraded => "degraded",
            Self::NotServing => "not serving",
            Self::Draining => "draining",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Starting, Self::Serving, Self::Degraded, Self::NotServing, Self::Draining]
            .into_iter()
            .find(|s| s.name() == name)
    }

    /// Returns whether calls reach the service.
    pub fn takes_calls(self) -> bool {
        matches!(self, Self::Serving | Self::Degraded | Self::Draining)
    }
}

/// The state, shared between the kit and the service.
#[derive(Debug, Clone)]
pub struct StateCell(watch::Sender<(State, String)>);

impl StateCell {
    pub(crate) fn new() -> Self {
        Self(watch::channel((State::Starting, String::new())).0)
    }

    /// Returns the state and one sentence on it.
    pub fn get(&self) -> (State, String) {
        self.0.borrow().clone()
    }

    /// Sets the state; a draining service stays draining.
    pub fn set(&self, state: State, detail: impl Into<String>) {
        let next = (state, detail.into());
        self.0.send_if_modified(|now| {
            if now.0 == State::Draining || *now == next {
                return false;
            }
            *now = next;
            true
        });
    }

    /// Waits until the service is in a state.
    pub(crate) fn reached(&self, state: State) -> futures::future::BoxFuture<'static, ()> {
        let mut changes = self.watch();
        Box::pin(async move {
            // An error means that the service is gone, and with it whoever waits.
            let _ = changes.wait_for(|now| now.0 == state).await;
        })
    }

    pub(crate) fn watch(&self) -> watch::Receiver<(State, String)> {
        self.0.subscribe()
    }
}
