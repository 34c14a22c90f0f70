//! The index: derived, so whatever happens to it, ids and the log's losses stay exact.

use std::fs;

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

#[test]
fn a_corrupt_index_never_costs_exactness() {
    const EVENTS: u64 = 400;
    let place = Place::new();
    for half in 0..2 {
        // Twice, so that the index has a snapshot and a log after it.
        let (engine, _) = place.open();
        for n in half * EVENTS / 2..(half + 1) * EVENTS / 2 {
            append(&engine, &format!("id-{n}"), &format!("{n}")).unwrap();
        }
        engine.close();
    }
    let saved = place.0.path().join("saved");
    copy(&place.bus(), &saved);
    for round in 0..rounds(40) {
        fs::remove_dir_all(place.bus()).unwrap();
        copy(&saved, &place.bus());
        let mut rng = Rng(round);
        let files = files(&place.bus().join("index"));
        let file = &files[rng.below(files.len())];
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
        let case = format!("round {round}: {what} in {}", file.file_name().unwrap().to_string_lossy());
        let (engine, found) = place.open();
        assert_eq!(found, "", "{case}");
        for n in (0..EVENTS).step_by(7) {
            let seq = append(&engine, &format!("id-{n}"), &format!("{n}"));
            assert_eq!(seq, Ok(n + 1), "{case}");
        }
        assert_eq!(append(&engine, "new", "1"), Ok(EVENTS + 1), "{case}");
        engine.close();
    }
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
