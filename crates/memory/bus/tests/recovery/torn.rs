//! Torn tails: a write that was under way when the power went.

use std::fs;

use mirror_bus::bench::{Found, recover};

use crate::{Place, append, config, copy, events, origin};

type Rest = fn(&[u8]) -> Vec<u8>;

/// Bytes that stand where the rest of the last write should be.
const RESTS: [Rest; 4] = [
    |rest| vec![b'\n'; rest.len()],
    |rest| vec![0; rest.len()],
    |rest| rest.iter().map(|b| b ^ 0x55).collect(),
    // The end of the write came through and its middle did not.
    |rest| rest.iter().enumerate().map(|(i, b)| if i < rest.len() / 2 { b'\n' } else { *b }).collect(),
];

/// Every byte of the last write: what came before is kept, the write is there whole or gone whole.
#[test]
fn a_torn_tail_is_cut_at_every_byte_and_kept_aside() {
    let place = Place::quick();
    let (engine, _) = place.open();
    for n in 1..=5 {
        append(&engine, &format!("id-{n}"), "\"x\"").unwrap();
    }
    drop(engine);
    let before = fs::read(place.segment(1)).unwrap();
    let (engine, found) = place.open();
    assert_eq!(found, "");
    append(&engine, "id-6", "\"the last\"").unwrap();
    drop(engine);
    let whole = fs::read(place.segment(1)).unwrap();
    fs::remove_dir_all(place.bus().join("index")).unwrap();
    let starts = events(&whole);
    let (start, end) = (starts[5], starts[6]);
    let mut torn_tails = 0;
    for k in 0..=end - start {
        // Each of them at every byte would take minutes.
        for rest in
            RESTS.iter().enumerate().filter(|(i, _)| *i == 0 || (k + i) % 4 == 0).map(|(_, rest)| rest)
        {
            let mut bytes = whole.clone();
            bytes[start + k..end].copy_from_slice(&rest(&whole[start + k..end]));
            fs::write(place.segment(1), &bytes).unwrap();
            let quarantine = place.bus().join("quarantine");
            let _ = fs::remove_dir_all(&quarantine);
            let found = recover(&place.bus(), &origin(), &config(), 5).unwrap();
            let case = format!("the write ended at byte {k} of {}: {found:?}", end - start);
            let tail = &bytes[start..];
            let used = tail.iter().rposition(|b| *b != b'\n').map_or(0, |at| at + 1);
            let whole_again = bytes == whole;
            let head = if whole_again { 6 } else { 5 };
            let torn = if whole_again { 0 } else { used };
            assert_eq!(found, Found { head, torn: torn as u64, damage: Vec::new() }, "{case}");
            if torn > 0 {
                torn_tails += 1;
                let folder = fs::read_dir(&quarantine).unwrap().next().unwrap().unwrap().path();
                let file = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
                assert_eq!(fs::read(file).unwrap(), &tail[..used], "{case}");
            }
            let after = fs::read(place.segment(1)).unwrap();
            assert_eq!(after, if whole_again { &whole[..] } else { &before[..] }, "{case}");
        }
    }
    assert!(torn_tails > 500, "{torn_tails}");
}

#[test]
fn a_torn_tail_is_recorded_and_the_log_goes_on() {
    let place = Place::new();
    let (engine, _) = place.open();
    for n in 1..=5 {
        append(&engine, &format!("id-{n}"), "1").unwrap();
    }
    drop(engine);
    let saved = place.0.path().join("saved");
    copy(&place.bus().join("index"), &saved);
    let (engine, _) = place.open();
    append(&engine, "id-6", "1").unwrap();
    drop(engine);
    // The process died in the middle of the sixth write, before the index heard of it.
    fs::remove_dir_all(place.bus().join("index")).unwrap();
    copy(&saved, &place.bus().join("index"));
    let mut bytes = fs::read(place.segment(1)).unwrap();
    let end = *events(&bytes).last().unwrap();
    bytes[end - 20..end].fill(b'\n');
    fs::write(place.segment(1), bytes).unwrap();
    let (engine, found) = place.open();
    assert!(found.contains("torn: Some") && found.contains("lost: 0"), "{found}");
    let (id, payload) = engine.get(6).unwrap();
    let payload = String::from_utf8(payload).unwrap();
    assert_eq!(id, "bus:6");
    assert!(payload.contains("\"after\":5") && payload.contains("\"lost_acknowledged\":0"), "{payload}");
    assert_eq!(append(&engine, "id-6", "1").unwrap(), 7, "the retry is stored, once");
    assert_eq!(append(&engine, "id-6", "1").unwrap(), 7);
    assert_eq!(append(&engine, "id-5", "1").unwrap(), 5);
    drop(engine);
    let (_, found) = place.open();
    assert_eq!(found, "", "a second start finds nothing");
}
