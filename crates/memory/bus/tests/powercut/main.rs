//! Power cuts: a process writes on a disk that forgets what was not synced, another process keeps the acknowledgements.
//!
//! `MIRROR_TEST_ROUNDS` multiplies the rounds for a long run.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod cold;
mod disk;
mod erased;
mod fanout;
mod kill;

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use disk::{PowerCutDisk, Rng, World};
use erased::Erased;
use mirror_bus::bench::Engine;
use mirror_bus::{Config, RealDisk};
use mirror_types::{Origin, Subject};

const CHILD: &str = "MIRROR_POWERCUT_CHILD";

/// Returns the origin that `node.json` names.
fn origin(world: &World) -> Origin {
    let text = std::fs::read(world.live().join("node.json")).unwrap();
    let node: serde_json::Value = serde_json::from_slice(&text).unwrap();
    Origin::parse(node["origin"].as_str().unwrap()).unwrap()
}

fn config() -> Config {
    Config { segment_first_kib: 64, segment_max_kib: 128, disk_reserve_mib: 0, ..Config::default() }
}

/// Returns how many rounds to run.
pub(crate) fn rounds(normal: u64) -> u64 {
    let factor = std::env::var("MIRROR_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    normal * factor
}

fn id(producer: usize, n: u64) -> String {
    format!("p{producer}-{n}")
}

fn payload(id: &str) -> String {
    let len = Rng(crc32c::crc32c(id.as_bytes()).into()).below(1_500);
    format!("{{\"id\":\"{id}\",\"x\":\"{}\"}}", "x".repeat(usize::try_from(len).unwrap()))
}

/// The process that writes; on its own it has nothing to do.
#[test]
fn writer_process() {
    let Ok(root) = std::env::var(CHILD) else { return };
    let world = World::at(root.as_ref());
    let disk = match world.part("lying").exists() {
        true => PowerCutDisk::lying(world.clone()),
        false => PowerCutDisk::new(world.clone()),
    };
    let stop = std::fs::read_to_string(world.part("stop")).unwrap();
    disk.stop_at(stop.parse().unwrap());
    let (engine, _) = Engine::open(&world.live(), &origin(&world), &config(), Arc::new(disk)).unwrap();
    let pipe: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let pipe = Mutex::new(UnixStream::from(pipe));
    let starts = std::fs::read_to_string(world.part("starts")).unwrap();
    let known = Mutex::new(erased::known(&world));
    let subject = Subject::parse("local.cut").unwrap();
    let producers = starts.lines().enumerate().map(|(producer, start)| {
        let (engine, pipe, subject, start) = (&engine, &pipe, &subject, start.parse::<u64>().unwrap());
        let known = &known;
        async move {
            for n in start.. {
                let id = id(producer, n);
                let seq = engine.append(subject, Some(&id), payload(&id).into()).await.unwrap();
                pipe.lock().unwrap().write_all(format!("{seq} {producer} {n}\n").as_bytes()).unwrap();
                known.lock().unwrap().push(seq);
            }
        }
    });
    std::thread::scope(|scope| {
        scope.spawn(|| erased::redact(&engine, &pipe, &known));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(futures::future::join_all(producers));
    });
}

/// What the second process knows.
#[derive(Debug)]
struct Ledger {
    world: World,
    /// Acknowledged: sequence to id.
    acked: BTreeMap<u64, String>,
    /// The number each producer goes on with: its oldest that is not acknowledged.
    starts: Vec<u64>,
    erased: Erased,
}

impl Ledger {
    fn new(world: World, producers: usize) -> Self {
        Self { world, acked: BTreeMap::new(), starts: vec![0; producers], erased: Erased::default() }
    }

    /// Runs the writer until it has done so many operations on its disk, kills it there, and notes what it acknowledged.
    fn run(&mut self, operations: u64) -> Result<(), String> {
        std::fs::write(self.world.part("stop"), operations.to_string()).unwrap();
        let starts: String = self.starts.iter().map(|n| format!("{n}\n")).collect();
        std::fs::write(self.world.part("starts"), starts).unwrap();
        self.erased.offer(&self.world, self.acked.keys());
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let errors = std::fs::File::create(self.world.part("errors")).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["writer_process", "--exact", "--nocapture"])
            .env(CHILD, self.world.part(""))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        let mut count = 0;
        let mut killed = false;
        let mut result = Ok(());
        for line in BufReader::new(ours).lines() {
            let Ok(line) = line else { break };
            if line == "stopped" {
                killed = true;
                child.kill().unwrap();
                continue;
            }
            if self.erased.note(&line) {
                continue;
            }
            let fields: Vec<u64> = line.split(' ').map_while(|f| f.parse().ok()).collect();
            let [seq, producer, n] = fields[..] else { break };
            let producer = usize::try_from(producer).unwrap();
            let id = id(producer, n);
            if let Some(other) = self.acked.insert(seq, id.clone())
                && result.is_ok()
            {
                result = Err(format!("{id} was acknowledged as {seq}, which is {other}"));
            }
            self.starts[producer] = n + 1;
            count += 1;
        }
        let _ = child.kill();
        child.wait().unwrap();
        if !killed {
            let errors = std::fs::read_to_string(self.world.part("errors")).unwrap();
            return Err(format!("the writer ended by itself after {count} acknowledgements: {errors}"));
        }
        result
    }

    /// Opens what is left and compares it with what was acknowledged.
    fn check(&mut self) -> Result<bool, String> {
        let live = self.world.live();
        let report = mirror_verify::verify(&live, &mut |_| {}).map_err(|e| e.to_string())?;
        if report.severity() > mirror_verify::Severity::TornTail {
            return Err(format!("the independent reader finds damage: {report:?}"));
        }
        let (engine, found) = Engine::open(&live, &origin(&self.world), &config(), Arc::new(RealDisk))
            .map_err(|e| e.to_string())?;
        let result = self.erased.settle(&engine).and_then(|()| self.compare(&engine, &found));
        engine.close();
        result?;
        let report = mirror_verify::verify(&live, &mut |_| {}).map_err(|e| e.to_string())?;
        if !report.is_intact() {
            return Err(format!("the independent reader finds damage after recovery: {report:?}"));
        }
        self.erased.is_nowhere(&live, &self.acked)?;
        self.world.settle();
        Ok(found.contains("torn: Some"))
    }

    fn compare(&self, engine: &Engine, found: &str) -> Result<(), String> {
        if !engine.damage().is_empty() || found.contains("lost: ") && !found.contains("lost: 0") {
            return Err(format!("recovery found {found}"));
        }
        let head = engine.state().0;
        let mut ids = HashSet::new();
        let all = engine.all().map_err(|e| e.to_string())?;
        if let Some((id, _)) = all.iter().find(|(id, _)| !ids.insert(id)) {
            return Err(format!("{id} is stored twice"));
        }
        for (seq, id) in &self.acked {
            let Some((stored, bytes)) = all.get(usize::try_from(seq - 1).unwrap()) else {
                return Err(format!("event {seq} ({id}) was acknowledged and is lost; the head is {head}"));
            };
            if stored != id || *bytes != payload(id).into_bytes() && !self.erased.holds(*seq) {
                return Err(format!("event {seq} was acknowledged as {id} and is now {stored}"));
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let subject = Subject::parse("local.after").unwrap();
        let next = runtime.block_on(engine.append(&subject, None, "1".into())).map_err(|e| e.to_string())?;
        if next == head + 1 { Ok(()) } else { Err(format!("the event after {head} became {next}")) }
    }
}

#[derive(Debug, Default)]
struct Figures {
    acked: usize,
    cuts: u64,
    kills: u64,
    torn: u64,
    redactions: u64,
    finished: u64,
}

/// Runs one machine through crashes and power cuts.
fn machine(seed: u64, honest: bool) -> Result<Figures, String> {
    let temp = tempfile::tempdir().unwrap();
    let world = World::new(temp.path());
    if !honest {
        std::fs::write(world.part("lying"), "").unwrap();
    }
    let mut rng = Rng(seed);
    let producers = 16 + usize::try_from(rng.below(49)).unwrap();
    let mut ledger = Ledger::new(world, producers);
    let mut figures = Figures::default();
    for step in 0..4 {
        ledger.run(10 + rng.below(150)).map_err(|e| format!("seed {seed}, step {step}: {e}"))?;
        figures.kills += 1;
        // Now and then only the process dies, and the next one meets what is not on the disk yet.
        if step == 3 || rng.below(3) > 0 {
            ledger.world.power_cut(&mut rng);
            figures.cuts += 1;
            let torn = ledger.check().map_err(|e| format!("seed {seed}, step {step}: {e}"))?;
            figures.torn += u64::from(torn);
        }
    }
    figures.acked = ledger.acked.len();
    (figures.redactions, figures.finished) = (ledger.erased.acked, ledger.erased.finished);
    Ok(figures)
}

#[test]
fn what_was_acknowledged_survives_every_power_cut() {
    let mut total = Figures::default();
    for seed in 0..rounds(20) {
        let figures = machine(seed, true).unwrap();
        total.acked += figures.acked;
        total.cuts += figures.cuts;
        total.kills += figures.kills;
        total.torn += figures.torn;
        total.redactions += figures.redactions;
        total.finished += figures.finished;
    }
    println!("{total:?}");
    assert!(total.torn > 0, "some cuts tore a tail, else the harness shows nothing: {total:?}");
    assert!(total.redactions > 0 && total.finished > 0, "some cuts fell into a redaction: {total:?}");
}

#[test]
fn the_harness_sees_a_disk_that_does_not_sync() {
    let losses: Vec<String> = (1000..1004).filter_map(|seed| machine(seed, false).err()).collect();
    assert!(!losses.is_empty(), "a disk that never syncs must lose acknowledged events");
    assert!(losses.iter().any(|l| l.contains("lost") || l.contains("damage")), "{losses:?}");
}

/// Appends, loses a sync, opens again, has the retry acknowledged, and cuts the power at once or after one more event.
fn check_retry_after_a_lost_sync(forget: bool, more: bool, seed: u64) {
    let temp = tempfile::tempdir().unwrap();
    let world = World::new(temp.path());
    let disk = PowerCutDisk::new(world.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let subject = Subject::parse("local.cut").unwrap();
    let open = |disk| Engine::open(&world.live(), &origin(&world), &config(), disk).unwrap();
    let append = |engine: &Engine, id: &str| runtime.block_on(engine.append(&subject, Some(id), "1".into()));
    let (engine, _) = open(Arc::new(disk.clone()));
    assert_eq!(append(&engine, "a").unwrap(), 1);
    disk.fail_next_sync(forget);
    append(&engine, "b").unwrap_err();
    drop(engine);
    let (engine, _) = open(Arc::new(disk));
    assert_eq!(append(&engine, "b").unwrap(), 2, "the event was read back, so its retry is acknowledged");
    if more {
        assert_eq!(append(&engine, "c").unwrap(), 3);
    }
    drop(engine);
    world.power_cut(&mut Rng(seed));
    let (engine, found) = open(Arc::new(RealDisk));
    assert_eq!((engine.damage().as_str(), found.as_str()), ("", ""));
    let ids: Vec<String> = engine.all().unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, if more { vec!["a", "b", "c"] } else { vec!["a", "b"] });
}

/// What a process that ended between write and sync leaves is in memory only; after a failed sync the system even takes
/// it for clean, and syncing it again does nothing.
#[test]
fn what_recovery_reads_is_made_durable_before_it_is_believed() {
    for seed in 0..8 {
        for (forget, more) in [(false, false), (false, true), (true, false), (true, true)] {
            check_retry_after_a_lost_sync(forget, more, seed);
        }
    }
}
