//! Making, listing and removing consumers, and what bad requests get.

use mirror_errors::{Kind, Remote};

use super::*;

#[tokio::test]
async fn a_consumer_is_made_once_listed_and_removed_by_its_owner() {
    let node = sandbox().start().await;
    let bus = Bus::local(&node);
    bus.append("local.before", "x").await;
    let (made, created) = bus.create(pb::ConsumerConfig { from: 0, ..config("a.b-c") }).await.unwrap();
    assert!(created);
    assert_eq!((made.owner.as_str(), made.settled_upto, made.behind), ("local", 2, 0));
    let filled = made.config.clone().unwrap();
    assert_eq!((filled.max_attempts, filled.max_in_hands, filled.from), (5, 256, 0));
    assert_eq!(filled.settle_within, Some(secs(30)));
    assert_eq!(filled.backoff, [1, 5, 30, 120].map(secs));
    // The defaults by name are the same consumer.
    let again =
        pb::ConsumerConfig { from: 0, max_attempts: 5, settle_within: Some(secs(30)), ..config("a.b-c") };
    for same in [again, filled] {
        let (other, created) = bus.create(same).await.unwrap();
        assert_eq!((other.created, created), (made.created, false));
    }
    let error = bus.create(pb::ConsumerConfig { max_attempts: 6, ..config("a.b-c") }).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (Kind::Exists, "BUS_CONSUMER_EXISTS"));

    let owner = Bus::service(&node, "owner");
    let error = owner.create(pb::ConsumerConfig { from: 0, ..config("a.b-c") }).await.unwrap_err();
    assert_eq!(error.reason, "BUS_CONSUMER_EXISTS");
    owner.create(config("a")).await.unwrap();
    let names: Vec<_> = bus.list("").await.into_iter().map(|c| (c.config.unwrap().name, c.owner)).collect();
    assert_eq!(names, [("a".into(), "svc:owner".into()), ("a.b-c".into(), "local".to_owned())]);
    assert!(bus.list("nobody").await.is_empty());

    let delete = async |bus: &Bus, name: &str| {
        let request = pb::DeleteConsumerRequest { name: name.to_owned() };
        bus.consumers.clone().delete_consumer(request).await.map_err(|s| Remote::from_status(&s))
    };
    let error = delete(&bus, "a").await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (Kind::Denied, "BUS_CONSUMER_OWNED"));
    for call in [
        bus.fetch("a", 1, None).await.unwrap_err(),
        bus.settle("a", vec![Default::default()]).await.unwrap_err(),
    ] {
        assert_eq!(call.reason, "BUS_CONSUMER_OWNED");
    }
    delete(&owner, "a").await.unwrap();
    let error = delete(&owner, "a").await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (Kind::NotFound, "BUS_CONSUMER_MISSING"));
    // The name is free, and its successor knows nothing of it.
    let (next, created) = bus.create(config("a")).await.unwrap();
    assert!(created && next.settled_upto == 0);
    node.finish().await;
}

