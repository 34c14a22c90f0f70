//! Compressed segments: the same bytes, read by anything, kept by every crash, and damage in them named.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mirror_bus::bench::Engine;
use mirror_bus::{Config, RealDisk};
use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_testkit::{Sandbox, wait};
use mirror_types::Subject;

use crate::damage::{append as call, status};
use crate::{Place, Rng, events, origin, rounds};

/// Appends many events, several in one write.
pub(crate) fn fill(engine: &Engine, from: u64, to: u64, len: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let subject = Subject::parse("local.note").unwrap();
    let numbers: Vec<u64> = (from..=to).collect();
    for some in numbers.chunks(50) {
        let appends = some.iter().map(|n| {
            let payload = format!("\"id-{n} {}\"", "x".repeat(len));
            let (engine, subject) = (engine, &subject);
            async move { engine.append(subject, Some(&format!("id-{n}")), payload.into()).await.unwrap() }
        });
        runtime.block_on(futures::future::join_all(appends));
    }
}

/// The files of a log, by name.
pub(crate) fn files(place: &Place) -> Vec<(String, PathBuf)> {
    let dir = place.segment(1).parent().unwrap().to_owned();
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| name.contains(".seg"))
        .collect();
    found.sort();
    found
}

fn names(place: &Place) -> Vec<String> {
    files(place).into_iter().map(|(name, _)| name).collect()
}

/// A log with several frames in a segment.
pub(crate) fn large(place: &Place) -> Engine {
    let config = Config { segment_first_kib: 1_300, segment_max_kib: 1_300, ..crate::config() };
    Engine::open(&place.bus(), &origin(), &config, Arc::new(RealDisk)).unwrap().0
}

#[test]
fn a_compressed_segment_has_the_bytes_of_the_plain_one() {
    let place = Place::new();
    let engine = large(&place);
    fill(&engine, 1, 500, 6_000);
    let before = engine.all().unwrap();
    let plain: Vec<(String, Vec<u8>)> =
        files(&place).into_iter().map(|(name, path)| (name, fs::read(path).unwrap())).collect();
    assert!(plain.len() >= 3 && plain[0].1.len() > 1 << 20, "several segments of several frames");
    let sealed = u32::try_from(plain.len() - 1).unwrap();
    assert_eq!(engine.compress(), Ok(sealed));
    assert_eq!(engine.compress(), Ok(0), "it is idempotent");
    let (active, packed) = plain.split_last().unwrap();
    assert!(place.segment(1).parent().unwrap().join(&active.0).exists(), "the active segment stays");
    let zstdcat = Command::new("zstdcat").arg("--version").output().is_ok();
    for (name, bytes) in packed {
        let path = place.segment(1).with_file_name(format!("{name}.zst"));
        assert!(!place.segment(1).with_file_name(name).exists());
        let mut back = Vec::new();
        zstd::stream::Decoder::new(File::open(&path).unwrap()).unwrap().read_to_end(&mut back).unwrap();
        assert!(back == *bytes, "{name}: a streaming decoder reads the plain bytes");
        if zstdcat {
            let said = Command::new("zstdcat").arg(&path).output().unwrap();
            assert!(said.status.success() && said.stdout == *bytes, "{name}: zstdcat");
        }
        let ratio = bytes.len() as u64 / fs::metadata(&path).unwrap().len();
        println!("{name}: {} bytes, a {ratio}th compressed", bytes.len());
    }
    if !zstdcat {
        println!("SKIPPED: zstdcat is not installed");
    }
    assert!(engine.all().unwrap() == before, "all is read as before");
    assert_eq!(engine.get(17).unwrap().0, "id-17");
    drop(engine);
    let engine = large(&place);
    assert_eq!(engine.damage(), "");
    assert!(engine.all().unwrap() == before, "and after the next start");
    fill(&engine, 1, 10, 6_000);
    assert_eq!(engine.state().0, 500, "their ids are known");
    drop(engine);
    let report = mirror_verify::verify(&place.bus(), &mut |_| {}).unwrap();
    assert_eq!(report.origins[0].findings, [], "the independent reader agrees");
}

/// What a crash leaves between the steps of a compression, made by hand.
/// A first write that is larger than the first segment leaves no empty segment before it, which upkeep would take for a
/// sealed one.
#[test]
fn a_first_write_larger_than_its_segment_stays_in_the_active_one() {
    let place = Place::new();
    let config = Config { segment_first_kib: 64, segment_max_kib: 64, ..crate::config() };
    let engine = Engine::open(&place.bus(), &origin(), &config, Arc::new(RealDisk)).unwrap().0;
    fill(&engine, 1, 1, 65_400);
    assert_eq!(engine.compress(), Ok(0), "the only segment is the active one");
    fill(&engine, 2, 60, 500);
    let before = engine.all().unwrap();
    assert_eq!(before.len(), 60);
    drop(engine);
    assert_eq!(names(&place), [format!("{:020}.seg", 1)]);
    let (engine, found) = Engine::open(&place.bus(), &origin(), &config, Arc::new(RealDisk)).unwrap();
    assert_eq!((engine.all().unwrap(), found), (before, String::new()));
}

