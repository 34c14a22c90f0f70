//! Durable appends over a local socket, with equal windows: the bus, Redis, JetStream.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::append::{filled, raw, record};
use crate::bus::{Bus, event};
use crate::machine::{Quiet, describe, median};
use crate::peers::jetstream::JetStream;
use crate::peers::process::spread;
use crate::peers::redis::Redis;
use crate::peers::server::switches;
use crate::peers::window;
use crate::peers::{jetstream, redis};
use crate::window::{Run, Until, stream};

const WINDOWS: [usize; 3] = [1, 16, 256];
/// Calls whose times are taken for the budget.
const PINGS: u64 = 2000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Stream,
    Unary,
    Redis,
    /// Redis with redis-benchmark, which sends a window and then waits for all of it.
    OwnClient,
    JetStream,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Stream => "MirrorDNA, AppendStream",
            Self::Unary => "MirrorDNA, Append",
            Self::Redis => "Redis, XADD",
            Self::OwnClient => "Redis, redis-benchmark",
            Self::JetStream => "JetStream, publish",
        }
    }
}

struct Sample {
    who: Who,
    window: usize,
    rate: f64,
    times: Option<Histogram<u64>>,
    /// Flushes of the device for each acknowledgement.
    flushes: Option<f64>,
    /// Times that the server's threads went to sleep for each acknowledgement.
    server: f64,
    /// The same of the client.
    client: f64,
}

/// The servers, which all run from the first round to the last.
struct Engines {
    bus: Bus,
    redis: Redis,
    jetstream: JetStream,
    client: crate::bus::Client,
    to_redis: redis::Connection,
    to_jetstream: jetstream::Connection,
}

impl Engines {
    async fn start(mirror: Option<PathBuf>) -> anyhow::Result<Self> {
        let bus = Bus::start(mirror)?;
        let redis = Redis::start(&[], redis::Sync::Always)?;
        let jetstream = JetStream::start(&[], jetstream::Sync::Always)?;
        let (client, to_redis, to_jetstream) =
            (bus.ready().await?, redis.connect().await?, jetstream.connect().await?);
        Ok(Self { bus, redis, jetstream, client, to_redis, to_jetstream })
    }

    fn pid(&self, who: Who) -> u32 {
        match who {
            Who::Stream | Who::Unary => self.bus.pid(),
            Who::Redis | Who::OwnClient => self.redis.pid(),
            Who::JetStream => self.jetstream.pid(),
        }
    }

    async fn run(&self, who: Who, window: usize, home: &Path, span: Duration) -> anyhow::Result<Run> {
        let until = Until::span(span);
        match who {
            Who::Stream => stream(home, until, window, self.client.clone(), |_| event(None)).await,
            Who::Unary => {
                window::calls(home, until, window, |_| window::unary(&self.client, event(None))).await
            }
            Who::Redis | Who::OwnClient => {
                let run = window::calls(home, until, window, |n| self.to_redis.append(n)).await?;
                self.to_redis.forget().await?;
                Ok(run)
            }
            Who::JetStream => {
                self.to_jetstream.create("window").await?;
                let run =
                    window::calls(home, until, window, |_| self.to_jetstream.append_one("window")).await?;
                self.to_jetstream.remove("window").await?;
                Ok(run)
            }
        }
    }
}

pub(crate) fn run(rounds: usize, seconds: f64, mirror: Option<PathBuf>) -> anyhow::Result<()> {
    let temp = tempfile::Builder::new().prefix("bench").tempdir()?;
    let home = temp.path().to_owned();
    let span = Duration::from_secs_f64(seconds);
    println!("{}; {}; {}\n", describe(), redis::version()?, jetstream::version()?);
    let bytes = record(&home)?;
    let file = filled(&home)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let engines = Engines::start(mirror).await?;
        let (mut samples, mut raws, mut busy, mut note) = (Vec::new(), Vec::new(), 0, String::new());
        for round in 0..rounds {
            let quiet = Quiet::watch();
            busy += usize::from(!quiet.ok());
            raws.push(raw(&file, &bytes, span)?);
            for window in WINDOWS {
                let mut order = vec![Who::Stream, Who::Redis, Who::JetStream];
                if window == 1 {
                    order.push(Who::Unary);
                }
                let turn = round % order.len();
                order.rotate_left(turn);
                for who in order {
                    samples.push(measure(&engines, who, window, &home, span, &raws).await?);
                }
                let own = own_client(&engines, window, seconds, &samples)?;
                samples.push(own);
                engines.to_redis.forget().await?;
            }
            note = quiet.note();
        }
        println!("Raw write + fdatasync of the same bytes: {} /s.\n", spread(&raws));
        print(&samples);
        println!();
        budget(&engines, &home, &samples, &raws).await?;
        let verdict = match busy {
            0 => String::new(),
            n => format!(" **Not measured**: the machine was busy before {n} of {rounds} rounds."),
        };
        println!("\n{rounds} rounds of {seconds} s a cell; after the last: {note}.{verdict}");
        Ok(())
    })
}

