//! The client that services use, with the real bus.

use mirror_client::consume::{Consumer, Next, Settled};

use super::*;

async fn delivery(consumer: &mut Consumer) -> mirror_client::consume::Delivery {
    loop {
        match consumer.next().await {
            Next::Delivery(delivery) => return *delivery,
            Next::Open | Next::Away(_) => {}
            Next::Refused(why) => panic!("refused: {why}"),
        }
    }
}

#[tokio::test]
async fn the_client_goes_on_over_restarts_and_what_it_acknowledged_is_done() {
    let mut node = sandbox().start().await;
    node.expect_log("recovered from an unclean end");
    let bus = Bus::local(&node);
    let config = pb::ConsumerConfig { backoff: vec![secs(0)], max_attempts: 3, ..config("c") };
    let mut consumer = Consumer::new(node.channel("bus"), config).with_credit(4);
    assert!(matches!(consumer.next().await, Next::Open));
    let mut done = Vec::new();
    for round in 0..3 {
        bus.append_many("local.x", 21).await;
        for n in 0..20 {
            let held = delivery(&mut consumer).await;
            if n == 10 && held.attempt == 1 {
                assert_eq!(held.nack(None, "once more").await.unwrap(), Settled::Done);
                let again = delivery(&mut consumer).await;
                // Others are on their way already.
                assert_eq!(again.extend().await.unwrap(), Settled::Done);
                assert_eq!(again.ack().await.unwrap(), Settled::Done);
                done.push(again.event.seq);
                continue;
            }
            assert_eq!(held.ack().await.unwrap(), Settled::Done);
            done.push(held.event.seq);
        }
        let late = delivery(&mut consumer).await;
        if round == 1 {
            node.kill("bus").await;
        } else {
            node.stop("bus").await;
        }
        node.launch("bus").await;
        assert_eq!(late.ack().await.unwrap(), Settled::Stale, "it was in hands when the bus ended");
        let held = delivery(&mut consumer).await;
        assert_eq!(held.ack().await.unwrap(), Settled::Done);
        done.push(held.event.seq);
    }
    assert_eq!(done.len(), 63);
    done.sort_unstable();
    done.dedup();
    assert_eq!(done.len(), 63, "each once");
    node.finish().await;
}

#[tokio::test]
async fn a_consumer_that_cannot_be_is_refused_in_words() {
    let node = sandbox().start().await;
    Bus::service(&node, "owner").create(config("c")).await.unwrap();
    let mut consumer = Consumer::new(node.channel("bus"), config("c"));
    let Next::Refused(why) = consumer.next().await else { panic!("it is refused") };
    assert_eq!(why.reason, "BUS_CONSUMER_EXISTS");
    node.finish().await;
}