#[test]
fn every_state_between_plain_and_compressed_reads_the_same() {
    let place = Place::new();
    let (engine, _) = place.open();
    fill(&engine, 1, 250, 300);
    let before = engine.all().unwrap();
    let plain: Vec<_> = files(&place).into_iter().map(|(n, p)| (n, fs::read(p).unwrap())).collect();
    assert!(engine.compress().unwrap() >= 2);
    drop(engine);
    let (name, bytes) = &plain[0];
    let zst = place.segment(1).with_file_name(format!("{name}.zst"));
    let packed = fs::read(&zst).unwrap();
    let generations = place.segment(1).with_file_name("generations");
    type Left<'a> = (&'a str, &'a dyn Fn(), bool);
    let (seg, temp) = (place.segment(1), zst.with_file_name(format!("{name}.zst.tmp")));
    let odd = || {
        let text = fs::read_to_string(&generations).unwrap().replacen(" 2\n", " 3\n", 1);
        fs::write(&generations, text).unwrap();
    };
    let cases: [Left<'_>; 5] = [
        (
            "half a compressed file beside the plain one",
            &|| {
                fs::write(&temp, &packed[..100]).unwrap();
                fs::rename(&zst, zst.with_extension("gone")).unwrap();
                fs::write(&seg, bytes).unwrap();
            },
            true,
        ),
        ("both", &|| fs::write(&seg, bytes).unwrap(), true),
        (
            "both, within the change, and the compressed one torn",
            &|| {
                fs::write(&seg, bytes).unwrap();
                fs::write(&zst, &packed[..packed.len() / 2]).unwrap();
                odd();
            },
            true,
        ),
        ("the compressed one alone, within the change", &odd, false),
        ("malformed generations", &|| fs::write(&generations, "what").unwrap(), false),
    ];
    for (case, leave, is_plain) in cases {
        leave();
        let (engine, found) = place.open();
        assert_eq!((found.as_str(), engine.damage().as_str()), ("", ""), "{case}");
        assert!(engine.all().unwrap() == before, "{case}");
        assert_eq!((seg.exists(), zst.exists(), temp.exists()), (is_plain, !is_plain, false), "{case}");
        let text = fs::read_to_string(&generations).unwrap_or_default();
        assert!(text.lines().all(|line| !line.ends_with(['1', '3', '5', '7', '9'])), "{case}: {text}");
        drop(engine);
        let _ = fs::remove_file(&seg);
        fs::write(&zst, &packed).unwrap();
        let _ = fs::remove_file(&generations);
        fs::write(&generations, format!("{} 2\n", &name[..20])).unwrap();
    }
}

/// A frame that is damaged hides its events, and no others.
#[test]
fn damage_in_a_compressed_segment_is_named_with_its_events() {
    let place = Place::new();
    let engine = large(&place);
    fill(&engine, 1, 250, 6_000);
    let plain = fs::read(place.segment(1)).unwrap();
    let starts = events(&plain);
    let last = (starts.len() - 1) as u64;
    engine.compress().unwrap();
    drop(engine);
    let path = files(&place)[0].1.clone();
    let good = fs::read(&path).unwrap();
    let frames = frames(&good);
    assert_eq!(frames.len(), 2);
    let mut rng = Rng(7);
    let mut seen = 0;
    for round in 0..rounds(6) {
        let frame = usize::try_from(round % 2).unwrap();
        let (at, len) = frames[frame];
        let mut bad = good.clone();
        let byte = at + rng.below(len);
        bad[byte] ^= 1 << rng.below(8);
        fs::write(&path, &bad).unwrap();
        let engine = large(&place);
        let hit = |seq: u64| {
            let at = usize::try_from(seq - 1).unwrap();
            let (start, end) = (starts[at], starts[at + 1]);
            start < (frame + 1) << 20 && end > frame << 20
        };
        let mut failed = 0;
        for seq in (1..=last).step_by(16) {
            match engine.get(seq) {
                Ok(_) => {}
                Err(e) => {
                    assert!(hit(seq), "byte {byte}, frame {frame}: event {seq}: {e}");
                    assert!(e.to_string().contains("00000000000000000001.seg"), "{e}");
                    failed += 1;
                }
            }
        }
        seen += u64::from(failed > 0);
        if failed > 0 {
            let first = (1..=last).find(|seq| hit(*seq)).unwrap();
            assert!(engine.damage().starts_with(&format!("events {first} to ")), "{}", engine.damage());
            assert!(engine.damage().contains("frame of the compressed segment"), "{}", engine.damage());
            assert!(crate::append(&engine, "new", "1").is_err(), "appends are refused");
        }
    }
    assert!(seen * 10 >= rounds(6) * 8, "{seen} of {} flips showed", rounds(6));
}

