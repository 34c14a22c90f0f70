//! SIGKILL of a real service with 64 producers on its socket.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::StreamExt as _;
use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_kit::{App, Channel, SocketDial};
use mirror_paths::Home;
use tokio::sync::watch;

use crate::disk::Rng;
use crate::rounds;

const CHILD: &str = "MIRROR_KILL_CHILD";

/// Producers that append one by one, and such that stream.
const UNARY: usize = 60;
const STREAMS: usize = 4;

static APP: App = App { build: "test", services: &[&mirror_bus::SERVICE], jobs: &[] };

/// Returns how often the service is killed: `MIRROR_KILL_ROUNDS`, or what the other tests' factor makes of 50.
fn kills() -> u64 {
    std::env::var("MIRROR_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or_else(|| rounds(50))
}

/// The service; on its own it has nothing to do.
#[test]
fn service_process() {
    if std::env::var_os(CHILD).is_some() {
        assert_eq!(mirror_kit::main(&APP, &mirror_bus::SERVICE), ExitCode::SUCCESS);
    }
}

/// A process that does not outlive the test.
pub(crate) struct Served(Child);

impl Served {
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn serve(home: &Path) -> Served {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["kill::service_process", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .env("MIRROR_HOME", home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Served(child)
}

pub(crate) type Client = BusServiceClient<Channel>;

pub(crate) fn connect(home: &Path) -> Client {
    let dial = SocketDial::new(Home::at(home).unwrap());
    BusServiceClient::new(mirror_kit::channel(Arc::new(dial), "bus"))
}

fn event(id: &str) -> pb::NewEvent {
    pb::NewEvent {
        subject: "local.kill".to_owned(),
        payload: format!("\"{id}\"").into(),
        r#type: pb::PayloadType::Json.into(),
        id: id.to_owned(),
        ..Default::default()
    }
}

/// One producer: what it had acknowledged, by number, and the number it goes on with.
#[derive(Debug, Default)]
struct Producer {
    acked: BTreeMap<u64, u64>,
    next: u64,
    /// Retries that had been stored before the kill.
    duplicates: u64,
}

fn id(producer: usize, n: u64) -> String {
    format!("k{producer}-{n}")
}

impl Producer {
    async fn append(&mut self, number: usize, mut client: Client, total: &AtomicU64) {
        loop {
            let request = pb::AppendRequest { event: Some(event(&id(number, self.next))), expect: None };
            let answer = match client.append(request).await {
                Ok(answer) => answer,
                // The streams have filled the queue; they leave room as the writer goes on.
                Err(e) if e.code() == tonic::Code::ResourceExhausted => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Err(_) => return,
            };
            let ack = answer.into_inner().ack.unwrap();
            self.duplicates += u64::from(ack.duplicate);
            self.acked.insert(self.next, ack.seq);
            self.next += 1;
            total.fetch_add(1, Relaxed);
        }
    }

    /// Streams a hundred groups of three; what is not acknowledged is sent again in the next round.
    async fn stream(&mut self, number: usize, mut client: Client, total: &AtomicU64) {
        let from = self.next;
        let messages = (0..100).map(move |group: u64| {
            let events = (0..3).map(|n| event(&id(number, from + group * 3 + n))).collect();
            pb::AppendStreamRequest { events }
        });
        let Ok(answers) = client.append_stream(futures::stream::iter(messages)).await else { return };
        let mut answers = answers.into_inner();
        while let Some(Ok(answer)) = answers.next().await {
            let upto = from + answer.count;
            total.fetch_add(upto - self.next, Relaxed);
            // The positions in between are found by id when the log is read.
            self.acked.extend((self.next..upto).map(|n| (n, 0)));
            self.acked.insert(upto - 1, answer.last_seq);
            self.next = upto;
        }
    }
}

/// Reads the whole log: id to position.
async fn read_all(client: &mut Client) -> BTreeMap<String, u64> {
    let mut stored = BTreeMap::new();
    let mut stream = client.read(pb::ReadRequest::default()).await.unwrap().into_inner();
    let mut next = 1;
    while let Some(answer) = stream.next().await {
        for event in answer.unwrap().events {
            assert_eq!(event.seq, next, "no gap and no repeat");
            next += 1;
            if event.subject == "local.kill" {
                assert_eq!(event.payload, format!("\"{}\"", event.id));
                let other = stored.insert(event.id.clone(), event.seq);
                assert_eq!(other, None, "{} is stored twice", event.id);
            }
        }
    }
    stored
}

pub(crate) async fn ready(client: &mut Client) {
    mirror_testkit::wait("the bus answers", async || {
        match client.get_status(pb::GetStatusRequest {}).await {
            Ok(_) => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_sigkill_with_64_producers() {
    let temp = tempfile::Builder::new().prefix("mk").tempdir().unwrap();
    let home = temp.path().join("h");
    mirror_paths::private_dir(&home).unwrap();
    std::fs::write(home.join("mirror.toml"), "[bus]\nsegment_first_kib = 64\nsegment_max_kib = 1024\n")
        .unwrap();
    let mut producers: Vec<Producer> = (0..UNARY + STREAMS).map(|_| Producer::default()).collect();
    let mut rng = Rng(std::process::id().into());
    let total = AtomicU64::new(0);
    let kills = kills();
    for round in 0..kills {
        let mut child = serve(&home);
        let client = connect(&home);
        ready(&mut client.clone()).await;
        let limit = total.load(Relaxed) + 1 + rng.below(500);
        let (dead, died) = watch::channel(false);
        let running = producers.iter_mut().enumerate().map(|(number, producer)| {
            // A connection each for some, a shared one for the others.
            let client = if number % 4 == 0 { connect(&home) } else { client.clone() };
            let (total, mut died) = (&total, died.clone());
            async move {
                let work = async {
                    if number < UNARY {
                        producer.append(number, client, total).await;
                    } else {
                        producer.stream(number, client, total).await;
                    }
                };
                // A call under way when the process dies must end by itself.
                let end = async {
                    let _ = died.wait_for(|dead| *dead).await;
                    tokio::time::sleep(Duration::from_secs(10)).await;
                };
                tokio::select! { () = work => {}, () = end => panic!("producer {number} hangs in round {round}") }
            }
        });
        let killing = async {
            mirror_testkit::wait("enough is acknowledged", async || match total.load(Relaxed) {
                n if n >= limit => Ok(()),
                n => Err(format!("{n} of {limit}")),
            })
            .await;
            child.kill();
            dead.send_replace(true);
        };
        tokio::join!(futures::future::join_all(running), killing);
    }

    let mut child = serve(&home);
    let mut client = connect(&home);
    ready(&mut client).await;
    let before = read_all(&mut client).await;
    let mut unknown_but_stored = 0;
    for (number, producer) in producers.iter_mut().enumerate() {
        for (n, seq) in &producer.acked {
            let stored = before.get(&id(number, *n)).copied();
            let kept = stored.is_some_and(|s| *seq == 0 || s == *seq);
            assert!(kept, "{} was acknowledged as {seq} and is {stored:?}", id(number, *n));
        }
        // The outcome of this one is unknown; once retried it is there exactly once.
        let next = id(number, producer.next);
        let request = pb::AppendRequest { event: Some(event(&next)), expect: None };
        let ack = client.append(request).await.unwrap().into_inner().ack.unwrap();
        assert_eq!(ack.duplicate, before.contains_key(&next));
        assert!(!ack.duplicate || before[&next] == ack.seq);
        unknown_but_stored += u64::from(ack.duplicate);
    }
    let after = read_all(&mut client).await;
    assert_eq!(after.len() as u64, before.len() as u64 + producers.len() as u64 - unknown_but_stored);
    child.kill();
    let report = mirror_verify::verify(&home.join("bus"), &mut |_| {}).unwrap();
    assert!(report.severity() <= mirror_verify::Severity::TornTail, "{report:?}");
    let duplicates: u64 = producers.iter().map(|p| p.duplicates).sum();
    let (acked, stored) = (total.load(Relaxed), after.len());
    println!(
        "{kills} kills: {acked} acknowledged, 0 lost, {stored} stored, {duplicates} retries had been stored before their kill"
    );
}
