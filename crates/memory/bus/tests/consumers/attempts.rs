//! Attempts: failures, time that runs out, waits, and dead letters. The clock is the test's.

use mirror_testkit::Node;

use super::*;

async fn start() -> (Node, Bus) {
    let node = sandbox().manual_clock().start().await;
    let bus = Bus::local(&node);
    (node, bus)
}

/// Waits until so many events wait for their next attempt.
async fn waiting(node: &Node, bus: &Bus, n: u32) {
    node.wait(&format!("{n} events wait"), async || {
        let shown = bus.show("c").await;
        if shown.waiting == n { Ok(()) } else { Err(format!("{shown:?}")) }
    })
    .await;
}

#[tokio::test]
async fn what_failed_comes_again_after_its_wait_and_not_before() {
    let (node, bus) = start().await;
    bus.create(pb::ConsumerConfig { backoff: vec![secs(2), secs(60)], ..config("c") }).await.unwrap();
    bus.append("local.x", "1").await;
    let first = bus.one("c").await;
    bus.end("c", &first, Outcome::Nack).await;
    node.clock().advance(Duration::from_millis(1_999));
    bus.none("c").await;
    node.clock().advance(Duration::from_millis(1));
    let second = bus.one("c").await;
    assert_eq!((seq(&second), second.attempt), (seq(&first), 2));
    // The old token names nothing.
    let stale = bus.settle("c", vec![settlement(&first, Outcome::Ack)]).await.unwrap();
    assert_eq!(stale, [first.token]);
    // A delay of its own counts instead of the backoff, for a stream that waits as well.
    let delayed = pb::Settlement { delay: Some(secs(7)), ..settlement(&second, Outcome::Nack) };
    bus.settle("c", vec![delayed]).await.unwrap();
    let mut puller = bus.pull("c", 8).await;
    bus.append("local.x", "2").await;
    let other = puller.next(1).await;
    assert_ne!(seq(&other[0]), seq(&second), "the delayed one is not due");
    node.clock().advance(Duration::from_secs(7));
    let third = puller.next(1).await;
    assert_eq!((seq(&third[0]), third[0].attempt), (seq(&second), 3));
    node.finish().await;
}

#[tokio::test]
async fn time_runs_out_unless_more_is_asked_for() {
    let (node, bus) = start().await;
    let config = pb::ConsumerConfig { settle_within: Some(secs(10)), backoff: vec![secs(0)], ..config("c") };
    bus.create(config).await.unwrap();
    bus.append_many("local.x", 2).await;
    let held = bus.fetch("c", 2, None).await.unwrap();
    let at = |d: &pb::Delivery| mirror_contract::millis(d.settle_by.as_ref().unwrap()).unwrap();
    assert_eq!(at(&held[0]), mirror_testkit::START_MS + 10_000);
    node.clock().advance(Duration::from_secs(9));
    bus.end("c", &held[0], Outcome::Extend).await;
    node.clock().advance(Duration::from_secs(1));
    // Time passes for what is in hands although nobody pulls.
    waiting(&node, &bus, 1).await;
    let again = bus.one("c").await;
    assert_eq!((seq(&again), again.attempt), (seq(&held[1]), 2));
    node.clock().advance(Duration::from_secs(8));
    bus.end("c", &held[0], Outcome::Ack).await;
    node.clock().advance(Duration::from_secs(2));
    let stale = bus.settle("c", vec![settlement(&again, Outcome::Ack)]).await.unwrap();
    assert_eq!(stale, [again.token], "its time had run out");
    node.finish().await;
}

#[tokio::test]
async fn what_fails_too_often_or_for_good_is_a_dead_letter() {
    let (node, bus) = start().await;
    let config = pb::ConsumerConfig { max_attempts: 2, backoff: vec![secs(0)], ..config("c") };
    bus.create(config).await.unwrap();
    let events = [bus.append("local.x", "1").await, bus.append("local.y", "2").await];
    let held = bus.fetch("c", 2, None).await.unwrap();
    let because = |d: &pb::Delivery, outcome: Outcome, reason: &str| pb::Settlement {
        reason: reason.into(),
        ..settlement(d, outcome)
    };
    bus.settle(
        "c",
        vec![because(&held[0], Outcome::Nack, "first"), because(&held[1], Outcome::Term, "never")],
    )
    .await
    .unwrap();
    let again = bus.one("c").await;
    bus.settle("c", vec![because(&again, Outcome::Nack, "second")]).await.unwrap();
    let letters = bus.read("dead.letter").await;
    let told: Vec<serde_json::Value> =
        letters.iter().map(|e| serde_json::from_slice(&e.payload).unwrap()).collect();
    let letter = |seq: u64, attempts: u32, reason: &str, subject: &str| {
        serde_json::json!({"v": 1, "consumer": "c", "seq": seq, "attempts": attempts, "reason": reason,
            "subject": subject})
    };
    assert_eq!(told, [letter(events[1], 1, "never", "local.y"), letter(events[0], 2, "second", "local.x")]);
    assert_eq!(letters[0].actor, "svc:bus");
    assert_eq!(letters[1].causes, [format!("{}/{}", letters[1].origin, events[0])]);
    let shown = bus.show("c").await;
    assert_eq!((shown.dead, shown.waiting, shown.in_hands), (2, 0, 0));
    node.clock().advance(Duration::from_secs(86_400));
    bus.none("c").await;
    node.finish().await;
}

#[tokio::test]
async fn dead_letters_can_be_consumed_and_do_not_breed() {
    let (node, bus) = start().await;
    let dead = Some(pb::Filter { subjects: vec!["dead.>".into()], ..Default::default() });
    let morgue = pb::ConsumerConfig { filter: dead, max_attempts: 1, ..config("morgue") };
    bus.create(morgue).await.unwrap();
    bus.create(config("c")).await.unwrap();
    bus.append("local.x", "1").await;
    let held = bus.one("c").await;
    bus.end("c", &held, Outcome::Term).await;
    let letter = bus.one("morgue").await;
    assert_eq!(letter.event.as_ref().unwrap().subject, "dead.letter");
    bus.end("morgue", &letter, Outcome::Term).await;
    // The letter about the letter is there for people.
    assert_eq!(bus.read("dead.letter").await.len(), 2);
    bus.none("morgue").await;
    node.finish().await;
}

#[tokio::test]
async fn whoever_goes_away_has_failed_and_the_next_one_gets_it_at_once() {
    let (node, bus) = start().await;
    let config = pb::ConsumerConfig { max_attempts: 2, backoff: vec![secs(3_600)], ..config("c") };
    bus.create(config).await.unwrap();
    let event = bus.append("local.x", "1").await;
    for attempt in 1..=2 {
        let mut puller = bus.pull("c", 1).await;
        let held = puller.next(1).await;
        assert_eq!((seq(&held[0]), held[0].attempt), (event, attempt));
        drop(puller);
    }
    node.wait("the dead letter is there", async || {
        let shown = bus.show("c").await;
        if shown.dead == 1 { Ok(()) } else { Err(format!("{shown:?}")) }
    })
    .await;
    let letters = bus.read("dead.letter").await;
    assert!(letters.len() == 1 && String::from_utf8_lossy(&letters[0].payload).contains("went away"));
    node.finish().await;
}
