//! A real bus process in a home of its own, with producers on its socket, and the check of what they were promised.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "this module only runs in tests, where a panic is the report"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use futures::StreamExt as _;
use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_errors::Remote;
use mirror_kit::{Channel, SocketDial};
use mirror_paths::Home;
use mirror_testkit::{wait, wait_for};
use nix::sys::signal::Signal;

/// A client of the bus.
pub type Client = BusServiceClient<Channel>;

/// Small segments, so that they roll often; no reserve, so that only a fault says that the disk is full.
pub const CONFIG: &str = "[bus]\nsegment_first_kib = 64\nsegment_max_kib = 128\ndisk_reserve_mib = 0\n";

/// Exit code of a service that was asked to stop and drained: its keeper is to start it again.
pub const DRAINED: i32 = 75;

/// A home whose bus is a process of its own.
#[derive(Debug)]
pub struct Machine {
    temp: tempfile::TempDir,
    binary: PathBuf,
    starts: AtomicU64,
}

impl Machine {
    /// Returns a machine with an empty home, in which `binary` is `mirror`.
    pub fn new(binary: &str) -> Self {
        let temp = tempfile::Builder::new().prefix("mf").tempdir().unwrap();
        let machine = Self { temp, binary: binary.into(), starts: AtomicU64::new(0) };
        mirror_paths::private_dir(&machine.home()).unwrap();
        machine
    }

    /// Writes the configuration; it must be there before the first start.
    #[must_use]
    pub fn configured(self, config: &str) -> Self {
        fs::write(self.home().join("mirror.toml"), config).unwrap();
        self
    }

    /// Returns the home.
    pub fn home(&self) -> PathBuf {
        self.temp.path().join("h")
    }

    /// Returns the folder of the log.
    pub fn log(&self) -> PathBuf {
        let dirs = fs::read_dir(self.home().join("bus/log")).unwrap();
        dirs.flatten().next().unwrap().path()
    }

    fn plan_path(&self) -> PathBuf {
        self.temp.path().join("plan")
    }

    /// Replaces the plan of faults, and forgets which happened; no rules lift all faults.
    pub fn plan(&self, rules: &[&str]) {
        let _ = fs::remove_file(self.temp.path().join("plan.hits"));
        let temp = self.temp.path().join("plan.new");
        fs::write(&temp, rules.join("\n")).unwrap();
        fs::rename(temp, self.plan_path()).unwrap();
    }

    /// Returns how many faults have happened under the plan.
    pub fn hits(&self) -> usize {
        fs::read_to_string(self.temp.path().join("plan.hits")).unwrap_or_default().lines().count()
    }

    /// Starts the bus; with `shim` its file operations follow the plan.
    pub fn serve(&self, shim: bool) -> Served {
        let n = self.starts.fetch_add(1, SeqCst);
        let said = self.temp.path().join(format!("serve-{n}.err"));
        let mut command = Command::new(&self.binary);
        command.arg0("mirror").args(["serve", "bus"]).env("MIRROR_HOME", self.home());
        if shim {
            command.env("LD_PRELOAD", library()).env("MIRROR_FAULTS", self.plan_path());
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        Served { child: command.spawn().unwrap(), said }
    }

    /// Returns a client on a connection of its own.
    pub fn client(&self) -> Client {
        let dial = SocketDial::new(Home::at(self.home()).unwrap());
        BusServiceClient::new(mirror_kit::channel(Arc::new(dial), "bus"))
    }

    /// Returns whether a bus answers.
    pub async fn answers(&self) -> bool {
        let call = async { self.client().get_status(pb::GetStatusRequest {}).await.is_ok() };
        tokio::time::timeout(Duration::from_millis(200), call).await.unwrap_or(false)
    }

    /// Waits until a started bus answers, and panics with what it said when it ends instead.
    pub async fn ready(&self, served: &mut Served) -> Client {
        let mut client = self.client();
        wait("the bus answers", async || match client.get_status(pb::GetStatusRequest {}).await {
            Ok(_) => Ok(()),
            Err(e) => match served.child.try_wait() {
                Ok(None) => Err(e.to_string()),
                ended => panic!("the bus ended: {ended:?}: {}", served.said()),
            },
        })
        .await;
        client
    }
}

/// Returns the library that is preloaded; cargo leaves it beside the tests.
pub fn library() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let library = tests.parent().unwrap().join("libmirror_shim.so");
    assert!(library.is_file(), "{} is not there", library.display());
    library
}

