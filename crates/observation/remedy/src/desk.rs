//! The desk: takes what is asked for, one at a time, and sees it through whether or not its caller waits.
//!
//! The order is: limits, a fresh look, the halt, the intent on the disk, the halt again, the act, the check, the result.
//! Invariant: nothing is done whose intent is not durable, and nothing twice under one id.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirror_contract::timestamp;
use mirror_kit::{Context, Halt, StartError};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};

use crate::catalogue::Remedy;
use crate::config::Config;
use crate::error::Error;
use crate::hands::{Acted, Hands, History, Look, Seen};
use crate::limits;
use crate::remedy::{Action, Ask, Ledger, Line, Now, Outcome, Unsent};
use crate::store::Store;

/// How long a caller waits for the remedy before its own.
const TURN: Duration = Duration::from_secs(5);
/// How many may be asked for at once, the one under way among them.
const ASKED: usize = 16;
/// How long a call waits for its result; the contract gives it 120 s.
const ANSWER: Duration = Duration::from_secs(110);
/// Longest detail, in bytes.
const DETAIL_BYTES: usize = 500;

type Answer = Result<Action, Error>;

/// What was asked for and is not answered yet, by id.
type Asked = BTreeMap<String, (Ask, watch::Receiver<Option<Answer>>)>;

/// The desk.
#[derive(Debug)]
pub(crate) struct Desk {
    cx: Context,
    config: Config,
    halt: Halt,
    hands: Hands,
    ledger: Mutex<Ledger>,
    store: Arc<tokio::sync::Mutex<Store>>,
    asked: Mutex<Asked>,
    turn: Semaphore,
    bell: Notify,
}

impl Desk {
    /// Opens the journal; what had begun and not ended has an unknown outcome from here on.
    pub(crate) fn open(cx: &Context, config: Config, hands: Hands) -> Result<Self, StartError> {
        let now = now(cx);
        let (mut store, mut ledger) = Store::open(&cx.state_dir()?, now);
        for action in ledger.running() {
            tracing::warn!(
                id = action.id,
                remedy = action.remedy.id(),
                target = action.target,
                "it is not known what came of a remedy; it is not tried again by itself"
            );
            let detail = "the service ended before the result was known; look at the target".to_owned();
            ledger.apply(Line::Ended(action.ended(Outcome::Unknown, detail, now.wall_ms)), now);
        }
        if let Err(error) = store.write(&ledger.lines()) {
            tracing::warn!(%error, "the journal cannot be written; until it can, nothing is done");
        }
        let halt = Halt::new(cx.home(), Some(cx.node().key), cx.clock());
        Ok(Self {
            cx: cx.clone(),
            config,
            halt,
            hands,
            ledger: Mutex::new(ledger),
            store: Arc::new(tokio::sync::Mutex::new(store)),
            asked: Mutex::default(),
            turn: Semaphore::new(1),
            bell: Notify::new(),
        })
    }

    pub(crate) fn context(&self) -> &Context {
        &self.cx
    }

