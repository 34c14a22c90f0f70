//! The fold: pages from events, one event after the other, in bounded memory.
//!
//! It keeps the [`DAYS`] newest days apart, fewer when they hold more than [`ENTRIES`] entries or [`MARKS`] digests of
//! file names; older days are one line for each writer, and beyond [`CLOSED_DAYS`] of those one line stands for all
//! before. An entry takes 300 to 900 bytes, so the state of a busy year is 2 MB, and at all bounds it is 5 MB.
//! It refuses no event: what it cannot read it counts.
//! Invariant: the pages depend on the events alone, not on how they came in batches, nor on where a snapshot was taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use mirror_client::follow::Place;
use mirror_contract::mirror::bus::v1::Event;
use mirror_kit::fold::Erased;

use crate::fact::{Fact, read, read_erased};
use crate::moment::day_text;
use crate::page::{DAY_ENTRIES, Day, Entry};

/// Version of the rules; a snapshot made under others is not used.
pub const FOLD: u32 = 2;
/// Most days of which entries are kept apart.
pub const DAYS: usize = 400;
/// Most entries that are kept apart, over all days.
pub const ENTRIES: usize = 4_096;
/// Most digests, of files and of sub-agents, that are kept apart over all days.
pub const MARKS: usize = 65_536;
/// Most days that are kept as lines.
pub const CLOSED_DAYS: usize = 2_000;

/// Which pages to return.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    /// First day, in days since 1970-01-01.
    pub from: Option<i32>,
    /// Last day.
    pub to: Option<i32>,
    /// Only this writer.
    pub writer: Option<String>,
    /// At most this many days, newest first.
    pub days: usize,
}

/// One day as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// "YYYY-MM-DD".
    pub day: String,
    /// In order of writer, then of start.
    pub entries: Vec<Entry>,
}

/// The changelog. A copy is cheap: days are shared until one of the two changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fold {
    upto: u64,
    leaf: String,
    erased: Erased,
    days: BTreeMap<i32, Arc<Day>>,
    /// Newest day that is closed.
    closed_to: Option<i32>,
    open: usize,
    entries: usize,
    marks: usize,
}

impl Fold {
    /// Returns the fold of no event, to which these payloads are erased.
    pub fn new(erased: Erased) -> Self {
        Self { erased, ..Self::default() }
    }

    /// Returns a fold as it was kept.
    pub(crate) fn restore(place: Place, erased: Erased, days: Vec<Day>) -> Self {
        let mut fold = Self { upto: place.upto, leaf: place.leaf, erased, ..Self::default() };
        for day in days {
            let size = day.size();
            fold.open += usize::from(!day.closed);
            fold.entries += size.entries;
            fold.marks += size.marks;
            fold.closed_to = fold.closed_to.max(day.closed.then_some(day.day));
            fold.days.insert(day.day, Arc::new(day));
        }
        fold
    }

    /// Returns the position of the last event.
    pub fn upto(&self) -> u64 {
        self.upto
    }

    /// Returns the leaf of the last event.
    pub fn leaf(&self) -> &str {
        &self.leaf
    }

    /// Returns the payloads that count as erased.
    pub fn erased(&self) -> &Erased {
        &self.erased
    }

    /// Returns the days, oldest first.
    pub(crate) fn days(&self) -> impl DoubleEndedIterator<Item = &Arc<Day>> {
        self.days.values()
    }

    /// Adds an event; one that it has already is left out. As [`Self::take`] returns.
    pub fn apply(&mut self, event: &Event) -> bool {
        self.take(event, read(event))
    }

    /// Adds what was read from an event; returns false when a payload was erased after the fold had read it.
    ///
    /// Then only a new fold is right, to which [`Self::erased`] is erased.
    pub(crate) fn take(&mut self, event: &Event, fact: Fact) -> bool {
        if fact.seq <= self.upto {
            return true;
        }
        let fact = if self.erased.is(event) { read_erased(event) } else { fact };
        let is_right = !self.erased.learn(event);
        let seq = fact.seq;
        self.upto = seq;
        event.leaf.clone_into(&mut self.leaf);
        let number = fact.when.day;
        let day = self.days.entry(number).or_insert_with(|| {
            // A day among the closed ones is born closed, so that the closed days are always the oldest.
            let closed = self.closed_to.is_some_and(|newest| number <= newest);
            self.open += usize::from(!closed);
            Arc::new(Day::new(number, closed))
        });
        let grown = Arc::make_mut(day).add(fact);
        self.entries += grown.entries;
        self.marks += grown.marks;
        self.shrink(seq);
        is_right
    }

    fn shrink(&mut self, seq: u64) {
        while self.open > DAYS || (self.open > 1 && (self.entries > ENTRIES || self.marks > MARKS)) {
            let Some(day) = self.days.values_mut().find(|day| !day.closed) else { return };
            let size = day.size();
            Arc::make_mut(day).close(seq);
            self.closed_to = Some(day.day);
            self.open -= 1;
            self.entries -= size.entries;
            self.marks -= size.marks;
        }
        while self.days.len() - self.open > CLOSED_DAYS {
            let Some((_, oldest)) = self.days.pop_first() else { return };
            let Some(mut next) = self.days.first_entry() else { return };
            Arc::make_mut(next.get_mut()).absorb(Arc::unwrap_or_clone(oldest), seq);
        }
    }

    /// Returns the days that a query asks for, newest first.
    pub(crate) fn find(&self, query: &Query) -> Vec<Arc<Day>> {
        let (from, to) = (query.from.unwrap_or(i32::MIN), query.to.unwrap_or(i32::MAX));
        if from > to {
            return Vec::new();
        }
        let shown = |day: &&Arc<Day>| query.writer.as_deref().is_none_or(|writer| day.has(writer));
        self.days.range(from..=to).rev().map(|(_, day)| day).filter(shown).take(query.days).cloned().collect()
    }

    /// Returns the pages that a query asks for, newest day first.
    pub fn pages(&self, query: &Query) -> Vec<Page> {
        let page = |day: &Arc<Day>| page(day, query.writer.as_deref());
        self.find(query).iter().map(page).collect()
    }
}

/// Returns the page of a day.
pub(crate) fn page(day: &Day, writer: Option<&str>) -> Page {
    Page { day: day_text(day.day), entries: day.entries(writer) }
}

const _: () = assert!(DAY_ENTRIES < ENTRIES, "one day must fit");
