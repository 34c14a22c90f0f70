//! Damage where acknowledged events were: appends are refused, the range is named, the rest is served.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::kit::v1 as kit;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_errors::Remote;
use mirror_kit::Channel;
use mirror_testkit::{Node, Sandbox, wait};

use crate::{copy, events};

type Client = BusServiceClient<Channel>;

pub(crate) const EVENTS: u64 = 250;

pub(crate) async fn append(client: &mut Client, id: &str) -> Result<u64, Remote> {
    let event = pb::NewEvent {
        subject: "local.note".to_owned(),
        payload: format!("\"{id} {}\"", "x".repeat(300)).into(),
        r#type: pb::PayloadType::Json.into(),
        id: id.to_owned(),
        ..Default::default()
    };
    let answer = client.append(pb::AppendRequest { event: Some(event), expect: None }).await;
    answer.map(|a| a.into_inner().ack.unwrap().seq).map_err(|s| Remote::from_status(&s))
}

pub(crate) async fn status(client: &mut Client) -> pb::GetStatusResponse {
    client.get_status(pb::GetStatusRequest {}).await.unwrap().into_inner()
}

async fn read(client: &mut Client, from: u64, to: u64) -> Result<Vec<u64>, Remote> {
    let request = pb::ReadRequest { from, to, ..Default::default() };
    let mut stream = client.read(request).await.map_err(|s| Remote::from_status(&s))?.into_inner();
    let mut seqs = Vec::new();
    while let Some(answer) = stream.next().await {
        seqs.extend(answer.map_err(|s| Remote::from_status(&s))?.events.iter().map(|e| e.seq));
    }
    Ok(seqs)
}

async fn get(client: &mut Client, seq: u64) -> Result<u64, Remote> {
    let by = Some(pb::get_event_request::By::Seq(seq));
    let answer = client.get_event(pb::GetEventRequest { by }).await.map_err(|s| Remote::from_status(&s))?;
    Ok(answer.into_inner().event.unwrap().seq)
}

pub(crate) async fn state(node: &Node) -> (kit::get_state_response::State, String) {
    let mut client = KitServiceClient::new(node.channel("bus"));
    let answer = client.get_state(kit::GetStateRequest {}).await.unwrap().into_inner();
    (answer.state(), answer.detail)
}

/// A stopped service with a log of several segments.
pub(crate) async fn stopped() -> (Node, Client) {
    let config = "[bus]\nsegment_first_kib = 64\nsegment_max_kib = 64\n";
    let mut node = Sandbox::with(&[&mirror_bus::SERVICE]).config(config).start().await;
    let mut client = BusServiceClient::new(node.channel("bus"));
    for n in 1..=EVENTS {
        append(&mut client, &format!("id-{n}")).await.unwrap();
    }
    node.stop("bus").await;
    (node, client)
}

/// The segments of a log.
pub(crate) struct Log(pub(crate) PathBuf);

impl Log {
    pub(crate) fn of(node: &Node) -> Self {
        Self(fs::read_dir(node.home().bus().join("log")).unwrap().next().unwrap().unwrap().path())
    }

    pub(crate) fn segments(&self) -> Vec<(u64, PathBuf)> {
        let mut found: Vec<_> = fs::read_dir(&self.0)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter_map(|p| Some((p.file_stem()?.to_str()?.parse().ok()?, p)))
            .collect();
        found.sort();
        found
    }

    /// Returns the file that holds an event, and where the event begins and ends there.
    pub(crate) fn find(&self, seq: u64) -> (PathBuf, usize, usize) {
        let (first, path) = self.segments().into_iter().rfind(|(first, _)| *first <= seq).unwrap();
        let starts = events(&fs::read(&path).unwrap());
        let at = usize::try_from(seq - first).unwrap();
        (path, starts[at], starts[at + 1])
    }

    /// Changes the bytes of an event; gets the whole segment, and where the event begins and ends.
    pub(crate) fn change(&self, seq: u64, change: impl FnOnce(&mut Vec<u8>, usize, usize)) {
        let (path, start, end) = self.find(seq);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes, start, end);
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.segments().into_iter().map(|(_, path)| (path.clone(), fs::read(path).unwrap())).collect()
    }

    /// Returns the events of the segment with this number from the first one.
    pub(crate) fn range(&self, index: usize) -> (u64, u64) {
        let segments = self.segments();
        let last = segments.get(index + 1).map_or(EVENTS, |(next, _)| next - 1);
        (segments[index].0, last)
    }
}

