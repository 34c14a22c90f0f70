//! Follows the leases: one poller for all watchers, and the only writer of what they see.
//!
//! There is no notice of a lock that goes with its process, so leases are polled; a scan of a catalogue costs less
//! than a millisecond. It refuses to poll for nobody.
//! Invariant: views never go back, and a watcher that is slow skips states and misses no change.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, stream};
use mirror_clock::Clock;
use mirror_kit::{Shutdown, Tasks};
use tokio::sync::watch;

use crate::error::Error;
use crate::registry::Record;

/// What the last scan saw.
type View = Result<Arc<[Record]>, Error>;

/// Shares scans among watchers.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Inner>);

struct Inner {
    scan: Arc<dyn Fn() -> Result<Vec<Record>, Error> + Send + Sync>,
    latest: watch::Sender<View>,
    /// Held from the beginning of a scan until it is published, so that views never go back.
    scanning: tokio::sync::Mutex<()>,
    /// Whether the poller runs; also held while a watcher is added, so that none is missed when it ends.
    polling: Mutex<bool>,
    /// Time between two scans.
    every: Duration,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    shutdown: Shutdown,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("watchers", &self.0.latest.receiver_count()).finish_non_exhaustive()
    }
}

impl Hub {
    /// Returns a hub without watchers.
    pub(crate) fn new(
        scan: impl Fn() -> Result<Vec<Record>, Error> + Send + Sync + 'static,
        every: Duration,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        shutdown: Shutdown,
    ) -> Self {
        Self(Arc::new(Inner {
            scan: Arc::new(scan),
            latest: watch::channel(Ok(Arc::from([]))).0,
            scanning: tokio::sync::Mutex::new(()),
            polling: Mutex::new(false),
            every,
            clock,
            tasks,
            shutdown,
        }))
    }

    /// Scans now, and tells the watchers when something has changed.
    pub(crate) async fn refresh(&self) -> View {
        let _scanning = self.0.scanning.lock().await;
        let scan = Arc::clone(&self.0.scan);
        let view: View = match tokio::task::spawn_blocking(move || scan()).await {
            Ok(records) => records.map(Arc::from),
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The service is ending; what was seen last is as good as anything.
                Err(_) => self.0.latest.borrow().clone(),
            },
        };
        self.0.latest.send_if_modified(|now| {
            let changed = !same(now, &view);
            if changed {
                now.clone_from(&view);
            }
            changed
        });
        view
    }

    /// Returns every record once, and then each one again when it changes; an error ends it.
    pub(crate) async fn watch(
        &self,
    ) -> Result<impl Stream<Item = Result<Record, Error>> + Unpin + use<>, Error> {
        let receiver = self.subscribe();
        self.refresh().await?;
        Ok(changes(receiver))
    }

    fn subscribe(&self) -> watch::Receiver<View> {
        let mut polling = self.0.polling.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.0.latest.subscribe();
        if !*polling {
            *polling = true;
            self.0.tasks.spawn(self.clone().poll());
        }
        receiver
    }

    async fn poll(self) {
        while self.0.shutdown.sleep(self.0.clock.as_ref(), self.0.every).await {
            if self.is_unwatched() {
                return;
            }
            // A failure reaches the watchers through the view.
            let _ = self.refresh().await;
        }
    }

    /// Returns whether nobody watches; the poller then counts as ended.
    fn is_unwatched(&self) -> bool {
        let mut polling = self.0.polling.lock().unwrap_or_else(PoisonError::into_inner);
        *polling = self.0.latest.receiver_count() > 0;
        !*polling
    }
}

fn same(a: &View, b: &View) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.standing == b.standing),
        _ => false,
    }
}

/// Where a watcher stands: it remembers what it was told last, so one that is slow skips states and misses no change.
struct Watcher {
    receiver: watch::Receiver<View>,
    told: Arc<[Record]>,
    pending: VecDeque<Record>,
    ended: bool,
}

