//! The table: each kind of tampering, and the finding that names it.

use std::fs;

use mirror_verify::FindingKind::{
    BadCheckpoint, BadCrc, BadFrame, BadKeys, ForeignOrigin, Forked, MissingSegment, PayloadDigest,
    PayloadMissing, RedactionUnproven, RolledBack, SegmentName, SeqJump, SignaturesUnchecked, WrongPrev,
};
use mirror_verify::{FindingKind, Note, Severity};

use crate::forge::Forgery;
use crate::{EVENTS, Place, SIGNED, found, note, witness};

/// One way to tamper, and the findings about it: kind, first and last event.
type Row = (&'static str, Box<dyn Fn(&Place)>, Vec<(FindingKind, u64, u64)>);

fn row(name: &'static str, expected: &[(FindingKind, u64, u64)], tamper: impl Fn(&Place) + 'static) -> Row {
    (name, Box::new(tamper), expected.to_vec())
}

/// Changes the log as a forger does.
fn forged(change: impl Fn(&mut Forgery) + 'static) -> impl Fn(&Place) {
    move |place| {
        let mut log = Forgery::of(place);
        change(&mut log);
        log.write(place);
    }
}

fn flip(place: &Place, seq: u64, part: &str, xor: u8) {
    let firsts = place.firsts();
    let first = firsts.iter().rfind(|first| **first <= seq).copied().unwrap();
    let mut bytes = fs::read(place.segment(first)).unwrap();
    let key = format!("\"s\":{seq},");
    let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).unwrap();
    let at = at + bytes[at..].windows(part.len()).position(|w| w == part.as_bytes()).unwrap();
    bytes[at] ^= xor;
    fs::write(place.segment(first), bytes).unwrap();
}

/// A second continuation of the same log after 60 events.
fn fork(place: &Place) -> Forgery {
    let mut log = Forgery::of(place);
    for at in 60..log.events.len() {
        log.events[at].set("\"id\":\"", &format!("other-{at}"));
    }
    log.rehash(60);
    log
}

#[test]
fn a_whole_log_is_intact_and_covered() {
    let place = Place::whole();
    assert!(place.firsts().len() >= 3, "{:?}", place.firsts());
    let report = place.report();
    assert_eq!(found(&report), []);
    let log = &report.origins[0];
    // `latest` is a copy of the newest.
    assert_eq!((log.events, log.checkpoints, log.covered), (EVENTS, 4, EVENTS));
    let mut log = Forgery::of(&place);
    log.rehash(0);
    assert_eq!(log.events, Forgery::of(&place).events, "the forger writes what the bus writes");
    log.write(&place);
    assert_eq!(found(&place.report()), []);
}

