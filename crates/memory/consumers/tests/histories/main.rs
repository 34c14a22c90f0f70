//! Random histories of one consumer against a plain model: deliveries, settlements, time, vanishing pullers, records that
//! cannot be stored, restarts from nothing but the records, and writes of which only a part survived.
//!
//! `MIRROR_TEST_ROUNDS` multiplies the number of histories; a failure names its seed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

mod model;

use mirror_consumers::{
    Book, Config, Consumer, Created, FilterSpec, Outcome, PullerId, RECORD_LIMIT, Record, Taken, Token,
    Verdict,
};

use model::{End, Model, State};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() {
            None
        } else {
            Some(from[usize::try_from(self.roll(from.len() as u64)).unwrap()])
        }
    }
}

#[derive(Debug)]
enum Line {
    Matching,
    Other,
    Record(Box<Record>),
}

/// A log, one consumer of it, and what is true of it.
struct World {
    dice: Dice,
    now: u64,
    log: Vec<Line>,
    /// The fold up to some position, as a snapshot keeps it.
    kept: (Book, u64),
    book: Book,
    consumer: Consumer,
    model: Model,
    tokens: Vec<(Token, u64)>,
    life: u64,
    pullers: PullerId,
    /// A batch that is on its way: its outcomes in the order of their numbers.
    in_flight: Option<(mirror_consumers::Batch, Vec<u64>)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let backoff = (0..dice.roll(4)).map(|_| dice.roll(2_000)).collect();
        let config = Config {
            name: "c".into(),
            filter: FilterSpec::default(),
            from: dice.roll(3) * 2,
            settle_within_ms: 500 + dice.roll(1_000),
            max_attempts: 1 + u32::try_from(dice.roll(4)).unwrap(),
            backoff_ms: backoff,
            max_in_hands: 1 + u32::try_from(dice.roll(12)).unwrap(),
        };
        let created = Record::Created(Created::new(config.clone(), "local".into(), 0));
        let log = vec![
            Line::Other,
            Line::Matching,
            Line::Other,
            Line::Matching,
            Line::Record(Box::new(created.clone())),
        ];
        let mut book = Book::default();
        book.apply(log.len() as u64, &created);
        let mut model = Model::new(config.clone());
        let first = if config.from == 0 { log.len() as u64 + 1 } else { config.from };
        for (at, line) in log.iter().enumerate() {
            if matches!(line, Line::Matching) && at as u64 + 1 >= first {
                model.add(at as u64 + 1);
            }
        }
        let consumer = Consumer::open(book.get("c").unwrap(), 1, 0);
        let kept = (Book::default(), 0);
        let (tokens, in_flight) = (Vec::new(), None);
        Self { dice, now: 0, log, kept, book, consumer, model, tokens, life: 1, pullers: 0, in_flight }
    }

    fn head(&self) -> u64 {
        self.log.len() as u64
    }

    fn append(&mut self, line: Line) -> u64 {
        self.log.push(line);
        self.head()
    }

    fn took(&mut self, taken: Vec<Taken>) {
        for taken in taken {
            self.model.deliver(&taken, self.now);
            self.tokens.push((taken.token, self.life));
        }
    }

    /// Delivers as a process does; sometimes stops half way.
    fn pump(&mut self) {
        self.consumer.tick(self.now);
        self.model.tick(self.now);
        let demand = self.consumer.demand(self.now);
        let credit: u32 = self.model.credit.values().sum();
        assert!(demand.again.len() + demand.fresh <= usize::try_from(credit).unwrap());
        let taken = self.consumer.redeliver(&demand.again, self.now);
        assert_eq!(taken.len(), demand.again.len(), "what is asked for is taken");
        self.took(taken);
        let from = self.consumer.next();
        let mut found = Vec::new();
        let mut upto = from - 1;
        for seq in from..=self.head() {
            if found.len() >= demand.fresh.max(1) {
                break;
            }
            upto = seq;
            if matches!(self.log[usize::try_from(seq).unwrap() - 1], Line::Matching) {
                found.push(seq);
            }
        }
        let taken = self.consumer.offer(&found, upto, self.now);
        self.took(taken);
    }

    fn settle(&mut self) {
        let Some((token, life)) = self.dice.pick(&self.tokens) else { return };
        let reason = || "no".to_owned();
        let outcome = match self.dice.roll(10) {
            0..=4 => Outcome::Ack,
            5 => Outcome::Nack { delay: None, reason: reason() },
            6 => Outcome::Nack { delay: Some(self.dice.roll(1_500)), reason: reason() },
            7 => Outcome::Extend,
            8 => Outcome::Term { reason: reason() },
            _ => Outcome::Nack { delay: Some(0), reason: reason() },
        };
        let verdict = self.consumer.settle(&token, outcome.clone(), self.now);
        if life == self.life {
            self.model.settle(token.seq, token.attempt, &outcome, verdict, self.now);
        } else {
            self.model.tick(self.now);
            assert_eq!(verdict, Verdict::Stale, "a token of before a restart");
        }
    }

    fn begin_batch(&mut self) {
        if self.in_flight.is_some() {
            assert_eq!(self.consumer.batch(), None, "one at a time");
            return;
        }
        let Some(batch) = self.consumer.batch() else { return };
        let dead: Vec<u64> = batch.letters.iter().map(|l| l.seq).collect();
        let failed: Vec<u64> = batch.settled.failed.iter().map(|f| f.0).collect();
        let settled = |seq: u64| {
            seq <= batch.settled.upto || batch.settled.done.iter().any(|(a, b)| (*a..=*b).contains(&seq))
        };
        let within = |(&seq, truth): (&u64, &model::Truth)| {
            let State::Closing { end, .. } = truth.state else { return None };
            let is_in = match end {
                End::Dead => dead.contains(&seq),
                End::Again(_) => failed.contains(&seq),
                End::Done => settled(seq),
            };
            is_in.then_some(seq)
        };
        let seqs: Vec<u64> = self.model.events.iter().filter_map(within).collect();
        assert!(!seqs.is_empty() && seqs.len() <= RECORD_LIMIT);
        self.in_flight = Some((batch, seqs));
    }

    /// Stores the batch, refuses it, or loses the process while it is written.
    fn end_batch(&mut self) {
        let Some((batch, seqs)) = self.in_flight.take() else { return };
        let mut records: Vec<Record> = batch.letters.iter().cloned().map(Record::Dead).collect();
        records.push(Record::Settled(batch.settled.clone()));
        match self.dice.roll(12) {
            0 => {
                self.consumer.failed(self.now);
                self.model.refused(&seqs, self.now);
            }
            1 => {
                // The power fails, and only the first events of the write are there.
                let whole = usize::try_from(self.dice.roll(records.len() as u64 + 1)).unwrap();
                let complete = whole == records.len();
                let letters = &batch.letters[..whole.min(batch.letters.len())];
                for record in records.drain(..whole) {
                    self.store(record);
                }
                let upto = if complete { batch.tickets.map_or(0, |(_, last)| last) } else { 0 };
                self.model.stored(letters, &self.book, upto);
                self.restart();
            }
            _ => {
                for record in records {
                    self.store(record);
                }
                self.consumer.recorded();
                let upto = batch.tickets.map_or(0, |(_, last)| last);
                self.model.stored(&batch.letters, &self.book, upto);
            }
        }
    }

    fn store(&mut self, record: Record) {
        // As it stands in the log: read back from its bytes.
        let payload = record.payload().unwrap();
        assert!(payload.len() < 65_536);
        let record = Record::parse(record.subject(), payload.as_bytes()).unwrap().unwrap();
        let seq = self.append(Line::Record(Box::new(record.clone())));
        self.book.apply(seq, &record);
    }

    fn restart(&mut self) {
        self.in_flight = None;
        self.life += 1;
        // From a snapshot of some time ago, and what came after it.
        let (mut book, place) = self.kept.clone();
        let from = place.saturating_sub(self.dice.roll(5));
        for (at, line) in self.log.iter().enumerate().skip(usize::try_from(from).unwrap()) {
            if let Line::Record(record) = line {
                book.apply(at as u64 + 1, record);
            }
        }
        assert_eq!(book, self.book, "the fold is the same from wherever it begins");
        self.consumer = Consumer::open(book.get("c").unwrap(), self.life, self.now);
        self.model.restart();
    }

    fn step(&mut self) {
        match self.dice.roll(20) {
            0..=2 => {
                let seq = self.append(Line::Matching);
                self.model.add(seq);
            }
            3 => {
                self.append(Line::Other);
            }
            4 => {
                self.pullers += 1;
                self.consumer.join(self.pullers);
                self.model.credit.insert(self.pullers, 0);
            }
            5 | 6 => {
                if let Some(puller) = self.puller() {
                    let more = u32::try_from(self.dice.roll(6)).unwrap();
                    self.consumer.credit(puller, more);
                    *self.model.credit.get_mut(&puller).unwrap() += more;
                }
            }
            7 if self.dice.roll(4) == 0 => {
                let Some(puller) = self.puller() else { return };
                // What time has done is done before whoever goes.
                self.consumer.tick(self.now);
                self.model.tick(self.now);
                match self.dice.roll(3) {
                    0 => {
                        self.consumer.leave(puller, self.now);
                        self.model.leave(puller, self.now);
                    }
                    1 => {
                        self.consumer.detach(puller);
                        self.model.detach(puller);
                    }
                    _ => {
                        self.consumer.withdraw(puller, self.now);
                        self.model.withdraw(puller, self.now);
                    }
                }
            }
            8..=10 => self.pump(),
            11..=14 => self.settle(),
            15 | 16 => self.begin_batch(),
            17 => self.end_batch(),
            18 => {
                let jump = if self.dice.roll(4) == 0 { 3_000 } else { 200 };
                self.now += self.dice.roll(jump);
            }
            19 if self.dice.roll(10) == 0 => self.restart(),
            19 if self.dice.roll(3) == 0 => self.kept = (self.book.clone(), self.head()),
            _ => {}
        }
        let counts = self.consumer.counts();
        assert_eq!(counts.in_hands + counts.waiting, self.model.open(), "what is not settled");
    }

    fn puller(&mut self) -> Option<PullerId> {
        let all: Vec<PullerId> = self.model.credit.keys().copied().collect();
        self.dice.pick(&all)
    }

    /// Lets everything come to its end.
    fn finish(&mut self) {
        self.in_flight.take().inspect(|_| self.restart_unstored());
        let puller = PullerId::MAX;
        self.consumer.join(puller);
        self.model.credit.insert(puller, 0);
        for round in 0.. {
            assert!(round < 10_000, "it does not come to an end");
            self.consumer.credit(puller, 64);
            *self.model.credit.get_mut(&puller).unwrap() += 64;
            self.pump();
            for (token, life) in std::mem::take(&mut self.tokens) {
                if life == self.life {
                    let verdict = self.consumer.settle(&token, Outcome::Ack, self.now);
                    self.model.settle(token.seq, token.attempt, &Outcome::Ack, verdict, self.now);
                }
            }
            while let Some(batch) = self.consumer.batch() {
                batch.letters.iter().for_each(|l| self.store(Record::Dead(l.clone())));
                self.store(Record::Settled(batch.settled.clone()));
                self.consumer.recorded();
                self.model.stored(&batch.letters, &self.book, batch.tickets.map_or(0, |(_, last)| last));
            }
            let head = self.head();
            let idle =
                self.consumer.counts().settled_upto >= self.model.events.keys().last().copied().unwrap_or(0);
            if idle {
                return self.model.finished(&self.book, head);
            }
            let wake = self.consumer.wake();
            self.now = wake.map_or(self.now, |at| at.max(self.now));
        }
    }

    /// The batch on its way never arrives, because the process ends.
    fn restart_unstored(&mut self) {
        self.restart();
    }
}

