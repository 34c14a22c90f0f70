//! SQLite with its write-ahead log, synchronous FULL, behind one thread that batches.
//!
//! The thread takes all rows that wait into one transaction and answers after COMMIT. It waits for more, and inserts
//! meanwhile, as the bus's writer does, and the database has an exclusive lock and a large cache, so that it is at its
//! best.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::peers::work::{PAYLOAD, Work, id, subject};

// As in the bus's writer.
const LOOK: Duration = Duration::from_micros(300);
const TOGETHER: usize = 8;

/// Returns the version of the library.
pub(crate) fn version() -> String {
    format!("SQLite {}", rusqlite::version())
}

/// An open database.
pub(crate) struct Db {
    connection: Connection,
    work: Work,
}

impl Db {
    pub(crate) fn open(path: &Path, work: Work) -> anyhow::Result<Self> {
        let connection = Connection::open(path)?;
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        anyhow::ensure!(mode == "wal", "the journal mode is {mode}");
        connection.execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -65536;",
        )?;
        let level: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
        anyhow::ensure!(level == 2, "synchronous is {level}, not FULL");
        connection.execute_batch(match work {
            Work::Plain => {
                "CREATE TABLE event (seq INTEGER PRIMARY KEY, subject TEXT NOT NULL, payload BLOB NOT NULL)"
            }
            Work::Ids => {
                "CREATE TABLE event (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, subject TEXT NOT NULL,
                     id TEXT NOT NULL UNIQUE, actor TEXT NOT NULL, payload BLOB NOT NULL);
                 CREATE INDEX by_subject ON event (subject, seq)"
            }
        })?;
        Ok(Self { connection, work })
    }

    /// Inserts rows in one transaction.
    pub(crate) fn insert(&self, rows: &[u64]) -> anyhow::Result<()> {
        self.begin()?;
        self.add(rows)?;
        self.commit()
    }

    fn begin(&self) -> anyhow::Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(())
    }

    fn commit(&self) -> anyhow::Result<()> {
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// Inserts rows in the open transaction.
    fn add(&self, rows: &[u64]) -> anyhow::Result<()> {
        let db = &self.connection;
        match self.work {
            Work::Plain => {
                let mut insert = db.prepare_cached("INSERT INTO event (subject, payload) VALUES (?1, ?2)")?;
                for n in rows {
                    insert.execute(rusqlite::params![subject(*n), PAYLOAD])?;
                }
            }
            Work::Ids => {
                let mut insert = db.prepare_cached(
                    "INSERT INTO event (at, subject, id, actor, payload) VALUES (?1, ?2, ?3, 'local', ?4)",
                )?;
                for n in rows {
                    insert.execute(rusqlite::params![*n as i64, subject(*n), id(*n), PAYLOAD])?;
                }
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Queue {
    rows: Vec<(u64, oneshot::Sender<()>)>,
    stop: bool,
    asleep: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    waiting: AtomicUsize,
}

/// The thread, and the door to it.
pub(crate) struct Batcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Batcher {
    pub(crate) fn open(path: &Path, work: Work) -> anyhow::Result<Self> {
        let db = Db::open(path, work)?;
        let shared = Arc::new(Shared::default());
        let inner = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("sqlite".to_owned()).spawn(move || serve(&db, &inner))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Hands a row over.
    pub(crate) fn offer(&self, n: u64) -> oneshot::Receiver<()> {
        let (answer, receiver) = oneshot::channel();
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.rows.push((n, answer));
        self.shared.waiting.store(queue.rows.len(), Ordering::Release);
        let asleep = queue.asleep;
        drop(queue);
        if asleep {
            self.shared.ready.notify_one();
        }
        receiver
    }

    /// Ends the thread and says how it went.
    pub(crate) fn close(mut self) -> anyhow::Result<()> {
        self.stop();
        let thread = self.thread.take().context("the thread runs")?;
        thread.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
    }

    fn stop(&self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.shared.ready.notify_all();
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(db: &Db, shared: &Shared) -> anyhow::Result<()> {
    let (mut look, mut answered) = (Duration::ZERO, 0);
    let (mut numbers, mut taken) = (Vec::new(), Vec::new());
    while let Some(gather) = take(shared, look, answered, &mut taken) {
        db.begin()?;
        let mut done = 0;
        while done < taken.len() {
            numbers.clear();
            numbers.extend(taken[done..].iter().map(|(n, _)| *n));
            db.add(&numbers)?;
            done = taken.len();
            more(shared, &gather, &mut taken);
        }
        let started = Instant::now();
        db.commit()?;
        look = started.elapsed();
        answered = taken.len();
        for (_, answer) in taken.drain(..) {
            let _ = answer.send(());
        }
    }
    Ok(())
}

/// How long a transaction waits for how many rows.
struct Gather {
    since: Instant,
    look: Duration,
    all: usize,
}

/// Takes what waits, and nothing at the end. The waiting is that of the bus's writer.
fn take(
    shared: &Shared,
    look: Duration,
    answered: usize,
    taken: &mut Vec<(u64, oneshot::Sender<()>)>,
) -> Option<Gather> {
    let (look, since) = (look.min(LOOK), Instant::now());
    let all = answered + shared.waiting.load(Ordering::Acquire);
    while shared.waiting.load(Ordering::Acquire) == 0 && since.elapsed() < look {
        std::thread::yield_now();
    }
    let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
    while queue.rows.is_empty() {
        if queue.stop {
            return None;
        }
        queue.asleep = true;
        queue = shared.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
        queue.asleep = false;
    }
    std::mem::swap(&mut queue.rows, taken);
    shared.waiting.store(0, Ordering::Release);
    Some(Gather { since, look, all })
}

/// Takes further rows into the transaction, as the bus's writer does: none when it is to be committed.
fn more(shared: &Shared, gather: &Gather, taken: &mut Vec<(u64, oneshot::Sender<()>)>) {
    while taken.len() < gather.all {
        let waiting = shared.waiting.load(Ordering::Acquire);
        let is_over = gather.since.elapsed() >= gather.look;
        if waiting >= TOGETHER || taken.len() + waiting >= gather.all || is_over {
            let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            taken.append(&mut queue.rows);
            shared.waiting.store(0, Ordering::Release);
            return;
        }
        std::thread::yield_now();
    }
}
