//! Power cuts while sealed segments are compressed and payloads in them erased: what was acknowledged is there, and what
//! was erased is not.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mirror_bus::RealDisk;
use mirror_bus::bench::Engine;
use mirror_types::Subject;

use crate::disk::{PowerCutDisk, Rng, World};
use crate::{config, id, origin, payload, rounds};

const CHILD: &str = "MIRROR_COLD_CHILD";

/// Says a line in one piece, which a kill does not tear.
fn tell(pipe: &mut UnixStream, line: &str) {
    assert_eq!(pipe.write(line.as_bytes()).unwrap(), line.len());
}

/// The process that writes, compresses and erases; on its own it has nothing to do.
#[test]
fn cold_process() {
    let Ok(root) = std::env::var(CHILD) else { return };
    let world = World::at(root.as_ref());
    let disk = PowerCutDisk::new(world.clone());
    let [stop, start] = ["stop", "starts"].map(|name| std::fs::read_to_string(world.part(name)).unwrap());
    disk.stop_at(stop.parse().unwrap());
    let (engine, _) = Engine::open(&world.live(), &origin(&world), &config(), Arc::new(disk)).unwrap();
    let pipe: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut pipe = UnixStream::from(pipe);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let subject = Subject::parse("local.cold").unwrap();
    for n in start.parse::<u64>().unwrap().. {
        let id = id(0, n);
        let seq = runtime.block_on(engine.append(&subject, Some(&id), payload(&id).into())).unwrap();
        tell(&mut pipe, &format!("a {seq} {n}\n"));
        if n % 40 == 39 {
            engine.compress().unwrap();
        }
        if n % 50 == 49 && seq > 30 {
            let target = 1 + Rng(n).below(seq - 20);
            tell(&mut pipe, &format!("r {target} 0\n"));
            // What the bus itself recorded is never erased.
            if engine.redact(&[target]).is_ok() {
                tell(&mut pipe, &format!("d {target} 0\n"));
            }
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    /// Acknowledged: sequence to id.
    acked: BTreeMap<u64, String>,
    /// Whose erasure was begun, and whether it was acknowledged.
    erased: BTreeMap<u64, bool>,
    next: u64,
}

fn run(world: &World, known: &mut Known, operations: u64) -> Result<(), String> {
    std::fs::write(world.part("stop"), operations.to_string()).unwrap();
    std::fs::write(world.part("starts"), known.next.to_string()).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let errors = std::fs::File::create(world.part("errors")).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["cold::cold_process", "--exact", "--nocapture"])
        .env(CHILD, world.part(""))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .unwrap();
    let mut killed = false;
    for line in BufReader::new(ours).lines() {
        let Ok(line) = line else { break };
        let parts: Vec<&str> = line.split(' ').collect();
        match parts[..] {
            ["a", seq, n] => {
                let n: u64 = n.parse().unwrap();
                known.acked.insert(seq.parse().unwrap(), id(0, n));
                known.next = n + 1;
            }
            ["r", seq, _] => drop(known.erased.entry(seq.parse().unwrap()).or_insert(false)),
            ["d", seq, _] => drop(known.erased.insert(seq.parse().unwrap(), true)),
            _ => {
                killed = true;
                child.kill().unwrap();
            }
        }
    }
    let _ = child.kill();
    child.wait().unwrap();
    if killed {
        return Ok(());
    }
    Err(format!("the process ended by itself: {}", std::fs::read_to_string(world.part("errors")).unwrap()))
}

/// Opens what is left and compares it with what is known; returns how many segments are compressed.
fn check(world: &World, known: &Known) -> Result<usize, String> {
    let live = world.live();
    let (engine, found) =
        Engine::open(&live, &origin(world), &config(), Arc::new(RealDisk)).map_err(|e| e.to_string())?;
    if !engine.damage().is_empty() || found.contains("lost: ") && !found.contains("lost: 0") {
        return Err(format!("recovery found {found}, {}", engine.damage()));
    }
    let all = engine.all().map_err(|e| e.to_string())?;
    for (seq, id) in &known.acked {
        let Some((stored, bytes)) = all.get(usize::try_from(seq - 1).unwrap()) else {
            return Err(format!("event {seq} was acknowledged and is lost"));
        };
        let whole = *bytes == payload(id).into_bytes();
        let begun = known.erased.get(seq);
        let right = match begun {
            None => whole,
            Some(true) => bytes.is_empty(),
            Some(false) => whole || bytes.is_empty(),
        };
        if stored != id || !right {
            return Err(format!("event {seq} is {stored} of {} bytes, erased: {begun:?}", bytes.len()));
        }
    }
    engine.close();
    drop(engine);
    let dir = live.join("log").join(origin(world).as_str());
    let generations = std::fs::read_to_string(dir.join("generations")).unwrap_or_default();
    if generations.lines().any(|line| line.ends_with(['1', '3', '5', '7', '9'])) {
        return Err(format!("a change is taken for unfinished: {generations}"));
    }
    let names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    if let Some(left) = names.iter().find(|name| name.ends_with(".tmp")) {
        return Err(format!("{left} is left"));
    }
    let packed = names.iter().filter(|name| name.ends_with(".zst"));
    let twice = packed.clone().find(|name| names.contains(&name.replace(".zst", "")));
    if let Some(twice) = twice {
        return Err(format!("{twice} stands beside its plain form"));
    }
    let report = mirror_verify::verify(&live, &mut |_| {}).map_err(|e| e.to_string())?;
    if report.severity() > mirror_verify::Severity::Notice {
        return Err(format!("the independent reader finds damage: {report:?}"));
    }
    world.settle();
    Ok(packed.count())
}

#[test]
fn power_cuts_while_segments_are_compressed_and_erased_lose_nothing() {
    let (mut packed, mut acked, mut erased) = (0, 0, 0);
    for seed in 0..rounds(3) {
        let temp = tempfile::tempdir().unwrap();
        let world = World::new(temp.path());
        let mut rng = Rng(seed + 77);
        let mut known = Known::default();
        for step in 0..5 {
            let at = format!("seed {seed}, step {step}");
            run(&world, &mut known, 150 + rng.below(350)).map_err(|e| format!("{at}: {e}")).unwrap();
            if step == 4 || rng.below(3) > 0 {
                world.power_cut(&mut rng);
                packed += check(&world, &known).map_err(|e| format!("{at}: {e}")).unwrap();
            }
        }
        acked += known.acked.len();
        erased += known.erased.len();
    }
    println!("{acked} acknowledged, {erased} erasures, {packed} compressed segments met after a cut");
    assert!(packed > 0 && erased > 0, "{packed} compressed, {erased} erased");
}
