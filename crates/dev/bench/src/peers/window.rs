//! Calls with a fixed number in flight.
//!
//! All clients are tasks of one executor on one thread, each engine's usual one for Rust.

use std::cell::Cell;
use std::path::Path;
use std::time::Instant;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use mirror_contract::mirror::bus::v1 as pb;

use crate::bus::Client;
use crate::syncs::{Acknowledged, Flushes};
use crate::window::{Run, Until};

/// Keeps a number of calls in flight; each is told its number.
pub(crate) async fn calls<F: Future<Output = anyhow::Result<()>>>(
    home: &Path,
    until: Until,
    window: usize,
    append: impl Fn(u64) -> F,
) -> anyhow::Result<Run> {
    let next = Cell::new(0);
    let one = || {
        let n = next.replace(next.get() + 1);
        let (call, sent) = (append(n), Instant::now());
        async move { call.await.map(|()| sent.elapsed()) }
    };
    let (flushes, start) = (Flushes::watch(home), Instant::now());
    let mut times = Histogram::<u64>::new(3)?;
    let mut seconds = 0.0;
    let mut flying = FuturesUnordered::new();
    while flying.len() < window && until.goes_on(seconds, next.get()) {
        flying.push(one());
    }
    while let Some(took) = flying.next().await {
        times.record(u64::try_from(took?.as_nanos())?)?;
        seconds = start.elapsed().as_secs_f64();
        if until.goes_on(seconds, next.get()) {
            flying.push(one());
        }
    }
    let count = times.len();
    Ok(Run { acknowledged: Acknowledged { count, seconds, window, flushes: flushes.count() }, times })
}

/// Appends one event by a unary call.
pub(crate) async fn unary(client: &Client, event: pb::NewEvent) -> anyhow::Result<()> {
    client.clone().append(pb::AppendRequest { event: Some(event), expect: None }).await?;
    Ok(())
}
