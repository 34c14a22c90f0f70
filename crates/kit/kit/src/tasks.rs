//! Tasks and threads that are named, take their maker's trace and log along, and are joined at drain.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use mirror_client::trace::Trace;
use tokio::task::JoinSet;
use tracing::instrument::WithSubscriber as _;

/// The background tasks of one service.
#[derive(Debug, Clone, Default)]
pub struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    /// Runs a future in the background.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let future = Trace::current().scope(future).with_current_subscriber();
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while set.try_join_next().is_some() {}
        set.spawn(future);
    }

    /// Waits until all tasks have ended.
    pub(crate) async fn join(&self) {
        loop {
            let mut set = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            if set.is_empty() {
                return;
            }
            while set.join_next().await.is_some() {}
        }
    }

    /// Ends all tasks where they stand.
    pub(crate) fn abort(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// Runs a function on a thread of its own, which logs where its maker does.
pub fn spawn_thread<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let dispatch = tracing::dispatcher::get_default(Clone::clone);
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || tracing::dispatcher::with_default(&dispatch, run))
}
