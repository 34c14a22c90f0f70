//! Redact and Seal as their callers know them.

use futures::StreamExt as _;
use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::kit::v1 as kit;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_errors::{Kind, Remote};
use mirror_kit::{
    Channel, HALT_KEYS_TYPE, REDACTION_TYPE, RedactionStatement, RedactionTarget, ReleaseKey, ReleaseKeys,
};
use mirror_seal::{Envelope, NodeKey};
use mirror_testkit::{Node, Sandbox};

use crate::{holding, secret};

type Client = BusServiceClient<Channel>;

/// A home whose owner has a recovery key.
async fn start() -> (Node, Client, NodeKey) {
    let config = "[bus]\nsegment_first_kib = 64\nsegment_max_kib = 64\ncompress_after_days = 0\n";
    let node = Sandbox::with(&[&mirror_bus::SERVICE]).config(config).start().await;
    let owner = NodeKey::generate().unwrap();
    let device = NodeKey::from_hex(&std::fs::read_to_string(node.home().keys().join("node.seed")).unwrap());
    let row = ReleaseKey { kind: "recovery".to_owned(), public_key: owner.public().to_hex() };
    let keys = serde_json::to_vec(&ReleaseKeys { keys: vec![row] }).unwrap();
    let envelope = Envelope::sign(&device.unwrap(), HALT_KEYS_TYPE, &keys).to_json();
    mirror_paths::write_atomic(&node.home().halt().join("keys"), envelope.as_bytes()).unwrap();
    let client = BusServiceClient::new(node.channel("bus"));
    (node, client, owner)
}

async fn append(client: &mut Client, n: u64) -> Result<pb::Ack, Remote> {
    let event = pb::NewEvent {
        subject: "local.note".to_owned(),
        payload: secret(n).into(),
        r#type: pb::PayloadType::Json.into(),
        id: format!("id-{n}"),
        ..Default::default()
    };
    let answer = client.append(pb::AppendRequest { event: Some(event), expect: None }).await;
    answer.map(|a| a.into_inner().ack.unwrap()).map_err(|s| Remote::from_status(&s))
}

async fn get(client: &mut Client, seq: u64) -> pb::Event {
    let by = Some(pb::get_event_request::By::Seq(seq));
    client.get_event(pb::GetEventRequest { by }).await.unwrap().into_inner().event.unwrap()
}

async fn status(client: &mut Client) -> pb::GetStatusResponse {
    client.get_status(pb::GetStatusRequest {}).await.unwrap().into_inner()
}

async fn statement(client: &mut Client, seqs: &[u64]) -> RedactionStatement {
    let origin = status(client).await.origin;
    let mut events = Vec::new();
    for seq in seqs {
        events.push(RedactionTarget { seq: *seq, leaf: get(client, *seq).await.leaf });
    }
    RedactionStatement { v: 1, origin, events, reason: "a slip".to_owned(), at_ms: 1 }
}

async fn redact(
    client: &mut Client,
    key: &NodeKey,
    statement: &RedactionStatement,
) -> Result<pb::RedactResponse, Remote> {
    let payload = serde_json::to_vec(statement).unwrap();
    let envelope = Envelope::sign(key, REDACTION_TYPE, &payload).to_json();
    let answer = client.redact(pb::RedactRequest { envelope }).await;
    answer.map(tonic::Response::into_inner).map_err(|s| Remote::from_status(&s))
}

#[tokio::test]
async fn a_payload_is_erased_by_the_word_of_its_owner() {
    let (mut node, mut client, owner) = start().await;
    let mut acks = Vec::new();
    for n in 1..=200 {
        acks.push(append(&mut client, n).await.unwrap());
    }
    // A tail that has read ahead, and is asked for what it has only afterwards.
    let request = pb::TailRequest { from: 1, filter: None };
    let mut tail = client.tail(request).await.unwrap().into_inner();
    let first = tail.next().await.unwrap().unwrap();
    assert_eq!(first.events[0].payload, secret(1));

    let order = statement(&mut client, &[5, 90, 199]).await;
    let done = redact(&mut client, &owner, &order).await.unwrap();
    assert_eq!((done.redaction, &done.erased[..], done.already.len()), (201, &[5, 90, 199][..], 0));
    for start in 0..2 {
        for seq in [5_u64, 90, 199] {
            let event = get(&mut client, seq).await;
            assert_eq!(event.payload_state(), pb::PayloadState::Redacted, "start {start}");
            assert_eq!((event.redacted_by, event.payload.len(), event.salt.as_str()), (201, 0, ""));
            assert_eq!(event.leaf, acks[usize::try_from(seq).unwrap() - 1].leaf, "proofs still hold");
            assert_eq!(mirror_seal::hex(&mirror_seal::leaf(event.header.as_bytes())), event.leaf);
            assert!(holding(&node.home().bus(), &secret(seq)).is_empty(), "start {start}");
            let again = append(&mut client, seq).await.unwrap();
            assert!(again.duplicate && again.seq == seq, "its retry is a duplicate");
        }
        assert_eq!(get(&mut client, 6).await.payload, secret(6));
        assert_eq!((status(&mut client).await.redacted, status(&mut client).await.head), (3, 201));
        let again = redact(&mut client, &owner, &order).await.unwrap();
        assert_eq!((again.redaction, again.erased.len(), &again.already[..]), (201, 0, &[5, 90, 199][..]));
        if start == 0 {
            node.stop("bus").await;
            node.launch("bus").await;
        }
    }
    let proof = get(&mut client, 201).await;
    assert_eq!((proof.subject.as_str(), proof.actor.as_str()), ("bus.redacted", "svc:bus"));
    let payload: serde_json::Value = serde_json::from_slice(&proof.payload).unwrap();
    assert_eq!((&payload["v"], &payload["events"]), (&1.into(), &serde_json::json!([5, 90, 199])));
    let envelope: Envelope = serde_json::from_value(payload["envelope"].clone()).unwrap();
    let keys: Envelope = serde_json::from_value(payload["keys"].clone()).unwrap();
    let node_key = mirror_kit::node(node.home()).unwrap().key;
    let keys = ReleaseKeys::open(&keys, node_key).unwrap();
    assert!(keys.owner_word(&envelope, REDACTION_TYPE).is_some(), "the log alone proves whose word it was");
    node.finish().await;
}

