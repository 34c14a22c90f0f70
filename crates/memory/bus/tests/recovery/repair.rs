//! Damage of every kind, repaired from a copy: the files are those from before, byte for byte, and nothing else changes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use mirror_bus::BusError;
use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_contract::mirror::kit::v1 as kit;
use mirror_errors::Remote;
use mirror_kit::Exit;
use mirror_testkit::wait;

use crate::cold::{files, fill, frames, large};
use crate::damage::{CASES, EVENTS, Log, append as call, forge, state, status, stopped};
use crate::{Place, append, copy};

type Files = BTreeMap<String, Vec<u8>>;

fn contents(place: &Place) -> Files {
    files(place).into_iter().map(|(name, path)| (name, fs::read(path).unwrap())).collect()
}

/// A log of 250 events whose active segment holds those from 230 on, and a copy of it.
fn logged(place: &Place) -> PathBuf {
    let (engine, _) = place.open();
    for n in 1..=EVENTS {
        append(&engine, &format!("id-{n}"), &format!("\"id-{n} {}\"", "x".repeat(300))).unwrap();
    }
    drop(engine);
    let saved = place.0.path().join("saved");
    copy(&place.bus(), &saved);
    saved
}

fn restore(place: &Place, saved: &Path) {
    fs::remove_dir_all(place.bus()).unwrap();
    copy(saved, &place.bus());
}

fn log(place: &Place) -> Log {
    Log(place.segment(1).parent().unwrap().to_owned())
}

fn kept(place: &Place) -> usize {
    fs::read_dir(place.bus().join("quarantine")).unwrap().count()
}

/// Compares all files with those from before; the active one may go on after what it had.
#[track_caller]
fn assert_same(place: &Place, before: &Files, case: &str) {
    let now = contents(place);
    assert_eq!(now.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{case}");
    let active = before.keys().last().unwrap();
    for (name, bytes) in before {
        let had = if name == active { *crate::events(bytes).last().unwrap() } else { bytes.len() };
        assert!(now[name][..had.min(now[name].len())] == bytes[..had], "{case}: {name} is not as before");
        assert_eq!(now[name].len(), bytes.len(), "{case}: {name}");
    }
}

/// Repairs, and compares all files with those from before.
#[track_caller]
fn check_repair(place: &Place, from: &Path, before: &Files, ranges: &[(u64, u64)], case: &str) {
    let (engine, _) = place.open();
    let repaired = engine.repair(from).unwrap_or_else(|e| panic!("{case}: {e}"));
    let expected: Vec<_> =
        ranges.iter().map(|(first, last)| (*first, (*last).min(EVENTS), String::new())).collect();
    assert_eq!(repaired, expected, "{case}");
    drop(engine);
    assert_same(place, before, case);
    let (engine, found) = place.open();
    assert_eq!((found.as_str(), engine.damage().as_str()), ("", ""), "{case}");
    let all = engine.all().unwrap();
    assert_eq!(all.len() as u64, EVENTS + 1, "{case}: and the record of the repair");
    let record = String::from_utf8(all.last().unwrap().1.clone()).unwrap();
    assert!(record.contains(&format!("\"first\":{}", ranges[0].0)), "{case}: {record}");
    assert!(!record.contains(from.to_str().unwrap()), "{case}: the folder is nobody's business");
    assert_eq!(append(&engine, "id-100", &format!("\"id-100 {}\"", "x".repeat(300))), Ok(100), "{case}");
    assert_eq!(append(&engine, "new", "1"), Ok(EVENTS + 2), "{case}");
    drop(engine);
    assert_eq!(place.open().1, "", "{case}: the repair is recorded once");
}

#[test]
fn damage_of_every_kind_is_repaired_byte_for_byte() {
    let place = Place::new();
    let saved = logged(&place);
    let before = contents(&place);
    for (case, damage) in CASES {
        restore(&place, &saved);
        let ranges = damage(&log(&place));
        let broken = contents(&place);
        check_repair(&place, &saved, &before, &ranges, case);
        // Whoever doubts it can look at what was there.
        let all = walk(&place.bus().join("quarantine"));
        for (name, bytes) in broken.iter().filter(|(name, bytes)| before.get(*name) != Some(bytes)) {
            assert!(all.iter().any(|kept| kept == bytes), "{case}: {name} is kept");
        }
    }
}

fn walk(dir: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(fs::read(path).unwrap());
        }
    }
    found
}