#[test]
fn every_tampering_is_named_with_its_place() {
    let whole = Place::whole();
    let firsts = whole.firsts();
    let (second, last) = (firsts[1], *firsts.last().unwrap());
    let payload = || format!("{{\"n\":70,\"text\":\"{}\"}}", "forged text ".repeat(90)).into_bytes();
    let rows = vec![
        row("a flipped bit in a payload", &[(BadCrc, 70, 70)], |place| flip(place, 70, "lorem", 1)),
        row("a flipped bit in a header", &[(BadCrc, 70, 70)], |place| flip(place, 70, "local.note", 1)),
        row(
            "a deleted event",
            &[(SeqJump, 70, 70)],
            forged(|log| {
                log.events.remove(69);
            }),
        ),
        row(
            "a deleted event, the rest renumbered and chained anew",
            &[(Forked, 41, 90), (RolledBack, 150, 150)],
            forged(|log| {
                log.events.remove(69);
                log.rehash(69);
            }),
        ),
        row(
            "two events exchanged",
            &[(SeqJump, 70, 70), (SeqJump, 70, 70)],
            forged(|log| log.events.swap(69, 70)),
        ),
        row(
            "two events exchanged, and chained anew",
            &[(Forked, 41, 90)],
            forged(|log| {
                let (a, b) = (log.events[69].clone(), log.events[70].clone());
                log.events[69].body = b.body;
                log.events[70].body = a.body;
                for (at, from) in [(69, &b.header), (70, &a.header)] {
                    for key in ["\"dh\":\"", "\"id\":\""] {
                        let value = from.split(key).nth(1).unwrap().split('"').next().unwrap();
                        log.events[at].set(key, value);
                    }
                }
                log.rehash(69);
            }),
        ),
        row(
            "the end of a sealed segment cut off",
            &[(MissingSegment, second - 1, second - 1)],
            move |place| {
                let log = Forgery::of(place);
                let gone = log.events[second as usize - 2].bytes().len() as u64;
                let file = fs::OpenOptions::new().write(true).open(place.segment(1)).unwrap();
                file.set_len(file.metadata().unwrap().len() - gone).unwrap();
            },
        ),
        row("the end of the log cut off", &[(RolledBack, 141, 150)], forged(|log| log.events.truncate(140))),
        row("the last segment removed", &[(RolledBack, last, 150)], move |place| {
            fs::remove_file(place.segment(last)).unwrap();
        }),
        row("the first segment removed", &[(MissingSegment, 1, second - 1)], |place| {
            fs::remove_file(place.segment(1)).unwrap();
        }),
        row(
            "an event of another log",
            &[(ForeignOrigin, 70, 70), (WrongPrev, 71, 71)],
            forged(|log| {
                log.events[69].set("\"o\":\"", "0123456789abcdef.1");
            }),
        ),
        row(
            "an event of another log, chained anew",
            &[(ForeignOrigin, 70, 70)],
            forged(|log| {
                log.events[69].set("\"o\":\"", "0123456789abcdef.1");
                log.rehash(70);
            }),
        ),
        row("events of a forked copy", &[(WrongPrev, 75, 75), (Forked, 41, 90)], |place| {
            let mut log = Forgery::of(place);
            log.events[60..74].clone_from_slice(&fork(place).events[60..74]);
            log.write(place);
        }),
        row("a forked copy", &[(Forked, 41, 90)], |place| fork(place).write(place)),
        row(
            "the log rolled back to an older copy",
            &[(RolledBack, 101, 150)],
            forged(|log| log.events.truncate(100)),
        ),
        row(
            "rolled back, and gone on from there",
            &[(Forked, 91, 150)],
            forged(|log| {
                for at in 100..150 {
                    log.events[at].set("\"id\":\"", &format!("again-{at}"));
                }
                log.rehash(100);
            }),
        ),
        row("the log removed", &[(RolledBack, 0, 0)], |place| fs::remove_dir_all(place.log()).unwrap()),
        row(
            "a payload replaced, with its CRC",
            &[(PayloadDigest, 70, 70)],
            forged(move |log| {
                let mut other = payload();
                other.truncate(log.events[69].body.len() - 11 - 5 - 23 - 1);
                log.events[69].replace(&other, false);
            }),
        ),
        row(
            "a payload replaced, with CRC and digest",
            &[(WrongPrev, 71, 71), (Forked, 41, 90)],
            forged(move |log| {
                log.events[69].replace(b"{\"n\":70}", true);
            }),
        ),
        row(
            "a payload replaced, and everything chained anew",
            &[(Forked, 41, 90)],
            forged(|log| {
                log.events[69].replace(b"{\"n\":70}", true);
                log.rehash(70);
            }),
        ),
        row(
            "the last payload replaced, with CRC and digest",
            &[(Forked, 91, 150)],
            forged(|log| {
                log.events[149].replace(b"{\"n\":150}", true);
            }),
        ),
        row(
            "a payload erased without a redaction",
            &[(RedactionUnproven, 70, 70)],
            forged(|log| log.events[69].erase(80)),
        ),
        row("a payload line removed", &[(PayloadMissing, 70, 70)], forged(|log| log.events[69].body.clear())),
        row("a checkpoint that a stranger signed", &[(BadCheckpoint, 0, 0)], |place| {
            let stranger = ed25519_dalek::SigningKey::from_bytes(&[5; 32]);
            fs::write(place.notes().join(format!("{:020}.note", 50)), note(&stranger, 50, &"00".repeat(32)))
                .unwrap();
        }),
        row("a checkpoint under another name", &[(BadCheckpoint, 0, 0)], |place| {
            let path = |size: u64| place.notes().join(format!("{size:020}.note"));
            fs::copy(path(40), path(41)).unwrap();
        }),
        row(
            "a list of keys that the device did not certify",
            &[(BadKeys, 0, 0), (SignaturesUnchecked, 0, 0)],
            |place| {
                let path = place.0.path().join("keys/keys.json");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(&path, text.replace("\"serial\":1", "\"serial\":2")).unwrap();
            },
        ),
    ];
    let mut wrong = Vec::new();
    for (name, tamper, expected) in rows {
        let place = whole.copy();
        tamper(&place);
        let report = place.report();
        if found(&report) != expected || report.severity() != Severity::Damage {
            wrong.push(format!("{name}: {:?}, not {expected:?}", found(&report)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn segments_under_each_others_names_are_named() {
    let place = Place::whole();
    let firsts = place.firsts();
    let (a, b) = (place.segment(firsts[0]), place.segment(firsts[1]));
    let (first, second) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
    fs::write(a, second).unwrap();
    fs::write(b, first).unwrap();
    let report = place.report();
    assert_eq!(found(&report)[0], (SegmentName, firsts[1], firsts[1]), "{report:#?}");
    assert_eq!(report.severity(), Severity::Damage);
}

#[test]
fn what_rolls_everything_back_shows_only_by_a_checkpoint_from_elsewhere() {
    let place = Place::whole();
    let kept = fs::read_to_string(place.notes().join("latest")).unwrap();
    // Log and checkpoints as they were after 100 events.
    let mut log = Forgery::of(&place);
    log.events.truncate(100);
    log.write(&place);
    for name in ["latest".to_owned(), format!("{EVENTS:020}.note")] {
        fs::remove_file(place.notes().join(name)).unwrap();
    }
    assert_eq!(found(&place.report()), []);
    let phone = |text: &str| vec![Note { name: "phone.note".to_owned(), text: text.to_owned() }];
    assert_eq!(found(&place.report_with(phone(&kept))), [(RolledBack, 101, EVENTS)]);
    let other = kept.replace("mirrordna/", "mirrordna/0");
    assert_eq!(found(&place.report_with(phone(&other))), [(BadCheckpoint, 0, 0)]);
    let forged = note(&ed25519_dalek::SigningKey::from_bytes(&[8; 32]), 40, &"00".repeat(32));
    assert_eq!(found(&place.report_with(phone(&forged))), [(BadCheckpoint, 0, 0)]);
    let rewritten = note(&witness(), SIGNED[0], &"00".repeat(32));
    assert_eq!(found(&place.report_with(phone(&rewritten))), [(Forked, 1, SIGNED[0])]);
}

#[test]
fn a_compressed_segment_is_tampered_with_in_vain() {
    let place = Place::whole();
    let engine = place.open();
    assert!(engine.compress().unwrap() > 0);
    engine.close();
    let report = place.report();
    assert_eq!((found(&report), report.origins[0].compressed > 0), (vec![], true));
    let path = place.segment(1).with_extension("seg.zst");
    let packed = fs::read(&path).unwrap();
    let mut flipped = packed.clone();
    flipped[packed.len() / 2] ^= 1;
    fs::write(&path, &flipped).unwrap();
    let report = place.report();
    assert_eq!(found(&report)[0].0, BadFrame, "{report:#?}");
    // Another log's events, compressed with care.
    let content = zstd::decode_all(&packed[..]).unwrap();
    let text = String::from_utf8(content).unwrap().replacen("lorem", "merol", 1);
    fs::write(&path, zstd::encode_all(text.as_bytes(), 3).unwrap()).unwrap();
    assert_eq!(found(&place.report()), [(BadCrc, 1, 1)]);
}
