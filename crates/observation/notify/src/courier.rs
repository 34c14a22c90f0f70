//! Carries cards to the channels beside the log, one after the other.
//!
//! It refuses to send before the fold has caught up with the log: what was sent before would be sent again.
//! Invariant: an outcome is kept until the log has it, and a content that a channel has taken is not sent to it again
//! by this process.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;
use mirror_kit::Context;
use tokio::sync::watch;

use crate::desktop::Desktop;
use crate::health::{Health, Trouble};
use crate::notify::{Card, Cards, Change, Channel, Delivered, Gone, Outcome, Retracted};
use crate::ntfy::{Failure, Ntfy};
use crate::plan::{Line, Step, is_too_old, step};
use crate::quiet::Quiet;
use crate::record::{Event, Recorder};
use crate::store::Fold;

/// Longest time between two looks while something waits: a machine that slept, or a clock that was set, is noticed.
const LOOK: Duration = Duration::from_secs(60);
/// Pause before an event that was not recorded is tried again.
const RECORD_PAUSE: Duration = Duration::from_secs(5);
/// Most outcomes that wait to be recorded; nothing more is sent until there is room.
const UNRECORDED_LIMIT: usize = 64;
/// How long a sent card counts against the next of its subject, in milliseconds.
const REMEMBER_MS: u64 = 60_000;

/// How a card stands on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) channel: Channel,
    /// "sent", "waiting" or "failed".
    pub(crate) state: &'static str,
    pub(crate) detail: String,
    /// When it was sent or failed, in milliseconds since 1970; 0 while it waits.
    pub(crate) at_ms: u64,
}

/// Which channels there are, and why cards wait; shared with the calls.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    channels: Vec<Channel>,
    waiting: Arc<Mutex<HashMap<(String, Channel), String>>>,
}

impl Board {
    pub(crate) fn new(desktop: bool, ntfy: bool) -> Self {
        let all = [(Channel::Desktop, desktop), (Channel::Ntfy, ntfy)];
        let channels = all.into_iter().filter(|(_, on)| *on).map(|(channel, _)| channel).collect();
        Self { channels, waiting: Arc::default() }
    }

    /// Returns how a card stands on each channel that takes it or took it.
    pub(crate) fn standings(&self, subject: &str, card: &Card) -> Vec<Standing> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = |channel: Channel| match card.done.get(&channel) {
            Some(done) => {
                let state = if done.sent { "sent" } else { "failed" };
                Some(Standing { channel, state, detail: done.detail.clone(), at_ms: done.at_ms })
            }
            None if self.channels.contains(&channel) && channel.takes(card.content.urgency) => {
                let detail = waiting.get(&(subject.to_owned(), channel)).cloned();
                let detail = detail.unwrap_or_else(|| "on its way".to_owned());
                Some(Standing { channel, state: "waiting", detail, at_ms: 0 })
            }
            None => None,
        };
        [Channel::Desktop, Channel::Ntfy].into_iter().filter_map(standing).collect()
    }
}

/// What is to be done next.
enum Task {
    /// Cards to send on some channels.
    Send { subject: String, card: Card, channels: Vec<Channel> },
    /// A card to take back.
    TakeBack { subject: String, gone: Gone },
    /// Nothing before so long; without a time, before something changes.
    Wait(Option<Duration>),
}

/// Carries cards for as long as the service lives.
pub(crate) struct Courier {
    cx: Context,
    fold: watch::Receiver<Fold>,
    recorder: Recorder,
    health: Health,
    board: Board,
    quiet: Option<Quiet>,
    desktop: Option<Desktop>,
    ntfy: Option<Ntfy>,
    line: Line,
    /// Positions of the contents that a channel is done with, by subject.
    done: BTreeMap<(String, Channel), u64>,
    /// Positions of the cleared cards that are done with, by subject.
    taken_back: BTreeMap<String, u64>,
    /// When a card of a subject was sent last.
    sent: HashMap<(String, Channel), u64>,
    unrecorded: VecDeque<Event>,
}