/// The copy may be in any form and folder, and be damaged elsewhere.
#[test]
fn a_copy_is_taken_from_any_folder_and_past_its_own_damage() {
    let place = Place::new();
    let saved = logged(&place);
    let before = contents(&place);
    let name = crate::origin().to_string();
    let packed = place.0.path().join("packed/bus");
    copy(&saved, &packed);
    mirror_bus::bench::Engine::open(
        &packed,
        &crate::origin(),
        &crate::config(),
        std::sync::Arc::new(mirror_bus::RealDisk),
    )
    .unwrap()
    .0
    .compress()
    .unwrap();
    let elsewhere = place.0.path().join("elsewhere");
    copy(&saved, &elsewhere);
    let broken = Log(elsewhere.join("log").join(&name));
    for seq in [3, 118, 125] {
        broken.change(seq, |b, start, _| b[start + 60] ^= 1);
    }
    let folders = [
        saved.join("log").join(&name),
        saved.join("log"),
        packed.clone(),
        packed.parent().unwrap().to_owned(),
        elsewhere,
    ];
    for from in &folders {
        restore(&place, &saved);
        let log = log(&place);
        for seq in [120, 121, 122] {
            log.change(seq, |b, start, _| b[start + 60] ^= 1);
        }
        let ranges = [(120, 122)];
        check_repair(&place, from, &before, &ranges, &format!("from {from:?}"));
    }
}

/// Damage of every kind in compressed segments of several frames.
#[test]
fn compressed_segments_are_repaired_byte_for_byte() {
    type Break = fn(&Path, &mut Vec<u8>);
    let cases: [(&str, Break); 7] = [
        ("a bit in the second frame", |_, b| {
            let (at, len) = frames(b)[1];
            b[at + len / 2] ^= 4;
        }),
        ("a bit in the first frame's header", |_, b| b[5] ^= 1),
        ("two frames", |_, b| {
            for (at, len) in [frames(b)[0], frames(b)[1]] {
                b[at + len / 2..at + len / 2 + 9].fill(0);
            }
        }),
        ("the table", |_, b| {
            let len = b.len();
            b[len - 30] ^= 1;
        }),
        ("the end, cut off", |_, b| b.truncate(b.len() - 2_000)),
        ("no bytes", |_, b| b.clear()),
        ("no file", |path, _| fs::remove_file(path).unwrap()),
    ];
    let place = Place::new();
    let engine = large(&place);
    fill(&engine, 1, 250, 6_000);
    drop(engine);
    let plain = place.0.path().join("plain");
    copy(&place.bus(), &plain);
    let engine = large(&place);
    engine.compress().unwrap();
    drop(engine);
    let packed = place.0.path().join("packed");
    copy(&place.bus(), &packed);
    let before = contents(&place);
    let head = 250;
    for (i, (case, damage)) in cases.into_iter().enumerate() {
        // Without a file the form is the copy's.
        let from = if i % 2 == 0 { &packed } else { &plain };
        restore(&place, &packed);
        let path = files(&place)[0].1.clone();
        let mut bytes = fs::read(&path).unwrap();
        damage(&path, &mut bytes);
        if path.exists() {
            fs::write(&path, bytes).unwrap();
        }
        let case = format!("{case}, from {from:?}");
        let engine = large(&place);
        let ranges = engine.repair(from).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(!ranges.is_empty() && ranges.iter().all(|r| r.2.is_empty()), "{case}: {ranges:?}");
        drop(engine);
        assert_same(&place, &before, &case);
        let engine = large(&place);
        assert_eq!(engine.damage(), "", "{case}");
        assert_eq!(engine.all().unwrap().len(), head + 1, "{case}");
    }
}

/// The payloads that our log erased stay erased, and one that only the copy erased does not become so here.
#[test]
fn nothing_erased_comes_back_and_nothing_is_erased_by_a_repair() {
    let place = Place::new();
    let saved = logged(&place);
    let (engine, _) = place.open();
    let (by, erased) = engine.redact(&[20, 21, 22]).unwrap();
    assert_eq!((by, erased), (EVENTS + 1, vec![20, 21, 22]));
    drop(engine);
    let before = contents(&place);
    log(&place).change(20, |b, start, end| b[start + 10..end - 30].fill(b'!'));
    log(&place).change(22, |b, start, _| b[start + 60] ^= 1);
    let (engine, _) = place.open();
    let ranges = engine.repair(&saved).unwrap();
    assert_eq!(ranges, [(20, 20, String::new()), (22, 22, String::new())]);
    drop(engine);
    assert_same(&place, &before, "the lines are X lines as before");
    let (engine, _) = place.open();
    assert_eq!(engine.redacted_by(20), Ok(Some(by)));
    assert_eq!(engine.damage(), "");
    drop(engine);

    // The other way round: the copy erased what this log has not.
    let copied = place.0.path().join("redacted");
    copy(&place.bus(), &copied);
    restore(&place, &saved);
    let log = log(&place);
    log.change(21, |b, start, _| b[start + 60] ^= 1);
    log.change(30, |b, start, _| b[start + 60] ^= 1);
    let (engine, _) = place.open();
    let ranges = engine.repair(&copied).unwrap();
    assert_eq!((ranges[0].0, ranges[1].clone()), (21, (30, 30, String::new())));
    assert!(ranges[0].2.contains("no such erasure"), "{ranges:?}");
    assert!(engine.damage().starts_with("event 21 is damaged"), "{}", engine.damage());
    assert_eq!(engine.repair(&saved).unwrap(), [(21, 21, String::new())], "another copy has it");
    drop(engine);
    let (engine, _) = place.open();
    assert_eq!((engine.damage().as_str(), engine.redacted_by(21)), ("", Ok(None)));
}

