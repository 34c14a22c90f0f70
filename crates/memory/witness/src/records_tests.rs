//! The keeper's log: good, altered, rolled back, flooded.

use super::*;

/// A keeper's log with these acts: "note" is a checkpoint's signature.
pub(crate) fn chain(acts: &[&str]) -> Vec<(Record, String)> {
    let mut prev = NOTHING.to_owned();
    let mut records = Vec::new();
    for (n, act) in acts.iter().enumerate() {
        let note = *act == "note";
        let mut record = Record {
            v: 1,
            number: n as u64 + 1,
            prev: String::new(),
            at_ms: 1_767_225_600_000 + n as u64,
            act: if note { "sign" } else { act }.to_owned(),
            caller: "svc:halt".to_owned(),
            kind: "text/plain".to_owned(),
            key: "0123456789abcdef".to_owned(),
            digest: "ab".repeat(32),
            reason: if *act == "refuse" { "KEEPER_CALLER_DENIED".to_owned() } else { String::new() },
            size: note.then_some(7),
            root: if note { "cd".repeat(32) } else { String::new() },
        };
        prev = record.hash_after(&prev);
        record.prev = String::new();
        records.push((record, prev.clone()));
    }
    records
}

fn read(acts: &[&str]) -> Reading {
    let mut reading = Reading::after(Cursor::default());
    reading.take(chain(acts)).unwrap();
    reading
}

fn drained(reading: &mut Reading, now: Duration) -> Vec<Digest> {
    let mut all = Vec::new();
    while let Some(digest) = reading.due(now) {
        all.push(digest);
        reading.recorded();
    }
    all
}

#[test]
fn the_hash_is_that_of_the_line_without_its_own_end() {
    let (mut record, hash) = chain(&["make"]).remove(0);
    assert_eq!(record.hash_after(NOTHING), hash);
    let line = format!(
        "{{\"v\":1,\"number\":1,\"prev\":\"{NOTHING}\",\"at_ms\":1767225600000,\"act\":\"make\",\"caller\":\"svc:halt\",\
         \"type\":\"text/plain\",\"key\":\"0123456789abcdef\",\"digest\":\"{}\"",
        "ab".repeat(32)
    );
    assert_eq!(hex(&sha256(line.as_bytes())), hash);
}

#[test]
fn signatures_of_checkpoints_alone_are_not_told_of_until_there_are_many() {
    let mut reading = read(&["note"; 999]);
    assert_eq!(drained(&mut reading, Duration::ZERO), []);
    let acts = ["note"; 1001];
    reading.take(chain(&acts)[998..].to_vec()).unwrap();
    let all = drained(&mut reading, Duration::ZERO);
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].from, all[0].to, all[0].signed, all[0].records.len()), (1, 1000, 1000, 0));
    assert_eq!(all[0].head, chain(&acts)[999].1);
}

#[test]
fn what_else_the_keeper_did_is_told_of_at_once_and_spelled_out() {
    let mut reading = read(&["make", "note", "note", "sign", "note"]);
    let all = drained(&mut reading, Duration::ZERO);
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].from, all[0].to, all[0].signed, all[0].refused), (1, 5, 3, 0));
    assert_eq!(all[0].records.iter().map(|r| r.number).collect::<Vec<_>>(), [1, 4]);
    assert_eq!(all[0].id(), "witness-keeper-1-5");
    assert_eq!((all[0].to, &all[0].head), (reading.at().number, &reading.at().hash));

    let mut reading = read(&["sign"; 130]);
    let ranges: Vec<_> = drained(&mut reading, Duration::ZERO).iter().map(|d| (d.from, d.to)).collect();
    assert_eq!(ranges, [(1, 64), (65, 128), (129, 130)]);
}

#[test]
fn refusals_are_counted_and_sampled_and_told_of_seldom() {
    let acts = ["refuse"; 500];
    let mut reading = read(&acts[..100]);
    let all = drained(&mut reading, Duration::ZERO);
    assert_eq!((all.len(), all[0].refused, all[0].records.len()), (1, 100, REFUSALS_LISTED));
    reading.take(chain(&acts)[99..].to_vec()).unwrap();
    assert_eq!(drained(&mut reading, Duration::from_secs(599)), []);
    let all = drained(&mut reading, Duration::from_secs(600));
    assert_eq!((all.len(), all[0].refused, all[0].from, all[0].to), (1, 400, 101, 500));
}

#[test]
fn an_altered_missing_or_added_record_shows() {
    #[track_caller]
    fn check(records: Vec<(Record, String)>, number: u64) {
        let mut reading = Reading::after(Cursor::default());
        assert_eq!(reading.take(records).unwrap_err().number, number);
    }
    let good = chain(&["make", "sign", "note", "sign"]);
    let mut altered = good.clone();
    altered[1].0.caller = "svc:witness".to_owned();
    check(altered, 2);
    let mut missing = good.clone();
    missing.remove(2);
    check(missing, 3);
    let mut resized = good.clone();
    resized[2].0.size = Some(8);
    check(resized, 3);
    let mut forged = good;
    forged[3].1 = "00".repeat(32);
    check(forged, 4);
}

#[test]
fn a_log_that_was_rolled_back_or_replaced_shows_at_the_place_that_was_read() {
    let good = chain(&["make", "sign", "note"]);
    let mut reading = read(&["make", "sign"]);
    assert_eq!(reading.next(), 2);
    let mut again = reading.clone();
    again.take(good[1..].to_vec()).unwrap();
    assert_eq!(again.at().number, 3);
    assert_eq!(reading.clone().take(Vec::new()).unwrap_err().number, 2, "it is shorter");
    let other = chain(&["make", "note"]);
    assert_eq!(reading.take(other[1..].to_vec()).unwrap_err().number, 2, "it is another");

    let mut unknown = Reading::after(Cursor { number: 2, hash: String::new() });
    unknown.take(good[1..].to_vec()).unwrap();
    assert_eq!(unknown.at().hash, good[2].1);
}

#[test]
fn a_digest_fits_into_an_event_whatever_callers_say() {
    let mut reading = read(&["make"; 63]);
    for act in ["refuse"; 9].into_iter().chain(["make"]) {
        let mut record = chain(&[act]).remove(0).0;
        for text in
            [&mut record.caller, &mut record.kind, &mut record.key, &mut record.digest, &mut record.reason]
        {
            *text = "\u{1}\"\u{e9}".repeat(1000);
        }
        record.number = reading.at.number + 1;
        let hash = record.hash_after(&reading.at.hash);
        reading.take(vec![(record, hash)]).unwrap();
    }
    let all = drained(&mut reading, Duration::ZERO);
    assert_eq!((all.len(), all[0].records.len()), (1, 72));
    let mut widest = all[0].clone();
    widest.records = vec![widest.records[70].clone(); 72];
    let bytes = serde_json::to_vec(&widest).unwrap().len();
    assert!((40_000..65_536).contains(&bytes), "{bytes}");
}
