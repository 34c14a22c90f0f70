//! What consuming costs: bytes of the log, and with `MIRROR_TEST_ROUNDS` events a second.

use super::*;

async fn log_bytes(bus: &Bus) -> u64 {
    bus.bus.clone().get_status(pb::GetStatusRequest {}).await.unwrap().into_inner().log_bytes
}

#[tokio::test]
async fn an_acknowledgement_costs_one_small_record_and_many_together_cost_the_same() {
    let node = sandbox().start().await;
    let bus = Bus::local(&node);
    bus.create(config("indexer")).await.unwrap();
    bus.append_many("local.x", 257).await;
    let held = [bus.fetch("indexer", 256, None).await.unwrap(), bus.fetch("indexer", 1, None).await.unwrap()]
        .concat();
    assert_eq!(held.len(), 256, "no more than are allowed in hands");
    for range in [0..1, 1..256] {
        let before = log_bytes(&bus).await;
        let settlements = held[range].iter().map(|d| settlement(d, Outcome::Ack)).collect();
        bus.settle("indexer", settlements).await.unwrap();
        let cost = log_bytes(&bus).await - before;
        assert!((300..=480).contains(&cost), "{cost} bytes");
    }
    assert_eq!(bus.read("bus.consumer.settled").await.len(), 2);
    node.finish().await;
}

#[tokio::test]
async fn one_stream_takes_and_acknowledges_event_after_event() {
    let rounds: usize = std::env::var("MIRROR_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let node = sandbox().start().await;
    let bus = Bus::local(&node);
    bus.create(pb::ConsumerConfig { max_in_hands: 1_024, ..config("c") }).await.unwrap();
    let events = 2_000 * rounds;
    bus.append_many("local.x", events).await;
    let (before, started) = (log_bytes(&bus).await, tokio::time::Instant::now());
    let mut puller = bus.pull("c", 1_024).await;
    let mut sent = 0;
    while sent < events {
        if puller.ready.is_empty() {
            puller.take().await.unwrap();
        }
        let held = std::mem::take(&mut puller.ready);
        sent += held.len();
        let credit = u32::try_from(held.len()).unwrap();
        puller.send(credit, held.iter().map(|d| settlement(d, Outcome::Ack)).collect()).await;
    }
    puller.settled(events as u64).await;
    if rounds > 1 {
        let (took, bytes) = (started.elapsed().as_secs_f64(), log_bytes(&bus).await - before);
        eprintln!("{:.0} events/s, {:.1} bytes each", events as f64 / took, bytes as f64 / events as f64);
    }
    assert!(puller.stale.is_empty());
    node.finish().await;
}