/// Changes an event of the copy so that it is whole by itself.
fn forged(copied: &Path, seq: u64) {
    let log = Log(copied.join("log").join(crate::origin().as_str()));
    log.change(seq, |b, start, _| forge(b, start, "\"k\":\"local.note\"", "\"k\":\"local.evil\""));
}

#[test]
fn a_copy_that_does_not_fit_changes_nothing() {
    let place = Place::new();
    let saved = logged(&place);
    let other = place.0.path().join("other");
    copy(&saved, &other);
    for seq in [40, 130] {
        forged(&other, seq);
    }
    let log = log(&place);
    for seq in [40, 130] {
        log.change(seq, |b, start, _| b[start + 60] ^= 1);
    }
    let broken = contents(&place);
    let (engine, _) = place.open();
    let error = engine.repair(&other).unwrap_err();
    assert!(matches!(&error, BusError::CopyUnfit(why) if why.contains("fit the chain")), "{error}");
    assert!(contents(&place) == broken && kept(&place) == 0, "nothing was touched");
    // One range fits, the other does not: what can be is repaired, and the rest stays named.
    let third = place.0.path().join("third");
    copy(&saved, &third);
    forged(&third, 130);
    let ranges = engine.repair(&third).unwrap();
    assert_eq!(ranges[0], (40, 40, String::new()));
    assert!(ranges[1].0 == 130 && ranges[1].2.contains("chain"), "{ranges:?}");
    assert!(engine.damage().starts_with("event 130 is damaged"), "{}", engine.damage());
    assert!(engine.get(40).is_ok() && append(&engine, "new", "1").is_err());
    for from in [place.0.path().join("nowhere"), place.bus(), PathBuf::from("relative")] {
        let error = engine.repair(&from).unwrap_err();
        assert!(matches!(error, BusError::CopyInvalid(_)), "{from:?}: {error}");
    }
    assert_eq!(engine.repair(&saved).unwrap(), [(130, 130, String::new())]);
    assert_eq!(engine.repair(&saved).unwrap(), [], "a log that is whole needs nothing");
}

/// A copy that is longer than a log that is whole restores nothing: that is no damage.
#[test]
fn a_longer_copy_is_no_repair() {
    let place = Place::new();
    let saved = logged(&place);
    let (engine, _) = place.open();
    append(&engine, "later", "1").unwrap();
    drop(engine);
    let longer = place.0.path().join("longer");
    copy(&place.bus(), &longer);
    restore(&place, &saved);
    let (engine, _) = place.open();
    assert_eq!(engine.repair(&longer).unwrap(), []);
    assert_eq!(engine.state().0, EVENTS);
}

