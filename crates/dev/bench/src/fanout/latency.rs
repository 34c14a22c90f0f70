//! From the start of an append until each subscriber has the event.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use futures::StreamExt as _;
use hdrhistogram::Histogram;
use mirror_contract::mirror::bus::v1 as pb;
use tokio::task::JoinHandle;

use crate::bus::Bus;
use crate::machine::{Quiet, describe, median};
use crate::peers::jetstream::{self, JetStream};
use crate::peers::window;
use crate::window::{Until, stream};

/// Events in flight in the burst.
const WINDOW: usize = 256;
/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one round is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) subscribers: usize,
    /// Events a second of the steady phase.
    pub(crate) rate: u32,
    /// Seconds of the steady phase.
    pub(crate) seconds: f64,
    /// Events of the burst after it, appended as fast as their acknowledgements allow.
    pub(crate) burst: u64,
}

impl Shape {
    fn steady(&self) -> u64 {
        (f64::from(self.rate) * self.seconds) as u64
    }

    fn events(&self) -> u64 {
        self.steady() + self.burst
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Mirror,
    JetStream,
}

impl Who {
    const ALL: [Self; 2] = [Self::Mirror, Self::JetStream];

    fn name(self) -> &'static str {
        match self {
            Self::Mirror => "MirrorDNA, Tail",
            Self::JetStream => "JetStream, ordered push consumers",
        }
    }
}

/// What the subscribers of one engine saw in one round.
#[derive(Debug)]
struct Seen {
    /// Nanoseconds, of the steady phase.
    steady: Histogram<u64>,
    burst: Histogram<u64>,
    /// When the first event of the burst was sent, and when the last one had reached everybody.
    began: u64,
    ended: u64,
    gaps: u64,
    repeats: u64,
}

impl Seen {
    fn new() -> anyhow::Result<Self> {
        let histogram = || Histogram::<u64>::new(3);
        let (steady, burst) = (histogram()?, histogram()?);
        Ok(Self { steady, burst, began: u64::MAX, ended: 0, gaps: 0, repeats: 0 })
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.steady.add(&other.steady)?;
        self.burst.add(&other.burst)?;
        self.began = self.began.min(other.began);
        self.ended = self.ended.max(other.ended);
        self.gaps += other.gaps;
        self.repeats += other.repeats;
        Ok(())
    }
}

/// One subscriber's account.
struct Account {
    start: Instant,
    shape: Shape,
    next: u64,
    seen: Seen,
}

impl Account {
    fn new(start: Instant, shape: Shape) -> anyhow::Result<Self> {
        Ok(Self { start, shape, next: 0, seen: Seen::new()? })
    }

    fn is_done(&self) -> bool {
        self.next >= self.shape.events()
    }

    /// Takes an event by its position in the log, from 0 for the first of this bench.
    ///
    /// Those in flight together may stand in another order than they were sent in.
    fn take(&mut self, position: u64, payload: &[u8]) -> anyhow::Result<()> {
        let now = u64::try_from(self.start.elapsed().as_nanos())?;
        let (n, sent) = read(payload).context("the payload is not one of this bench")?;
        if position < self.next {
            self.seen.repeats += 1;
            return Ok(());
        }
        self.seen.gaps += position - self.next;
        self.next = position + 1;
        let times = if n < self.shape.steady() {
            &mut self.seen.steady
        } else {
            self.seen.began = self.seen.began.min(sent);
            self.seen.ended = now;
            &mut self.seen.burst
        };
        times.record(now.saturating_sub(sent))?;
        Ok(())
    }
}

/// Returns a JSON text of 256 bytes with a number and the present moment.
fn payload(start: Instant, n: u64) -> Bytes {
    let now = start.elapsed().as_nanos();
    Bytes::from(format!("\"{n:020} {now:020} {}\"", "x".repeat(256 - 44)))
}

