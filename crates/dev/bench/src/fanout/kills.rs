//! Many subscribers while producers append at full speed and the bus is killed again and again.
//!
//! Half a proof would be a follower alone, which drops what it has seen: so some subscribers read raw tails, count what the
//! bus itself sends, and only remember where to go on. All subscribers must have read the same events.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use mirror_client::follow::{Follower, Next, Place};
use mirror_client::{SocketDial, channel};
use mirror_contract::mirror::bus::v1 as pb;
use mirror_paths::Home;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::bus::{self, Bus, Client, event};
use crate::machine::describe;

/// Events in flight of each producer.
const WINDOW: usize = 256;
/// Time for the last subscriber to read to the end.
const CATCH_UP: Duration = Duration::from_secs(300);

/// What the test is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) seconds: f64,
    /// Seconds from one kill to the next.
    pub(crate) every: f64,
    /// Subscribers that follow.
    pub(crate) followers: usize,
    /// Subscribers that read raw tails.
    pub(crate) tails: usize,
    pub(crate) producers: usize,
    /// Most events; the producers stop there.
    pub(crate) events: u64,
}

/// What is shared by all.
struct Shared {
    home: Home,
    stop: AtomicBool,
    sent: AtomicU64,
    /// Last position that a producer had acknowledged, and how many.
    acknowledged: AtomicU64,
    count: AtomicU64,
    limit: u64,
    /// The beginning of each event's leaf, as the first subscriber read it; 0 before.
    leaves: Vec<AtomicU64>,
}

/// What one subscriber saw.
#[derive(Debug, Default)]
struct Seen {
    last: u64,
    gaps: u64,
    repeats: u64,
    /// Events that another subscriber read differently.
    different: u64,
    /// How often it had to begin a tail.
    opened: u64,
}

impl Seen {
    fn take(&mut self, shared: &Shared, events: &[pb::Event]) -> anyhow::Result<()> {
        for event in events {
            if event.seq <= self.last {
                self.repeats += 1;
                continue;
            }
            self.gaps += event.seq - self.last - 1;
            self.last = event.seq;
            let leaf = u64::from_str_radix(event.leaf.get(..16).context("the leaf is short")?, 16)?.max(1);
            let known = usize::try_from(event.seq).ok().and_then(|seq| shared.leaves.get(seq));
            let known = known.context("the log is longer than the bench allows")?;
            let differs = known.compare_exchange(0, leaf, Relaxed, Relaxed).is_err_and(|other| other != leaf);
            self.different += u64::from(differs);
        }
        Ok(())
    }
}

pub(crate) fn run(load: Load, mirror: Option<PathBuf>) -> anyhow::Result<()> {
    println!("{}\n", describe());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut bus = Bus::start(mirror)?;
        bus.ready().await?;
        // What is in flight at a kill may be stored too, and the bus records each recovery.
        let kills = (load.seconds / load.every) as u64 + 1;
        let most = load.events + (kills + 1) * (load.producers * WINDOW) as u64 + kills;
        let shared = Arc::new(Shared {
            home: bus.home().clone(),
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            count: AtomicU64::new(0),
            limit: load.events,
            leaves: (0..=most).map(|_| AtomicU64::new(0)).collect(),
        });
        let (goal, _) = watch::channel(None);
        let mut readers = Vec::new();
        for n in 0..load.followers + load.tails {
            let (shared, goal) = (Arc::clone(&shared), goal.subscribe());
            readers.push(if n < load.followers {
                tokio::spawn(follow(shared, goal))
            } else {
                tokio::spawn(tail(shared, goal))
            });
        }
        let producers: Vec<_> = (0..load.producers).map(|_| tokio::spawn(produce(Arc::clone(&shared)))).collect();
        let (start, mut kills) = (Instant::now(), 0);
        while start.elapsed().as_secs_f64() + load.every < load.seconds {
            tokio::time::sleep(Duration::from_secs_f64(load.every)).await;
            bus.kill()?;
            bus.restart()?;
            bus.ready().await?;
            kills += 1;
        }
        tokio::time::sleep(Duration::from_secs_f64(load.every)).await;
        shared.stop.store(true, Relaxed);
        for producer in producers {
            producer.await??;
        }
        let wrote = start.elapsed().as_secs_f64();
        let status = bus.ready().await?.get_status(pb::GetStatusRequest {}).await?.into_inner();
        let (head, acknowledged) = (status.head, shared.acknowledged.load(Relaxed));
        anyhow::ensure!(head >= acknowledged, "event {acknowledged} was acknowledged, the log ends at {head}");
        goal.send_replace(Some(head));
        let (mut all, mut least) = (Seen::default(), u64::MAX);
        for reader in readers {
            let seen = tokio::time::timeout(CATCH_UP, reader).await.context("a subscriber does not catch up")???;
            all.gaps += seen.gaps;
            all.repeats += seen.repeats;
            all.different += seen.different;
            all.opened += seen.opened;
            least = least.min(seen.last);
        }
        let took = start.elapsed().as_secs_f64();
        println!(
            "| followers | raw tails | kills | events | acknowledged | appended /s | delivered /s | tails begun | gaps | \
             repeats | read differently | end reached by all |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
        println!(
            "| {} | {} | {kills} | {head} | {} | {:.0} | {:.0} | {} | {} | {} | {} | after {took:.1} s |",
            load.followers,
            load.tails,
            shared.count.load(Relaxed),
            head as f64 / wrote,
            head as f64 * (load.followers + load.tails) as f64 / took,
            all.opened,
            all.gaps,
            all.repeats,
            all.different
        );
        anyhow::ensure!(least == head, "a subscriber ended at {least}, the log ends at {head}");
        anyhow::ensure!(all.gaps + all.repeats + all.different == 0, "events were left out, repeated or changed");
        anyhow::ensure!(kills > 0, "the bus was never killed");
        Ok(())
    })
}