/// Flips a bit in place, as a disk does.
fn flip(log: &Log, seq: u64) {
    let (path, start, _) = log.find(seq);
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let (at, mut byte) = (start as u64 + 60, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Damage that is met while the service runs, in a sealed segment: appends go on without a restart, and readers never stop.
#[test]
fn a_sealed_segment_is_repaired_while_the_log_is_read_and_written_again() {
    let place = Place::new();
    let saved = logged(&place);
    let before = contents(&place);
    let (engine, _) = place.open();
    let log = log(&place);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !stop.load(Relaxed) {
                for seq in [1, 60, 150, 240] {
                    engine.get(seq).unwrap();
                    reads += 1;
                }
            }
            reads
        });
        for round in 0..5 {
            flip(&log, 100 + round);
            assert!(append(&engine, "id-1", &format!("\"id-1 {}\"", "x".repeat(300))).is_ok());
            let ranges = engine.repair(&saved).unwrap();
            assert_eq!(ranges, [(100 + round, 100 + round, String::new())]);
            assert_eq!(engine.damage(), "");
            let head = engine.state().0;
            assert_eq!(append(&engine, &format!("new-{round}"), "1"), Ok(head + 1));
            let (_, payload) = engine.get(head).unwrap();
            let text = String::from_utf8(payload).unwrap();
            assert!(text.contains(&format!("{{\"first\":{0},\"last\":{0}}}", 100 + round)), "{text}");
        }
        stop.store(true, Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    drop(engine);
    assert_same(&place, &before, "while it ran");
    assert_eq!(place.open().1, "");
}

/// An index that was built while the log was damaged knows the repaired ids too.
#[test]
fn the_index_learns_what_was_repaired() {
    let place = Place::new();
    let saved = logged(&place);
    log(&place).change(50, |b, start, _| b[start + 60] ^= 1);
    fs::remove_dir_all(place.bus().join("index")).unwrap();
    let (engine, _) = place.open();
    assert!(engine.get(50).is_err());
    engine.repair(&saved).unwrap();
    drop(engine);
    let (engine, _) = place.open();
    assert_eq!(append(&engine, "id-50", &format!("\"id-50 {}\"", "x".repeat(300))), Ok(50));
}

async fn repair(
    client: &mut BusServiceClient<mirror_kit::Channel>,
    from: &Path,
) -> Result<Vec<pb::repair_response::Range>, Remote> {
    let from = from.to_str().unwrap().to_owned();
    let answer = client.repair(pb::RepairRequest { from }).await;
    answer.map(|a| a.into_inner().ranges).map_err(|s| Remote::from_status(&s))
}

#[tokio::test]
async fn the_service_repairs_and_takes_appends_again() {
    let (mut node, mut client) = stopped().await;
    let log = Log::of(&node);
    let saved = node.home().root().join("saved");
    copy(&node.home().bus(), &saved);
    let (first, _) = log.range(1);
    node.launch("bus").await;
    node.expect_log("the log is damaged");
    flip(&log, first + 5);
    let nowhere = repair(&mut client, Path::new("/nowhere")).await.unwrap_err();
    assert_eq!(nowhere.reason, "BUS_COPY_INVALID", "{nowhere}");
    let ranges = repair(&mut client, &saved).await.unwrap();
    assert_eq!((ranges[0].first, ranges[0].last, ranges[0].why.as_str()), (first + 5, first + 5, ""));
    wait("the service serves all again", async || match state(&node).await {
        (kit::get_state_response::State::Serving, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let now = status(&mut client).await;
    assert_eq!((now.writer(), now.damage.as_str()), (pb::get_status_response::Writer::Open, ""));
    assert_eq!(call(&mut client, "new").await, Ok(EVENTS + 2), "after the record of the repair");
    let by = Some(pb::get_event_request::By::Seq(EVENTS + 1));
    let event = client.get_event(pb::GetEventRequest { by }).await.unwrap().into_inner().event.unwrap();
    assert_eq!((event.subject.as_str(), event.actor.as_str()), ("bus.repaired", "svc:bus"));
    node.finish().await;
}

/// Where the writer went by damaged files, the process ends after its answer and opens the log again.
#[tokio::test]
async fn the_active_segment_is_repaired_with_a_restart() {
    let (mut node, mut client) = stopped().await;
    let log = Log::of(&node);
    let saved = node.home().root().join("saved");
    copy(&node.home().bus(), &saved);
    log.change(EVENTS - 3, |b, start, _| b[start + 60] ^= 1);
    node.expect_log("the log is damaged");
    node.launch("bus").await;
    let ranges = repair(&mut client, &saved).await.unwrap();
    assert_eq!((ranges.len(), ranges[0].first, ranges[0].why.as_str()), (1, EVENTS - 3, ""));
    let exit = node.stop("bus").await;
    assert!(matches!(&exit, Exit::Fatal(why) if why.contains("repaired")), "{exit:?}");
    node.launch("bus").await;
    assert_eq!(call(&mut client, "new").await, Ok(EVENTS + 2));
    assert_eq!(status(&mut client).await.writer(), pb::get_status_response::Writer::Open);
    node.finish().await;
}

/// The index is thrown away on request, and the next process builds it.
#[tokio::test]
async fn the_index_is_rebuilt_on_request() {
    let (mut node, mut client) = stopped().await;
    node.launch("bus").await;
    let answer = client.rebuild_index(pb::RebuildIndexRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.head, EVENTS);
    let exit = node.stop("bus").await;
    assert!(matches!(&exit, Exit::Fatal(why) if why.contains("built anew")), "{exit:?}");
    node.launch("bus").await;
    wait("the index is whole", async || match status(&mut client).await.index_upto {
        upto if upto >= EVENTS => Ok(()),
        upto => Err(upto.to_string()),
    })
    .await;
    assert!(node.home().bus().join("index.bad").is_dir(), "the old one is set aside");
    assert_eq!(call(&mut client, "id-7").await, Ok(7), "ids are known");
    node.finish().await;
}