fn read(payload: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(payload).ok()?;
    let mut words = text.trim_start_matches('"').split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

pub(crate) fn run(rounds: usize, shape: Shape, mirror: Option<PathBuf>) -> anyhow::Result<()> {
    println!("{}; {}\n", describe(), jetstream::version()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut all, mut busy, mut note) = (Vec::new(), 0, String::new());
    for round in 0..rounds {
        let quiet = Quiet::watch();
        busy += usize::from(!quiet.ok());
        let mut order = Who::ALL;
        let turn = round % order.len();
        order.rotate_left(turn);
        for who in order {
            all.push((who, runtime.block_on(measure(who, shape, mirror.clone()))?));
        }
        note = quiet.note();
    }
    print(shape, &all);
    let verdict = match busy {
        0 => String::new(),
        n => format!(" **Not measured**: the machine was busy before {n} of {rounds} rounds."),
    };
    println!("\n{rounds} rounds; after the last: {note}.{verdict}");
    for (who, seen) in &all {
        let wrong = seen.gaps + seen.repeats;
        anyhow::ensure!(wrong == 0, "{}: {} gaps, {} repeats", who.name(), seen.gaps, seen.repeats);
    }
    Ok(())
}

fn print(shape: Shape, all: &[(Who, Seen)]) {
    println!(
        "{} subscribers, each with a connection of its own; {} events/s for {} s, then {} at once with {WINDOW} in flight.\n",
        shape.subscribers, shape.rate, shape.seconds, shape.burst
    );
    println!(
        "| engine | steady p50, p99 ms | p99 of each round, ms | burst p50, p99 ms | burst delivered /s | gaps | repeats |"
    );
    println!("|---|---|---|---|---|---|---|");
    for who in Who::ALL {
        let of: Vec<&Seen> = all.iter().filter(|(w, _)| *w == who).map(|(_, seen)| seen).collect();
        let at = |times: &dyn Fn(&Seen) -> &Histogram<u64>, q: f64| -> Vec<f64> {
            of.iter().map(|seen| times(seen).value_at_quantile(q) as f64 / 1e6).collect()
        };
        let both = |times: &dyn Fn(&Seen) -> &Histogram<u64>| {
            format!("{:.2}, {:.2}", median(&at(times, 0.5)), median(&at(times, 0.99)))
        };
        let each: Vec<String> = at(&|s| &s.steady, 0.99).iter().map(|ms| format!("{ms:.2}")).collect();
        let delivered = of.iter().map(|seen| {
            let seconds = seen.ended.saturating_sub(seen.began) as f64 / 1e9;
            seen.burst.len() as f64 / seconds
        });
        println!(
            "| {} | {} | {} | {} | {:.0} | {} | {} |",
            who.name(),
            both(&|s| &s.steady),
            each.join(" "),
            both(&|s| &s.burst),
            median(&delivered.collect::<Vec<_>>()),
            of.iter().map(|seen| seen.gaps).sum::<u64>(),
            of.iter().map(|seen| seen.repeats).sum::<u64>()
        );
    }
}

async fn measure(who: Who, shape: Shape, mirror: Option<PathBuf>) -> anyhow::Result<Seen> {
    match who {
        Who::Mirror => ours(shape, mirror).await,
        Who::JetStream => theirs(shape).await,
    }
}

/// Calls with the numbers of the steady phase, each at its time.
async fn paced<F: Future<Output = anyhow::Result<()>>>(
    shape: Shape,
    append: impl Fn(u64) -> F,
) -> anyhow::Result<()> {
    let start = tokio::time::Instant::now();
    let pace = Duration::from_secs(1) / shape.rate;
    for n in 0..shape.steady() {
        tokio::time::sleep_until(start + pace * u32::try_from(n)?).await;
        append(n).await?;
    }
    Ok(())
}

async fn gathered(tails: Vec<JoinHandle<anyhow::Result<Seen>>>) -> anyhow::Result<Seen> {
    let mut all = Seen::new()?;
    for tail in tails {
        all.add(&tail.await??)?;
    }
    Ok(all)
}

async fn ours(shape: Shape, mirror: Option<PathBuf>) -> anyhow::Result<Seen> {
    let bus = Bus::start(mirror)?;
    let client = bus.ready().await?;
    let start = Instant::now();
    let event = |n| pb::NewEvent {
        subject: "local.bench".to_owned(),
        payload: payload(start, n),
        r#type: pb::PayloadType::Json.into(),
        ..Default::default()
    };
    let append = |n| {
        let (mut client, event) = (client.clone(), event(n));
        async move {
            client.append(pb::AppendRequest { event: Some(event), expect: None }).await?;
            Ok(())
        }
    };
    let head = client.clone().get_status(pb::GetStatusRequest {}).await?.into_inner().head;
    let mut tails = Vec::new();
    for _ in 0..shape.subscribers {
        let request = pb::TailRequest { from: head + 1, filter: None };
        let mut tail = bus.client().tail(request).await?.into_inner();
        let mut account = Account::new(start, shape)?;
        tails.push(tokio::spawn(async move {
            while !account.is_done() {
                let answer =
                    tokio::time::timeout(PATIENCE, tail.message()).await.context("no event came")??;
                for event in answer.context("the bus ended the tail")?.events {
                    account.take(event.seq - head - 1, &event.payload)?;
                }
            }
            anyhow::Ok(account.seen)
        }));
    }
    paced(shape, append).await?;
    let first = shape.steady();
    stream(bus.home().root(), Until::count(shape.burst), WINDOW, client.clone(), |n| event(first + n))
        .await?;
    gathered(tails).await
}

async fn theirs(shape: Shape) -> anyhow::Result<Seen> {
    let server = JetStream::start(&[], jetstream::Sync::Always)?;
    let connection = server.connect().await?;
    connection.create("fanout").await?;
    let start = Instant::now();
    let mut tails = Vec::new();
    for _ in 0..shape.subscribers {
        let subscriber = server.connect().await?;
        let mut tail = subscriber.follow("fanout").await?;
        let mut account = Account::new(start, shape)?;
        tails.push(tokio::spawn(async move {
            while !account.is_done() {
                let message = tokio::time::timeout(PATIENCE, tail.next()).await.context("no message came")?;
                let message = message.context("the server ended the subscription")??;
                let info = message.info().map_err(|e| anyhow::anyhow!("the message has no position: {e}"))?;
                account.take(info.stream_sequence - 1, &message.payload)?;
            }
            drop(subscriber);
            anyhow::Ok(account.seen)
        }));
    }
    let append = |n| connection.append("fanout", payload(start, n));
    paced(shape, append).await?;
    let first = shape.steady();
    let until = Until::count(shape.burst);
    window::calls(Path::new("/"), until, WINDOW, |n| append(first + n)).await?;
    gathered(tails).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_repeats_are_counted() {
        let start = Instant::now();
        let shape = Shape { subscribers: 1, rate: 4, seconds: 1.0, burst: 4 };
        let mut account = Account::new(start, shape).unwrap();
        for n in [0, 1, 3, 3, 2, 4, 7] {
            let payload = payload(start, n);
            assert_eq!(payload.len(), 256);
            account.take(n, &payload).unwrap();
        }
        assert!(account.is_done());
        assert_eq!((account.seen.gaps, account.seen.repeats), (3, 2));
        assert_eq!((account.seen.steady.len(), account.seen.burst.len()), (3, 2));
        assert!(account.take(8, b"{}").is_err());
    }
}