#[tokio::test]
async fn a_reader_under_way_gets_no_payload_that_it_had_read_ahead() {
    let (node, mut client, owner) = start().await;
    for n in 1..=60 {
        append(&mut client, n).await.unwrap();
    }
    let follow = |from| pb::TailRequest { from, filter: None };
    let mut tail = client.tail(follow(1)).await.unwrap().into_inner();
    let mut seen = 0;
    while seen < 60 {
        seen = tail.next().await.unwrap().unwrap().upto;
    }
    // The tail stands at the head, with a window over what comes next.
    append(&mut client, 61).await.unwrap();
    while seen < 61 {
        seen = tail.next().await.unwrap().unwrap().upto;
    }
    let order = statement(&mut client, &[61]).await;
    redact(&mut client, &owner, &order).await.unwrap();
    let next = tail.next().await.unwrap().unwrap();
    assert_eq!((next.events[0].subject.as_str(), next.upto), ("bus.redacted", 62));
    let mut again = client.tail(follow(61)).await.unwrap().into_inner();
    let event = again.next().await.unwrap().unwrap().events.remove(0);
    assert_eq!(event.payload_state(), pb::PayloadState::Redacted);
    node.finish().await;
}

#[tokio::test]
async fn an_order_that_nobody_may_give_erases_nothing() {
    let (node, mut client, owner) = start().await;
    for n in 1..=3 {
        append(&mut client, n).await.unwrap();
    }
    let order = statement(&mut client, &[2]).await;
    let thief = NodeKey::generate().unwrap();
    let error = redact(&mut client, &thief, &order).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (Kind::Denied, "BUS_REDACTION_UNSIGNED"), "{error}");
    let other = RedactionStatement { origin: format!("{}.1", "0".repeat(16)), ..order.clone() };
    let moved = RedactionTarget { seq: 3, ..order.events[0].clone() };
    let moved = RedactionStatement { events: vec![moved], ..order.clone() };
    for bad in [other, moved] {
        let error = redact(&mut client, &owner, &bad).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_str()), (Kind::Invalid, "BUS_REDACTION_INVALID"), "{error}");
    }
    let beyond = RedactionTarget { seq: 9, ..order.events[0].clone() };
    let beyond = RedactionStatement { events: vec![beyond], ..order.clone() };
    let error = redact(&mut client, &owner, &beyond).await.unwrap_err();
    assert_eq!(error.reason, "BUS_EVENT_MISSING", "{error}");
    std::fs::remove_file(node.home().halt().join("keys")).unwrap();
    let error = redact(&mut client, &owner, &order).await.unwrap_err();
    assert_eq!(error.reason, "BUS_REDACTION_UNSIGNED", "{error}");
    assert_eq!((status(&mut client).await.head, status(&mut client).await.redacted), (3, 0));
    assert_eq!(get(&mut client, 2).await.payload, secret(2));
    node.finish().await;
}

#[tokio::test]
async fn a_log_is_sealed_by_its_name_only() {
    let (mut node, mut client, owner) = start().await;
    append(&mut client, 1).await.unwrap();
    let origin = status(&mut client).await.origin;
    let ask =
        |origin: &str, reason: &str| pb::SealRequest { origin: origin.to_owned(), reason: reason.to_owned() };
    for bad in
        [ask("", "x"), ask("0123456789abcdef.1", "x"), ask(&origin, "a\nb"), ask(&origin, &"x".repeat(257))]
    {
        let error = Remote::from_status(&client.seal(bad.clone()).await.unwrap_err());
        assert_eq!((error.kind, error.reason.as_str()), (Kind::Invalid, "BUS_SEAL_UNCONFIRMED"), "{bad:?}");
    }
    let order = statement(&mut client, &[1]).await;
    assert_eq!(client.seal(ask(&origin, "moved")).await.unwrap().into_inner().seq, 2);
    for start in 0..2 {
        let error = append(&mut client, 2).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_str()), (Kind::Precondition, "BUS_SEALED"), "start {start}");
        let error = redact(&mut client, &owner, &order).await.unwrap_err();
        assert_eq!(error.reason, "BUS_SEALED", "start {start}");
        assert_eq!(client.seal(ask(&origin, "again")).await.unwrap().into_inner().seq, 2);
        let now = status(&mut client).await;
        assert_eq!((now.writer(), now.head), (pb::get_status_response::Writer::Sealed, 2), "start {start}");
        let mut kits = KitServiceClient::new(node.channel("bus"));
        let state = kits.get_state(kit::GetStateRequest {}).await.unwrap().into_inner();
        assert_eq!(state.state(), kit::get_state_response::State::Degraded);
        assert!(state.detail.contains("sealed by event 2"), "{}", state.detail);
        let last = get(&mut client, 2).await;
        assert_eq!(
            (last.subject.as_str(), last.payload.as_ref()),
            ("bus.sealed", &br#"{"reason":"moved","v":1}"#[..])
        );
        if start == 0 {
            node.stop("bus").await;
            node.launch("bus").await;
        }
    }
    node.finish().await;
}
