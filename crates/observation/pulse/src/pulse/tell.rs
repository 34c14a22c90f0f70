//! What others are told: events for the log, cards for the owner.
//!
//! Events are queued until the bus has them, cards are compared with what was shown, so that a peer that is away
//! delays and loses nothing. Invariant: an incident is told when it opens and when it is over, and not between.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash as _, Hasher as _};

use mirror_kit::Criticality;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Core;
use super::incident::{Act, Incident};
use super::input::{Card, Effect, Now};

/// Events that wait at most; the oldest give way.
const QUEUE: usize = 256;
/// Longest pause before something is told again, in milliseconds.
const PAUSE_LIMIT: u64 = 60_000;
/// How long an incident that heals itself is kept from the owner, in milliseconds.
const PATIENCE: u64 = 30_000;

/// An event that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    id: String,
    kind: Kind,
    payload: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Incident,
    Action,
}

impl Kind {
    fn subject(self) -> &'static str {
        match self {
            Self::Incident => "pulse.incident",
            Self::Action => "pulse.action",
        }
    }
}

/// What a subject's card was when it was shown.
#[derive(Debug, Default)]
struct Shown {
    /// Digest of its content; nothing when none is shown.
    told: Option<u64>,
    /// Content that is on its way.
    sent: Option<Option<u64>>,
    retry: u64,
    pause: u64,
}

/// What is still to be told.
#[derive(Debug, Default)]
pub(crate) struct Tell {
    queue: VecDeque<Record>,
    /// Events that had to give way.
    lost: u64,
    appending: bool,
    retry: u64,
    pause: u64,
    cards: BTreeMap<String, Shown>,
}

impl Tell {
    pub(crate) fn opened(&mut self, incident: &Incident) {
        self.incident("opened", incident);
    }

    pub(crate) fn closed(&mut self, incident: &Incident) {
        self.incident("closed", incident);
    }

    fn incident(&mut self, state: &str, incident: &Incident) {
        let mut payload = serde_json::to_value(incident.told()).unwrap_or_default();
        payload["state"] = json!(state);
        self.push(format!("pulse:{}:{state}", incident.id), Kind::Incident, payload.to_string());
    }

    /// Tells of an action that the supervisor, and not the service remedy, was asked for.
    pub(crate) fn direct(&mut self, incident: &str, act: &Act) {
        let payload = json!({
            "id": act.id,
            "incident": incident,
            "remedy": act.remedy,
            "target": act.target,
            "cause": act.cause,
            "at_ms": act.at,
        });
        self.push(format!("pulse:{}", act.id), Kind::Action, payload.to_string());
    }

    fn push(&mut self, id: String, kind: Kind, payload: String) {
        if self.queue.len() >= QUEUE {
            // The first may be on its way; its acknowledgement must not count for another.
            self.queue.remove(usize::from(self.appending));
            self.lost += 1;
        }
        self.queue.push_back(Record { id, kind, payload });
    }

    /// Returns whether nothing waits.
    pub(crate) fn is_quiet(&self) -> bool {
        self.queue.is_empty() && self.cards.values().all(|c| c.sent.is_none() && c.pause == 0)
    }

    /// Returns what must outlive the process: the events that wait, and which cards are shown.
    pub(crate) fn saved(&self) -> (Vec<Record>, BTreeMap<String, u64>) {
        let cards = self.cards.iter().filter_map(|(s, c)| Some((s.clone(), c.told?)));
        (self.queue.iter().cloned().collect(), cards.collect())
    }

    pub(crate) fn restore(&mut self, queue: Vec<Record>, cards: BTreeMap<String, u64>) {
        self.queue = queue.into_iter().take(QUEUE).collect();
        let shown = |told| Shown { told: Some(told), ..Shown::default() };
        self.cards = cards.into_iter().map(|(subject, told)| (subject, shown(told))).collect();
    }
}

fn later(now: u64, pause: &mut u64) -> u64 {
    *pause = (*pause * 2).clamp(1_000, PAUSE_LIMIT);
    now + *pause
}

fn digest(card: &Card) -> u64 {
    let mut hasher = DefaultHasher::new();
    card.hash(&mut hasher);
    hasher.finish()
}

/// Cuts a text to so many bytes, at a character.
pub(crate) fn cut(mut text: String, bytes: usize) -> String {
    let end = (0..=bytes.min(text.len())).rev().find(|n| text.is_char_boundary(*n)).unwrap_or(0);
    text.truncate(end);
    text
}

