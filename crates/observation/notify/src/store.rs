//! The fold of the events under `notify`, and its snapshot.
//!
//! An erased change counts as one that never was. What it had changed is unknown once it is erased, so the fold begins
//! anew then; of an erased card only the channels are kept that had taken it.
//! Invariant: the fold depends on the log alone, not on when it read it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use mirror_client::follow::Place;
use mirror_contract::millis;
use mirror_contract::mirror::bus::v1::{Event, PayloadState};
use mirror_contract::mirror::fold::v1::Copy;
use mirror_kit::fold::{Erased, reached, unreached};
use mirror_kit::{SnapshotFile, SnapshotForm};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::notify::{Cards, Change, Channel};

/// A thousand cards of the largest size are a tenth of the limit.
const FORM: SnapshotForm = SnapshotForm { name: "snapshot.json", fold: 2, limit: 64 << 20 };

/// The cards, and where in the log they stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Fold {
    pub(crate) cards: Cards,
    pub(crate) place: Place,
    /// Payloads that count as erased, those of others too.
    pub(crate) erased: Erased,
    /// Erased changes, and the channels that had taken the card of each.
    pub(crate) out: BTreeMap<u64, BTreeSet<Channel>>,
    /// Whether a payload was erased after it was read: then only a new fold is right; no part of the snapshot.
    pub(crate) stale: bool,
    /// Whether the fold has reached what was the head of the log when the bus was found; no part of the snapshot.
    pub(crate) caught_up: bool,
}

impl Fold {
    /// Takes an event.
    pub(crate) fn take(&mut self, event: &Event) {
        if self.erased.is(event) {
            self.out.entry(event.seq).or_default();
        } else if let Some(change) = change_of(event) {
            if let Change::Delivered(delivered) = &change
                && let Some(out) = self.out.get_mut(&delivered.of)
            {
                out.extend(
                    delivered.results.iter().filter(|result| result.sent).map(|result| result.channel),
                );
            }
            let at_ms = event.wall_time.as_ref().and_then(millis).unwrap_or_default();
            self.cards.apply(event.seq, at_ms, change);
        }
        self.stale |= self.erased.learn(event);
    }

    fn copies(&self, seq: u64) -> Vec<Copy> {
        let Some(out) = self.out.get(&seq) else { return Vec::new() };
        let elsewhere = out.iter().map(|channel| match channel {
            Channel::Desktop => unreached(
                seq,
                "the notifications of the desktop",
                "a desktop keeps what it has shown until it is dismissed; clear its list of notifications",
            ),
            Channel::Ntfy => unreached(
                seq,
                "the ntfy server and the devices that follow its topic",
                "a server keeps messages for 12 hours unless it is set up otherwise, and a device until they are \
                 removed; delete the message there",
            ),
        });
        [reached(seq, "the cards of notify and their snapshot")].into_iter().chain(elsewhere).collect()
    }
}

/// Returns the change of an event; an erased one, or one of a later build, changes nothing.
fn change_of(event: &Event) -> Option<Change> {
    if event.payload_state() != PayloadState::Present {
        return None;
    }
    let payload = &event.payload;
    let change = match event.subject.as_str() {
        "notify.card" => serde_json::from_slice(payload).map(Change::Put),
        "notify.cleared" => serde_json::from_slice(payload).map(Change::Cleared),
        "notify.delivered" => serde_json::from_slice(payload).map(Change::Delivered),
        "notify.retracted" => serde_json::from_slice(payload).map(Change::Retracted),
        _ => return None,
    };
    change
        .inspect_err(|error| tracing::warn!(seq = event.seq, %error, "skipped a change that cannot be read"))
        .ok()
}

#[derive(Serialize, Deserialize)]
struct Content {
    erased: Erased,
    out: BTreeMap<u64, BTreeSet<Channel>>,
    cards: Cards,
}

fn content(fold: Fold) -> (Place, Content) {
    let Fold { cards, place, erased, out, .. } = fold;
    (place, Content { erased, out, cards })
}

/// Where the snapshot lies.
#[derive(Debug, Clone)]
pub(crate) struct Store(SnapshotFile);

impl Store {
    /// Returns the store in a folder, for a log.
    pub(crate) fn at(dir: &Path, origin: &str) -> Self {
        Self(SnapshotFile::new(dir, origin, FORM))
    }

    /// Returns the fold that was saved last, or the empty one.
    pub(crate) fn load(&self) -> Fold {
        let Some((Content { erased, out, cards }, place)) = self.0.load().loaded() else {
            return Fold::default();
        };
        Fold { cards, place, erased, out, ..Fold::default() }
    }

    /// Saves the fold, unless it holds what was erased.
    pub(crate) fn save(&self, fold: Fold) {
        if !fold.stale {
            self.0.keep(|| content(fold));
        }
    }

    /// Does the same on a thread that may wait for the disk.
    pub(crate) async fn save_apart(&self, fold: Fold) {
        if !fold.stale {
            self.0.keep_apart(|| content(fold)).await;
        }
    }