    fn now(&self) -> Now {
        now(&self.cx)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Returns until when only to observe, if so.
    pub(crate) fn observing_until_ms(&self) -> Option<u64> {
        let now = self.now();
        limits::observing(&self.ledger().past(), now.at).map(|until| now.wall(until))
    }

    /// Returns the newest actions, newest first.
    pub(crate) fn newest(&self, limit: usize, target: &str) -> Vec<Action> {
        self.ledger().newest(limit, target)
    }

    /// Returns what came of a remedy; under an id that was used, of the first.
    pub(crate) async fn run(self: &Arc<Self>, ask: Ask, by: String) -> Answer {
        let id = ask.id.clone();
        let mut answer = match self.answer_to(ask, by)? {
            Ok(action) => return Ok(action),
            Err(receiver) => receiver,
        };
        let answered = tokio::time::timeout(ANSWER, answer.wait_for(Option::is_some)).await;
        match answered {
            Ok(Ok(answer)) => answer.clone().unwrap_or(Err(Error::Ends)),
            Ok(Err(_)) => Err(Error::Ends),
            // It goes on, and the same id asks for the result.
            Err(_) => self.ledger().find(&id).cloned().ok_or(Error::Ends),
        }
    }

    /// Returns the action that is known already, or where its result will be.
    fn answer_to(
        self: &Arc<Self>,
        ask: Ask,
        by: String,
    ) -> Result<Result<Action, watch::Receiver<Option<Answer>>>, Error> {
        let other = || Error::Id("was used for another remedy or target; choose a new one");
        let mut asked = lock(&self.asked);
        if let Some((first, receiver)) = asked.get(&ask.id) {
            let is_same = first.remedy == ask.remedy && first.target == ask.target;
            return if is_same { Ok(Err(receiver.clone())) } else { Err(other()) };
        }
        if let Some(known) = self.ledger().find(&ask.id) {
            return if known.answers(&ask) { Ok(Ok(known.clone())) } else { Err(other()) };
        }
        if asked.len() >= ASKED {
            let now_ms = self.now().wall_ms;
            let detail = format!("{ASKED} remedies are asked for already; ask again in a minute");
            return Ok(Ok(ask.action(&by, now_ms).ended(Outcome::HeldBack, detail, now_ms)));
        }
        let (sender, receiver) = watch::channel(None);
        asked.insert(ask.id.clone(), (ask.clone(), receiver.clone()));
        let this = Arc::clone(self);
        self.cx.tasks().spawn(async move {
            let shutdown = this.cx.shutdown();
            let answer = shutdown.or(Box::pin(this.carry_out(&ask, &by))).await;
            lock(&this.asked).remove(&ask.id);
            sender.send_replace(Some(answer.unwrap_or(Err(Error::Ends))));
        });
        Ok(Err(receiver))
    }

    async fn carry_out(&self, ask: &Ask, by: &str) -> Answer {
        let Some(_turn) = self.wait_for_turn().await else {
            let why = match self.ledger().running().first() {
                Some(action) => format!(": {} of {}", action.remedy.id(), action.target),
                None => String::new(),
            };
            return Ok(self
                .not_done(ask, by, Outcome::HeldBack, format!("another remedy is under way{why}"))
                .await);
        };
        if let Some(why) = self.holds_back(ask) {
            return Ok(self.not_done(ask, by, Outcome::HeldBack, why).await);
        }
        let seen = match self.hands.look(ask, self.history(&ask.target)).await {
            Look::Called(seen) => seen,
            Look::NotCalled(why) => return Ok(self.not_done(ask, by, Outcome::NotNeeded, why).await),
            Look::Blind(why) => return Ok(self.not_done(ask, by, Outcome::HeldBack, why).await),
        };
        if let Some(why) = self.halt.reason() {
            return Ok(self.not_done(ask, by, Outcome::HeldBack, why).await);
        }
        let action = ask.action(by, self.now().wall_ms);
        let intent = self.write(Line::Began(action.clone()), false).await;
        intent.map_err(|error| Error::NotRecorded(error.to_string()))?;
        self.bell.notify_one();
        let (outcome, detail) = match self.halt.reason() {
            Some(why) => (Outcome::Failed, format!("it was not begun: {why}")),
            None => self.act_and_check(ask, &seen).await,
        };
        tracing::info!(remedy = ask.remedy.id(), target = ask.target, ?outcome, detail, "a remedy has ended");
        Ok(self.end(action, outcome, detail).await)
    }

    async fn wait_for_turn(&self) -> Option<SemaphorePermit<'_>> {
        let clock = self.cx.clock();
        tokio::select! {
            biased;
            permit = self.turn.acquire() => permit.ok(),
            () = clock.sleep(TURN) => None,
        }
    }

    /// Returns why nothing may be done now, and until when.
    fn holds_back(&self, ask: &Ask) -> Option<String> {
        if self.config.observe_only {
            return Some("observe_only is set in the table remedy of mirror.toml".to_owned());
        }
        let now = self.now();
        let ledger = self.ledger();
        let hold = limits::hold(&ledger.past(), ask.remedy, &ask.target, now.at)?;
        Some(format!("{}; until {}", hold.why, timestamp(now.wall(hold.until))))
    }

    /// Returns what the last minutes say about a target.
    fn history(&self, target: &str) -> History {
        let now = self.now().at;
        let ledger = self.ledger();
        let past = ledger.past();
        let recent = |minutes: i64| {
            past.iter().filter(move |p| p.target == target && p.began > now - minutes * 60_000)
        };
        let is_bad = |outcome| matches!(outcome, Outcome::NotHealed | Outcome::Failed);
        let restarts = |remedy| matches!(remedy, Remedy::Restart | Remedy::RestartKill);
        History {
            unhelped: recent(15).filter(|p| is_bad(p.outcome)).count(),
            restarts: recent(10).filter(|p| restarts(p.remedy)).count(),
        }
    }

