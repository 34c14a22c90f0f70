//! The engine: gives the domain its inputs in order, and carries out what it wants.
//!
//! Invariant: what must not be done twice is saved before it is begun.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use mirror_clock::Clock;
use mirror_kit::{Context, Halt};
use tokio::sync::{mpsc, watch};

use crate::checks::{Checks, Places};
use crate::hands::Hands;
use crate::pulse::{Core, Effect, Input, Now, Process, View};
use crate::store::Store;

/// Time between two heartbeats; the dead-man job acts after two and a half periods of its own.
const BEAT: Duration = Duration::from_secs(30);
/// How long saving may hold up what is to be done.
const SAVING: Duration = Duration::from_secs(2);
/// Inputs that are taken at once before anything else happens.
const BATCH: usize = 64;

/// The domain, shared between the engine and the calls.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    core: Arc<Mutex<Core>>,
    clock: Arc<dyn Clock>,
    /// What the watchers see.
    view: watch::Sender<Arc<View>>,
}

impl Shared {
    pub(crate) fn new(core: Core, clock: Arc<dyn Clock>) -> Self {
        let view = watch::Sender::new(Arc::new(core.view(now(&*clock))));
        Self { core: Arc::new(Mutex::new(core)), clock, view }
    }

    /// Returns the clocks.
    pub(crate) fn now(&self) -> Now {
        now(&*self.clock)
    }

    /// Runs something on the domain.
    pub(crate) fn with<T>(&self, run: impl FnOnce(&mut Core) -> T) -> T {
        run(&mut self.core.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the pulse as it is.
    pub(crate) fn view(&self) -> View {
        let now = self.now();
        self.with(|core| core.view(now))
    }

    /// Returns what tells of changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.publish();
        self.view.subscribe()
    }

    fn publish(&self) {
        let view = self.view();
        self.view.send_if_modified(|old| {
            let changed = !old.says_same(&view);
            if changed {
                *old = Arc::new(view);
            }
            changed
        });
    }
}

/// Returns both clocks in milliseconds.
pub(crate) fn now(clock: &dyn Clock) -> Now {
    Now { boot: u64::try_from(clock.boot().as_millis()).unwrap_or(u64::MAX), wall: clock.wall_ms() }
}

/// The engine.
pub(crate) struct Engine {
    pub(crate) cx: Context,
    pub(crate) shared: Shared,
    pub(crate) hands: Hands,
    pub(crate) checks: Checks,
    pub(crate) places: Arc<Places>,
    pub(crate) store: Store,
    /// What each agent's prober is asked by; jobs have none.
    pub(crate) probers: Vec<Option<mpsc::Sender<u64>>>,
    pub(crate) sender: mpsc::Sender<Input>,
    pub(crate) halt: Halt,
}

/// What the engine remembers between two rounds.
#[derive(Debug, Default)]
struct Memory {
    halted: Option<String>,
    beat: Option<Duration>,
    saving: Option<tokio::task::JoinHandle<()>>,
    lost: u64,
}

impl Engine {
    /// Runs until the service is to stop.
    pub(crate) async fn run(self, mut inputs: mpsc::Receiver<Input>) {
        let (shutdown, clock) = (self.cx.shutdown(), self.cx.clock());
        let mut memory = Memory::default();
        loop {
            self.beat(&mut memory);
            let due = self.shared.with(|core| core.due());
            let wait = Duration::from_millis(due.saturating_sub(self.shared.now().boot));
            let first = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                input = inputs.recv() => input.unwrap_or(Input::Tick),
                () = clock.sleep(wait) => Input::Tick,
            };
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(input) = inputs.try_recv()
            {
                batch.push(input);
            }
            let halted = self.halt.reason();
            if memory.halted != halted {
                memory.halted.clone_from(&halted);
                // Before all else, so that nothing is begun that must not be.
                batch.insert(0, Input::Halt(halted));
            }
            let mut effects = Vec::new();
            for input in batch {
                self.note_pid(&input);
                let now = self.shared.now();
                effects.extend(self.shared.with(|core| core.step(now, input)));
            }
            if self.shared.with(Core::take_dirty) {
                self.save(&mut memory).await;
            }
            for effect in effects {
                self.carry_out(effect);
            }
            self.report_loss(&mut memory);
            if self.shared.view.receiver_count() > 0 {
                self.shared.publish();
            }
        }
    }