/// Replaces a line's body so that its CRC is right again.
pub(crate) fn forge(bytes: &mut [u8], start: usize, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let end = start + bytes[start..].iter().position(|b| *b == b'\n').unwrap();
    let at = start + memchr::memmem::find(&bytes[start..end], from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    let crc = format!("{:08x}", crc32c::crc32c(&bytes[start + 11..end]));
    bytes[start + 2..start + 10].copy_from_slice(crc.as_bytes());
}

pub(crate) type Break = fn(&Log) -> Vec<(u64, u64)>;

/// How a log is broken, and which ranges must be named; the active segment holds the events from 230 on.
pub(crate) const CASES: &[(&str, Break)] = &[
    ("a bit in an E line of the active segment", |log| {
        log.change(240, |b, start, _| b[start + 60] ^= 1);
        vec![(240, 240)]
    }),
    ("a bit in a D line of the active segment", |log| {
        log.change(240, |b, _, end| b[end - 40] ^= 1);
        vec![(240, 240)]
    }),
    ("the newline between E and D", |log| {
        log.change(240, |b, start, end| {
            let at = start + b[start..end].iter().position(|b| *b == b'\n').unwrap();
            b[at] = b' ';
        });
        vec![(240, 240)]
    }),
    ("the newline before an E line", |log| {
        log.change(240, |b, _, end| b[end - 1] = b'!');
        vec![(240, 240)]
    }),
    ("a range of zeros", |log| {
        log.change(236, |b, start, end| b[start + 10..end + 1_000].fill(0));
        vec![(236, 238)]
    }),
    ("two places", |log| {
        log.change(230, |b, start, _| b[start + 60] ^= 1);
        log.change(245, |b, start, _| b[start + 60] ^= 1);
        vec![(230, 230), (245, 245)]
    }),
    ("the last event, which the index has seen", |log| {
        log.change(EVENTS, |b, start, _| b[start + 60] ^= 1);
        vec![(EVENTS, u64::MAX)]
    }),
    ("an event that was taken out", |log| {
        log.change(240, |b, start, end| {
            b.drain(start..end);
        });
        vec![(240, 240)]
    }),
    ("an event that does not follow", |log| {
        log.change(240, |b, start, _| {
            let at = start + memchr::memmem::find(&b[start..], b"\"prev\":\"").unwrap() + 8;
            let old = String::from_utf8(b[at..at + 8].to_vec()).unwrap();
            forge(b, start, &format!("\"prev\":\"{old}"), "\"prev\":\"AAAAAAAA");
        });
        vec![(240, 240)]
    }),
    ("an event of another origin", |log| {
        let name = log.0.file_name().unwrap().to_str().unwrap().to_owned();
        let other = format!("{}.1", "0".repeat(16));
        log.change(240, |b, start, _| forge(b, start, &name, &other));
        vec![(240, 240)]
    }),
    ("a sealed segment that is gone", |log| {
        let range = log.range(1);
        fs::remove_file(&log.segments()[1].1).unwrap();
        vec![range]
    }),
    ("the first segment gone", |log| {
        let range = log.range(0);
        fs::remove_file(&log.segments()[0].1).unwrap();
        vec![range]
    }),
    ("a sealed segment cut in an event", |log| {
        let (_, last) = log.range(1);
        log.change(last, |b, start, _| b.truncate(start + 100));
        vec![(last, last)]
    }),
    ("a sealed segment cut between events", |log| {
        let (_, last) = log.range(1);
        log.change(last - 1, |b, start, _| b.truncate(start));
        vec![(last - 1, last)]
    }),
    ("a sealed segment of newlines", |log| {
        let range = log.range(1);
        let path = log.segments()[1].1.clone();
        let len = fs::metadata(&path).unwrap().len();
        fs::write(path, vec![b'\n'; usize::try_from(len).unwrap()]).unwrap();
        vec![range]
    }),
];

fn names(text: &str, first: u64, last: u64) -> bool {
    let range = match last {
        u64::MAX => format!("events from {first} on are damaged"),
        last if last == first => format!("event {first} is damaged"),
        last => format!("events {first} to {last} are damaged"),
    };
    text.contains(&range)
}

/// Checks what a service says and serves; returns the full text of the status.
async fn check(node: &Node, client: &mut Client, case: &str, ranges: &[(u64, u64)]) {
    let (first, last) = ranges[0];
    let now = status(client).await;
    assert_eq!(now.writer(), pb::get_status_response::Writer::Damaged, "{case}: {now:?}");
    assert!(names(&now.damage, first, last), "{case}: {}", now.damage);
    assert_eq!(now.damage.contains("more range"), ranges.len() > 1, "{case}: {}", now.damage);
    let (state, why) = state(node).await;
    assert_eq!(state, kit::get_state_response::State::Degraded, "{case}: {why}");
    assert!(names(&why, first, last), "{case}: {why}");
    let error = append(client, "new").await.unwrap_err();
    assert_eq!(error.reason, "BUS_LOG_DAMAGED", "{case}: {error}");
    assert!(names(&error.message, first, last), "{case}: {error}");
    let mut next = 1;
    for (first, last) in ranges {
        if *first > next {
            let before = read(client, next, first - 1).await;
            assert_eq!(before, Ok((next..*first).collect()), "{case}");
            assert_eq!(get(client, first - 1).await, Ok(first - 1), "{case}");
        }
        for seq in [*first, (*last).min(EVENTS)] {
            let error = get(client, seq).await.unwrap_err();
            assert_eq!(error.reason, "BUS_LOG_DAMAGED", "{case}: event {seq}: {error}");
            assert!(names(&error.message, *first, *last), "{case}: {error}");
            let error = read(client, seq, 0).await.unwrap_err();
            assert_eq!(error.reason, "BUS_LOG_DAMAGED", "{case}: from {seq}: {error}");
        }
        next = last.saturating_add(1);
    }
    if next <= EVENTS {
        assert_eq!(read(client, next, 0).await, Ok((next..=EVENTS).collect()), "{case}");
        assert_eq!(get(client, next).await, Ok(next), "{case}");
    }
}

#[tokio::test]
async fn damage_is_named_at_every_start_and_the_rest_is_served() {
    let (mut node, mut client) = stopped().await;
    let log = Log::of(&node);
    assert!(log.segments().len() >= 3, "the log has several segments");
    assert!(log.segments().last().unwrap().0 < 230, "the active segment holds what the cases break");
    let bus = node.home().bus();
    let saved = node.home().root().join("saved");
    copy(&bus, &saved);
    for (case, damage) in CASES {
        fs::remove_dir_all(&bus).unwrap();
        copy(&saved, &bus);
        let ranges = damage(&log);
        let broken = log.contents();
        for start in 1..=3 {
            let case = format!("{case}, start {start}");
            node.launch("bus").await;
            check(&node, &mut client, &case, &ranges).await;
            node.stop("bus").await;
            assert!(log.contents() == broken, "{case}: the evidence was changed");
        }
    }
    node.expect_log("the log is damaged");
    node.finish().await;
}

/// A sealed segment is read when somebody asks for it, and its damage is met then.
#[tokio::test]
async fn damage_in_a_sealed_segment_is_met_by_its_reader() {
    let (mut node, mut client) = stopped().await;
    let log = Log::of(&node);
    let (first, _) = log.range(1);
    let seq = first + 10;
    log.change(seq, |b, _, end| b[end - 40] ^= 1);
    node.launch("bus").await;
    assert_eq!(append(&mut client, "id-251").await, Ok(EVENTS + 1));
    node.expect_log("the log is damaged");
    let error = read(&mut client, 1, 0).await.unwrap_err();
    assert_eq!(error.reason, "BUS_LOG_DAMAGED");
    wait("the state is degraded", async || match state(&node).await {
        (kit::get_state_response::State::Degraded, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let error = append(&mut client, "id-252").await.unwrap_err();
    assert!(error.reason == "BUS_LOG_DAMAGED" && names(&error.message, seq, seq), "{error}");
    assert_eq!(read(&mut client, 1, seq - 1).await, Ok((1..seq).collect()));
    assert_eq!(read(&mut client, seq + 1, 0).await, Ok((seq + 1..=EVENTS + 1).collect()));
    node.finish().await;
}

/// Files that somebody cuts or deletes while the service runs.
#[tokio::test]
async fn a_segment_that_goes_while_the_service_runs_is_named() {
    type Loss = fn(&Path);
    let cases: [(&str, Loss); 2] = [
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("cut", |path| {
            let bytes = fs::read(path).unwrap();
            let start = events(&bytes)[0];
            fs::write(path, &bytes[..start]).unwrap();
        }),
    ];
    for (case, damage) in cases {
        let (mut node, mut client) = stopped().await;
        let log = Log::of(&node);
        let (first, last) = log.range(1);
        node.launch("bus").await;
        damage(&log.segments()[1].1);
        node.expect_log("the log is damaged");
        let error = get(&mut client, first + 3).await.unwrap_err();
        assert!(error.reason == "BUS_LOG_DAMAGED" && names(&error.message, first, last), "{case}: {error}");
        assert_eq!(append(&mut client, "new").await.unwrap_err().reason, "BUS_LOG_DAMAGED", "{case}");
        assert_eq!(read(&mut client, last + 1, 0).await, Ok((last + 1..=EVENTS).collect()), "{case}");
        node.finish().await;
    }
}
