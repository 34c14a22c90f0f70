//! Appends over the socket of a bus process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use hdrhistogram::Histogram;
use mirror_contract::mirror::bus::v1 as pb;

use crate::bus::{Bus, event};
use crate::machine::{Quiet, describe};

pub(crate) fn stream(
    seconds: f64,
    per_message: usize,
    ids: bool,
    mirror: Option<PathBuf>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let quiet = Quiet::watch();
    let bus = Bus::start(mirror)?;
    runtime.block_on(async {
        let mut client = bus.ready().await?;
        let start = Instant::now();
        let span = Duration::from_secs_f64(seconds);
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let requests = futures::stream::iter(std::iter::from_fn(move || {
            (start.elapsed() < span).then(|| {
                let first = counter.fetch_add(per_message as u64, Relaxed);
                let events = (0..per_message as u64).map(|n| event(ids.then_some(first + n))).collect();
                pb::AppendStreamRequest { events }
            })
        }));
        let mut answers = client.append_stream(requests).await?.into_inner();
        let (mut count, mut slowest, mut last) = (0, f64::MAX, (0_u64, Instant::now()));
        while let Some(answer) = answers.next().await {
            count = answer?.count;
            let passed = last.1.elapsed();
            if passed > Duration::from_secs(5) {
                slowest = f64::min(slowest, (count - last.0) as f64 / passed.as_secs_f64());
                last = (count, Instant::now());
            }
        }
        let took = start.elapsed().as_secs_f64();
        let status = client.get_status(pb::GetStatusRequest {}).await?.into_inner();
        let lag = status.head - status.index_upto;
        let waited = Instant::now();
        loop {
            let now = client.get_status(pb::GetStatusRequest {}).await?.into_inner();
            if now.index_upto == now.head {
                break;
            }
            anyhow::ensure!(waited.elapsed() < Duration::from_secs(60), "the index did not catch up: {now:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::ensure!(count == sent.load(Relaxed) && count == status.head, "acknowledged {count}, head {}", status.head);
        println!("{}\n", describe());
        println!("| events in a message | ids | seconds | events | events/s | slowest 5 s, events/s | index lag at the end | caught up after | syncs | log MB | machine |");
        println!("|---|---|---|---|---|---|---|---|---|---|---|");
        println!(
            "| {per_message} | {} | {took:.1} | {count} | {:.0} | {} | {lag} | {:.0} ms | {} | {} | {} |",
            if ids { "caller's" } else { "bus's" },
            count as f64 / took,
            if slowest < f64::MAX { format!("{slowest:.0}") } else { "-".to_owned() },
            waited.elapsed().as_secs_f64() * 1e3,
            status.syncs,
            status.log_bytes >> 20,
            quiet.note()
        );
        Ok(())
    })
}

pub(crate) fn unary(seconds: f64, mirror: Option<PathBuf>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bus = Bus::start(mirror)?;
    println!("{}\n", describe());
    println!("| window | appends/s | p50 ms | p99 ms | machine |");
    println!("|---|---|---|---|---|");
    for window in [1, 16, 256] {
        let quiet = Quiet::watch();
        let (rate, histogram) = runtime.block_on(async {
            let client = bus.ready().await?;
            let start = Instant::now();
            let span = Duration::from_secs_f64(seconds);
            let workers = (0..window).map(|_| {
                let mut client = client.clone();
                async move {
                    let mut times = Histogram::<u64>::new(3)?;
                    while start.elapsed() < span {
                        let sent = Instant::now();
                        client.append(pb::AppendRequest { event: Some(event(None)), expect: None }).await?;
                        times.record(u64::try_from(sent.elapsed().as_micros())?)?;
                    }
                    anyhow::Ok(times)
                }
            });
            let mut all = Histogram::<u64>::new(3)?;
            for times in futures::future::try_join_all(workers).await? {
                all.add(times)?;
            }
            anyhow::Ok((all.len() as f64 / start.elapsed().as_secs_f64(), all))
        })?;
        let ms = |q: f64| histogram.value_at_quantile(q) as f64 / 1e3;
        println!("| {window} | {rate:.0} | {:.2} | {:.2} | {} |", ms(0.5), ms(0.99), quiet.note());
    }
    Ok(())
}