    fn note_pid(&self, input: &Input) {
        let Input::Agent(row) = input else { return };
        let Some(agent) = self.shared.with(|core| core.agent(&row.name)) else { return };
        let mut pids = self.places.pids.lock().unwrap_or_else(PoisonError::into_inner);
        if row.process == Process::Running && row.pid > 0 {
            pids.insert(agent, row.pid);
        } else {
            pids.remove(&agent);
        }
    }

    /// Saves what must outlive the process; a disk that hangs or is full must not keep the fleet from being healed.
    async fn save(&self, memory: &mut Memory) {
        if memory.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            return;
        }
        let now = self.shared.now();
        let (store, saved) = (self.store.clone(), self.shared.with(|core| core.saved(now)));
        let mut saving = tokio::task::spawn_blocking(move || {
            if let Err(error) = store.save(saved) {
                tracing::warn!(%error, "the snapshot cannot be saved; pulse goes on without");
            }
        });
        if tokio::time::timeout(SAVING, &mut saving).await.is_err() {
            tracing::warn!("the snapshot takes long to save; pulse goes on without");
            memory.saving = Some(saving);
        }
    }

    fn carry_out(&self, effect: Effect) {
        let (hands, sender, shutdown) = (self.hands.clone(), self.sender.clone(), self.cx.shutdown());
        let spawn = |work: std::pin::Pin<Box<dyn Future<Output = Input> + Send>>| {
            self.cx.tasks().spawn(async move {
                if let Some(input) = shutdown.or(work).await {
                    let _ = sender.send(input).await;
                }
            });
        };
        match effect {
            Effect::Probe { agent, patience } => {
                if let Some(Some(prober)) = self.probers.get(agent) {
                    // One that is still asked has an answer to give first.
                    let _ = prober.try_send(patience);
                }
            }
            Effect::Check(check) => {
                let checks = self.checks.clone();
                spawn(Box::pin(async move { Input::Check(check, checks.make(check).await) }));
            }
            Effect::List => {
                let (sender, shutdown) = (self.sender.clone(), self.cx.shutdown());
                self.cx.tasks().spawn(async move {
                    let _ = shutdown.or(hands.list(sender)).await;
                });
            }
            Effect::Remedy(ask) => {
                tracing::info!(
                    id = ask.id,
                    remedy = ask.remedy,
                    target = ask.target,
                    cause = ask.cause,
                    "asks"
                );
                spawn(Box::pin(hands.remedy(ask)));
            }
            Effect::Restart(ask) => {
                tracing::info!(id = ask.id, agent = ask.target, cause = ask.cause, "asks the supervisor");
                spawn(Box::pin(hands.restart(ask)));
            }
            Effect::Append { id, subject, payload } => spawn(Box::pin(hands.append(id, subject, payload))),
            Effect::PutCard(card) => spawn(Box::pin(hands.put_card(card))),
            Effect::ClearCard(subject) => spawn(Box::pin(hands.clear_card(subject))),
        }
    }

    fn report_loss(&self, memory: &mut Memory) {
        let lost = self.shared.with(|core| core.lost_events());
        if lost > memory.lost {
            tracing::error!(
                events = lost - memory.lost,
                "the bus was away for too long; events of pulse are lost"
            );
            memory.lost = lost;
        }
    }

    /// Touches the heartbeat, which the dead-man job looks at; only its time counts.
    fn beat(&self, memory: &mut Memory) {
        let clock = self.cx.clock();
        let boot = clock.boot();
        if memory.beat.is_some_and(|at| boot.saturating_sub(at) < BEAT) {
            return;
        }
        memory.beat = Some(boot);
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(clock.wall_ms());
        let file =
            std::fs::File::options().create(true).truncate(false).write(true).open(heartbeat(&self.cx));
        if let Err(error) = file.and_then(|file| file.set_modified(at)) {
            tracing::debug!(%error, "no heartbeat; the check of the home says why");
        }
    }
}

fn heartbeat(cx: &Context) -> PathBuf {
    cx.home().run().join("pulse.beat")
}
