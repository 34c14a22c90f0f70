//! The desk: the one task that changes the schedule, for callers and for time.
//!
//! It refuses to show or acknowledge a change that is not on the disk. Changes that come together share one write.
//! Invariant: what others see has been saved as far as it must not be forgotten.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;
use mirror_clock::Clock;
use mirror_kit::{Context, State, StateCell};
use tokio::sync::{mpsc, oneshot, watch};

use crate::entry::Now;
use crate::error::Error;
use crate::schedule::Schedule;
use crate::store::Store;

/// Changes that share one write at most, and that wait at most.
const TURN: usize = 256;

/// Longest sleep while there are jobs: a sleep neither counts the time that the machine slept, nor hears of a clock that
/// was set.
const SLEEP_MS: u64 = 60_000;

/// Pause after a write that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Notes after which the snapshot is saved, so that a start reads at most about as many again.
const SAVE_EVERY: u64 = 500;

type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;
type Op = Box<dyn FnOnce(&mut Schedule, &Now) -> Done + Send>;

/// Returns what the clocks show.
pub(crate) fn look(clock: &dyn Clock) -> Now {
    let boot = u64::try_from(clock.boot().as_millis()).unwrap_or(u64::MAX);
    Now { wall: clock.wall_ms(), boot, tz: TimeZone::system() }
}

/// What keeps the service from its whole job.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    state: StateCell,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Debug, Default)]
struct Faults {
    /// Whether the schedule is there; before that a fault leaves nothing to serve.
    begun: bool,
    parts: [Option<String>; 2],
}

/// A part that may fail.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Disk,
    Bus,
}

impl Health {
    pub(crate) fn new(state: StateCell) -> Self {
        Self { state, faults: Arc::default() }
    }

    /// Notes how a part is; returns whether it has just failed.
    pub(crate) fn note(&self, part: Part, fault: Option<String>) -> bool {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = fault.is_some();
        let was = std::mem::replace(&mut faults.parts[part as usize], fault);
        self.tell(&faults);
        failed && was.is_none()
    }

    /// Notes that the schedule is there.
    fn begin(&self) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.begun = true;
        self.tell(&faults);
    }

    fn tell(&self, faults: &Faults) {
        match (faults.parts.iter().flatten().next(), faults.begun) {
            (Some(why), true) => self.state.set(State::Degraded, why.clone()),
            (Some(why), false) => self.state.set(State::NotServing, why.clone()),
            (None, true) => self.state.set(State::Serving, ""),
            (None, false) => {}
        }
    }
}

/// What callers have of the desk.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    ops: mpsc::Sender<Op>,
    view: watch::Receiver<Arc<Schedule>>,
}

impl Desk {
    /// Returns the schedule as it was last changed, and every change to come.
    pub(crate) fn view(&self) -> watch::Receiver<Arc<Schedule>> {
        self.view.clone()
    }

    /// Returns the schedule as it is.
    pub(crate) fn now(&self) -> Arc<Schedule> {
        Arc::clone(&self.view.borrow())
    }

    /// Changes the schedule; what was changed is on the disk when this returns. A caller that leaves changes nothing
    /// about that.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Schedule, &Now) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let op: Op = Box::new(move |schedule, now| {
            let result = act(schedule, now);
            // An error means that the caller has left.
            Box::new(move |saved| drop(answer.send(saved.and(result))))
        });
        let ending = || Error::NotRecorded("the service is ending".to_owned());
        self.ops.send(op).await.map_err(|_| ending())?;
        answered.await.map_err(|_| ending())?
    }

    /// Changes the schedule, and waits for a while until the log has the change too.
    pub(crate) async fn record<T: Send + 'static>(
        &self,
        hold: Duration,
        act: impl FnOnce(&mut Schedule, &Now) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (value, posted) = self.change(|s, now| act(s, now).map(|value| (value, s.posted))).await?;
        let mut view = self.view();
        let flushed = view.wait_for(|schedule| schedule.flushed() >= posted);
        // It is on the disk, and the log gets it when the bus is back.
        let _ = tokio::time::timeout(hold, flushed).await.is_ok();
        Ok(value)
    }
}