impl Core {
    /// Returns how many events had to give way because the bus was away for too long.
    pub(crate) fn lost_events(&self) -> u64 {
        self.tell.lost
    }

    pub(crate) fn appended(&mut self, now: Now, ok: bool) {
        self.tell.appending = false;
        if ok {
            self.tell.queue.pop_front();
            (self.tell.pause, self.tell.retry) = (0, 0);
            self.dirty = true;
        } else {
            self.tell.retry = later(now.boot, &mut self.tell.pause);
        }
    }

    pub(crate) fn carded(&mut self, now: Now, subject: &str, ok: bool) {
        let Some(shown) = self.tell.cards.get_mut(subject) else { return };
        let sent = shown.sent.take();
        if ok {
            shown.told = sent.flatten();
            (shown.pause, shown.retry) = (0, 0);
            self.dirty = true;
        } else {
            shown.retry = later(now.boot, &mut shown.pause);
        }
        self.tell.cards.retain(|_, c| c.told.is_some() || c.sent.is_some() || c.pause > 0);
    }

    /// Sends what waits and may be tried.
    pub(crate) fn report(&mut self, now: Now) {
        let tell = &mut self.tell;
        if let Some(first) = tell.queue.front()
            && !tell.appending
            && tell.retry <= now.boot
        {
            tell.appending = true;
            let (id, subject, payload) = (first.id.clone(), first.kind.subject(), first.payload.clone());
            self.out.push(Effect::Append { id, subject, payload });
        }
        let wanted: BTreeMap<String, Card> =
            self.incidents.iter().filter_map(|i| self.card(now, i)).map(|c| (c.subject.clone(), c)).collect();
        let shown: Vec<String> = self.tell.cards.keys().cloned().collect();
        for subject in wanted.keys().cloned().chain(shown.into_iter().filter(|s| !wanted.contains_key(s))) {
            let card = wanted.get(&subject);
            let content = card.map(digest);
            if content.is_none()
                && self.tell.cards.get(&subject).is_none_or(|s| s.told.is_none() && s.pause == 0)
            {
                continue;
            }
            let shown = self.tell.cards.entry(subject.clone()).or_default();
            if shown.sent.is_some() || shown.retry > now.boot || (shown.told == content && shown.pause == 0) {
                continue;
            }
            shown.sent = Some(content);
            self.out
                .push(card.map_or_else(|| Effect::ClearCard(subject), |card| Effect::PutCard(card.clone())));
        }
    }

    /// Returns the card of an incident, once it is one for the owner: no remedy is to be had, or it takes its time.
    fn card(&self, now: Now, incident: &Incident) -> Option<Card> {
        if incident.recovered.is_some() && !self.tell.cards.contains_key(&subject(incident)) {
            return None;
        }
        let (plan, open) = (self.plan(now, incident), incident.open_act());
        let helpless = plan.remedy.is_empty() && open.is_none() && incident.recovered.is_none();
        let crash = incident.cause == super::Cause::Crashed;
        if (crash || !helpless) && now.boot.saturating_sub(incident.opened) < PATIENCE {
            return None;
        }
        let agents = std::iter::once(&incident.root).chain(&incident.members);
        let criticality = agents.filter_map(|n| self.agent(n)).map(|n| self.targets[n].spec.criticality);
        let urgency = criticality.map(urgency).max().unwrap_or(4);
        let next = match (open, plan.remedy) {
            (Some(act), _) => format!("Under way: {} {}.", act.remedy, act.target),
            (None, "") if incident.recovered.is_some() => "It is well again, and watched.".to_owned(),
            (None, "") => "There is no remedy; see `mirror pulse`.".to_owned(),
            (None, remedy) if plan.hold.is_empty() => format!("Next: {remedy} {}.", plan.target),
            (None, remedy) => format!("Waits with {remedy}: {}.", plan.hold),
        };
        let body = format!("{} {}. {next}", incident.cause.sentence(), incident.detail);
        let title = format!("{}: {}", incident.root, incident.cause.id());
        Some(Card { subject: subject(incident), title: cut(title, 100), body: cut(body, 1000), urgency })
    }
}

fn subject(incident: &Incident) -> String {
    format!("pulse.{}", incident.root)
}

fn urgency(criticality: Criticality) -> u8 {
    match criticality {
        Criticality::Vital => 5,
        Criticality::Important => 4,
        Criticality::Useful => 3,
    }
}
