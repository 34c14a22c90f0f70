//! The service as its callers see it, with a bus in the same process and an ntfy server over real HTTP.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod fake;

use std::time::Duration;

use fake::{Answer, FakeNtfy};
use mirror_contract::mirror::bus::v1 as bus;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::kit::v1::GetStateRequest;
use mirror_contract::mirror::kit::v1::get_state_response::State;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_contract::mirror::notify::v1 as pb;
use mirror_contract::mirror::notify::v1::notify_service_client::NotifyServiceClient;
use mirror_errors::{Kind, Remote};
use mirror_kit::{Channel, Principal};
use mirror_notify::SERVICE;
use mirror_testkit::{Node, Sandbox, files_with, wait};

const TOKEN: &str = "tk_never_in_any_log";
const TOPIC: &str = "topic_never_in_any_log";

fn sandbox() -> Sandbox {
    Sandbox::with(&[&mirror_bus::SERVICE, &SERVICE])
}

/// A sandbox whose cards go to a server, too.
fn with_server(server: &FakeNtfy, more: &str) -> Sandbox {
    let config = format!("[notify]\n{more}\n[notify.ntfy]\nurl = {:?}\ntopic = {TOPIC:?}\n", server.url());
    sandbox().manual_clock().config(&config)
}

fn client(node: &Node) -> NotifyServiceClient<Channel> {
    NotifyServiceClient::new(node.channel("notify"))
}

fn card(subject: &str, title: &str, urgency: pb::Urgency) -> pb::Card {
    let (subject, title) = (subject.to_owned(), title.to_owned());
    pb::Card { subject, title, body: String::new(), urgency: urgency.into() }
}

async fn put_card(node: &Node, card: pb::Card) -> Result<bool, Remote> {
    let answer = client(node).put_card(pb::PutCardRequest { card: Some(card) }).await;
    answer.map(|a| a.into_inner().changed).map_err(|status| Remote::from_status(&status))
}

async fn put(node: &Node, subject: &str, title: &str) -> bool {
    put_card(node, card(subject, title, pb::Urgency::Default)).await.unwrap()
}

async fn clear(node: &Node, subject: &str) -> bool {
    let request = pb::DeleteCardRequest { subject: subject.to_owned() };
    client(node).delete_card(request).await.unwrap().into_inner().deleted
}

async fn list(node: &Node) -> pb::ListCardsResponse {
    client(node).list_cards(pb::ListCardsRequest {}).await.unwrap().into_inner()
}

/// Returns subject, title and what each channel did, newest first.
async fn shown(node: &Node) -> Vec<(String, String, String)> {
    let cards = list(node).await.cards.into_iter().map(|status| {
        let card = status.card.unwrap();
        let did = status.deliveries.iter().map(|d| format!("{} {}", d.channel, d.state));
        (card.subject, card.title, did.collect::<Vec<_>>().join(", "))
    });
    cards.collect()
}

async fn wait_for(node: &Node, subject: &str, title: &str, did: &str) {
    wait(&format!("{subject} is {title:?}, {did}"), async || {
        let cards = shown(node).await;
        let found = cards.iter().any(|(s, t, d)| s == subject && t == title && d == did);
        if found { Ok(()) } else { Err(format!("{cards:?}")) }
    })
    .await;
}

async fn wait_for_detail(node: &Node, part: &str) {
    wait(&format!("a delivery says {part:?}"), async || {
        let cards = list(node).await.cards;
        let found = cards.iter().flat_map(|card| &card.deliveries).any(|d| d.detail.contains(part));
        if found { Ok(()) } else { Err(format!("{cards:?}")) }
    })
    .await;
}

/// Puts a card and waits until it waits for a reason, which shows that the courier has looked at all cards.
async fn put_and_wait(node: &Node, subject: &str, part: &str) {
    put(node, subject, "looked").await;
    wait(&format!("{subject} waits: {part}"), async || {
        let cards = list(node).await.cards;
        let of = |card: &pb::CardStatus| card.card.as_ref().is_some_and(|card| card.subject == subject);
        let card = cards.iter().find(|card| of(card)).unwrap();
        let found = card.deliveries.iter().any(|d| d.detail.contains(part));
        if found { Ok(()) } else { Err(format!("{card:?}")) }
    })
    .await;
}

async fn state(node: &Node) -> (State, String) {
    let state = KitServiceClient::new(node.channel("notify")).get_state(GetStateRequest {}).await;
    let state = state.unwrap().into_inner();
    (state.state(), state.detail)
}