fn changes(mut receiver: watch::Receiver<View>) -> impl Stream<Item = Result<Record, Error>> + Unpin {
    receiver.mark_changed();
    let watcher = Watcher { receiver, told: Arc::from([]), pending: VecDeque::new(), ended: false };
    Box::pin(stream::unfold(watcher, |mut w| async move {
        loop {
            if let Some(record) = w.pending.pop_front() {
                return Some((Ok(record), w));
            }
            if w.ended || w.receiver.changed().await.is_err() {
                return None;
            }
            let view = w.receiver.borrow_and_update().clone();
            match view {
                Ok(records) => {
                    // The catalogue stands still while a process runs, so that records keep their places.
                    let told = std::mem::replace(&mut w.told, records);
                    let is_new = |n: usize, r: &Record| told.get(n).is_none_or(|t| t.standing != r.standing);
                    w.pending.extend(
                        w.told.iter().enumerate().filter(|(n, r)| is_new(*n, r)).map(|(_, r)| r.clone()),
                    );
                }
                Err(e) => {
                    w.ended = true;
                    return Some((Err(e), w));
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Actual, Desired, Standing};
    use futures::StreamExt as _;
    use mirror_clock::ManualClock;
    use mirror_errors::Classify as _;
    use mirror_kit::Decl;
    use mirror_testkit::wait;

    const EVERY: Duration = Duration::from_millis(500);

    const ONE: Decl = Decl { name: "one", summary: "Is first.", ..Decl::DEFAULT };
    const TWO: Decl = Decl { name: "two", summary: "Is second.", ..Decl::DEFAULT };

    fn record(decl: &'static Decl, detail: &str) -> Record {
        let standing = Standing { desired: Desired::Running, actual: Actual::Down, detail: detail.into() };
        Record { decl, socket: decl.name.into(), standing }
    }

    struct Fixture {
        clock: ManualClock,
        hub: Hub,
        details: Arc<Mutex<[&'static str; 2]>>,
        scans: Arc<Mutex<u32>>,
        _stop: watch::Sender<bool>,
    }

    /// A hub over two services whose details the test sets; the detail "broken" makes a scan fail.
    fn fixture() -> Fixture {
        let clock = ManualClock::new(0);
        let details = Arc::new(Mutex::new(["a", "b"]));
        let scans = Arc::new(Mutex::new(0));
        let (_stop, shutdown) = Shutdown::pair();
        let (seen, count) = (Arc::clone(&details), Arc::clone(&scans));
        let scan = move || {
            *count.lock().unwrap() += 1;
            let [one, two] = *seen.lock().unwrap();
            if one == "broken" {
                let source = Arc::new(std::io::Error::other("broken"));
                return Err(Error::Storage { path: "one".into(), source });
            }
            Ok(vec![record(&ONE, one), record(&TWO, two)])
        };
        let hub = Hub::new(scan, EVERY, Arc::new(clock.clone()), Tasks::default(), shutdown);
        Fixture { clock, hub, details, scans, _stop }
    }

    impl Fixture {
        fn set(&self, details: [&'static str; 2]) {
            *self.details.lock().unwrap() = details;
        }

        fn scans(&self) -> u32 {
            *self.scans.lock().unwrap()
        }

        /// Moves the clock until there is one scan more.
        async fn tick(&self) {
            let before = self.scans();
            wait("the poller scans", async || {
                self.clock.advance(EVERY);
                if self.scans() > before { Ok(()) } else { Err(format!("{before} scans")) }
            })
            .await;
        }
    }

    async fn next(watcher: &mut (impl Stream<Item = Result<Record, Error>> + Unpin)) -> String {
        let record = watcher.next().await.unwrap().unwrap();
        format!("{} {}", record.decl.name, record.standing.detail)
    }

    #[tokio::test]
    async fn a_watcher_gets_all_records_and_then_the_changed_ones() {
        let f = fixture();
        let mut watcher = f.hub.watch().await.unwrap();
        assert_eq!(next(&mut watcher).await, "one a");
        assert_eq!(next(&mut watcher).await, "two b");
        f.tick().await;
        f.set(["a", "c"]);
        f.tick().await;
        assert_eq!(next(&mut watcher).await, "two c");
        f.set(["d", "c"]);
        f.tick().await;
        assert_eq!(next(&mut watcher).await, "one d");
    }

    #[tokio::test]
    async fn a_slow_watcher_skips_states_and_misses_no_change() {
        let f = fixture();
        let mut watcher = f.hub.watch().await.unwrap();
        for details in [["1", "b"], ["2", "x"], ["3", "y"]] {
            f.set(details);
            f.hub.refresh().await.unwrap();
        }
        assert_eq!(next(&mut watcher).await, "one 3");
        assert_eq!(next(&mut watcher).await, "two y");
        f.set(["3", "z"]);
        f.hub.refresh().await.unwrap();
        assert_eq!(next(&mut watcher).await, "two z");
    }

    #[tokio::test]
    async fn a_scan_comes_no_sooner_than_the_configured_time() {
        let f = fixture();
        let _watcher = f.hub.watch().await.unwrap();
        let (before, step) = (f.scans(), Duration::from_millis(100));
        let mut waited = Duration::ZERO;
        wait("the poller scans", async || {
            if f.scans() > before {
                return Ok(());
            }
            waited += step;
            f.clock.advance(step);
            Err(format!("{waited:?}"))
        })
        .await;
        assert!(waited >= EVERY, "{waited:?}");
    }

    #[tokio::test]
    async fn many_watchers_share_one_poller_and_it_ends_with_the_last() {
        let f = fixture();
        let polls = || *f.hub.0.polling.lock().unwrap();
        assert!(!polls());
        let mut watchers = Vec::new();
        for _ in 0..5 {
            watchers.push(f.hub.watch().await.unwrap());
        }
        let scans = f.scans();
        assert_eq!(scans, 5, "each watcher begins with a scan");
        f.tick().await;
        assert_eq!(f.scans(), scans + 1);

        watchers.truncate(1);
        f.tick().await;
        assert!(polls());
        drop(watchers);
        wait("the poller ends", async || {
            f.clock.advance(EVERY);
            if polls() { Err("it runs".to_owned()) } else { Ok(()) }
        })
        .await;

        let mut late = f.hub.watch().await.unwrap();
        assert_eq!(next(&mut late).await, "one a");
        assert!(polls());
        f.set(["e", "b"]);
        f.tick().await;
        assert_eq!(next(&mut late).await, "two b");
        assert_eq!(next(&mut late).await, "one e");
    }

    #[tokio::test]
    async fn a_failed_scan_ends_the_watchers_and_not_the_hub() {
        let f = fixture();
        let mut watcher = f.hub.watch().await.unwrap();
        next(&mut watcher).await;
        next(&mut watcher).await;
        f.set(["broken", "b"]);
        f.tick().await;
        let error = watcher.next().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), "REGISTRY_STORAGE");
        assert!(watcher.next().await.is_none());
        assert!(f.hub.watch().await.is_err());

        f.set(["a", "b"]);
        let mut watcher = f.hub.watch().await.unwrap();
        assert_eq!(next(&mut watcher).await, "one a");
    }

    #[tokio::test]
    async fn the_poller_ends_with_the_service() {
        let f = fixture();
        let _watcher = f.hub.watch().await.unwrap();
        f._stop.send(true).unwrap();
        let held = Arc::downgrade(&f.hub.0);
        let Fixture { hub, .. } = f;
        drop(hub);
        wait("the poller lets go of the hub", async || match held.strong_count() {
            0 => Ok(()),
            n => Err(format!("{n} holders")),
        })
        .await;
    }
}
