//! Eight who pull, five thousand events, and a bus that is killed again and again.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::*;

const PULLERS: u64 = 8;
const EVENTS: usize = 5_000;
const KILLS: usize = 5;

/// What is known outside of the bus.
#[derive(Default)]
struct Seen {
    /// Whose acknowledgement was answered.
    acked: BTreeSet<u64>,
    deliveries: BTreeMap<u64, u32>,
    /// Which life of the bus this is; counted before it is killed.
    life: u32,
    over: bool,
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Pulls until all is over, through any number of streams.
async fn pull(bus: Bus, seen: &RefCell<Seen>, seed: u64) {
    let mut dice = Dice(seed);
    while !seen.borrow().over {
        let life = seen.borrow().life;
        let credit = 1 + u32::try_from(dice.roll(64)).unwrap();
        let (requests, receiver) = mpsc::channel(16);
        let first = pb::ConsumeRequest { name: "c".into(), credit, settlements: Vec::new() };
        requests.send(first).await.unwrap();
        let Ok(stream) = bus.consumers.clone().consume(ReceiverStream::new(receiver)).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut stream = stream.into_inner();
        // Settlements in their order; those that are answered are taken from the front.
        let mut sent: std::collections::VecDeque<(u64, bool, String)> = Default::default();
        let (mut told, mut outstanding) = (0, credit);
        while let Ok(Some(part)) = stream.message().await {
            let n = u32::try_from(part.deliveries.len()).unwrap();
            outstanding = outstanding.checked_sub(n).expect("no more than there is credit for");
            let mut settlements = Vec::new();
            for delivery in &part.deliveries {
                let seq = seq(delivery);
                let mut seen = seen.borrow_mut();
                *seen.deliveries.entry(seq).or_default() += 1;
                // What was read by a client of a dead process says nothing about the living one.
                let late = seen.acked.contains(&seq) && seen.life == life;
                assert!(!late, "{seq} is delivered although its acknowledgement was answered");
                let outcome = match dice.roll(20) {
                    0 => Outcome::Nack,
                    1 => Outcome::Extend,
                    _ => Outcome::Ack,
                };
                sent.push_back((seq, outcome == Outcome::Ack, delivery.token.clone()));
                settlements.push(settlement(delivery, outcome));
                if outcome == Outcome::Extend {
                    sent.push_back((seq, true, delivery.token.clone()));
                    settlements.push(settlement(delivery, Outcome::Ack));
                }
            }
            while told < part.settled {
                told += 1;
                let (seq, ack, token) = sent.pop_front().expect("an answer for each settlement");
                if ack && !part.stale.contains(&token) {
                    seen.borrow_mut().acked.insert(seq);
                }
            }
            if !settlements.is_empty() {
                outstanding += n;
                let request = pb::ConsumeRequest { name: String::new(), credit: n, settlements };
                if requests.send(request).await.is_err() {
                    break;
                }
            }
            if dice.roll(60) == 0 || seen.borrow().over {
                break;
            }
        }
    }
}

#[tokio::test]
async fn each_event_is_acknowledged_and_none_comes_after_its_acknowledgement() {
    let mut node = sandbox().start().await;
    node.expect_log("recovered from an unclean end");
    let bus = Bus::local(&node);
    let config = pb::ConsumerConfig { max_attempts: 1_000, backoff: vec![secs(0)], ..config("c") };
    bus.create(config).await.unwrap();
    let (first, last) = (bus.append("local.x", "first").await, bus.append_many("local.x", EVENTS - 1).await);
    let seen = RefCell::new(Seen::default());
    let pullers = (0..PULLERS).map(|n| pull(Bus::local(&node), &seen, n));
    let pullers = futures::future::join_all(pullers);
    let control = async {
        for kill in 1..=KILLS {
            let goal = EVENTS * kill / (KILLS + 1);
            mirror_testkit::wait(&format!("{goal} are acknowledged"), async || {
                let n = seen.borrow().acked.len();
                if n >= goal { Ok(()) } else { Err(format!("{n}")) }
            })
            .await;
            seen.borrow_mut().life += 1;
            node.kill("bus").await;
            node.launch("bus").await;
        }
        mirror_testkit::wait("all are settled", async || {
            let shown = bus.list("c").await.pop().unwrap();
            if shown.settled_upto >= last { Ok(()) } else { Err(format!("{shown:?}")) }
        })
        .await;
        seen.borrow_mut().over = true;
        // Ends those who wait for an event.
        let request = pb::DeleteConsumerRequest { name: "c".into() };
        let dead = bus.show("c").await.dead;
        bus.consumers.clone().delete_consumer(request).await.unwrap();
        dead
    };
    let (dead, _) = tokio::join!(control, pullers);
    let seen = seen.into_inner();
    assert_eq!(dead, 0);
    assert_eq!(seen.deliveries.len(), EVENTS, "none is lost");
    assert!(seen.deliveries.keys().all(|seq| (first..=last).contains(seq)));
    // Of the answers of the last moment of each life some are lost with it.
    assert!(seen.acked.len() > EVENTS * 3 / 4, "{} answers", seen.acked.len());
    node.finish().await;
}