/// The other side of the desk.
#[derive(Debug)]
pub(crate) struct Keeper {
    cx: Context,
    store: Store,
    health: Health,
    ops: mpsc::Receiver<Op>,
    view: watch::Sender<Arc<Schedule>>,
    /// Notes that the log had when the snapshot was saved.
    snapped: u64,
}

impl Keeper {
    /// Returns a desk and who sits at it.
    pub(crate) fn new(cx: Context, store: Store, health: Health) -> (Self, Desk) {
        let (sender, ops) = mpsc::channel(TURN);
        let (view, seen) = watch::channel(Arc::default());
        (Self { cx, store, health, ops, view, snapped: 0 }, Desk { ops: sender, view: seen })
    }

    /// Begins with a schedule; returns whether it could be saved.
    pub(crate) async fn begin(&mut self, schedule: Schedule) -> bool {
        let begun = self.turn(schedule, Vec::new()).await;
        if begun {
            self.health.begin();
        }
        begun
    }

    /// Serves until the service is to stop.
    pub(crate) async fn run(mut self) {
        let (clock, shutdown) = (self.cx.clock(), self.cx.shutdown());
        loop {
            let wait = self.wait(&look(&*clock));
            let first = tokio::select! {
                op = self.ops.recv() => op,
                () = wait.map_or_else(never, |wait| clock.sleep(wait)) => None,
                () = shutdown.requested() => return,
            };
            let mut ops: Vec<Op> = first.into_iter().collect();
            while ops.len() < TURN
                && let Ok(op) = self.ops.try_recv()
            {
                ops.push(op);
            }
            let schedule = self.view.borrow().as_ref().clone();
            if !self.turn(schedule, ops).await && shutdown.or(tokio::time::sleep(PAUSE)).await.is_none() {
                return;
            }
        }
    }

    /// Returns how long nothing happens by itself.
    fn wait(&self, now: &Now) -> Option<Duration> {
        let schedule = self.view.borrow();
        let wait = schedule.ripe_in(now).map(|ms| ms.min(SLEEP_MS));
        wait.or((!schedule.entries.is_empty()).then_some(SLEEP_MS)).map(Duration::from_millis)
    }

    /// Lets time pass, makes changes, saves, publishes and answers; returns whether it could be saved.
    async fn turn(&mut self, mut schedule: Schedule, ops: Vec<Op>) -> bool {
        let now = look(&*self.cx.clock());
        schedule.tick(&now);
        let done: Vec<Done> = ops.into_iter().map(|op| op(&mut schedule, &now)).collect();
        let saved = if schedule.dirty { self.save(&schedule).await } else { Ok(()) };
        let is_saved = saved.is_ok();
        if is_saved {
            schedule.dirty = false;
            self.view.send_replace(Arc::new(schedule));
        }
        for answer in done {
            answer(saved.clone());
        }
        if is_saved {
            self.snap().await;
        }
        is_saved
    }

    async fn save(&self, schedule: &Schedule) -> Result<(), Error> {
        let (store, schedule) = (self.store.clone(), schedule.clone());
        let why = match tokio::task::spawn_blocking(move || store.save_marks(&schedule)).await {
            Ok(Ok(())) => {
                self.health.note(Part::Disk, None);
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => "the service is ending".to_owned(),
            },
        };
        if self.health.note(Part::Disk, Some(format!("nothing can be started or recorded: {why}"))) {
            tracing::warn!(why, "the state cannot be saved; nothing is started or recorded until it can");
        }
        Err(Error::NotRecorded(format!("the state cannot be saved: {why}")))
    }

    async fn snap(&mut self) {
        let schedule = Arc::clone(&self.view.borrow());
        if !schedule.outbox.is_empty() || schedule.posted < self.snapped + SAVE_EVERY {
            return;
        }
        self.snapped = schedule.posted;
        let store = self.store.clone();
        // A snapshot that is not saved only makes the next start slower; the marks tell of a disk that fails.
        let _ = tokio::task::spawn_blocking(move || store.save_snapshot(&schedule)).await;
    }
}

fn never() -> mirror_clock::Sleep {
    Box::pin(std::future::pending())
}
