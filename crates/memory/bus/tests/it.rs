//! The bus as a service: what it stores, what it refuses, and what it does while it is read.

#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::time::Duration;

use futures::StreamExt as _;
use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_errors::{Kind, Remote};
use mirror_kit::{Channel, Decl, Principal, Service};
use mirror_testkit::{Node, Sandbox, wait};
use pb::expectation::State as Expect;

type Client = BusServiceClient<Channel>;

static OWNER: Service =
    Service { decl: &OWNER_DECL, build: |_| Box::pin(async { Ok(mirror_kit::Built::new()) }) };
const OWNER_DECL: Decl =
    Decl { name: "owner", summary: "Owns a prefix.", subjects: &["owned"], ..Decl::DEFAULT };

async fn start() -> (Node, Client) {
    let node = Sandbox::with(&[&mirror_bus::SERVICE, &OWNER])
        .config("[bus]\nsegment_first_kib = 64\nsegment_max_kib = 256\n")
        .start()
        .await;
    let client = BusServiceClient::new(node.channel("bus"));
    (node, client)
}

fn text(subject: &str, payload: &str) -> pb::NewEvent {
    pb::NewEvent {
        subject: subject.to_owned(),
        payload: payload.to_owned().into(),
        r#type: pb::PayloadType::Text.into(),
        ..Default::default()
    }
}