/// A process that does not outlive the test.
#[derive(Debug)]
pub struct Served {
    child: Child,
    said: PathBuf,
}

impl Served {
    /// Kills it where it stands.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Returns what it said on its error output.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// Returns how it ended, or nothing while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended by itself.
    pub async fn end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for(Duration::from_secs(60), "the bus has ended", async || {
            status = self.ended();
            status.map(|_| ()).ok_or_else(|| "it runs".to_owned())
        })
        .await;
        status.unwrap()
    }

    /// Asks it to end, and waits until it has.
    pub async fn stop(&mut self) -> ExitStatus {
        mirror_testkit::fleet::send(self.child.id(), Signal::SIGTERM);
        self.end().await
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One producer: what it had acknowledged, by number, and the number it goes on with.
#[derive(Debug, Default)]
struct Producer {
    acked: BTreeMap<u64, u64>,
    next: u64,
}

/// Producers and what they were promised.
#[derive(Debug)]
pub struct Crowd {
    name: String,
    producers: Vec<Producer>,
    total: AtomicU64,
    refused: AtomicU64,
}

/// What a check counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Acknowledged events, all of which were there.
    pub acked: u64,
    /// Events that were there.
    pub stored: u64,
    /// Appends of unknown outcome that had been stored, and were found once when they were tried again.
    pub duplicates: u64,
}

impl Crowd {
    /// Returns so many producers.
    pub fn new(name: &str, producers: usize) -> Self {
        let producers = (0..producers).map(|_| Producer::default()).collect();
        Self { name: name.to_owned(), producers, total: AtomicU64::new(0), refused: AtomicU64::new(0) }
    }

    /// Returns how many appends were acknowledged.
    pub fn acked(&self) -> u64 {
        self.total.load(SeqCst)
    }

    /// Lets all append until `until` is done, or until their calls fail; returns why they failed.
    ///
    /// A refusal because the disk is full is no failure: the producer tries again.
    pub async fn press(
        &mut self,
        machine: &Machine,
        until: impl AsyncFnOnce(&Progress<'_>),
    ) -> BTreeSet<String> {
        let stop = AtomicBool::new(false);
        let (name, total, refused) = (self.name.clone(), &self.total, &self.refused);
        let appending = self.producers.iter_mut().enumerate().map(|(i, producer)| {
            let (client, name, stop) = (machine.client(), name.as_str(), &stop);
            async move { producer.append(name, i, client, stop, (total, refused)).await }
        });
        let work = async {
            let why: Vec<String> = futures::future::join_all(appending).await.into_iter().flatten().collect();
            why
        };
        let progress = Progress { acked: total, refused };
        let limit = async {
            until(&progress).await;
            stop.store(true, SeqCst);
        };
        tokio::pin!(work, limit);
        let mut limited = false;
        loop {
            tokio::select! {
                why = &mut work => return why.into_iter().collect(),
                () = &mut limit, if !limited => limited = true,
            }
        }
    }

    /// Checks that everything that was acknowledged is there, where it was said to be and as it was handed in, and once.
    ///
    /// Tries the appends of unknown outcome again.
    pub async fn check(&mut self, client: &mut Client) -> Count {
        let status = client.get_status(pb::GetStatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.damage, "", "the log is damaged");
        let stored = self.read(client).await;
        let mut count = Count { acked: self.acked(), stored: stored.len() as u64, duplicates: 0 };
        let name = self.name.clone();
        for (i, producer) in self.producers.iter_mut().enumerate() {
            for (n, seq) in &producer.acked {
                let id = id(&name, i, *n);
                let there = stored.get(&id).copied();
                assert_eq!(there, Some(*seq), "{id} was acknowledged as {seq}: LOST");
            }
            let next = id(&name, i, producer.next);
            let ack = append(client, &next).await.unwrap_or_else(|e| panic!("{next}: {e}"));
            assert_eq!(ack.duplicate, stored.contains_key(&next), "{next}");
            assert!(!ack.duplicate || stored[&next] == ack.seq, "{next}");
            count.duplicates += u64::from(ack.duplicate);
            producer.acked.insert(producer.next, ack.seq);
            producer.next += 1;
            self.total.fetch_add(1, SeqCst);
        }
        count
    }

    /// Reads the whole log: id to position.
    async fn read(&self, client: &mut Client) -> BTreeMap<String, u64> {
        let mut stored = BTreeMap::new();
        let mut stream = client.read(pb::ReadRequest::default()).await.unwrap().into_inner();
        let mut next = 1;
        while let Some(answer) = stream.next().await {
            for event in answer.unwrap().events {
                assert_eq!(event.seq, next, "no gap and no repeat");
                next += 1;
                if event.subject == "local.fault" {
                    assert_eq!(event.payload, payload(&event.id), "{}", event.id);
                    let other = stored.insert(event.id.clone(), event.seq);
                    assert_eq!(other, None, "{} is stored twice", event.id);
                }
            }
        }
        stored
    }
}

/// What producers have come to.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    acked: &'a AtomicU64,
    refused: &'a AtomicU64,
}

