//! What a restart keeps, with the snapshot and without; and what damage holds up.

use std::fs;

use mirror_testkit::Node;

use super::*;

const CLEAN: &str = "recovered from an unclean end";

/// Leaves a consumer with something of everything: settled in order and out of it, failed, in hands, dead.
async fn history(bus: &Bus) -> Vec<pb::Delivery> {
    let config = pb::ConsumerConfig { max_attempts: 3, backoff: vec![secs(3_600)], ..config("c") };
    bus.create(config).await.unwrap();
    bus.append_many("local.x", 10).await;
    let held = bus.fetch("c", 8, None).await.unwrap();
    assert_eq!(seqs(&held), (2..10).collect::<Vec<_>>());
    let outcomes = [
        (0, Outcome::Ack),
        (1, Outcome::Ack),
        (3, Outcome::Nack),
        (4, Outcome::Ack),
        (5, Outcome::Term),
        (7, Outcome::Ack),
    ];
    let settlements = outcomes.map(|(i, outcome)| settlement(&held[i], outcome)).to_vec();
    assert!(bus.settle("c", settlements).await.unwrap().is_empty());
    held
}

async fn check(node: &Node, bus: &Bus, held: &[pb::Delivery]) {
    let shown = bus.show("c").await;
    assert_eq!((shown.settled_upto, shown.waiting, shown.in_hands, shown.dead), (3, 1, 0, 1), "{shown:?}");
    // Tokens of before name nothing.
    let stale = bus.settle("c", vec![settlement(&held[2], Outcome::Ack)]).await.unwrap();
    assert_eq!(stale, [held[2].token.clone()]);
    // What was in hands comes again, as the attempt that it was, and what is settled does not.
    let again = bus.fetch("c", 8, None).await.unwrap();
    assert_eq!(seqs(&again), [4, 8, 10, 11]);
    assert!(again.iter().all(|d| d.attempt == 1));
    node.clock().advance(Duration::from_secs(3_599));
    bus.none("c").await;
    node.clock().advance(Duration::from_secs(1));
    let found = bus.fetch("c", 1, None).await.unwrap();
    assert_eq!((seq(&found[0]), found[0].attempt), (5, 2), "the wait goes on over the restart");
}

#[tokio::test]
async fn a_restart_and_a_kill_keep_what_is_settled_with_and_without_the_snapshot() {
    for (kill, forget) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut node = sandbox().manual_clock().start().await;
        node.expect_log(CLEAN);
        let bus = Bus::local(&node);
        let held = history(&bus).await;
        let snapshot = node.home().bus().join("consumers.json");
        if kill {
            node.kill("bus").await;
            assert!(!snapshot.exists(), "a kill leaves no time for a snapshot");
        } else {
            node.stop("bus").await;
            assert!(snapshot.exists());
        }
        if forget && !kill {
            fs::remove_file(&snapshot).unwrap();
        }
        if forget && kill {
            fs::write(&snapshot, b"{}").unwrap();
        }
        node.launch("bus").await;
        check(&node, &bus, &held).await;
        node.finish().await;
    }
}

#[tokio::test]
async fn a_snapshot_of_another_history_or_with_a_flipped_bit_is_not_believed() {
    let mut node = sandbox().manual_clock().start().await;
    let bus = Bus::local(&node);
    history(&bus).await;
    let before = bus.list("").await;
    node.stop("bus").await;
    let snapshot = node.home().bus().join("consumers.json");
    let good = fs::read_to_string(&snapshot).unwrap();
    let mut flips: Vec<String> = (0..good.len())
        .step_by(7)
        .map(|at| {
            let mut bytes = good.clone().into_bytes();
            bytes[at] ^= 1;
            String::from_utf8_lossy(&bytes).into_owned()
        })
        .collect();
    flips.truncate(12);
    flips.push(good[..good.len() / 2].to_owned());
    flips.push(String::new());
    for bad in flips {
        fs::write(&snapshot, &bad).unwrap();
        node.launch("bus").await;
        let after = bus.list("").await;
        let standing = |all: &[pb::Consumer]| {
            let facts = |c: &pb::Consumer| (c.config.clone(), c.settled_upto, c.waiting, c.dead, c.created);
            all.iter().map(facts).collect::<Vec<_>>()
        };
        assert_eq!(standing(&after), standing(&before), "{bad}");
        node.stop("bus").await;
        assert!(fs::read_to_string(&snapshot).unwrap().contains("digest"), "it is written anew");
    }
    node.launch("bus").await;
    node.finish().await;
}

#[tokio::test]
async fn a_deleted_consumer_stays_deleted_and_a_new_one_of_its_name_is_another() {
    let mut node = sandbox().start().await;
    node.expect_log(CLEAN);
    let bus = Bus::local(&node);
    bus.create(config("gone")).await.unwrap();
    bus.create(config("c")).await.unwrap();
    bus.append("local.x", "1").await;
    let held = bus.one("c").await;
    bus.end("c", &held, Outcome::Ack).await;
    for name in ["gone", "c"] {
        let request = pb::DeleteConsumerRequest { name: name.into() };
        bus.consumers.clone().delete_consumer(request).await.unwrap();
    }
    bus.create(config("c")).await.unwrap();
    for round in 0..2 {
        if round == 0 {
            node.kill("bus").await;
        } else {
            node.stop("bus").await;
        }
        node.launch("bus").await;
        assert!(bus.list("gone").await.is_empty());
        assert_eq!((bus.show("c").await.settled_upto, bus.list("").await.len()), (0, 1));
    }
    let again = bus.one("c").await;
    assert_eq!((seq(&again), again.attempt), (seq(&held), 1));
    node.finish().await;
}

#[tokio::test]
async fn damage_stops_a_consumer_where_it_is_and_a_whole_log_lets_it_go_on() {
    let mut node = sandbox().start().await;
    for expected in ["damaged", CLEAN, "settlements"] {
        node.expect_log(expected);
    }
    let bus = Bus::local(&node);
    bus.create(config("c")).await.unwrap();
    bus.append("local.x", "first").await;
    let event = bus.append("local.x", "a payload that will be damaged").await;
    bus.append("local.x", "last").await;
    node.stop("bus").await;
    let origin = node.home().bus().join("log");
    let dir = fs::read_dir(origin).unwrap().next().unwrap().unwrap().path();
    let segment = dir.join(format!("{:020}.seg", 1));
    let good = fs::read(&segment).unwrap();
    let at = good.windows(12).position(|w| w == b"will be dama").unwrap();
    let mut bad = good.clone();
    bad[at] ^= 1;
    fs::write(&segment, bad).unwrap();
    node.launch("bus").await;
    let found = bus.fetch("c", 8, None).await.unwrap();
    assert_eq!(seqs(&found), [event - 1]);
    let error = bus.fetch("c", 8, Some(Duration::from_secs(20))).await.unwrap_err();
    assert_eq!(error.reason, "BUS_LOG_DAMAGED");
    assert_eq!(bus.pull("c", 8).await.take().await.unwrap_err().reason, "BUS_LOG_DAMAGED");
    // What cannot be stored is not settled.
    let error = bus.settle("c", vec![settlement(&found[0], Outcome::Ack)]).await.unwrap_err();
    assert_eq!(error.reason, "BUS_LOG_DAMAGED");
    assert_eq!(bus.show("c").await.in_hands, 1);
    node.stop("bus").await;
    fs::write(&segment, good).unwrap();
    node.launch("bus").await;
    let found = bus.fetch("c", 8, None).await.unwrap();
    assert_eq!(seqs(&found), [event - 1, event, event + 1]);
    node.finish().await;
}
