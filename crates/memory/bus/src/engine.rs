//! The writer's thread: places what waits, commits it with one sync, and only then answers.
//!
//! Here ids and expectations are decided, so they are exact under any concurrency.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mirror_clock::Clock;
use mirror_seal::Hash;
use tokio::sync::oneshot;

use crate::disk::Disk;
use crate::erase::Spot;
use crate::error::BusError;
use crate::event::Prepared;
use crate::line::provenance;
use crate::log::{Log, WriteError, is_full};
use crate::reader::{Body, Cursor};
use crate::seal;
use crate::store::{Entry, Index};
use crate::writer::{Ack, BATCH_BYTES, Expect, Gather, Group, Head, Outcome, Work, Writer};

/// How often the free space is asked for.
const SPACE_EVERY: Duration = Duration::from_millis(500);

/// Difference of clocks from which the wall clock is not followed.
const JUMP_MS: u64 = 24 * 3600 * 1000;

/// The thread's own state.
pub(crate) struct Engine {
    pub(crate) log: Log,
    pub(crate) index: Arc<Index>,
    pub(crate) writer: Arc<Writer>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) reserve: Box<dyn Fn(u64) -> u64 + Send>,
    /// Told once when a write failed.
    pub(crate) poisoned: Box<dyn Fn(String) + Send>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.writer.gauges.poisoned.store(true, Relaxed);
            self.writer.refuse_rest();
            (self.poisoned)("the writer panicked".to_owned());
        }
    }
}

/// Events of the batch that is being placed, by key and by subject.
#[derive(Default)]
struct Batch {
    ids: HashMap<[u8; 16], (u64, Hash, Prepared)>,
    /// The last event of each subject, once somebody asked.
    subjects: Option<HashMap<Box<str>, u64>>,
    entries: Vec<Entry>,
}

impl Batch {
    /// Returns the last event of a subject in this batch.
    fn last_of(&mut self, subject: &str) -> Option<u64> {
        let entries = &self.entries;
        let subjects = self
            .subjects
            .get_or_insert_with(|| entries.iter().map(|e| (e.subject.as_str().into(), e.seq)).collect());
        subjects.get(subject).copied()
    }
}

impl Engine {
    /// Writes until it is stopped or a write fails.
    pub(crate) fn run(mut self) {
        let (wall_start, boot_start) = (self.clock.wall_ms(), self.clock.boot());
        let head_ms = self.log.head().hlc.ms();
        let ahead = head_ms > wall_start.saturating_add(JUMP_MS);
        let mut space_at = None;
        let mut look = Duration::ZERO;
        let mut answered = 0;
        while let Some((mut groups, gather)) = self.writer.take(look, answered) {
            let now = self.clock.boot();
            if space_at.is_none_or(|at| now.saturating_sub(at) >= SPACE_EVERY) {
                space_at = Some(now);
                self.measure();
            }
            let wall = self.clock.wall_ms();
            let passed = u64::try_from(now.saturating_sub(boot_start).as_millis()).unwrap_or(u64::MAX);
            let steady = wall_start.saturating_add(passed);
            let jumped = wall.abs_diff(steady) > JUMP_MS;
            self.writer.gauges.clock_suspect.store(jumped || ahead, Relaxed);
            // A clock set to another year must not pin the logical clock there.
            let hlc_ms = if jumped { steady } else { wall };
            let work = groups.first_mut().map(|group| std::mem::replace(&mut group.work, Work::Append));
            let done = match work {
                Some(Work::Erase(spots)) => self.erase(groups, &spots, wall, hlc_ms).map(|()| 1),
                Some(Work::Seal) => self.batch(groups, &gather, wall, hlc_ms).inspect(|_| self.seal()),
                _ => self.batch(groups, &gather, wall, hlc_ms),
            };
            answered = match done {
                Ok(answered) => answered,
                Err(why) => {
                    tracing::error!(why, "a write failed; the bus restarts into recovery");
                    self.writer.gauges.poisoned.store(true, Relaxed);
                    self.writer.refuse_rest();
                    (self.poisoned)(why);
                    return;
                }
            };
            look = Duration::from_micros(self.writer.gauges.last_sync_micros.load(Relaxed));
        }
    }

    fn measure(&self) {
        if let Ok((free, total)) = self.disk.space(&self.log.dir()) {
            self.writer.gauges.free_bytes.store(free, Relaxed);
            self.writer.gauges.reserve_bytes.store((self.reserve)(total), Relaxed);
        }
    }