/// Follows with what services follow with.
async fn follow(shared: Arc<Shared>, mut goal: watch::Receiver<Option<u64>>) -> anyhow::Result<Seen> {
    let dial = Arc::new(SocketDial::new(shared.home.clone()));
    let mut follower = Follower::new(channel(dial, "bus"), Place::default());
    let mut seen = Seen::default();
    loop {
        let next = tokio::select! {
            next = follower.next() => next,
            _ = goal.changed() => Next::Away(String::new()),
        };
        match next {
            Next::Open => seen.opened += 1,
            Next::Batch(events) => seen.take(&shared, &events)?,
            Next::Away(_) => {}
            Next::Elsewhere => anyhow::bail!("the log does not hold event {}", seen.last),
        }
        if goal.borrow().is_some_and(|goal| seen.last >= goal) {
            return Ok(seen);
        }
    }
}

/// Reads what the bus sends, and begins again after the last event when it is killed.
async fn tail(shared: Arc<Shared>, mut goal: watch::Receiver<Option<u64>>) -> anyhow::Result<Seen> {
    let mut client = bus::client(&shared.home);
    let mut seen = Seen::default();
    loop {
        let request = pb::TailRequest { from: seen.last + 1, filter: None };
        let Ok(stream) = client.tail(request).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        seen.opened += 1;
        let mut stream = stream.into_inner();
        loop {
            if goal.borrow().is_some_and(|goal| seen.last >= goal) {
                return Ok(seen);
            }
            tokio::select! {
                answer = stream.message() => match answer {
                    Ok(Some(answer)) => seen.take(&shared, &answer.events)?,
                    Ok(None) | Err(_) => break,
                },
                _ = goal.changed() => {}
            }
        }
    }
}

/// Appends at full speed until it is told to stop, on a new stream after each kill.
async fn produce(shared: Arc<Shared>) -> anyhow::Result<()> {
    while !shared.stop.load(Relaxed) && shared.sent.load(Relaxed) < shared.limit {
        if session(&shared, bus::client(&shared.home)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

async fn session(shared: &Shared, mut client: Client) -> anyhow::Result<()> {
    let (send, requests) = mpsc::channel(WINDOW);
    let mut answers = client.append_stream(ReceiverStream::new(requests)).await?.into_inner();
    let (mut sent, mut known) = (0, 0);
    loop {
        while sent - known < WINDOW as u64
            && !shared.stop.load(Relaxed)
            && shared.sent.load(Relaxed) < shared.limit
        {
            let request = pb::AppendStreamRequest { events: vec![event(None)] };
            send.try_send(request).ok().context("the stream is closed")?;
            shared.sent.fetch_add(1, Relaxed);
            sent += 1;
        }
        if sent == known {
            return Ok(());
        }
        let answer = answers.next().await.context("the bus ended the stream")??;
        shared.count.fetch_add(answer.count - known, Relaxed);
        shared.acknowledged.fetch_max(answer.last_seq, Relaxed);
        known = answer.count;
    }
}
