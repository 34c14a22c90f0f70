//! What pulling gets: order, filters, credit, and hands that are full.

use super::*;

#[tokio::test]
async fn events_come_in_order_from_where_the_consumer_begins() {
    let node = sandbox().start().await;
    let (bus, owner) = (Bus::local(&node), Bus::service(&node, "owner"));
    bus.append("local.a", "1").await;
    bus.append("local.a", "2").await;
    owner.append("owned.x", "3").await;
    bus.append_labelled("local.b", "s3cret", &["private"]).await;
    bus.create(pb::ConsumerConfig { from: 2, ..config("c") }).await.unwrap();
    let everything = pb::ConsumerConfig { filter: None, ..config("all") };
    owner.create(everything).await.unwrap();
    let found = bus.fetch("c", 8, None).await.unwrap();
    assert_eq!(seqs(&found), [2, 4]);
    let event = found[1].event.as_ref().unwrap();
    assert_eq!((event.payload_state(), event.payload.len()), (pb::PayloadState::Withheld, 0));
    assert!(found.iter().all(|d| d.attempt == 1 && d.settle_by.is_some()));
    let stale = bus.settle("c", found.iter().map(|d| settlement(d, Outcome::Ack)).collect()).await.unwrap();
    assert!(stale.is_empty());
    bus.none("c").await;
    // One without a filter gets all but what is written about consumers, and a service gets what is private.
    let found = owner.fetch("all", 8, None).await.unwrap();
    assert_eq!(seqs(&found), [1, 2, 3, 4]);
    assert_eq!(found[3].event.as_ref().unwrap().payload, "s3cret");
    let shown = bus.show("c").await;
    assert_eq!((shown.in_hands, shown.waiting, shown.delivered_upto), (0, 0, 4));
    let head = bus.bus.clone().get_status(pb::GetStatusRequest {}).await.unwrap().into_inner().head;
    // What does not match is passed over as well, when somebody pulls.
    assert!(shown.settled_upto >= 6 && shown.behind == head - shown.settled_upto, "{shown:?}");
    node.finish().await;
}

