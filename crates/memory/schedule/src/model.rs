//! The schedule in a world where everything goes wrong: stops, crashes between any two writes, sleeps of hours, clocks
//! that are set, workers that vanish, jobs that are replaced and deleted.
//!
//! The world saves and crashes as the desk does. After each step the books must balance: every occurrence that a rule
//! had is open, or ended once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::tz::TimeZone;
use mirror_client::follow::Place;

use crate::entry::Now;
use crate::error::Error;
use crate::job::{CatchUp, Job, Note, Posted, Worker};
use crate::schedule::{Report, Schedule};
use crate::store::Marks;
use crate::testing::{done, failed, job, quiet};
use crate::when::{Calendar, When};

const OWNER: &str = "svc:x";
const HOUR: u64 = 3_600_000;
/// How far the wall clock may be off: within a day in all, what was settled stays believable.
const DRIFT: i64 = 10 * 3_600_000;
const START: u64 = 1_774_000_000_000;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// Where a job stood: its rule, how far it was settled, and how many occurrences it had had by then.
type Books = BTreeMap<String, (When, u64, u64)>;

struct World {
    dice: Dice,
    boot: u64,
    drift: i64,
    /// The highest that the wall clock has shown.
    high: u64,
    tz: TimeZone,
    schedule: Schedule,
    books: Books,
    /// What the disk holds: the place of the marks, the marks, and the books of that moment.
    disk: Option<(Place, Vec<u8>, Books)>,
    log: Vec<Arc<Posted>>,
    lives: u64,
    /// What workers hold, by the pid of the worker.
    held: Vec<(String, u64, u32)>,
    /// Every start that was acknowledged.
    started: BTreeSet<(String, u64)>,
    quiet: BTreeSet<(String, u64)>,
    trace: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            dice: Dice(seed),
            boot: 0,
            drift: 0,
            high: START,
            tz: TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap(),
            schedule: Schedule::default(),
            books: Books::new(),
            disk: None,
            log: Vec::new(),
            lives: 0,
            held: Vec::new(),
            started: BTreeSet::new(),
            quiet: BTreeSet::new(),
            trace: Vec::new(),
        };
        world.boot_up();
        world
    }

    fn now(&self) -> Now {
        let wall = (START + self.boot).saturating_add_signed(self.drift);
        Now { wall, boot: self.boot, tz: self.tz.clone() }
    }

    /// Starts the process, as `recover` does.
    fn boot_up(&mut self) {
        let mut folded = Schedule::default();
        for posted in &self.log {
            folded.apply(posted.note.clone());
        }
        folded.place = self.head();
        let now = self.now();
        self.lives += 1;
        match self.disk.clone() {
            Some((stood, bytes, books)) => {
                let marks: Marks = serde_json::from_slice::<Marks>(&bytes).unwrap().at(stood);
                let stood = usize::try_from(marks.place().seq).unwrap();
                let later: Vec<String> = self.log[stood..].iter().map(|posted| posted.id.clone()).collect();
                assert!(marks.lay_over(&mut folded, &later), "the marks belong to this log");
                self.schedule = folded;
                self.books = books;
                self.balance("as it was saved");
                let held = self.held.clone();
                self.schedule.life = format!("{}", self.lives);
                self.schedule.resume(&now, |worker| held.iter().any(|(_, _, pid)| *pid == worker.pid));
                self.balance("after the start");
            }
            None => {
                self.schedule = folded;
                self.schedule.life = format!("{}", self.lives);
                self.schedule.resume_from_log(&now);
                self.rebase();
            }
        }
        self.save();
    }

    fn head(&self) -> Place {
        let seq = self.log.len() as u64;
        Place { upto: seq, seq, leaf: String::new() }
    }

    fn save(&mut self) {
        let marks = Marks::of(&self.schedule);
        let bytes = serde_json::to_vec(&marks).unwrap();
        self.schedule.dirty = false;
        self.disk = Some((marks.place(), bytes, self.books.clone()));
    }

    /// Makes a change as the desk does, with a crash before or after the write now and then. Returns nothing then.
    fn change<T>(&mut self, act: impl FnOnce(&mut Schedule, &Now) -> T) -> Option<T> {
        let now = self.now();
        let (before, books) = (self.schedule.clone(), self.books.clone());
        self.schedule.tick(&now);
        self.balance("after a tick");
        let rules: HashMap<String, When> =
            self.schedule.entries.iter().map(|(name, e)| (name.clone(), e.job.when.clone())).collect();
        let result = act(&mut self.schedule, &now);
        self.follow_jobs(&rules, &now);
        self.balance("after a change");
        let crash = self.dice.roll(40);
        if crash == 0 {
            self.trace.push("crash before the write".into());
            (self.schedule, self.books) = (before, books);
            self.boot_up();
            return None;
        }
        if self.schedule.dirty {
            self.save();
        }
        if crash == 1 {
            self.trace.push("crash after the write".into());
            self.boot_up();
            return None;
        }
        Some(result)
    }

    /// Closes the books of a rule that was replaced, and opens those of new jobs.
    fn follow_jobs(&mut self, rules: &HashMap<String, When>, now: &Now) {
        let entries = &self.schedule.entries;
        self.books.retain(|name, _| entries.contains_key(name));
        for (name, entry) in entries {
            let mark = &entry.mark;
            match self.books.get_mut(name) {
                None => {
                    self.books.insert(name.clone(), (entry.job.when.clone(), mark.settled, 0));
                }
                Some((rule, settled, had)) if *rule != entry.job.when => {
                    assert_eq!(*rule, rules[name]);
                    *had += rule.span(*settled, now.wall, &self.tz).map_or(0, |span| span.count);
                    (*rule, *settled) = (entry.job.when.clone(), mark.settled);
                }
                Some(_) => {}
            }
        }
    }

    /// Checks that every occurrence since the last look is open or has ended, once.
    fn balance(&mut self, when: &str) {
        for (name, entry) in &self.schedule.entries {
            let (rule, settled, had) = self.books.get_mut(name).unwrap();
            let mark = &entry.mark;
            let sum = mark.totals.quiet
                + mark.totals.done
                + mark.totals.failed
                + mark.totals.missed
                + mark.totals.skipped
                + u64::from(mark.open.is_some());
            *had += rule.span(*settled, mark.settled, &self.tz).map_or(0, |span| span.count);
            *settled = mark.settled;
            assert_eq!(sum, *had, "{name} {when}: {entry:?}\n{:#?}", self.trace);
        }
    }

    fn rebase(&mut self) {
        self.books = self
            .schedule
            .entries
            .iter()
            .map(|(name, e)| {
                let t = e.mark.totals;
                let sum =
                    t.quiet + t.done + t.failed + t.missed + t.skipped + u64::from(e.mark.open.is_some());
                (name.clone(), (e.job.when.clone(), e.mark.settled, sum))
            })
            .collect();
    }

    fn any_job(&mut self) -> Job {
        let name = ["a", "b", "c", "d"][self.dice.roll(4) as usize];
        let when = match self.dice.roll(6) {
            0 => When::At { at_ms: self.now().wall + 1 + self.dice.roll(3 * HOUR) },
            1 | 2 => When::Calendar(Calendar {
                minute: self.dice.roll(60) as i8,
                hour: (self.dice.roll(2) == 0).then(|| self.dice.roll(24) as i8),
                day: None,
                weekday: None,
            }),
            _ => When::Every { every_ms: 1000 << self.dice.roll(13), phase_ms: self.dice.roll(1000) },
        };
        let catch_up = match self.dice.roll(3) {
            0 => CatchUp::Once,
            1 => CatchUp::Within { window_ms: 1000 + self.dice.roll(HOUR) },
            _ => CatchUp::Skip,
        };
        Job { when, catch_up, limit_ms: 1000 + self.dice.roll(HOUR), ..job(name, 1000) }
    }

    fn step(&mut self) {
        let what = self.dice.roll(24);
        self.trace.push(format!("{what} at {} + {}", self.boot, self.drift));
        if self.trace.len() > 20 {
            self.trace.remove(0);
        }
        match what {
            0..=3 => self.boot += self.dice.roll(90_000),
            4 => self.boot += self.dice.roll(5 * HOUR),
            5 => self.set_clock(),
            6 | 7 => {
                self.change(|_, _| ());
            }
            8 => {
                let job = self.any_job();
                self.change(|s, now| s.put(job, 100, now).unwrap());
            }
            9 if self.dice.roll(4) == 0 => {
                let name = self.any_job().name;
                self.change(|s, now| s.delete(&name, OWNER, now).unwrap());
            }
            10..=14 => self.start_what_is_due(),
            15..=18 => self.finish_one(),
            19 if !self.held.is_empty() => {
                let lost = self.dice.roll(self.held.len() as u64) as usize;
                self.held.remove(lost);
            }
            20 => {
                let worker = Worker { pid: self.dice.roll(u64::from(u32::MAX)) as u32, born: String::new() };
                if self.dice.roll(4) == 0 {
                    self.held.clear();
                    self.change(|s, now| s.takes_over(OWNER, &worker, now));
                }
            }
            21 | 22 => self.flush(),
            23 if self.dice.roll(8) == 0 => {
                // A plain stop, and for some time nobody is there.
                self.change(|_, _| ());
                self.save();
                self.boot += self.dice.roll(30 * HOUR);
                self.boot_up();
            }
            _ => self.lose_the_state(),
        }
        self.high = self.high.max(self.now().wall);
    }

    fn set_clock(&mut self) {
        let by = i64::try_from(self.dice.roll(12 * HOUR)).unwrap() - 6 * 3_600_000;
        self.drift = (self.drift + by).clamp(-DRIFT, DRIFT);
    }

    fn start_what_is_due(&mut self) {
        let now = self.now();
        let shown: Vec<(String, u64)> =
            self.schedule.due(OWNER, &now).map(|(job, due)| (job.to_owned(), due)).collect();
        for (job, due) in shown {
            let pid = self.started.len() as u32 + 1;
            let worker = Worker { pid, born: String::new() };
            let ask = |s: &mut Schedule, now: &Now| s.start((&job, due), OWNER, Some(worker), now);
            match self.change(ask) {
                Some(Ok(_)) => {
                    assert!(due <= self.now().wall, "{job} ran before it was due");
                    assert!(
                        self.started.insert((job.clone(), due)),
                        "{job} {due} started twice\n{:#?}",
                        self.trace
                    );
                    self.held.push((job, due, pid));
                }
                Some(Err(Error::NotDue { .. } | Error::Missing(_))) | None => {}
                Some(Err(other)) => panic!("{other}"),
            }
        }
        // What was started before is never given again.
        if let Some((job, due)) = self.started.last().cloned() {
            let again = self.change(|s, now| s.start((&job, due), OWNER, None, now));
            assert!(!matches!(again, Some(Ok(_))), "{job} {due} started twice");
        }
    }

    fn finish_one(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.dice.roll(self.held.len() as u64) as usize;
        let (job, due, _) = self.held[at].clone();
        let report: Report = match self.dice.roll(3) {
            0 => done("did it"),
            1 => failed("could not"),
            _ => quiet(),
        };
        let report_of = |s: &mut Schedule, now: &Now| s.finish((&job, due), OWNER, &report, now);
        let ended = self.change(report_of);
        if let Some(ended) = ended {
            self.held.remove(at);
            match ended {
                Ok(row) => {
                    assert_eq!(row.due, due);
                    let again = self.change(|s, now| s.finish((&job, due), OWNER, &report, now));
                    assert!(again.is_none_or(|again| again == Ok(row)), "the same report is acknowledged");
                    if report == quiet() {
                        self.quiet.insert((job, due));
                    }
                }
                Err(Error::Ended(_) | Error::Missing(_)) => {}
                Err(other) => panic!("{job} {due}: {other}"),
            }
        }
    }

    fn flush(&mut self) {
        for _ in 0..self.dice.roll(4) {
            let Some(posted) = self.schedule.outbox.front().cloned() else { return };
            // The bus stores a note once, also when the answer was lost, and answers as it did then.
            let at = self.log.iter().rposition(|stored| stored.id == posted.id).unwrap_or_else(|| {
                self.log.push(Arc::clone(&posted));
                self.log.len() - 1
            });
            if self.dice.roll(5) == 0 {
                self.boot_up();
                return;
            }
            let seq = at as u64 + 1;
            let place = Place { upto: seq, seq, leaf: String::new() };
            self.change(|s, _| s.acknowledge(&posted.id, Some(place)));
        }
    }

    /// Deletes the state, when no clock was set back: then even the time tells nothing of what has run.
    fn lose_the_state(&mut self) {
        if self.dice.roll(40) > 0 || self.now().wall < self.high {
            return;
        }
        self.disk = None;
        self.held.clear();
        // Quiet runs that the log was not told of count as missed; what the log was told stays as it is.
        self.quiet.clear();
        self.boot_up();
    }

    /// Checks the log: no occurrence has two rows, and none that did nothing has one.
    fn audit(&self) -> usize {
        let mut ended = BTreeSet::new();
        let acknowledged = |posted: &&Arc<Posted>| self.log.iter().any(|stored| stored.id == posted.id);
        let under_way = self.schedule.outbox.iter().filter(|posted| !acknowledged(posted));
        for posted in self.log.iter().chain(under_way) {
            let Note::Told { jobs } = &posted.note else { continue };
            for told in jobs {
                for row in &told.rows {
                    let key = (told.job.clone(), row.due);
                    assert!(!self.quiet.contains(&key), "{key:?} did nothing, and then {row:?}");
                    assert!(ended.insert(key), "{} ended twice: {row:?}", told.job);
                }
            }
        }
        ended.len()
    }
}

#[test]
fn a_hundred_thousand_steps_of_a_bad_world_start_nothing_twice_and_lose_nothing() {
    let (mut starts, mut rows) = (0, 0);
    for seed in 0..100 {
        let mut world = World::new(seed);
        for _ in 0..1000 {
            world.step();
        }
        starts += world.started.len();
        rows += world.audit();
    }
    assert!(starts > 4_000 && rows > 10_000, "the world is alive: {starts} starts, {rows} rows");
}