#[test]
fn every_history_ends_with_each_event_acknowledged_or_dead() {
    let factor = std::env::var("MIRROR_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_u64);
    for seed in 0..2_000 * factor {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..300 {
                world.step();
            }
            world.finish();
        });
        assert!(run.is_ok(), "the history of seed {seed} fails");
    }
}

fn consumer(max_in_hands: u32, max_attempts: u32) -> Consumer {
    let config = Config {
        name: "c".into(),
        filter: FilterSpec::default(),
        from: 1,
        settle_within_ms: 1_000,
        max_attempts,
        backoff_ms: vec![100],
        max_in_hands,
    };
    let mut book = Book::default();
    book.apply(1, &Record::Created(Created::new(config, "local".into(), 0)));
    Consumer::open(book.get("c").unwrap(), 9, 0)
}

#[test]
fn pullers_are_served_in_turn_and_only_within_their_credit() {
    let mut consumer = consumer(100, 5);
    for (puller, credit) in [(1, 2), (2, 10), (3, 10), (4, 0)] {
        consumer.join(puller);
        consumer.credit(puller, credit);
    }
    consumer.ready(3, false);
    assert_eq!(consumer.demand(0).fresh, 12);
    let seqs: Vec<u64> = (10..30).collect();
    let taken = consumer.offer(&seqs, 40, 0);
    let who: Vec<PullerId> = taken.iter().map(|t| t.puller).collect();
    assert_eq!(who, [1, 2, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
    // The first that nobody had credit for comes next.
    assert_eq!(consumer.next(), 22);
    consumer.ready(3, true);
    assert_eq!(consumer.demand(0).fresh, 10);
}

#[test]
fn what_does_not_match_is_passed_over_and_recorded_now_and_then() {
    let mut consumer = consumer(4, 5);
    assert!(consumer.offer(&[], 9_999, 0).is_empty());
    assert_eq!((consumer.batch(), consumer.counts().settled_upto), (None, 9_999));
    consumer.offer(&[], 10_000, 0);
    let batch = consumer.batch().unwrap();
    assert_eq!((batch.settled.upto, batch.tickets, batch.letters.len()), (10_000, None, 0));
    assert_eq!(consumer.batch(), None, "one at a time");
    // One that cannot be stored is not tried again at once.
    consumer.failed(0);
    assert!(!consumer.has_records());
    consumer.offer(&[], 20_000, 0);
    assert_eq!(consumer.batch().unwrap().settled.upto, 20_000);
    consumer.recorded();
    assert_eq!(consumer.wake(), None);
}

#[test]
fn one_that_waits_for_a_day_does_not_make_the_records_grow() {
    let mut consumer = consumer(8, 5);
    consumer.join(1);
    consumer.credit(1, u32::MAX);
    let mut book = Book::default();
    book.apply(1, &Record::Created(Created::new(consumer.config().clone(), "local".into(), 0)));
    let mut at = 1;
    for n in 0..5_000_u64 {
        // Every second event matches.
        let seq = 10 + 2 * n;
        let taken = consumer.offer(&[seq], seq + 1, 0);
        let outcome = match n % 1_000 {
            0 => Outcome::Nack { delay: Some(86_400_000), reason: String::new() },
            _ => Outcome::Ack,
        };
        assert!(matches!(consumer.settle(&taken[0].token, outcome, 0), Verdict::Begun(_)));
        let batch = consumer.batch().unwrap();
        assert!(batch.settled.done.len() <= 1);
        at += 1;
        book.apply(at, &Record::Settled(batch.settled));
        consumer.recorded();
        assert!(book.get("c").unwrap().done.len() <= 6, "{:?}", book.get("c"));
    }
    assert_eq!((consumer.counts().waiting, consumer.counts().settled_upto), (5, 9));
    assert_eq!(book.get("c").unwrap().failed.len(), 5);
}

#[test]
fn a_wait_is_never_longer_than_a_day_even_when_the_clock_was_set_back() {
    let mut book = Book::default();
    let config = consumer(4, 5).config().clone();
    book.apply(1, &Record::Created(Created::new(config, "local".into(), 0)));
    let failed = br#"{"v":1,"consumer":"c","upto":4,"failed":[[5,1,9000000000000]]}"#;
    book.apply(2, &Record::parse("bus.consumer.settled", failed).unwrap().unwrap());
    let mut consumer = Consumer::open(book.get("c").unwrap(), 1, 1_000);
    consumer.join(1);
    consumer.credit(1, 1);
    assert_eq!(consumer.wake(), Some(86_401_000));
    assert!(consumer.demand(86_400_999).again.is_empty());
    assert_eq!(consumer.redeliver(&[5], 86_401_000)[0].attempt, 2);
}