#[tokio::test]
async fn bad_requests_are_refused_by_the_name_of_the_field() {
    let node = sandbox().start().await;
    let bus = Bus::local(&node);
    let filter = |subject: &str| Some(pb::Filter { subjects: vec![subject.into()], ..Default::default() });
    let rows: Vec<(pb::ConsumerConfig, &[&str])> = vec![
        (config(""), &["config.name", "empty"]),
        (config("A"), &["config.name", "'A' at byte 0"]),
        (config("a..b"), &["config.name", "empty token"]),
        (config(&"x".repeat(65)), &["config.name", "65 bytes", "64"]),
        (pb::ConsumerConfig { filter: filter("a.>.b"), ..config("c") }, &["config.filter.subjects"]),
        (pb::ConsumerConfig { filter: filter(&"x".repeat(9_000)), ..config("c") }, &["config.filter"]),
        (pb::ConsumerConfig { from: 2, ..config("c") }, &["config.from", "ends at 0"]),
        (pb::ConsumerConfig { settle_within: Some(secs(0)), ..config("c") }, &["settle_within", "1 second"]),
        (pb::ConsumerConfig { settle_within: Some(secs(3_601)), ..config("c") }, &["settle_within", "3600"]),
        (pb::ConsumerConfig { max_attempts: 1_001, ..config("c") }, &["max_attempts", "1 to 1000"]),
        (pb::ConsumerConfig { max_in_hands: 4_097, ..config("c") }, &["max_in_hands", "1 to 4096"]),
        (pb::ConsumerConfig { backoff: vec![secs(1); 17], ..config("c") }, &["config.backoff", "17", "16"]),
        (
            pb::ConsumerConfig { backoff: vec![secs(1), secs(86_401)], ..config("c") },
            &["config.backoff[1]", "86400"],
        ),
    ];
    for (config, parts) in rows {
        let error = bus.create(config.clone()).await.unwrap_err();
        assert_eq!(
            (error.kind, error.reason.as_str()),
            (Kind::Invalid, "BUS_CONSUMER_INVALID"),
            "{config:?}"
        );
        for part in parts {
            assert!(error.message.contains(part), "{part:?} in {error}");
        }
    }
    bus.create(config("c")).await.unwrap();
    let event = bus.append("local.x", "x").await;
    let held = bus.one("c").await;
    let nack = |s: pb::Settlement| pb::Settlement { outcome: Outcome::Nack.into(), ..s };
    let good = settlement(&held, Outcome::Ack);
    let rows: Vec<(pb::Settlement, &str)> = vec![
        (pb::Settlement { outcome: 0, ..good.clone() }, "settlements[1].outcome"),
        (pb::Settlement { outcome: 9, ..good.clone() }, "settlements[1].outcome is 9"),
        (pb::Settlement { delay: Some(secs(1)), ..good.clone() }, "settlements[1].delay"),
        (pb::Settlement { reason: "x".into(), ..good.clone() }, "settlements[1].reason"),
        (nack(pb::Settlement { reason: "x".repeat(257), ..good.clone() }), "257 bytes"),
        (nack(pb::Settlement { delay: Some(secs(86_401)), ..good.clone() }), "86400 s"),
    ];
    for (bad, part) in rows {
        // Nothing of a request counts that is refused.
        let error = bus.settle("c", vec![good.clone(), bad]).await.unwrap_err();
        assert!(
            error.reason == "BUS_CONSUMER_INVALID" && error.message.contains(part),
            "{part:?} in {error}"
        );
    }
    for settlements in [Vec::new(), vec![good.clone(); 4_097]] {
        assert_eq!(bus.settle("c", settlements).await.unwrap_err().reason, "BUS_CONSUMER_INVALID");
    }
    for error in [
        bus.fetch("c", 257, None).await.unwrap_err(),
        bus.fetch("c", 1, Some(Duration::from_secs(31))).await.unwrap_err(),
        bus.fetch("C", 1, None).await.unwrap_err(),
    ] {
        assert_eq!(error.reason, "BUS_CONSUMER_INVALID", "{error}");
    }
    for (name, credit, reason) in [
        ("c", 4_097, "BUS_CONSUMER_INVALID"),
        ("d", 1, "BUS_CONSUMER_MISSING"),
        ("", 1, "BUS_CONSUMER_INVALID"),
    ] {
        assert_eq!(bus.pull(name, credit).await.take().await.unwrap_err().reason, reason);
    }
    let mut puller = bus.pull("c", 0).await;
    puller.requests.send(pb::ConsumeRequest { name: "d".into(), ..Default::default() }).await.unwrap();
    assert!(puller.take().await.unwrap_err().message.contains("this stream is of \"c\""));
    let stale =
        bus.settle("c", vec![good.clone(), pb::Settlement { token: "x".into(), ..good }]).await.unwrap();
    assert_eq!((stale, bus.show("c").await.settled_upto >= event), (vec!["x".to_owned()], true));
    node.finish().await;
}

#[tokio::test]
async fn there_are_at_most_a_thousand_and_twenty_four_and_each_gets_the_event() {
    let node = sandbox().start().await;
    let bus = Bus::local(&node);
    for n in 0..1_024 {
        bus.create(pb::ConsumerConfig { from: 0, ..config(&format!("c{n:04}")) }).await.unwrap();
    }
    let error = bus.create(config("one-more")).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (Kind::Exhausted, "BUS_CONSUMER_LIMIT"));
    let event = bus.append("local.x", "x").await;
    // All of them would read half a million records of their own making.
    let pulls = (924..1_024).map(|n| {
        let (bus, name) = (bus.clone(), format!("c{n:04}"));
        async move {
            let held = bus.one(&name).await;
            bus.end(&name, &held, Outcome::Ack).await;
            seq(&held)
        }
    });
    assert!(futures::future::join_all(pulls).await.iter().all(|seq| *seq == event));
    let all = bus.list("").await;
    assert_eq!(all.len(), 1_024);
    let done = all.iter().filter(|c| c.settled_upto >= event && c.in_hands == 0).count();
    assert_eq!(done, 100, "who does not pull stays where it was");
    node.finish().await;
}
