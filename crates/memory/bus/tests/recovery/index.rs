//! The index: derived, so whatever happens to it, ids and the log's losses stay exact.

use std::fs;

use mirror_bus::BusError;
use mirror_contract::mirror::bus::v1 as pb;
use mirror_contract::mirror::bus::v1::bus_service_client::BusServiceClient;
use mirror_testkit::Sandbox;

use crate::damage::{append as call, status};
use crate::{Place, Rng, append, copy, rounds};

/// Every file of a folder, with its length.
fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.metadata().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.metadata().unwrap().len() > 0 {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Breaks a file of the index; returns how.
fn corrupt(file: &std::path::Path, rng: &mut Rng) -> &'static str {
    let mut bytes = fs::read(file).unwrap();
    let what = match rng.below(4) {
        0 => {
            bytes.truncate(rng.below(bytes.len()));
            "cut"
        }
        1 => {
            bytes.iter_mut().for_each(|b| *b = u8::try_from(rng.below(256)).unwrap());
            "random"
        }
        2 => {
            let at = rng.below(bytes.len());
            let end = (at + 200).min(bytes.len());
            bytes[at..end].fill(0xa5);
            "a range"
        }
        _ => {
            // Somewhere in what is used.
            let used: Vec<usize> = (0..bytes.len()).filter(|i| bytes[*i] != 0).collect();
            for _ in 0..20 {
                bytes[used[rng.below(used.len())]] ^= 0x10;
            }
            "bits"
        }
    };
    fs::write(file, bytes).unwrap();
    what
}

/// Breaks the index of a log of so many events again and again, and asks for ids that are stored.
///
/// Returns how often the damage was met only while the index was used.
fn check_corrupt_index(events: u64, rounds: u64) -> u64 {
    let place = Place::quick();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let subject = mirror_types::Subject::parse("local.note").unwrap();
    for half in 0..2 {
        // Twice, so that the index has a snapshot and a log after it.
        let (engine, _) = place.open();
        let half = half * events / 2..(half + 1) * events / 2;
        for n in half.step_by(50) {
            let some = (n..n + 50).map(|n| {
                let (engine, subject) = (&engine, &subject);
                async move { engine.append(subject, Some(&format!("id-{n}")), format!("{n}").into()).await }
            });
            let seqs = runtime.block_on(futures::future::join_all(some));
            assert!(seqs.into_iter().eq((n + 1..=n + 50).map(Ok)));
        }
        engine.close();
    }
    let saved = place.0.path().join("saved");
    copy(&place.bus(), &saved);
    let mut late = 0;
    for round in 0..rounds {
        fs::remove_dir_all(place.bus()).unwrap();
        copy(&saved, &place.bus());
        let mut rng = Rng(round);
        let files = files(&place.bus().join("index"));
        let file = &files[rng.below(files.len())];
        let what = corrupt(file, &mut rng);
        let name = file.file_name().unwrap().to_string_lossy();
        let case = format!("{events} events, round {round}: {what} in {name}");
        let (mut engine, found) = place.open();
        assert_eq!(found, "", "{case}");
        for n in (0..events).step_by(usize::try_from(events / 40).unwrap()) {
            let mut seq = append(&engine, &format!("id-{n}"), &format!("{n}"));
            if matches!(seq, Err(BusError::Read(_))) {
                // What was not read when it was opened: the service ends here, and its successor builds a new index.
                drop(engine);
                (engine, _) = place.open();
                seq = append(&engine, &format!("id-{n}"), &format!("{n}"));
                late += 1;
            }
            assert_eq!(seq, Ok(n + 1), "{case}");
        }
        assert_eq!(append(&engine, "new", "1"), Ok(events + 1), "{case}");
    }
    late
}

#[test]
fn a_corrupt_index_never_costs_exactness() {
    let late = check_corrupt_index(400, rounds(30)) + check_corrupt_index(10_000, rounds(10));
    println!("{late} times the damage was met late");
}

/// Somebody restores an older copy of the log: what is gone had been acknowledged, and that is recorded.
#[tokio::test]
async fn an_older_log_under_a_newer_index_is_named() {
    let mut node = Sandbox::with(&[&mirror_bus::SERVICE]).start().await;
    let mut client = BusServiceClient::new(node.channel("bus"));
    for n in 1..=30 {
        call(&mut client, &format!("id-{n}")).await.unwrap();
    }
    node.stop("bus").await;
    let log = node.home().bus().join("log");
    let saved = node.home().root().join("saved");
    copy(&log, &saved);
    node.launch("bus").await;
    for n in 31..=50 {
        call(&mut client, &format!("id-{n}")).await.unwrap();
    }
    node.stop("bus").await;
    fs::remove_dir_all(&log).unwrap();
    copy(&saved, &log);
    node.launch("bus").await;
    node.expect_log("recovered from an unclean end");
    let by = Some(pb::get_event_request::By::Seq(31));
    let event = client.get_event(pb::GetEventRequest { by }).await.unwrap().into_inner().event.unwrap();
    assert_eq!((event.subject.as_str(), event.actor.as_str()), ("bus.recovered", "svc:bus"));
    let payload: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!((&payload["after"], &payload["lost_acknowledged"]), (&30.into(), &20.into()), "{payload}");
    assert_eq!(call(&mut client, "id-30").await.unwrap(), 30);
    assert_eq!(call(&mut client, "id-31").await.unwrap(), 32, "what is gone can be stored again");
    node.stop("bus").await;
    node.launch("bus").await;
    assert_eq!(status(&mut client).await.head, 32, "it is recorded once");
    node.finish().await;
}
