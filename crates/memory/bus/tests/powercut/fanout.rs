//! Many subscribers under load, while the bus is killed: each event once, in order, the same for all.
//!
//! The large version with real processes is `mirror-bench fanout-kills`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::StreamExt as _;
use mirror_client::follow::{Follower, Next, Place};
use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_kit::{Channel, SocketDial};
use mirror_paths::Home;
use tokio::sync::{mpsc, watch};

use crate::kill::{connect, ready, serve};

const FOLLOWERS: usize = 12;
const TAILS: usize = 4;
const PRODUCERS: usize = 4;
const KILLS: u64 = 3;
/// Events in flight of each producer.
const WINDOW: usize = 64;
/// Events between two kills, at least.
const EVENTS: u64 = 400;
/// Longest time for all subscribers to read to the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Positions with the leaves that a subscriber read.
type Read = Vec<(u64, String)>;

fn take(read: &mut Read, events: Vec<pb::Event>) {
    read.extend(events.into_iter().map(|event| (event.seq, event.leaf)));
}

fn at_goal(read: &Read, goal: &watch::Receiver<Option<u64>>) -> bool {
    let last = read.last().map_or(0, |(seq, _)| *seq);
    goal.borrow().is_some_and(|goal| last >= goal)
}

async fn follow(bus: Channel, mut goal: watch::Receiver<Option<u64>>) -> Read {
    let (mut follower, mut read) = (Follower::new(bus, Place::default()), Read::new());
    while !at_goal(&read, &goal) {
        let next = tokio::select! {
            next = follower.next() => next,
            _ = goal.changed() => continue,
        };
        match next {
            Next::Batch(events) => take(&mut read, events),
            Next::Open | Next::Away(_) => {}
            Next::Elsewhere => panic!("the log does not hold {:?}", read.last()),
        }
    }
    read
}

/// Reads what the bus sends: unlike a follower it drops nothing that comes twice.
async fn tail(bus: Channel, mut goal: watch::Receiver<Option<u64>>) -> Read {
    let (mut bus, mut read) = (BusServiceClient::new(bus), Read::new());
    while !at_goal(&read, &goal) {
        let from = read.last().map_or(0, |(seq, _)| *seq) + 1;
        let Ok(answer) = bus.tail(pb::TailRequest { from, filter: None }).await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let mut events = answer.into_inner();
        while !at_goal(&read, &goal) {
            tokio::select! {
                answer = events.next() => match answer {
                    Some(Ok(answer)) => take(&mut read, answer.events),
                    _ => break,
                },
                _ = goal.changed() => {}
            }
        }
    }
    read
}

/// Streams until it is told to stop, on a new stream after each kill.
async fn produce(bus: Channel, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) {
    while !stop.load(Relaxed) {
        if session(bus.clone(), &stop, &acknowledged).await.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Keeps a window of events in flight; ends with nothing when the bus is gone.
async fn session(bus: Channel, stop: &AtomicBool, acknowledged: &AtomicU64) -> Option<()> {
    let (send, requests) = mpsc::channel(WINDOW);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = BusServiceClient::new(bus).append_stream(requests).await.ok()?.into_inner();
    let (mut sent, mut known) = (0, 0);
    loop {
        while sent - known < WINDOW as u64 && !stop.load(Relaxed) {
            let event = pb::NewEvent {
                subject: "local.fan".to_owned(),
                payload: "1".into(),
                r#type: pb::PayloadType::Json.into(),
                ..Default::default()
            };
            send.try_send(pb::AppendStreamRequest { events: vec![event] }).ok()?;
            sent += 1;
        }
        if sent == known {
            return Some(());
        }
        let answer = answers.next().await?.ok()?;
        acknowledged.fetch_max(answer.last_seq, Relaxed);
        known = answer.count;
    }
}

fn channel(home: &Path) -> Channel {
    mirror_kit::channel(Arc::new(SocketDial::new(Home::at(home).unwrap())), "bus")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_miss_and_repeat_nothing_while_the_bus_is_killed() {
    let temp = tempfile::Builder::new().prefix("mf").tempdir().unwrap();
    let home = temp.path().join("h");
    mirror_paths::private_dir(&home).unwrap();
    std::fs::write(home.join("mirror.toml"), "[bus]\nsegment_first_kib = 64\nsegment_max_kib = 256\n")
        .unwrap();
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (goal, _) = watch::channel(None);
    let mut child = serve(&home);
    let mut bus = connect(&home);
    ready(&mut bus).await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..FOLLOWERS {
        readers.spawn(follow(channel(&home), goal.subscribe()));
    }
    for _ in 0..TAILS {
        readers.spawn(tail(channel(&home), goal.subscribe()));
    }
    let mut producers = tokio::task::JoinSet::new();
    for _ in 0..PRODUCERS {
        producers.spawn(produce(channel(&home), Arc::clone(&stop), Arc::clone(&acknowledged)));
    }
    for kill in 0..=KILLS {
        let from = acknowledged.load(Relaxed);
        mirror_testkit::wait(&format!("the log grows after kill {kill}"), async || {
            let now = acknowledged.load(Relaxed);
            if now >= from + EVENTS { Ok(()) } else { Err(format!("{from} to {now}")) }
        })
        .await;
        if kill < KILLS {
            child.kill();
            child = serve(&home);
            ready(&mut bus).await;
        }
    }
    stop.store(true, Relaxed);
    producers.join_all().await;
    let head = bus.get_status(pb::GetStatusRequest {}).await.unwrap().into_inner().head;
    assert!(head >= acknowledged.load(Relaxed), "an acknowledged event is gone");
    goal.send_replace(Some(head));
    let read = tokio::time::timeout(PATIENCE, readers.join_all()).await.unwrap();
    assert_eq!(read.len(), FOLLOWERS + TAILS);
    for one in &read {
        let positions = one.iter().map(|(seq, _)| *seq);
        let wrong = positions.zip(1..).find(|(seq, expected)| seq != expected);
        assert_eq!(wrong, None, "a position and what it should have been");
        assert_eq!(one.last().map(|(seq, _)| *seq), Some(head));
        assert!(*one == read[0], "two subscribers read different events");
    }
}