/// Returns subject and payload of the events under `notify`.
async fn events(node: &Node) -> Vec<(String, String)> {
    let filter = bus::Filter { subjects: vec!["notify.>".into()], ..bus::Filter::default() };
    let request = bus::ReadRequest { filter: Some(filter), ..bus::ReadRequest::default() };
    let mut pages = BusServiceClient::new(node.channel("bus")).read(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(page) = pages.message().await.unwrap() {
        let text = |event: bus::Event| (event.subject, String::from_utf8(event.payload.to_vec()).unwrap());
        found.extend(page.events.into_iter().map(text));
    }
    found
}

async fn wait_for_events(node: &Node, count: usize) -> Vec<(String, String)> {
    wait(&format!("there are {count} events"), async || {
        let found = events(node).await;
        if found.len() == count { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    events(node).await
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Remote>, kind: Kind, reason: &str) -> Remote {
    let error = answer.expect_err("it is refused");
    assert_eq!((error.kind, error.reason.as_str()), (kind, reason), "{error}");
    error
}

#[tokio::test]
async fn a_card_is_one_event_and_its_subject_has_one_card() {
    let node = sandbox().start().await;
    assert!(put(&node, "a", "one").await);
    assert!(!put(&node, "a", "one").await);
    assert!(put(&node, "b", "two").await);
    assert!(put(&node, "a", "three").await);
    let cards = shown(&node).await;
    let log = "log sent".to_owned();
    assert_eq!(cards, [("a".into(), "three".into(), log.clone()), ("b".into(), "two".into(), log)]);
    let first = list(&node).await.cards.swap_remove(0);
    assert_eq!((first.by.as_str(), first.replaced), ("local", 1));
    assert_eq!(events(&node).await.len(), 3);
    assert!(clear(&node, "a").await);
    assert!(!clear(&node, "a").await);
    assert_eq!(shown(&node).await.len(), 1);
    assert_eq!(events(&node).await.len(), 4);
    node.finish().await;
}

#[tokio::test]
async fn who_put_a_card_is_the_caller() {
    let node = sandbox().start().await;
    let channel = node.channel_as(Principal::Service("pulse".into()), "notify");
    let request = pb::PutCardRequest { card: Some(card("a", "one", pb::Urgency::Low)) };
    NotifyServiceClient::new(channel).put_card(request).await.unwrap();
    assert_eq!(list(&node).await.cards[0].by, "svc:pulse");
    node.finish().await;
}

#[tokio::test]
async fn cards_come_back_from_the_log_and_from_the_snapshot() {
    let server = FakeNtfy::start().await;
    let mut node = with_server(&server, "").start().await;
    put(&node, "a", "one").await;
    wait_for(&node, "a", "one", "log sent, ntfy sent").await;
    wait_for_events(&node, 2).await;
    let before = list(&node).await;
    let snapshot = node.home().state("notify").join("snapshot.json");
    for damage in [None, Some("{\"fold\":2,"), Some("gone")] {
        node.stop("notify").await;
        let saved = std::fs::read_to_string(&snapshot).unwrap();
        match damage {
            None => assert!(saved.contains("\"one\""), "{saved}"),
            Some("gone") => std::fs::remove_file(&snapshot).unwrap(),
            Some(text) => {
                node.expect_log("set aside");
                std::fs::write(&snapshot, text).unwrap();
            }
        }
        node.launch("notify").await;
        wait_for(&node, "a", "one", "log sent, ntfy sent").await;
        assert_eq!(list(&node).await, before);
        node.stop("notify").await;
        assert_eq!(std::fs::read_to_string(&snapshot).unwrap(), saved);
        node.launch("notify").await;
    }
    // A later card shows that nothing of the earlier one is under way.
    put(&node, "b", "two").await;
    wait_for(&node, "b", "two", "log sent, ntfy sent").await;
    assert_eq!(server.titles(), ["one", "two"]);
    node.finish().await;
}

#[tokio::test]
async fn a_card_goes_to_the_server_with_the_token_and_is_replaced_and_taken_back() {
    let server = FakeNtfy::start().await;
    let mut node = with_server(&server, "").start().await;
    mirror_paths::write_atomic(&node.home().keys().join("ntfy.token"), TOKEN.as_bytes()).unwrap();
    let first = pb::Card { body: "text".into(), ..card("pulse.bus", "down", pb::Urgency::High) };
    put_card(&node, first).await.unwrap();
    wait_for(&node, "pulse.bus", "down", "log sent, ntfy sent").await;
    let sent = server.calls();
    assert_eq!((sent.len(), sent[0].line.as_str()), (1, "POST / HTTP/1.1"));
    assert_eq!(sent[0].header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    let body = &sent[0].body;
    assert_eq!(
        (&body["topic"], &body["title"], &body["message"]),
        (&TOPIC.into(), &"down".into(), &"text".into())
    );
    assert_eq!((&body["priority"], &body["tags"]), (&4.into(), &serde_json::json!(["warning"])));
    let sequence = body["sequence_id"].as_str().unwrap().to_owned();

    put(&node, "pulse.bus", "up").await;
    wait_for_detail(&node, "one card a minute").await;
    put(&node, "pulse.bus", "up again").await;
    node.clock().advance(Duration::from_secs(60));
    wait_for(&node, "pulse.bus", "up again", "log sent, ntfy sent").await;
    assert_eq!(server.titles(), ["down", "up again"], "only the newest content is sent");
    assert_eq!(server.calls()[1].body["sequence_id"], sequence.as_str());

    assert!(clear(&node, "pulse.bus").await);
    let delete = format!("DELETE /{TOPIC}/{sequence} HTTP/1.1");
    server.wait_for(3).await;
    assert_eq!(server.calls()[2].line, delete);
    let log = wait_for_events(&node, 7).await;
    let subjects: Vec<&str> = log.iter().map(|(subject, _)| subject.trim_start_matches("notify.")).collect();
    assert_eq!(subjects, ["card", "delivered", "card", "card", "delivered", "cleared", "retracted"]);
    node.stop("notify").await;
    node.launch("notify").await;
    put(&node, "b", "later").await;
    wait_for(&node, "b", "later", "log sent, ntfy sent").await;
    assert_eq!(server.calls().len(), 4, "nothing is sent or taken back again");
    no_secrets(&node).await;
    node.finish().await;
}

/// Checks that neither the token nor the topic is in the log, the state, the snapshot or a log line.
async fn no_secrets(node: &Node) {
    let mut texts: Vec<String> = events(node).await.into_iter().map(|(_, payload)| payload).collect();
    texts.push(format!("{:?}", state(node).await));
    texts.push(format!("{:?}", list(node).await));
    texts.extend(node.logged());
    for file in std::fs::read_dir(node.home().state("notify")).unwrap() {
        texts.push(std::fs::read_to_string(file.unwrap().path()).unwrap());
    }
    for text in texts {
        assert!(!text.contains(TOKEN) && !text.contains(TOPIC), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_tried_again_and_only_waits() {
    let server = FakeNtfy::start().await;
    let node = with_server(&server, "").start().await;
    server.answers([Answer::Hangup, Answer::Status(502), Answer::Status(200)]);
    put(&node, "a", "one").await;
    wait_for_detail(&node, "cannot be reached").await;
    let (is, detail) = state(&node).await;
    assert!(is == State::Serving && detail.contains("ntfy waits"), "{is:?} {detail}");
    node.clock().advance(Duration::from_secs(10));
    wait_for_detail(&node, "HTTP 502").await;
    node.clock().advance(Duration::from_secs(19));
    put_and_wait(&node, "b", "HTTP 502").await;
    assert_eq!(server.calls().len(), 2, "the pause grows");
    node.clock().advance(Duration::from_secs(1));
    wait_for(&node, "a", "one", "log sent, ntfy sent").await;
    wait("the state is clean", async || match state(&node).await {
        (State::Serving, detail) if detail.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    wait_for_events(&node, 4).await;
    no_secrets(&node).await;
    node.finish().await;
}

#[tokio::test]
async fn a_busy_server_says_when_to_come_again() {
    let server = FakeNtfy::start().await;
    let node = with_server(&server, "").start().await;
    server.answers([Answer::Busy(90), Answer::Status(200)]);
    put_card(&node, card("a", "one", pb::Urgency::Urgent)).await.unwrap();
    wait_for_detail(&node, "HTTP 429").await;
    node.clock().advance(Duration::from_secs(89));
    put_and_wait(&node, "b", "HTTP 429").await;
    assert_eq!(server.calls().len(), 1);
    node.clock().advance(Duration::from_secs(1));
    wait_for(&node, "b", "looked", "log sent, ntfy sent").await;
    assert_eq!(server.titles(), ["one", "one", "looked"], "the urgent one goes first");
    node.finish().await;
}

#[tokio::test]
async fn what_a_person_must_mend_is_said_and_what_is_refused_for_good_is_not_sent_again() {
    let server = FakeNtfy::start().await;
    let node = with_server(&server, "").start().await;
    server.answers([Answer::Status(403), Answer::Status(307), Answer::Status(400)]);
    put(&node, "a", "one").await;
    wait_for_detail(&node, "refuses the token or the topic").await;
    let (is, detail) = state(&node).await;
    assert!(is == State::Degraded && detail.contains("HTTP 403"), "{is:?} {detail}");
    node.clock().advance(Duration::from_secs(10));
    wait_for_detail(&node, "HTTP 307").await;
    assert_eq!(server.calls().len(), 2, "a redirect is not followed");
    node.clock().advance(Duration::from_secs(20));
    wait_for(&node, "a", "one", "log sent, ntfy failed").await;
    let log = wait_for_events(&node, 2).await;
    assert!(log[1].1.contains("refuses the card (HTTP 400)"), "{log:?}");
    no_secrets(&node).await;
    node.finish().await;
}

#[tokio::test]
async fn a_card_that_no_server_took_is_given_up_after_a_day() {
    let server = FakeNtfy::start().await;
    let node = with_server(&server, "").start().await;
    server.always(Answer::Status(503));
    put(&node, "a", "one").await;
    wait_for_detail(&node, "HTTP 503").await;
    node.clock().advance(Duration::from_secs(24 * 3600));
    wait_for(&node, "a", "one", "log sent, ntfy failed").await;
    wait_for_detail(&node, "given up after 24 hours").await;
    assert_eq!(wait_for_events(&node, 2).await[1].0, "notify.delivered");
    node.finish().await;
}

#[tokio::test]
async fn a_token_that_others_may_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = FakeNtfy::start().await;
    let node = with_server(&server, "").start().await;
    let token = node.home().keys().join("ntfy.token");
    mirror_paths::write_atomic(&token, TOKEN.as_bytes()).unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    put(&node, "a", "one").await;
    wait_for_detail(&node, "chmod 600").await;
    assert_eq!((state(&node).await.0, server.calls().len()), (State::Degraded, 0));
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    node.clock().advance(Duration::from_secs(10));
    wait_for(&node, "a", "one", "log sent, ntfy sent").await;
    no_secrets(&node).await;
    node.finish().await;
}

#[tokio::test]
async fn quiet_hours_let_only_urgent_cards_through() {
    let server = FakeNtfy::start().await;
    // From an hour before the start of the test's clock to two hours after it, wherever the machine is.
    let start = i64::try_from(mirror_testkit::START_MS).unwrap();
    let local = |hours: i64| {
        let at = jiff::Timestamp::from_millisecond(start + hours * 3_600_000).unwrap();
        at.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M").to_string()
    };
    let quiet = format!("quiet = \"{}-{}\"", local(-1), local(2));
    let node = with_server(&server, &quiet).start().await;
    put(&node, "a", "one").await;
    put(&node, "a", "two").await;
    wait_for_detail(&node, "quiet hours").await;
    put_card(&node, card("b", "fire", pb::Urgency::Urgent)).await.unwrap();
    wait_for(&node, "b", "fire", "log sent, ntfy sent").await;
    let until = list(&node).await.quiet_until.unwrap();
    assert_eq!(until.seconds * 1000, start + 2 * 3_600_000);
    put(&node, "a", "three").await;
    node.clock().advance(Duration::from_secs(2 * 3600));
    wait_for(&node, "a", "three", "log sent, ntfy sent").await;
    assert_eq!(server.titles(), ["fire", "three"], "one card of the subject, the newest");
    assert!(list(&node).await.quiet_until.is_none());
    node.finish().await;
}

#[tokio::test]
async fn bad_requests_are_named_and_change_nothing() {
    let node = sandbox().config("[notify]\ncards = 1\n").start().await;
    put(&node, "a", "one").await;
    let good = || card("a", "one", pb::Urgency::Low);
    for (bad, field) in [
        (pb::Card { subject: "A".into(), ..good() }, "subject"),
        (pb::Card { title: "two\nlines".into(), ..good() }, "title"),
        (pb::Card { body: "x".repeat(1001), ..good() }, "body"),
        (pb::Card { urgency: 0, ..good() }, "urgency"),
    ] {
        let error = refused(put_card(&node, bad).await, Kind::Invalid, "NOTIFY_CARD_INVALID");
        assert_eq!(error.fields.first().map(|(f, _)| f.as_str()), Some(field), "{error}");
    }
    let full =
        refused(put_card(&node, card("b", "one", pb::Urgency::Low)).await, Kind::Precondition, "NOTIFY_FULL");
    assert_eq!(full.values.get("limit").map(String::as_str), Some("1"), "{full}");
    let request = pb::DeleteCardRequest { subject: "a b".into() };
    let answer = client(&node).delete_card(request).await.map_err(|status| Remote::from_status(&status));
    refused(answer, Kind::Invalid, "NOTIFY_CARD_INVALID");
    assert_eq!(shown(&node).await.len(), 1);
    node.finish().await;
}

#[tokio::test]
async fn without_the_bus_reading_goes_on_and_a_put_is_refused() {
    let mut node = sandbox().config("[notify]\nhold_ms = 50\n").start().await;
    put(&node, "a", "one").await;
    node.kill("bus").await;
    let put_two = || put_card(&node, card("a", "two", pb::Urgency::Low));
    refused(put_two().await, Kind::Unavailable, "NOTIFY_NOT_RECORDED");
    assert_eq!(shown(&node).await[0].1, "one");
    assert!(!put(&node, "a", "one").await, "it is there already");
    node.launch("bus").await;
    wait("a put is taken again", async || {
        put_card(&node, card("a", "three", pb::Urgency::Low)).await.map(drop).map_err(|e| e.to_string())
    })
    .await;
    assert_eq!(shown(&node).await[0].1, "three");
    node.finish().await;
}

#[tokio::test]
async fn a_value_out_of_bounds_keeps_it_from_serving_and_it_says_why() {
    let mut node = sandbox().config("[notify]\nquiet = \"late\"\n").start().await;
    node.expect_log("not serving");
    let answer = put_card(&node, card("a", "one", pb::Urgency::Low)).await;
    let error = refused(answer, Kind::Unavailable, "KIT_NOT_SERVING");
    assert!(error.message.contains("notify.quiet"), "{error}");
    node.finish().await;
}

#[tokio::test]
async fn an_erased_card_is_gone_here_and_where_it_went_is_told() {
    let server = FakeNtfy::start().await;
    let mut node = with_server(&server, "").start().await;
    put(&node, "a", "hush").await;
    put(&node, "b", "kept").await;
    wait_for(&node, "a", "hush", "log sent, ntfy sent").await;
    wait_for(&node, "b", "kept", "log sent, ntfy sent").await;
    let text = &events(&node).await[0];
    assert!(text.0 == "notify.card" && text.1.contains("hush"), "{text:?}");
    let mut bus = BusServiceClient::new(node.channel("bus"));
    let filter = Some(bus::Filter { subjects: vec!["notify.card".into()], ..bus::Filter::default() });
    let mut read =
        bus.read(bus::ReadRequest { filter, ..bus::ReadRequest::default() }).await.unwrap().into_inner();
    let secret = read.message().await.unwrap().unwrap().events[0].seq;
    for _ in 0..2 {
        node.stop("notify").await;
        node.launch("notify").await;
    }
    assert!(!files_with(&node.home().state("notify"), "hush").is_empty());

    let redaction = node.say_erased(&[secret]).await;
    let copies = node.forgotten("notify", redaction).await;
    let reached: Vec<_> = copies.iter().map(|(seq, _, reached)| (*seq, *reached)).collect();
    assert_eq!(reached, [(secret, true), (secret, false)], "{copies:?}");
    wait_for(&node, "b", "kept", "log sent, ntfy sent").await;
    let titles: Vec<_> = shown(&node).await.into_iter().map(|(subject, ..)| subject).collect();
    assert_eq!(titles, ["b"]);
    node.stop("notify").await;
    assert_eq!(files_with(&node.home().state("notify"), "hush"), Vec::<std::path::PathBuf>::new());

    std::fs::remove_dir_all(node.home().state("notify")).unwrap();
    node.launch("notify").await;
    assert_eq!(node.forgotten("notify", redaction).await, copies);
    assert_eq!(shown(&node).await.len(), 1);
    node.finish().await;
}