    async fn act_and_check(&self, ask: &Ask, seen: &Seen) -> (Outcome, String) {
        let clock = self.cx.clock();
        let acted = match self.hands.act(ask, seen).await {
            Acted::Refused(why) => return (Outcome::Failed, why),
            Acted::Done(done) => Ok(done),
            // The restart of a peer may cut off the answer; only the check knows.
            Acted::Unsure(why) => Err(why),
        };
        let began = clock.boot();
        let limit = self.hands.limit(ask);
        let mut pause = Duration::from_millis(100);
        loop {
            let wrong = match self.hands.check(ask, seen).await {
                Ok(()) => return (Outcome::Healed, acted.unwrap_or_default()),
                Err(wrong) => wrong,
            };
            let left = limit.saturating_sub(clock.boot().saturating_sub(began));
            if left.is_zero() {
                let secs = limit.as_secs();
                return match acted {
                    Ok(_) => (Outcome::NotHealed, format!("{secs} s later: {wrong}")),
                    Err(why) => (Outcome::Failed, format!("{why}; {secs} s later: {wrong}")),
                };
            }
            clock.sleep(pause.min(left)).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn not_done(&self, ask: &Ask, by: &str, outcome: Outcome, detail: String) -> Action {
        self.end(ask.action(by, self.now().wall_ms), outcome, detail).await
    }

    /// Records the end of an action; one that the journal does not take is still told to the caller and the bus.
    async fn end(&self, action: Action, outcome: Outcome, mut detail: String) -> Action {
        while detail.len() > DETAIL_BYTES {
            detail.pop();
        }
        let action = action.ended(outcome, detail, self.now().wall_ms);
        if let Err(error) = self.write(Line::Ended(action.clone()), true).await
            && outcome.is_done()
        {
            tracing::warn!(%error, id = action.id, "the journal does not have what came of a remedy");
        }
        self.bell.notify_one();
        action
    }

    /// Writes a line and takes it into the ledger; into the ledger `anyway` also when it cannot be written.
    pub(crate) async fn write(&self, line: Line, anyway: bool) -> io::Result<()> {
        // Held until the ledger has the line, so that nobody writes the journal anew without it.
        let mut store = Arc::clone(&self.store).lock_owned().await;
        let all = store.wants_all().then(|| {
            let now = self.now();
            let mut ledger = self.ledger();
            let lost = ledger.prune(now);
            if lost > 0 {
                tracing::error!(lost, "the bus took no event for too long; actions are forgotten unrecorded");
            }
            let mut next = ledger.clone();
            next.apply(line.clone(), now);
            next.lines()
        });
        let added = line.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let written = match all {
                Some(lines) => store.write(&lines),
                None => store.append(&added),
            };
            (store, written)
        });
        let (store, written) = writing.await.map_err(io::Error::other)?;
        if written.is_ok() || anyway {
            let now = self.now();
            self.ledger().apply(line, now);
        }
        drop(store);
        written
    }

    /// Returns whether the ledger has what the log tells.
    pub(crate) fn is_rebuilt(&self) -> bool {
        self.ledger().is_rebuilt()
    }

    /// Takes what the log tells of times that the journal does not have.
    pub(crate) async fn rebuild(&self, told: Vec<Action>) {
        let now = self.now();
        self.ledger().merge(told, now);
        let under_way: Vec<String> = lock(&self.asked).keys().cloned().collect();
        let lost = self.ledger().running().into_iter().filter(|action| !under_way.contains(&action.id));
        for action in lost.collect::<Vec<_>>() {
            let detail = "the record of the result is lost; look at the target".to_owned();
            self.end(action, Outcome::Unknown, detail).await;
        }
        if let Err(error) = self.write_all(Line::Rebuilt).await {
            tracing::warn!(%error, "the journal cannot be written anew; the next start reads the log again");
        }
    }

    /// Writes the journal anew.
    async fn write_all(&self, line: Line) -> io::Result<()> {
        self.store.lock().await.doubt();
        self.write(line, true).await
    }

    /// Waits for the next event that the bus does not have.
    pub(crate) async fn next_unsent(&self) -> Unsent {
        loop {
            let unsent = self.ledger().unsent();
            match unsent {
                Some(unsent) => return unsent,
                None => self.bell.notified().await,
            }
        }
    }

    /// Returns how many events the bus does not have yet.
    pub(crate) fn unsent_count(&self) -> usize {
        self.ledger().unsent_count()
    }
}

fn now(cx: &Context) -> Now {
    let clock = cx.clock();
    Now { wall_ms: clock.wall_ms(), at: i64::try_from(clock.boot().as_millis()).unwrap_or(i64::MAX) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