/// Returns where the frames of a compressed segment begin, and their lengths, by its table.
pub(crate) fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let count = number(bytes.len() - 9);
    let table = bytes.len() - 9 - count * 8;
    let mut at = 0;
    (0..count)
        .map(|i| {
            let frame = (at, number(table + i * 8));
            at += frame.1;
            frame
        })
        .collect()
}

/// Readers at work while segments are compressed and payloads erased: they see every event, and no damage.
#[test]
fn readers_go_on_while_segments_are_compressed() {
    let place = Place::new();
    let (engine, _) = place.open();
    fill(&engine, 1, 1_500, 300);
    let (stop, passes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let all = engine.all().unwrap();
                    for (i, (id, payload)) in all.iter().take(1_500).enumerate() {
                        assert_eq!(*id, format!("id-{}", i + 1));
                        assert!(payload.is_empty() || payload.starts_with(format!("\"{id} ").as_bytes()));
                    }
                    passes.fetch_add(1, Relaxed);
                }
            });
        }
        let work = scope.spawn(|| {
            for round in 0..8 {
                engine.redact(&[round * 150 + 1, round * 150 + 2, round * 150 + 90]).unwrap();
                engine.compress().unwrap();
                engine.redact(&[round * 150 + 100]).unwrap();
            }
        });
        let worked = work.join();
        stop.store(true, Relaxed);
        worked.unwrap();
    });
    println!("{} passes over the log", passes.load(Relaxed));
    assert!(passes.load(Relaxed) >= 2);
    assert_eq!(engine.damage(), "");
    assert!(names(&place)[0].ends_with(".zst"));
    assert!(engine.redacted_by(100).unwrap().is_some() && engine.redacted_by(99).unwrap().is_none());
    drop(engine);
    let (engine, found) = place.open();
    assert_eq!((found.as_str(), engine.damage().as_str()), ("", ""));
    assert!(engine.redacted_by(1051).unwrap().is_some(), "erased in a compressed segment");
}

/// The bus compresses by itself what is old enough, at the start and when time has passed.
#[tokio::test]
async fn old_segments_are_compressed_by_the_bus_itself() {
    let config = "[bus]\nsegment_first_kib = 64\nsegment_max_kib = 64\n";
    let node = Sandbox::with(&[&mirror_bus::SERVICE]).config(config).manual_clock().start().await;
    let mut client = BusServiceClient::new(node.channel("bus"));
    for n in 1..=250 {
        call(&mut client, &format!("id-{n}")).await.unwrap();
    }
    let before = status(&mut client).await;
    assert_eq!(before.compressed_segments, 0);
    node.clock().advance(Duration::from_secs(8 * 24 * 3600));
    wait("the sealed segments are compressed", async || match status(&mut client).await {
        now if now.compressed_segments == now.segments - 1 => Ok(()),
        now => Err(format!("{now:?}")),
    })
    .await;
    let after = status(&mut client).await;
    assert!(after.log_bytes < before.log_bytes * 3 / 4, "{} of {}", after.log_bytes, before.log_bytes);
    let by = Some(pb::get_event_request::By::Seq(3));
    client.get_event(pb::GetEventRequest { by }).await.unwrap();
    for n in 251..=400 {
        call(&mut client, &format!("id-{n}")).await.unwrap();
    }
    let request = pb::CompressRequest { older_than_days: 1 };
    let none = client.compress(request).await.unwrap().into_inner();
    assert_eq!((none.segments, none.bytes_before), (0, 0), "nothing new is a day old");
    let done = client.compress(pb::CompressRequest::default()).await.unwrap().into_inner();
    assert!(done.segments > 0 && done.bytes_after < done.bytes_before, "{done:?}");
    node.finish().await;
}

#[test]
fn damage_is_not_compressed() {
    let place = Place::new();
    let (engine, _) = place.open();
    fill(&engine, 1, 250, 300);
    let mut bytes = fs::read(place.segment(1)).unwrap();
    bytes[1_000] ^= 1;
    fs::write(place.segment(1), &bytes).unwrap();
    let error = engine.compress().unwrap_err();
    assert!(error.to_string().contains("damaged in segment 00000000000000000001.seg"), "{error}");
    assert!(fs::read(place.segment(1)).unwrap() == bytes);
}