#[tokio::test]
async fn a_fetch_waits_for_the_first_event() {
    let node = sandbox().start().await;
    let bus = Bus::local(&node);
    bus.create(config("c")).await.unwrap();
    bus.none("c").await;
    let (found, seq) = tokio::join!(bus.fetch("c", 4, Some(Duration::from_secs(20))), async {
        node.wait("somebody pulls", async || {
            // The fetch is under way when its reader has passed over the record that made the consumer.
            let upto = bus.show("c").await.settled_upto;
            if upto > 0 { Ok(()) } else { Err(format!("{upto}")) }
        })
        .await;
        bus.append("local.x", "x").await
    });
    assert_eq!(seqs(&found.unwrap()), [seq]);
    // A fetch whose caller goes away takes nothing along.
    let second = bus.append("local.x", "y").await;
    for _ in 0..20 {
        let gone = bus.fetch("c", 1, Some(Duration::from_secs(5)));
        let _ = futures::poll!(std::pin::pin!(gone));
    }
    node.wait("the second event is free", async || {
        let found = bus.fetch("c", 1, None).await.unwrap();
        // A call that had got through before its caller left holds it until its time is up.
        let held = bus.show("c").await.in_hands;
        if seqs(&found) == [second] || held == 2 { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    node.finish().await;
}

#[tokio::test]
async fn nobody_gets_more_than_there_is_credit_for_and_all_get_their_turn() {
    let node = sandbox().start().await;
    let bus = Bus::local(&node);
    bus.create(config("c")).await.unwrap();
    let (mut a, mut b, mut idle) = (bus.pull("c", 5).await, bus.pull("c", 5).await, bus.pull("c", 0).await);
    bus.append_many("local.x", 40).await;
    let (first, second) = (a.next(5).await, b.next(5).await);
    let mut all = [seqs(&first), seqs(&second)].concat();
    all.sort_unstable();
    assert_eq!(all, (2..12).collect::<Vec<_>>(), "ten events for ten credits");
    assert_eq!(bus.show("c").await.in_hands, 10);
    a.send(2, Vec::new()).await;
    idle.send(1, Vec::new()).await;
    let (mut more, third) = (a.next(2).await, idle.next(1).await);
    more.extend(third);
    let mut all = seqs(&more);
    all.sort_unstable();
    assert_eq!(all, [12, 13, 14]);
    assert!(a.ready.is_empty() && b.ready.is_empty() && idle.ready.is_empty());
    node.finish().await;
}

#[tokio::test]
async fn one_who_does_not_read_stops_nobody_else() {
    let node = sandbox().start().await;
    let bus = Bus::local(&node);
    bus.create(pb::ConsumerConfig { max_in_hands: 4_096, ..config("c") }).await.unwrap();
    // Far more than the connection holds; its stream is never read.
    let stuck = bus.pull("c", 4_096).await;
    let other = Bus::local(&node);
    let mut good = other.pull("c", 64).await;
    let payload = "x".repeat(60_000);
    let mut want = std::collections::BTreeSet::new();
    for _ in 0..200 {
        want.insert(bus.append("local.x", &payload).await);
    }
    let mut mine = 0;
    while mine < 80 {
        let got = good.next(1).await;
        good.send(1, vec![settlement(&got[0], Outcome::Ack)]).await;
        assert!(want.remove(&seq(&got[0])), "{} came twice", seq(&got[0]));
        mine += 1;
    }
    // What the one who does not read has is free when it goes.
    drop(stuck);
    while !want.is_empty() {
        let got = good.next(1).await;
        good.send(1, vec![settlement(&got[0], Outcome::Ack)]).await;
        assert!(want.remove(&seq(&got[0])), "{} came twice", seq(&got[0]));
    }
    node.finish().await;
}

#[tokio::test]
async fn full_hands_hold_back_what_comes_later() {
    let node = sandbox().start().await;
    let bus = Bus::local(&node);
    bus.create(pb::ConsumerConfig { max_in_hands: 3, ..config("c") }).await.unwrap();
    bus.append_many("local.x", 10).await;
    let mut puller = bus.pull("c", 100).await;
    let held = puller.next(3).await;
    assert_eq!(seqs(&held), [2, 3, 4]);
    // One that waits for its next attempt is not settled.
    let nack = pb::Settlement { delay: Some(secs(3_600)), ..settlement(&held[1], Outcome::Nack) };
    puller.send(0, vec![nack, settlement(&held[2], Outcome::Ack)]).await;
    puller.settled(2).await;
    assert_eq!(seqs(&puller.next(1).await), [5]);
    let shown = bus.show("c").await;
    assert_eq!((shown.in_hands, shown.waiting, shown.settled_upto), (2, 1, 1));
    puller.send(0, vec![settlement(&held[0], Outcome::Ack)]).await;
    assert_eq!(seqs(&puller.next(1).await), [6]);
    assert_eq!(bus.show("c").await.settled_upto, 2);
    node.finish().await;
}

#[tokio::test]
async fn a_stream_tells_what_is_settled_and_ends_when_its_consumer_does() {
    let node = sandbox().start().await;
    let bus = Bus::local(&node);
    bus.create(pb::ConsumerConfig { max_in_hands: 300, ..config("c") }).await.unwrap();
    bus.append_many("local.x", 300).await;
    let mut puller = bus.pull("c", 300).await;
    let held = puller.next(300).await;
    assert_eq!(seqs(&held), (2..302).collect::<Vec<_>>());
    puller.send(0, held.iter().map(|d| settlement(d, Outcome::Ack)).collect()).await;
    puller.settled(300).await;
    assert!(puller.stale.is_empty());
    // More than one record holds, and far fewer than there are settlements.
    let records = bus.read("bus.consumer.settled").await.len();
    assert!((2..=4).contains(&records), "{records} records");
    puller.send(0, vec![settlement(&held[7], Outcome::Ack), settlement(&held[8], Outcome::Extend)]).await;
    puller.settled(302).await;
    assert_eq!(puller.stale, [held[7].token.clone(), held[8].token.clone()]);
    let request = pb::DeleteConsumerRequest { name: "c".into() };
    bus.consumers.clone().delete_consumer(request).await.unwrap();
    assert_eq!(puller.take().await.unwrap_err().reason, "BUS_CONSUMER_MISSING");
    node.finish().await;
}

#[tokio::test]
async fn the_answers_of_a_client_that_ends_are_still_told() {
    let node = sandbox().start().await;
    let bus = Bus::local(&node);
    bus.create(config("c")).await.unwrap();
    bus.append_many("local.x", 2).await;
    let Puller { requests, mut stream, .. } = bus.pull("c", 2).await;
    let held = stream.message().await.unwrap().unwrap().deliveries;
    let settlements = vec![settlement(&held[0], Outcome::Ack)];
    requests.send(pb::ConsumeRequest { settlements, ..Default::default() }).await.unwrap();
    drop(requests);
    let mut settled = 0;
    while let Some(part) = stream.message().await.unwrap() {
        settled = settled.max(part.settled);
    }
    assert_eq!(settled, 1);
    // The other one is due again, as the second attempt.
    let again = bus.one("c").await;
    assert_eq!((seq(&again), again.attempt), (3, 2));
    node.finish().await;
}