    fn refusal(&self, reserved: bool) -> Option<BusError> {
        if let Some(damage) = self.log.segments().damage().first() {
            return Some(BusError::Damaged(damage.describe()));
        }
        if let Some(seq) = self.log.sealed() {
            return Some(BusError::Sealed { seq });
        }
        let gauges = &self.writer.gauges;
        let (free, reserve) = (gauges.free_bytes.load(Relaxed), gauges.reserve_bytes.load(Relaxed));
        (!reserved && free < reserve).then_some(BusError::DiskReserve { free, reserve })
    }

    /// Stores groups with one write, and those that come while it gathers; returns how many were answered.
    fn batch(
        &mut self,
        groups: Vec<Group>,
        gather: &Gather,
        wall_ms: u64,
        hlc_ms: u64,
    ) -> Result<usize, String> {
        // What is refused needs no room: it must not seal a damaged segment, nor fill one out of the reserve.
        let taken = groups.iter().filter(|g| self.refusal(g.reserved).is_none());
        let cost = taken.flat_map(|g| &g.events).map(Prepared::cost).sum();
        let mut no_room = None;
        let room = if cost == 0 { Ok(()) } else { self.log.room(cost) };
        match room {
            Ok(()) => {}
            Err(WriteError::NoRoom(e)) => {
                tracing::warn!(error = %e, "there is no room for another segment");
                let gauges = &self.writer.gauges;
                let (free, reserve) = (gauges.free_bytes.load(Relaxed), gauges.reserve_bytes.load(Relaxed));
                no_room = Some(BusError::DiskReserve { free, reserve });
            }
            Err(WriteError::Failed(e)) => {
                refuse(groups);
                return Err(e.to_string());
            }
        }
        let mut batch = Batch::default();
        let mut replies = Vec::with_capacity(groups.len());
        let mut next = Some(groups);
        while let Some(groups) = next {
            for group in groups {
                let refusal = no_room.clone().or_else(|| self.refusal(group.reserved));
                let outcome = match refusal {
                    Some(error) => Outcome { acks: Vec::new(), error: Some(error) },
                    None => self.group(group.events, group.expect, group.atomic, &mut batch, wall_ms, hlc_ms),
                };
                replies.push((group.reply, outcome));
            }
            next = match no_room {
                None => self.writer.more(gather, replies.len(), self.log.left(BATCH_BYTES)),
                Some(_) => None,
            };
        }
        let started = self.clock.boot();
        let wrote = !batch.entries.is_empty();
        if let Err(WriteError::Failed(e) | WriteError::NoRoom(e)) = self.log.commit() {
            for (reply, _) in replies {
                let _ = reply.send(Outcome { acks: Vec::new(), error: Some(BusError::OutcomeUnknown) });
            }
            return Err(e.to_string());
        }
        if wrote {
            let gauges = &self.writer.gauges;
            let took = self.clock.boot().saturating_sub(started);
            gauges
                .last_sync_micros
                .store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1), Relaxed);
            gauges.syncs.fetch_add(1, Relaxed);
            gauges.active_bytes.store(self.log.active_bytes(), Relaxed);
            // Before the head moves, so that whoever sees the head finds its ids.
            self.index.push(batch.entries);
            let head = self.log.head();
            self.writer.head.send_replace(Head { seq: head.seq, leaf: head.leaf });
        }
        let answered = replies.len();
        for (reply, outcome) in replies {
            // Whoever asked may have gone away.
            let _ = reply.send(outcome);
        }
        Ok(answered)
    }

    /// Refuses all appends from here on, when the event that ends the log is its last.
    fn seal(&mut self) {
        let sealed = self.index.last_of(seal::SUBJECT).is_ok_and(|last| last == self.log.head().seq);
        if sealed && self.log.head().seq > 0 {
            self.log.seal();
            self.writer.gauges.sealed.store(self.log.head().seq, Relaxed);
        }
    }

    /// Stores a redaction, then overwrites what it erases, and only then shows and answers it.
    fn erase(&mut self, groups: Vec<Group>, spots: &[Spot], wall_ms: u64, hlc_ms: u64) -> Result<(), String> {
        // It comes alone, with one event.
        let Some((Group { events, reply, .. }, event)) =
            groups.into_iter().next().and_then(|mut group| group.events.pop().map(|event| (group, event)))
        else {
            return Ok(());
        };
        drop(events);
        let refuse = |reply: oneshot::Sender<Outcome>, error| {
            let _ = reply.send(Outcome { acks: Vec::new(), error: Some(error) });
        };
        if let Some(error) = self.refusal(true) {
            refuse(reply, error);
            return Ok(());
        }
        let gauges = &self.writer.gauges;
        let full = BusError::DiskReserve {
            free: gauges.free_bytes.load(Relaxed),
            reserve: gauges.reserve_bytes.load(Relaxed),
        };
        match self.log.room(event.cost()) {
            Ok(()) => {}
            Err(WriteError::NoRoom(_)) => {
                refuse(reply, full);
                return Ok(());
            }
            Err(WriteError::Failed(e)) => {
                refuse(reply, BusError::OutcomeUnknown);
                return Err(e.to_string());
            }
        }
        let (disk, segments) = (Arc::clone(&self.disk), self.log.segments());
        let mark = self.log.mark();
        let placed = self.log.place(&event, wall_ms, hlc_ms);
        let mut began = false;
        let done = segments.erase(disk.as_ref(), placed.seq, spots, || {
            began = true;
            self.log.commit().map_err(|e| match e {
                WriteError::Failed(e) | WriteError::NoRoom(e) => e,
            })?;
            segments.redactions.learn(placed.seq, spots.iter().map(|spot| spot.seq));
            Ok(())
        });
        match done {
            Ok(()) => {}
            Err(e) if !began && is_full(&e) => {
                self.log.rewind(mark);
                refuse(reply, full);
                return Ok(());
            }
            Err(e) => {
                // If the event is stored, the next start finishes what it says.
                refuse(reply, BusError::OutcomeUnknown);
                return Err(e.to_string());
            }
        }
        self.writer.gauges.active_bytes.store(self.log.active_bytes(), Relaxed);
        let ack = Ack { seq: placed.seq, leaf: placed.leaf, id: None, duplicate: false };
        // The index learns of it last: what it has seen is finished, whenever the power goes.
        let erased = spots.iter().map(|spot| spot.seq).collect();
        self.index.push(vec![Entry { seq: placed.seq, key: None, subject: event.subject, erased }]);
        self.writer.head.send_replace(Head { seq: placed.seq, leaf: placed.leaf });
        let _ = reply.send(Outcome { acks: vec![ack], error: None });
        Ok(())
    }

    fn group(
        &mut self,
        events: Vec<Prepared>,
        expect: Expect,
        atomic: bool,
        batch: &mut Batch,
        wall_ms: u64,
        hlc_ms: u64,
    ) -> Outcome {
        let mut acks = Vec::with_capacity(events.len());
        let mark = self.log.mark();
        let entries = batch.entries.len();
        if let Err(error) = self.duplicates(&events, atomic, batch, &mut acks) {
            return Outcome { acks: Vec::new(), error: Some(error) };
        }
        if atomic && acks.len() == events.len() {
            return Outcome { acks, error: None };
        }
        acks.clear();
        if let Err(error) = self.expected(events.first(), expect, batch) {
            return Outcome { acks, error: Some(error) };
        }
        for event in events {
            match self.one(event, batch, wall_ms, hlc_ms) {
                Ok(ack) => acks.push(ack),
                Err(error) if atomic => {
                    self.log.rewind(mark);
                    for entry in batch.entries.drain(entries..) {
                        if let Some(key) = entry.key {
                            batch.ids.remove(&key);
                        }
                    }
                    batch.subjects = None;
                    return Outcome { acks: Vec::new(), error: Some(error) };
                }
                Err(error) => return Outcome { acks, error: Some(error) },
            }
        }
        Outcome { acks, error: None }
    }

    /// For an atomic group: fills in the receipts if all of it was stored before, refuses it if only a part was.
    fn duplicates(
        &self,
        events: &[Prepared],
        atomic: bool,
        batch: &Batch,
        acks: &mut Vec<Ack>,
    ) -> Result<(), BusError> {
        if !atomic || events.iter().all(|e| e.key.is_none()) {
            return Ok(());
        }
        let mut first_new = None;
        for event in events {
            match self.stored(event, batch)? {
                Some(ack) => acks.push(ack),
                None => first_new = first_new.or(Some(event)),
            }
        }
        match (first_new, acks.first()) {
            (Some(_), Some(old)) => Err(BusError::Reused {
                id: old.id.as_deref().unwrap_or_default().to_owned(),
                seq: old.seq,
                stored: "a part of the batch".to_owned(),
                given: "the whole batch".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn expected(&self, first: Option<&Prepared>, expect: Expect, batch: &mut Batch) -> Result<(), BusError> {
        let (want, have, what) = match expect {
            Expect::Nothing => return Ok(()),
            Expect::Log(want) => {
                let placed = batch.entries.last().map(|e| e.seq);
                (want, placed.unwrap_or(self.log.head().seq), "the log".to_owned())
            }
            Expect::Subject(want) => {
                let subject = first.map(|e| e.subject.as_str()).unwrap_or_default();
                let have = match batch.last_of(subject) {
                    Some(seq) => seq,
                    None => self.index.last_of(subject).map_err(|e| BusError::Read(e.to_string()))?,
                };
                (want, have, format!("subject {subject}"))
            }
        };
        if want == have {
            return Ok(());
        }
        let say = |seq: u64| {
            if seq == 0 { format!("{what} to be empty") } else { format!("{what} to end at {seq}") }
        };
        let actual = if have == 0 { "it is empty".to_owned() } else { format!("it ends at {have}") };
        Err(BusError::Expectation { expected: say(want), actual, seq: have })
    }

    fn one(
        &mut self,
        event: Prepared,
        batch: &mut Batch,
        wall_ms: u64,
        hlc_ms: u64,
    ) -> Result<Ack, BusError> {
        if let Some(ack) = self.stored(&event, batch)? {
            return Ok(ack);
        }
        let placed = self.log.place(&event, wall_ms, hlc_ms);
        if let Some(subjects) = &mut batch.subjects {
            subjects.insert(event.subject.as_str().into(), placed.seq);
        }
        let id = event.id.as_ref().map(|id| id.as_str().into());
        let key = event.key;
        let subject = match key {
            None => event.subject,
            Some(key) => {
                let subject = event.subject.clone();
                batch.ids.insert(key, (placed.seq, placed.leaf, event));
                subject
            }
        };
        batch.entries.push(Entry { seq: placed.seq, key, subject, erased: Box::default() });
        Ok(Ack { seq: placed.seq, leaf: placed.leaf, id, duplicate: false })
    }

    /// Returns the receipt of an event that is stored already, or refuses its id.
    fn stored(&self, event: &Prepared, batch: &Batch) -> Result<Option<Ack>, BusError> {
        let (Some(key), Some(id)) = (&event.key, &event.id) else { return Ok(None) };
        if let Some((seq, leaf, other)) = batch.ids.get(key) {
            let same = other.id == event.id
                && other.subject == event.subject
                && other.stored == event.stored
                && other.provenance == event.provenance
                && other.payload() == event.payload();
            if !same {
                let hex = |e: &Prepared| mirror_seal::hex(&mirror_seal::sha256(e.payload()));
                return Err(BusError::Reused {
                    id: id.to_string(),
                    seq: *seq,
                    stored: hex(other),
                    given: hex(event),
                });
            }
            return Ok(Some(Ack { seq: *seq, leaf: *leaf, id: Some(id.as_str().into()), duplicate: true }));
        }
        let seq = self.index.seq_of_id(key).map_err(|e| BusError::Read(e.to_string()))?;
        let Some(seq) = seq else { return Ok(None) };
        let mut cursor = Cursor::new(self.log.segments(), seq);
        let record = cursor.read(seq, &mut |_| true)?.ok_or_else(|| BusError::Missing(seq.to_string()))?;
        let header = &record.header;
        if header.id != *id {
            // Two ids with one key: the index knows the later one only, which is no reason to refuse the event.
            return Ok(None);
        }
        let given = match &record.body {
            Body::Here { salt, .. } => mirror_seal::salted(salt, event.payload()),
            // The salt was erased with the payload; the rest of the header decides.
            Body::Redacted { .. } => header.digest,
        };
        let same = header.subject == event.subject
            && header.stored == event.stored
            && header.len == event.len
            && provenance(&header.actor, header.model.as_ref(), &header.causes, &header.labels)
                == event.provenance
            && given == header.digest;
        if !same {
            return Err(BusError::Reused {
                id: id.to_string(),
                seq,
                stored: mirror_seal::hex(&header.digest),
                given: mirror_seal::hex(&given),
            });
        }
        Ok(Some(Ack { seq, leaf: header.leaf, id: Some(id.as_str().into()), duplicate: true }))
    }
}

fn refuse(groups: Vec<Group>) {
    for group in groups {
        let _ = group.reply.send(Outcome { acks: Vec::new(), error: Some(BusError::OutcomeUnknown) });
    }
}