    /// Removes every copy of the cards, since it may hold text that was erased.
    pub(crate) fn forget(&self) -> io::Result<()> {
        self.0.forget()
    }
}

/// What notify says about itself as a fold.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) fold: watch::Sender<Fold>,
    pub(crate) store: Store,
}

#[tonic::async_trait]
impl mirror_kit::fold::Fold for Standing {
    fn upto(&self) -> u64 {
        self.fold.borrow().place.upto
    }

    fn snapshot(&self) -> u64 {
        self.store.0.upto()
    }

    async fn reached(&self, redaction: u64) {
        let has = |fold: &Fold| fold.place.upto >= redaction && !fold.stale;
        let _ = self.fold.subscribe().wait_for(has).await.is_ok();
    }

    fn copies(&self, _: u64, events: &[u64]) -> Vec<Copy> {
        let fold = self.fold.borrow();
        events.iter().flat_map(|seq| fold.copies(*seq)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::{Content as Words, Put, Urgency};

    const CARD: &str = r#"{"subject":"a","title":"t","body":"secret","urgency":"high","by":"svc:pulse"}"#;
    const SENT: &str = r#"{"subject":"a","of":1,"results":[{"channel":"ntfy","sent":true,"at_ms":7}]}"#;
    const ERASURE: &str = r#"{"v":1,"envelope":{},"events":[1]}"#;

    fn event(seq: u64, subject: &str, payload: &str) -> Event {
        Event {
            seq,
            subject: subject.to_owned(),
            actor: if subject.starts_with("bus") { "svc:bus" } else { "svc:notify" }.to_owned(),
            payload: payload.to_owned().into(),
            payload_state: PayloadState::Present.into(),
            ..Event::default()
        }
    }

    fn gone(event: Event) -> Event {
        Event { payload: "".into(), payload_state: PayloadState::Redacted.into(), ..event }
    }

    fn folded(erased: Erased, events: &[Event]) -> Fold {
        let mut fold = Fold { erased, ..Fold::default() };
        events.iter().for_each(|event| fold.take(event));
        fold
    }

    fn log() -> [Event; 3] {
        [event(1, "notify.card", CARD), event(2, "notify.delivered", SENT), event(3, "bus.redacted", ERASURE)]
    }

    #[test]
    fn changes_are_read_and_erased_ones_count_as_never_made() {
        let content = Words { title: "t".into(), body: "secret".into(), urgency: Urgency::High };
        let put = Put { subject: "a".into(), content, by: "svc:pulse".into() };
        assert_eq!(change_of(&event(1, "notify.card", CARD)), Some(Change::Put(put)));
        assert_eq!(change_of(&gone(event(1, "notify.card", CARD))), None);
        assert_eq!(change_of(&event(1, "notify.card", "{}")), None);
        assert_eq!(change_of(&event(1, "notify.later", CARD)), None);
    }

    #[test]
    fn an_erased_card_is_the_same_to_a_fold_that_was_there_and_to_one_that_comes_later() {
        let [card, sent, erasure] = log();
        let there = folded(Erased::default(), &[card.clone(), sent.clone(), erasure.clone()]);
        assert!(there.stale && there.cards.get("a").is_some());
        let again = folded(there.erased, &[card.clone(), sent.clone(), erasure.clone()]);
        assert!(!again.stale && again.cards.get("a").is_none());
        assert!(
            !format!("{again:?}").contains("secret"),
            "the payload was still there when it was read again"
        );
        assert_eq!(folded(Erased::default(), &[gone(card), sent, erasure]), again);

        let told: Vec<_> = again.copies(1).iter().map(|copy| (copy.seq, copy.state())).collect();
        use mirror_contract::mirror::fold::v1::copy::State::{Reached, Unreached};
        assert_eq!(told, [(1, Reached), (1, Unreached)]);
        assert!(again.copies(2).is_empty());
        assert_eq!(again.cards.gone().count(), 1, "the server is asked to take it back");
    }

    #[test]
    fn only_the_bus_erases() {
        let [card, _, erasure] = log();
        let forged = Event { actor: "local".into(), ..erasure };
        assert!(!folded(Erased::default(), &[card, forged]).stale);
    }

    #[test]
    fn what_is_saved_is_loaded_and_what_is_stale_is_not_saved() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::at(temp.path(), "0123456789abcdef.1");
        assert_eq!(store.load(), Fold::default());
        let [card, sent, erasure] = log();
        let mut fold = folded(Erased::default(), &[gone(card.clone()), sent, erasure.clone()]);
        fold.place = Place { upto: 9, seq: 3, leaf: "ab".to_owned() };
        store.save(fold.clone());
        assert_eq!(store.load(), fold);
        store.forget().unwrap();
        store.save(folded(Erased::default(), &[card, erasure]));
        assert_eq!(store.load(), Fold::default());
        std::fs::write(store.0.path(), "{").unwrap();
        assert_eq!(store.load(), Fold::default());
    }
}