impl Progress<'_> {
    /// Waits until so many more appends are acknowledged.
    pub async fn more(&self, n: u64) {
        let limit = self.acked.load(SeqCst) + n;
        wait("appends are acknowledged", async || match self.acked.load(SeqCst) {
            now if now >= limit => Ok(()),
            now => Err(format!("{now} of {limit}")),
        })
        .await;
    }

    /// Waits until an append is refused because the disk is full.
    pub async fn refusal(&self) {
        let before = self.refused.load(SeqCst);
        wait("an append is refused", async || match self.refused.load(SeqCst) {
            now if now > before => Ok(()),
            _ => Err("none was".to_owned()),
        })
        .await;
    }
}

fn id(name: &str, producer: usize, n: u64) -> String {
    format!("{name}-{producer}-{n}")
}

/// Returns the payload of an id: a size that the id decides, up to three KiB.
fn payload(id: &str) -> String {
    let len = crc32c::crc32c(id.as_bytes()) % 3_000;
    format!("\"{id}{}\"", "x".repeat(len as usize))
}

/// Appends one event; the error is the service's reason, empty when it could not be reached.
async fn append(client: &mut Client, id: &str) -> Result<pb::Ack, String> {
    let event = pb::NewEvent {
        subject: "local.fault".to_owned(),
        payload: payload(id).into(),
        r#type: pb::PayloadType::Json.into(),
        id: id.to_owned(),
        ..Default::default()
    };
    let answer = client.append(pb::AppendRequest { event: Some(event), expect: None }).await;
    match answer {
        Ok(answer) => Ok(answer.into_inner().ack.unwrap()),
        Err(status) => Err(Remote::from_status(&status).reason),
    }
}

impl Producer {
    /// Appends until it is to stop or a call fails; returns the reason.
    async fn append(
        &mut self,
        name: &str,
        number: usize,
        mut client: Client,
        stop: &AtomicBool,
        (total, refused): (&AtomicU64, &AtomicU64),
    ) -> Option<String> {
        while !stop.load(SeqCst) {
            let id = id(name, number, self.next);
            // A call under way when the process dies must end by itself.
            let call = tokio::time::timeout(Duration::from_secs(30), append(&mut client, &id));
            match call.await.unwrap_or_else(|_| panic!("{id} has no answer")) {
                Ok(ack) => {
                    let other = self.acked.insert(self.next, ack.seq);
                    assert_eq!(other, None, "{id} is acknowledged twice");
                    self.next += 1;
                    total.fetch_add(1, SeqCst);
                }
                Err(reason) if reason == "BUS_DISK_RESERVE" => {
                    refused.fetch_add(1, SeqCst);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(reason) if reason.is_empty() => return Some("AWAY".to_owned()),
                Err(reason) => return Some(reason),
            }
        }
        None
    }
}

/// Verifies a bus folder with the reader that shares no code with the bus.
pub fn verify(bus: &Path) -> mirror_verify::Report {
    mirror_verify::verify(bus, &mut |_| {}).unwrap()
}