async fn measure(
    engines: &Engines,
    who: Who,
    window: usize,
    home: &Path,
    span: Duration,
    raws: &[f64],
) -> anyhow::Result<Sample> {
    // The first moments of a connection or a stream are not what is compared.
    engines.run(who, window, home, span.mul_f64(0.1)).await?;
    let (server, client) = (switches(engines.pid(who)), switches(std::process::id()));
    let run = engines.run(who, window, home, span).await?;
    let count = run.acknowledged.count as f64;
    let each = |now: u64, before: u64| now.saturating_sub(before) as f64 / count;
    Ok(Sample {
        who,
        window,
        rate: run.acknowledged.durable(raws.last().copied().unwrap_or(f64::INFINITY))?,
        times: Some(run.times),
        flushes: run.acknowledged.flushes.map(|n| n as f64 / count),
        server: each(switches(engines.pid(who)), server),
        client: each(switches(std::process::id()), client),
    })
}

/// Measures redis-benchmark for as long as the same window took by the other client.
fn own_client(engines: &Engines, window: usize, seconds: f64, samples: &[Sample]) -> anyhow::Result<Sample> {
    let last = samples.iter().rev().find(|s| s.who == Who::Redis && s.window == window);
    let count = (last.map_or(1000.0, |s| s.rate) * seconds).max(100.0) as u64;
    let rate = engines.redis.own_client(window, count)?;
    Ok(Sample { who: Who::OwnClient, window, rate, times: None, flushes: None, server: 0.0, client: 0.0 })
}

fn of(samples: &[Sample], who: Who, window: usize) -> Vec<&Sample> {
    samples.iter().filter(|s| s.who == who && s.window == window).collect()
}

fn print(samples: &[Sample]) {
    println!(
        "| window | engine | acknowledged /s | p50 ms | p99 ms | device flushes an append | MirrorDNA is ahead by |"
    );
    println!("|---|---|---|---|---|---|---|");
    for window in WINDOWS {
        let ours: Vec<f64> = of(samples, Who::Stream, window).iter().map(|s| s.rate).collect();
        for who in [Who::Stream, Who::Unary, Who::Redis, Who::OwnClient, Who::JetStream] {
            let of = of(samples, who, window);
            if of.is_empty() {
                continue;
            }
            let rates: Vec<f64> = of.iter().map(|s| s.rate).collect();
            let at = |q: f64| {
                let values = of.iter().filter_map(|s| s.times.as_ref());
                let all: Vec<f64> = values.map(|t| t.value_at_quantile(q) as f64 / 1e6).collect();
                if all.is_empty() { "-".to_owned() } else { format!("{:.2}", median(&all)) }
            };
            let flushes: Vec<f64> = of.iter().filter_map(|s| s.flushes).collect();
            let flushes =
                if flushes.is_empty() { "-".to_owned() } else { format!("{:.3}", median(&flushes)) };
            let ahead = match who {
                Who::Stream | Who::Unary => "-".to_owned(),
                _ => {
                    let ratios: Vec<f64> = ours.iter().zip(&rates).map(|(a, b)| a / b).collect();
                    format!("**{:.2}**", median(&ratios))
                }
            };
            println!(
                "| {window} | {} | {} | {} | {} | {flushes} | {ahead} |",
                who.name(),
                spread(&rates),
                at(0.5),
                at(0.99)
            );
        }
    }
}

/// Prints what one append after the other is made of: the way there and back, the sync, and who has to be woken.
///
/// The bus's way is the same call with an event that it has stored already: all but the write and the sync.
async fn budget(engines: &Engines, home: &Path, samples: &[Sample], raws: &[f64]) -> anyhow::Result<()> {
    let (until, again) = (Until::count(PINGS), |_| event(Some(0)));
    window::unary(&engines.client, again(0)).await?;
    let streamed = stream(home, until, 1, engines.client.clone(), again).await?;
    let called = window::calls(home, until, 1, |n| window::unary(&engines.client, again(n))).await?;
    let to_redis = window::calls(home, until, 1, |_| engines.to_redis.ping()).await?;
    let mut echo = engines.to_jetstream.echo().await?;
    let mut echoed = Histogram::<u64>::new(3)?;
    for _ in 0..PINGS {
        let start = Instant::now();
        engines.to_jetstream.ping(&mut echo).await?;
        echoed.record(u64::try_from(start.elapsed().as_nanos())?)?;
    }
    println!(
        "Budget of one append at window 1, medians. A sync alone takes {:.0} us here.\n",
        1e6 / median(raws)
    );
    println!(
        "| engine | append, us | there and back without a sync, us | rest, us | device flushes | \
         sleeps of the server's threads | sleeps of the client's |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (who, way) in [
        (Who::Stream, &streamed.times),
        (Who::Unary, &called.times),
        (Who::Redis, &to_redis.times),
        (Who::JetStream, &echoed),
    ] {
        let of = of(samples, who, 1);
        let of = |value: &dyn Fn(&Sample) -> f64| median(&of.iter().map(|s| value(s)).collect::<Vec<_>>());
        let append = of(&|s| s.times.as_ref().map_or(f64::NAN, |t| t.value_at_quantile(0.5) as f64 / 1e3));
        let way = way.value_at_quantile(0.5) as f64 / 1e3;
        println!(
            "| {} | {append:.0} | {way:.0} | {:.0} | {:.2} | {:.2} | {:.2} |",
            who.name(),
            append - way,
            of(&|s| s.flushes.unwrap_or(f64::NAN)),
            of(&|s| s.server),
            of(&|s| s.client)
        );
    }
    Ok(())
}