impl Courier {
    pub(crate) fn new(
        cx: &Context,
        fold: watch::Receiver<Fold>,
        recorder: Recorder,
        health: Health,
        board: Board,
    ) -> Self {
        Self {
            cx: cx.clone(),
            fold,
            recorder,
            health,
            board,
            quiet: None,
            desktop: None,
            ntfy: None,
            line: Line::default(),
            done: BTreeMap::new(),
            taken_back: BTreeMap::new(),
            sent: HashMap::new(),
            unrecorded: VecDeque::new(),
        }
    }

    /// Sets the quiet hours and the channels.
    pub(crate) fn with(mut self, quiet: Option<Quiet>, desktop: Option<Desktop>, ntfy: Option<Ntfy>) -> Self {
        (self.quiet, self.desktop, self.ntfy) = (quiet, desktop, ntfy);
        self
    }

    /// Runs until the service is to stop.
    pub(crate) async fn run(mut self) {
        if self.board.channels.is_empty() {
            return;
        }
        let (shutdown, clock) = (self.cx.shutdown(), self.cx.clock());
        loop {
            // A call under way is cut off when the service is to stop: what it did is tried again by the next process.
            let Some(pause) = shutdown.or(self.round()).await else { return };
            let wake = async {
                match pause {
                    Some(pause) => clock.sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.requested() => return,
                changed = self.fold.changed() => if changed.is_err() { return },
                () = wake => {}
            }
        }
    }

    /// Does what can be done now; returns after how long to look again, if nothing changes before.
    async fn round(&mut self) -> Option<Duration> {
        loop {
            let recorded = self.record().await;
            let fold = self.fold.borrow_and_update().clone();
            if !fold.caught_up {
                return None;
            }
            self.forget(&fold.cards);
            match self.next(&fold.cards) {
                Task::Wait(pause) => {
                    let pauses = [pause, (!recorded).then_some(RECORD_PAUSE)];
                    return pauses.into_iter().flatten().min();
                }
                _ if self.unrecorded.len() >= UNRECORDED_LIMIT => return Some(RECORD_PAUSE),
                Task::Send { subject, card, channels } => self.send(subject, &card, &channels).await,
                Task::TakeBack { subject, gone } => self.take_back(subject, gone).await,
            }
        }
    }

    /// Records what is not recorded yet; returns whether nothing is left.
    async fn record(&mut self) -> bool {
        while let Some(event) = self.unrecorded.front() {
            if let Err(error) = self.recorder.record(event).await {
                tracing::info!(%error, "what the channels did is recorded later");
                return false;
            }
            self.unrecorded.pop_front();
        }
        true
    }

    /// Forgets what the fold knows by now, or what is of no use any more.
    fn forget(&mut self, cards: &Cards) {
        let now = self.cx.clock().wall_ms();
        self.done.retain(|(subject, channel), seq| {
            cards.get(subject).is_some_and(|card| card.seq == *seq && !card.done.contains_key(channel))
        });
        self.taken_back.retain(|subject, seq| cards.gone().any(|(s, gone)| s == subject && gone.seq == *seq));
        self.sent.retain(|_, at| now.checked_sub(*at).is_some_and(|since| since < REMEMBER_MS));
    }

    fn next(&mut self, cards: &Cards) -> Task {
        let (now, boot) = (self.cx.clock().wall_ms(), self.cx.clock().boot());
        let quiet = self.quiet.and_then(|quiet| quiet.until(now, &TimeZone::system()));
        let mut due: Option<(&String, &Card, Vec<Channel>)> = None;
        let mut pause: Option<Duration> = None;
        let mut waiting = HashMap::new();
        let idle = Line::default();
        for (subject, card) in cards.iter() {
            let mut channels = Vec::new();
            for channel in self.board.channels.iter().copied() {
                let key = (subject.clone(), channel);
                if card.done.contains_key(&channel)
                    || self.done.get(&key) == Some(&card.seq)
                    || !channel.takes(card.content.urgency)
                {
                    continue;
                }
                let line = if channel == Channel::Ntfy { &self.line } else { &idle };
                match step(card, now, boot, quiet, self.sent.get(&key).copied(), line) {
                    Step::Send => channels.push(channel),
                    Step::Wait(left, why) => {
                        pause = Some(pause.map_or(left, |pause| pause.min(left)));
                        waiting.insert(key, why);
                    }
                }
            }
            let rank = |card: &Card| (std::cmp::Reverse(card.content.urgency), card.seq);
            if !channels.is_empty() && due.as_ref().is_none_or(|(_, other, _)| rank(card) < rank(other)) {
                due = Some((subject, card, channels));
            }
        }
        *self.board.waiting.lock().unwrap_or_else(PoisonError::into_inner) = waiting;
        if let Some((subject, card, channels)) = due {
            return Task::Send { subject: subject.clone(), card: card.clone(), channels };
        }
        if self.ntfy.is_some() {
            let left = cards.gone().find(|(subject, gone)| self.taken_back.get(*subject) != Some(&gone.seq));
            match (left, self.line.pause(boot, false)) {
                (Some((subject, gone)), None) => {
                    return Task::TakeBack { subject: subject.clone(), gone: *gone };
                }
                (Some(_), Some(left)) => pause = Some(pause.map_or(left, |pause| pause.min(left))),
                (None, _) => {}
            }
        }
        if let (None, Some(ntfy)) = (pause, &mut self.ntfy) {
            ntfy.rest();
        }
        Task::Wait(pause.map(|pause| pause.min(LOOK)))
    }

    /// Sends a card on some channels and notes what came of it.
    async fn send(&mut self, subject: String, card: &Card, channels: &[Channel]) {
        let mut results = Vec::new();
        for channel in channels.iter().copied() {
            let outcome = match channel {
                Channel::Desktop => self.show(card).await,
                Channel::Ntfy => self.publish(&subject, card).await,
            };
            // The channel is left alone for a while, and the card waits.
            let Some(outcome) = outcome else { continue };
            let at_ms = self.cx.clock().wall_ms();
            let sent = outcome.is_ok();
            if sent {
                self.sent.insert((subject.clone(), channel), at_ms);
            }
            self.done.insert((subject.clone(), channel), card.seq);
            results.push(Outcome { channel, sent, at_ms, detail: outcome.err().unwrap_or_default() });
        }
        if !results.is_empty() {
            self.keep(&Change::Delivered(Delivered { subject, of: card.seq, results }));
        }
    }

    async fn show(&self, card: &Card) -> Option<Result<(), String>> {
        Some(self.desktop.as_ref()?.show(&card.content).await)
    }

    async fn publish(&mut self, subject: &str, card: &Card) -> Option<Result<(), String>> {
        let answer = self.ntfy.as_mut()?.publish(subject, &card.content).await;
        self.heard(answer, card.at_ms)
    }

    /// Takes a cleared card back.
    async fn take_back(&mut self, subject: String, gone: Gone) {
        let Some(ntfy) = &mut self.ntfy else { return };
        let answer = ntfy.delete(&subject).await;
        // Whether it was taken back, or will never be: it is done with.
        if self.heard(answer, gone.at_ms).is_some() {
            self.taken_back.insert(subject.clone(), gone.seq);
            self.keep(&Change::Retracted(Retracted { subject, of: gone.seq }));
        }
    }

    /// Notes how the server is; returns what came of a call, or nothing when it is to be tried again.
    fn heard(&mut self, answer: Result<(), Failure>, put_ms: u64) -> Option<Result<(), String>> {
        let (after, why, person) = match answer {
            Ok(()) => {
                self.line.works();
                self.health.ntfy(None);
                return Some(Ok(()));
            }
            Err(Failure::Never(why)) => {
                self.line.works();
                self.health.ntfy(None);
                return Some(Err(why));
            }
            Err(Failure::Later { after, why }) => (after, why, false),
            Err(Failure::Person(why)) => (None, why, true),
        };
        tracing::info!(why, "the ntfy server did not take a call; it is tried again");
        self.line.failed(self.cx.clock().boot(), after, &why);
        self.health.ntfy(Some(Trouble { why: why.clone(), person }));
        let too_old = is_too_old(put_ms, self.cx.clock().wall_ms());
        too_old.then(|| Err(format!("given up after 24 hours: {why}")))
    }

    fn keep(&mut self, change: &Change) {
        match Event::of(change) {
            Ok(event) => self.unrecorded.push_back(event),
            Err(error) => tracing::error!(%error, "an outcome cannot be recorded"),
        }
    }
}