fn json(payload: impl Into<bytes::Bytes>) -> pb::NewEvent {
    pb::NewEvent { payload: payload.into(), r#type: pb::PayloadType::Json.into(), ..text("local.note", "") }
}

fn one(event: pb::NewEvent) -> pb::AppendRequest {
    pb::AppendRequest { event: Some(event), expect: None }
}

async fn append(client: &mut Client, event: pb::NewEvent) -> Result<pb::Ack, Remote> {
    let answer = client.append(one(event)).await.map_err(|s| Remote::from_status(&s))?;
    Ok(answer.into_inner().ack.unwrap())
}

async fn read(client: &mut Client, request: pb::ReadRequest) -> Result<Vec<pb::Event>, Remote> {
    let mut stream = client.read(request).await.map_err(|s| Remote::from_status(&s))?.into_inner();
    let mut events = Vec::new();
    while let Some(message) = stream.next().await {
        events.extend(message.map_err(|s| Remote::from_status(&s))?.events);
    }
    Ok(events)
}

#[tokio::test]
async fn an_event_is_read_back_as_it_was_appended() {
    let (node, mut client) = start().await;
    let event = pb::NewEvent {
        model: "claude/opus".into(),
        labels: vec!["b".into(), "a".into(), "b".into()],
        ..json("{\n\"a\": 1}")
    };
    let ack = append(&mut client, event).await.unwrap();
    assert_eq!((ack.seq, ack.id.as_str(), ack.duplicate), (1, "bus:1", false));
    assert_eq!(ack.durability(), pb::Durability::Synced);
    for by in [pb::get_event_request::By::Seq(1), pb::get_event_request::By::Id("bus:1".into())] {
        let event =
            client.get_event(pb::GetEventRequest { by: Some(by) }).await.unwrap().into_inner().event.unwrap();
        assert_eq!(event.payload, "{ \"a\": 1}");
        assert_eq!(event.labels, ["a", "b"]);
        assert_eq!((event.actor.as_str(), event.model.as_str()), ("local", "claude/opus"));
        assert_eq!(event.leaf, ack.leaf);
        assert_eq!(mirror_seal::hex(&mirror_seal::leaf(event.header.as_bytes())), ack.leaf);
    }
    for (payload, kind) in [
        (b"caf\xc3\xa9 \n\"x\"".to_vec(), pb::PayloadType::Text),
        (vec![0, 255, 10, 13], pb::PayloadType::Binary),
        (Vec::new(), pb::PayloadType::Binary),
    ] {
        let event =
            pb::NewEvent { payload: payload.clone().into(), r#type: kind.into(), ..text("local.x", "") };
        let seq = append(&mut client, event).await.unwrap().seq;
        let request = pb::ReadRequest { from: seq, ..Default::default() };
        let events = read(&mut client, request).await.unwrap();
        assert_eq!((events.len(), events[0].payload.as_ref()), (1, payload.as_slice()));
        assert_eq!(events[0].r#type(), kind);
    }
    node.finish().await;
}

/// Rows of the table "what bad input gets": the event, the gRPC kind, the reason, and what the text must name.
#[tokio::test]
async fn bad_events_are_refused_by_name_and_nothing_is_stored() {
    let (node, mut client) = start().await;
    let with = |subject: &str| text(subject, "x");
    let rows: Vec<(pb::NewEvent, Kind, &str, &[&str])> = vec![
        (with(""), Kind::Invalid, "BUS_EVENT_INVALID", &["subject", "empty", "[a-z0-9-]"]),
        (with(&"x".repeat(256)), Kind::Invalid, "BUS_EVENT_INVALID", &["subject", "256 bytes", "255"]),
        (with("local.Bad"), Kind::Invalid, "BUS_EVENT_INVALID", &["subject", "'B' at byte 6"]),
        (with("local..x"), Kind::Invalid, "BUS_EVENT_INVALID", &["empty token at byte 6"]),
        (with("local.*"), Kind::Invalid, "BUS_EVENT_INVALID", &["'*' at byte 6"]),
        (with("local.>"), Kind::Invalid, "BUS_EVENT_INVALID", &["'>' at byte 6"]),
        (with("bus.redacted"), Kind::Invalid, "BUS_SUBJECT_RESERVED", &["reserved"]),
        (with("dead.x"), Kind::Invalid, "BUS_SUBJECT_RESERVED", &["reserved"]),
        (with("nobody.x"), Kind::Invalid, "BUS_EVENT_INVALID", &["nobody", "local, bus, dead, owned"]),
        (with("owned.x"), Kind::Denied, "BUS_SUBJECT_OWNED", &["owner", "local"]),
        (json(vec![b'1'; 65_537]), Kind::Invalid, "BUS_EVENT_INVALID", &["payload", "65537", "PutBlob"]),
        (json("{\"a\": }"), Kind::Invalid, "BUS_EVENT_INVALID", &["payload", "byte 6"]),
        (json(&b"\"\xff\""[..]), Kind::Invalid, "BUS_EVENT_INVALID", &["UTF-8 at byte 1"]),
        (
            json(["[".repeat(129), "]".repeat(129)].concat()),
            Kind::Invalid,
            "BUS_EVENT_INVALID",
            &["128 levels"],
        ),
        (
            pb::NewEvent { r#type: 0, ..with("local.x") },
            Kind::Invalid,
            "BUS_EVENT_INVALID",
            &["type", "TEXT"],
        ),
        (pb::NewEvent { r#type: 99, ..with("local.x") }, Kind::Invalid, "BUS_EVENT_INVALID", &["type", "99"]),
        (
            pb::NewEvent { id: "a/b".into(), ..with("local.x") },
            Kind::Invalid,
            "BUS_EVENT_INVALID",
            &["id", "'/' at byte 1"],
        ),
        (
            pb::NewEvent { id: "bus:7".into(), ..with("local.x") },
            Kind::Invalid,
            "BUS_EVENT_INVALID",
            &["id", "bus:"],
        ),
        (
            pb::NewEvent { model: "a b".into(), ..with("local.x") },
            Kind::Invalid,
            "BUS_EVENT_INVALID",
            &["model"],
        ),
        (
            pb::NewEvent { causes: vec!["x".into()], ..with("local.x") },
            Kind::Invalid,
            "BUS_EVENT_INVALID",
            &["causes"],
        ),
        (
            pb::NewEvent { labels: vec!["A".into()], ..with("local.x") },
            Kind::Invalid,
            "BUS_EVENT_INVALID",
            &["labels"],
        ),
        (
            pb::NewEvent { labels: (0..17).map(|n| format!("l{n}")).collect(), ..with("local.x") },
            Kind::Invalid,
            "BUS_EVENT_INVALID",
            &["labels", "17", "16"],
        ),
    ];
    for (event, kind, reason, parts) in rows {
        let error = append(&mut client, event.clone()).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_str()), (kind, reason), "{event:?}: {error}");
        for part in parts {
            assert!(error.message.contains(part), "{part:?} in {error}");
        }
    }
    let status = client.append(pb::AppendRequest::default()).await.unwrap_err();
    assert!(status.message().contains("event is missing"), "{status}");
    assert_eq!(client.get_status(pb::GetStatusRequest {}).await.unwrap().into_inner().head, 0);
    node.finish().await;
}

#[tokio::test]
async fn a_message_beyond_what_grpc_takes_is_out_of_range() {
    let (node, mut client) = start().await;
    let error = append(&mut client, json(vec![b'1'; 5 << 20])).await.unwrap_err();
    assert_eq!(error.kind, Kind::Range, "{error}");
    node.finish().await;
}

#[tokio::test]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let (node, mut client) = start().await;
    let mut batch = async |events: Vec<pb::NewEvent>| {
        let request = pb::AppendBatchRequest { events, expect: None };
        client.append_batch(request).await.map(|r| r.into_inner().acks).map_err(|s| Remote::from_status(&s))
    };
    let note = |id: &str| pb::NewEvent { id: id.into(), ..text("local.note", id) };
    for (events, part) in [
        (Vec::new(), "0 items"),
        (vec![note(""); 1001], "1001 items"),
        (vec![json(vec![b'1'; 60_000]); 18], "bytes of payload"),
        (vec![note("a"), pb::NewEvent { subject: "local.X".into(), ..note("b") }], "events[1].subject"),
        (vec![note("a"), note("b"), pb::NewEvent { payload: "other".into(), ..note("a") }], "\"a\""),
    ] {
        let error = batch(events).await.unwrap_err();
        assert!(error.message.contains(part), "{part:?} in {error}");
    }
    let acks = batch(vec![note("a"), note("b")]).await.unwrap();
    assert_eq!(
        acks.iter().map(|a| a.seq).collect::<Vec<_>>(),
        [1, 2],
        "nothing of the refused batches was stored"
    );
    let again = batch(vec![note("a"), note("b")]).await.unwrap();
    assert!(again.iter().all(|a| a.duplicate) && again[1].leaf == acks[1].leaf);
    let error = batch(vec![note("b"), note("c")]).await.unwrap_err();
    assert_eq!(error.reason, "BUS_ID_REUSED");
    assert_eq!(batch(vec![note("c")]).await.unwrap()[0].seq, 3);
    node.finish().await;
}

#[tokio::test]
async fn expectations_are_exact() {
    let (node, mut client) = start().await;
    let mut expect = async |subject: &str, state: Expect| {
        let expect = Some(pb::Expectation { state: Some(state) });
        let request = pb::AppendRequest { event: Some(text(subject, "x")), expect };
        client
            .append(request)
            .await
            .map(|r| r.into_inner().ack.unwrap().seq)
            .map_err(|s| Remote::from_status(&s))
    };
    assert_eq!(expect("local.a", Expect::SubjectEmpty(true)).await.unwrap(), 1);
    let error = expect("local.a", Expect::SubjectEmpty(true)).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (Kind::Conflict, "BUS_EXPECTATION_FAILED"));
    assert_eq!(error.values["actual_seq"], "1");
    assert_eq!(expect("local.b", Expect::LogSeq(1)).await.unwrap(), 2);
    assert_eq!(expect("local.a", Expect::SubjectSeq(1)).await.unwrap(), 3);
    assert_eq!(expect("local.a", Expect::SubjectSeq(1)).await.unwrap_err().values["actual_seq"], "3");
    assert_eq!(expect("local.a", Expect::LogSeq(9)).await.unwrap_err().values["actual_seq"], "3");
    assert!(
        expect("local.c", Expect::SubjectEmpty(false)).await.unwrap_err().message.contains("subject_empty")
    );

    // Of many that expect the same state, exactly one wins.
    let racers = (0..32).map(|_| {
        let mut client = client.clone();
        async move {
            let expect = Some(pb::Expectation { state: Some(Expect::SubjectSeq(3)) });
            client.append(pb::AppendRequest { event: Some(text("local.a", "race")), expect }).await.is_ok()
        }
    });
    let won = futures::future::join_all(racers).await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1);
    node.finish().await;
}

#[tokio::test]
async fn an_id_is_stored_once_for_ever() {
    let (mut node, mut client) = start().await;
    let event = pb::NewEvent { id: "e-1".into(), ..text("local.note", "hello") };
    let first = append(&mut client, event.clone()).await.unwrap();
    for round in 0..2 {
        let again = append(&mut client, event.clone()).await.unwrap();
        assert_eq!((again.seq, again.leaf.as_str(), again.duplicate), (1, first.leaf.as_str(), true));
        for other in [
            pb::NewEvent { payload: "other".into(), ..event.clone() },
            pb::NewEvent { subject: "local.other".into(), ..event.clone() },
            pb::NewEvent { labels: vec!["x".into()], ..event.clone() },
        ] {
            let error = append(&mut client, other).await.unwrap_err();
            assert_eq!((error.kind, error.reason.as_str()), (Kind::Exists, "BUS_ID_REUSED"));
            assert_eq!(error.values["seq"], "1");
        }
        if round == 0 {
            node.stop("bus").await;
            node.launch("bus").await;
        }
    }
    // The same id many times at once: one event.
    let many = (0..50).map(|_| {
        let mut client = client.clone();
        async move {
            append(&mut client, pb::NewEvent { id: "e-2".into(), ..text("local.note", "x") }).await.unwrap()
        }
    });
    let acks = futures::future::join_all(many).await;
    assert!(acks.iter().all(|a| a.seq == 2));
    assert_eq!(acks.iter().filter(|a| !a.duplicate).count(), 1);
    node.finish().await;
}

#[tokio::test]
async fn a_service_appends_under_its_own_prefix_only() {
    let (node, _) = start().await;
    let mut owner = BusServiceClient::new(node.channel_as(Principal::Service("owner".into()), "bus"));
    let ack = append(&mut owner, text("owned.thing", "x")).await.unwrap();
    let request = pb::GetEventRequest { by: Some(pb::get_event_request::By::Seq(ack.seq)) };
    assert_eq!(owner.get_event(request).await.unwrap().into_inner().event.unwrap().actor, "svc:owner");
    for subject in ["local.x", "other.x", "bus.x"] {
        assert!(append(&mut owner, text(subject, "x")).await.is_err(), "{subject}");
    }
    node.finish().await;
}

#[tokio::test]
async fn private_payloads_are_withheld_from_local_callers() {
    let (node, mut client) = start().await;
    append(&mut client, pb::NewEvent { labels: vec!["private".into()], ..text("local.secret", "s3cret") })
        .await
        .unwrap();
    let events = read(&mut client, pb::ReadRequest::default()).await.unwrap();
    assert_eq!(events[0].payload_state(), pb::PayloadState::Withheld);
    assert!(events[0].payload.is_empty());
    let mut owner = BusServiceClient::new(node.channel_as(Principal::Service("owner".into()), "bus"));
    assert_eq!(read(&mut owner, pb::ReadRequest::default()).await.unwrap()[0].payload, "s3cret");
    node.finish().await;
}

#[tokio::test]
async fn ranges_filters_and_positions() {
    let (node, mut client) = start().await;
    for n in 1..=300 {
        append(&mut client, text(if n % 3 == 0 { "local.fizz" } else { "local.plain.x" }, &n.to_string()))
            .await
            .unwrap();
    }
    let seqs = |events: Vec<pb::Event>| events.into_iter().map(|e| e.seq).collect::<Vec<_>>();
    let filter = |s: &str| Some(pb::Filter { subjects: vec![s.into()], ..Default::default() });
    let all = read(&mut client, pb::ReadRequest::default()).await.unwrap();
    assert_eq!(seqs(all), (1..=300).collect::<Vec<_>>());
    let request = pb::ReadRequest { from: 10, to: 20, filter: filter("local.fizz"), ..Default::default() };
    assert_eq!(seqs(read(&mut client, request).await.unwrap()), [12, 15, 18]);
    let request =
        pb::ReadRequest { reverse: true, limit: 3, filter: filter("local.>"), ..Default::default() };
    assert_eq!(seqs(read(&mut client, request).await.unwrap()), [300, 299, 298]);
    let request = pb::ReadRequest { reverse: true, from: 280, to: 278, ..Default::default() };
    assert_eq!(seqs(read(&mut client, request).await.unwrap()), [280, 279, 278]);
    let request = pb::ReadRequest { from: 301, ..Default::default() };
    let error = read(&mut client, request).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (Kind::Range, "BUS_POSITION_OUT_OF_RANGE"));
    assert_eq!((error.values["oldest"].as_str(), error.values["head"].as_str()), ("1", "300"));
    let request = pb::ReadRequest { filter: filter("local.>.x"), ..Default::default() };
    assert_eq!(read(&mut client, request).await.unwrap_err().reason, "BUS_FILTER_INVALID");
    let error = client.tail(pb::TailRequest { from: 302, filter: None }).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::OutOfRange);
    for by in [None, Some(pb::get_event_request::By::Seq(0)), Some(pb::get_event_request::By::Id("x".into()))]
    {
        assert!(client.get_event(pb::GetEventRequest { by }).await.is_err());
    }
    let subjects = client
        .list_subjects(pb::ListSubjectsRequest { page_size: 1, ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((subjects.subjects[0].subject.as_str(), subjects.subjects[0].last_seq), ("local.fizz", 300));
    assert_eq!(subjects.next, "local.fizz");
    node.finish().await;
}

#[tokio::test]
async fn a_stream_acknowledges_in_order_and_ends_at_the_first_refused_event() {
    let (node, mut client) = start().await;
    let message = |n: u64| pb::AppendStreamRequest { events: vec![text("local.s", &n.to_string()); 3] };
    let bad = pb::AppendStreamRequest { events: vec![text("local.s", "last"), text("local.S", "bad")] };
    let requests = futures::stream::iter((0..100).map(message).chain([bad, message(0)]));
    let mut answers = client.append_stream(requests).await.unwrap().into_inner();
    let mut last = pb::AppendStreamResponse::default();
    let error = loop {
        match answers.next().await.expect("the stream ends with an error") {
            Ok(ack) => {
                assert!(ack.count > last.count && ack.last_seq >= ack.count);
                last = ack;
            }
            Err(status) => break Remote::from_status(&status),
        }
    };
    assert!(error.message.contains("events[1].subject"), "{error}");
    assert_eq!(last.count, 300, "the message with the bad event was refused whole");
    assert_eq!(client.get_status(pb::GetStatusRequest {}).await.unwrap().into_inner().head, 300);
    node.finish().await;
}

#[tokio::test]
async fn a_tail_joins_the_past_to_the_present_through_segment_rolls() {
    let (node, mut client) = start().await;
    for n in 1..=50 {
        append(&mut client, text("local.t", &n.to_string())).await.unwrap();
    }
    let mut tails = Vec::new();
    for from in [1, 25, 51, 0] {
        let stream = client.tail(pb::TailRequest { from, filter: None }).await.unwrap().into_inner();
        tails.push((if from == 0 { 51 } else { from }, stream));
    }
    let writing = async {
        let mut client = client.clone();
        for n in 51..=900 {
            append(&mut client, text("local.t", &format!("{n} {}", "x".repeat(400)))).await.unwrap();
        }
    };
    let reading = futures::future::join_all(tails.iter_mut().map(|(from, stream)| async move {
        let mut next = *from;
        while next <= 900 {
            let answer = stream.next().await.expect("the tail goes on").unwrap();
            for event in answer.events {
                assert_eq!(event.seq, next, "no gap and no repeat");
                next += 1;
            }
        }
    }));
    tokio::join!(writing, reading);
    let status = client.get_status(pb::GetStatusRequest {}).await.unwrap().into_inner();
    assert!(status.segments > 3, "the log has rolled: {status:?}");
    assert_eq!(status.writer(), pb::get_status_response::Writer::Open);
    node.finish().await;
}

#[tokio::test]
async fn a_tail_without_events_beats() {
    let node = Sandbox::with(&[&mirror_bus::SERVICE]).manual_clock().start().await;
    let mut client = BusServiceClient::new(node.channel("bus"));
    let mut tail = client.tail(pb::TailRequest::default()).await.unwrap().into_inner();
    let beat = async {
        let answer = tail.next().await.unwrap().unwrap();
        assert_eq!((answer.events.len(), answer.upto), (0, 0));
    };
    let time = async {
        loop {
            node.clock().advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    };
    tokio::select! { () = beat => {}, () = time => {} }
    drop(tail);
    node.finish().await;
}

#[tokio::test]
async fn the_index_can_be_deleted_and_is_rebuilt() {
    let (mut node, mut client) = start().await;
    let event = |n: u32| pb::NewEvent { id: format!("id-{n}"), ..text("local.i", &n.to_string()) };
    for n in 0..500 {
        append(&mut client, event(n)).await.unwrap();
    }
    node.stop("bus").await;
    std::fs::remove_dir_all(node.home().bus().join("index")).unwrap();
    node.launch("bus").await;
    wait("the index has caught up", async || {
        let status =
            client.get_status(pb::GetStatusRequest {}).await.map_err(|e| e.to_string())?.into_inner();
        if status.index_upto == 500 { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert!(append(&mut client, event(7)).await.unwrap().duplicate);
    assert_eq!(append(&mut client, event(500)).await.unwrap().seq, 501);
    node.finish().await;
}

#[tokio::test]
async fn a_clock_in_another_year_does_not_pin_the_logical_clock() {
    let node = Sandbox::with(&[&mirror_bus::SERVICE]).manual_clock().start().await;
    let mut client = BusServiceClient::new(node.channel("bus"));
    let start = mirror_testkit::START_MS;
    let mut times = Vec::new();
    for wall in [start, start + 10 * 365 * 86_400_000, start - 5_000, start + 1_000] {
        node.clock().set_wall_ms(wall);
        let seq = append(&mut client, text("local.c", "x")).await.unwrap().seq;
        let request = pb::GetEventRequest { by: Some(pb::get_event_request::By::Seq(seq)) };
        let event = client.get_event(request).await.unwrap().into_inner().event.unwrap();
        assert_eq!(
            event.wall_time.unwrap().seconds,
            i64::try_from(wall / 1000).unwrap(),
            "wall time is kept as it was"
        );
        times.push(event.time);
    }
    assert!(times.is_sorted() && times.windows(2).all(|w| w[0] < w[1]), "{times:?}");
    let last = mirror_types::Hlc::parse(&times[3]).unwrap();
    assert_eq!(last.ms(), start + 1_000);
    node.finish().await;
}

#[tokio::test]
async fn what_the_service_writes_passes_the_independent_reader() {
    let (mut node, mut client) = start().await;
    for n in 0..200 {
        let event = pb::NewEvent { labels: vec!["x.y".into()], ..text("local.v", &"é\n".repeat(n)) };
        append(&mut client, event).await.unwrap();
    }
    append(&mut client, pb::NewEvent { r#type: pb::PayloadType::Binary.into(), ..text("local.v", "bytes") })
        .await
        .unwrap();
    node.stop("bus").await;
    let report = mirror_verify::verify(&node.home().bus(), &mut |_| {}).unwrap();
    assert!(report.is_intact(), "{report:?}");
    assert_eq!((report.origins[0].events, report.origins[0].head_seq), (201, 201));
    node.finish().await;
}
