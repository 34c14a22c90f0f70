//! The clocks: wall time for people, boot time for durations, and a manual clock for tests.
//!
//! It refuses to let anything else ask the machine for the time, so that a test can own it.
//! Invariant: boot time never runs backwards and counts the time that the machine slept.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// A future that borrows nothing.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Waits until a sleep is over; without one, for ever.
pub async fn due(sleep: &mut Option<Sleep>) {
    match sleep {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}

/// A source of time.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Returns the wall time in milliseconds since 1970; it may jump.
    fn wall_ms(&self) -> u64;
    /// Returns the time since an arbitrary point, counting sleep; it never runs backwards.
    fn boot(&self) -> Duration;
    /// Waits until `duration` has passed on this clock.
    fn sleep(&self, duration: Duration) -> Sleep;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that the others are told to use")]
    fn wall_ms(&self) -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }

    fn boot(&self) -> Duration {
        // On macOS CLOCK_MONOTONIC goes on during sleep; on Linux only CLOCK_BOOTTIME does.
        #[cfg(target_os = "linux")]
        let id = nix::time::ClockId::CLOCK_BOOTTIME;
        #[cfg(not(target_os = "linux"))]
        let id = nix::time::ClockId::CLOCK_MONOTONIC;
        id.now().map(Duration::from).unwrap_or_default()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug, Clone)]
pub struct ManualClock {
    state: Arc<Mutex<State>>,
    ticks: watch::Sender<u64>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    wall_ms: u64,
    boot: Duration,
}

impl ManualClock {
    /// Returns a clock that shows `wall_ms` and a boot time of zero.
    pub fn new(wall_ms: u64) -> Self {
        let state = State { wall_ms, boot: Duration::ZERO };
        Self { state: Arc::new(Mutex::new(state)), ticks: watch::channel(0).0 }
    }

    /// Moves both clocks forward and wakes the sleepers that are due.
    pub fn advance(&self, by: Duration) {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.boot += by;
            state.wall_ms = state.wall_ms.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
        }
        self.ticks.send_modify(|n| *n += 1);
    }

    /// Moves the wall clock alone, as a person or a time server would.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).wall_ms = wall_ms;
    }

    fn read(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn wall_ms(&self) -> u64 {
        self.read().wall_ms
    }

    fn boot(&self) -> Duration {
        self.read().boot
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let clock = self.clone();
        let mut ticks = self.ticks.subscribe();
        let due = self.boot() + duration;
        Box::pin(async move {
            while clock.boot() < due {
                if ticks.changed().await.is_err() {
                    return;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_shows_this_century_and_moves_forward() {
        let clock = SystemClock;
        assert!(clock.wall_ms() > 1_700_000_000_000, "wall clock is before 2023");
        let first = clock.boot();
        assert!(clock.boot() >= first);
        assert!(first > Duration::ZERO);
    }

    #[tokio::test]
    async fn a_manual_sleep_ends_when_the_clock_is_moved_past_it() {
        let clock = ManualClock::new(1_000);
        let mut sleep = clock.sleep(Duration::from_secs(5));
        assert!(futures_pending(&mut sleep).await);
        clock.advance(Duration::from_secs(4));
        assert!(futures_pending(&mut sleep).await);
        clock.advance(Duration::from_secs(1));
        sleep.await;
        assert_eq!(clock.wall_ms(), 6_000);
    }

    #[test]
    fn setting_the_wall_clock_leaves_boot_time_alone() {
        let clock = ManualClock::new(5_000);
        clock.set_wall_ms(1);
        assert_eq!((clock.wall_ms(), clock.boot()), (1, Duration::ZERO));
    }

    async fn futures_pending(sleep: &mut Sleep) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(sleep.as_mut().poll(cx).is_pending())).await
    }
}
