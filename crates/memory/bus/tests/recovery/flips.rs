//! Single bits that flip: each is found, and what it hits is named.

use std::fs;

use mirror_bus::bench::recover;

use crate::{Place, Rng, append, config, events, origin, rounds};

const EVENTS: u64 = 60;

/// A log of sixty events, its bytes, and where the events begin.
fn log() -> (Place, Vec<u8>, Vec<usize>) {
    let place = Place::quick();
    let (engine, _) = place.open();
    for n in 1..=EVENTS {
        append(&engine, &format!("id-{n}"), &format!("\"{n}\"")).unwrap();
    }
    drop(engine);
    let bytes = fs::read(place.segment(1)).unwrap();
    let starts = events(&bytes);
    assert_eq!(starts.len() as u64, EVENTS + 1);
    fs::remove_dir_all(place.bus().join("index")).unwrap();
    fs::write(place.bus().join("node.json"), "").unwrap();
    (place, bytes, starts)
}

/// Flips one bit and opens the log, with and without an index that has seen everything.
fn check(place: &Place, bytes: &[u8], starts: &[usize], at: usize, bit: u8) {
    let hit = (starts.partition_point(|start| *start <= at) as u64).min(EVENTS + 1);
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 1 << bit;
    for seen in [EVENTS, 0] {
        fs::write(place.segment(1), &flipped).unwrap();
        let found = recover(&place.bus(), &origin(), &config(), seen).unwrap();
        let case = format!("bit {bit} of byte {at}, in event {hit}, index at {seen}: {found:?}");
        if hit > EVENTS {
            assert!(found.damage.is_empty() && found.head == EVENTS, "{case}");
            assert!(found.torn > 0 && found.torn <= (at - starts[60] + 1) as u64, "{case}");
        } else if hit == EVENTS && seen == 0 {
            // Nothing shows that the last write had been acknowledged.
            assert!(found.damage.is_empty() && found.head == EVENTS - 1 && found.torn > 0, "{case}");
        } else {
            // A newline that goes may take the next event's first line with it.
            let [(first, last)] = found.damage[..] else { panic!("{case}") };
            assert!(first == hit && last.is_none_or(|last| last == hit || last == hit + 1), "{case}");
            assert!(last.is_some() || hit + 1 >= EVENTS, "{case}");
            assert_eq!(found.torn, 0, "{case}");
            assert_eq!(fs::read(place.segment(1)).unwrap(), flipped, "damage is left as it is: {case}");
        }
        if seen == 0 {
            continue;
        }
        let verdict = mirror_verify::verify(place.segment(1).parent().unwrap(), &mut |_| {}).unwrap();
        assert_eq!(verdict.is_intact(), found.damage.is_empty() || hit == EVENTS, "{case}: {verdict:?}");
    }
}

#[test]
fn every_flipped_bit_is_found_and_named() {
    let (place, bytes, starts) = log();
    let end = starts[60];
    let mut rng = Rng(1);
    // All bytes of one event in the middle and of the last one; a sample of the others and of the unused end.
    let mut places: Vec<usize> = (starts[30]..starts[31]).chain(starts[59]..end + 2).collect();
    places.extend((0..rounds(300)).map(|_| rng.below(end)));
    places.extend((0..rounds(100)).map(|_| end + rng.below(bytes.len() - end)));
    for at in places {
        check(&place, &bytes, &starts, at, u8::try_from(rng.below(8)).unwrap());
    }
}

/// Bytes that nobody wrote, of any length and at any place: opening says something or finds the log whole.
#[test]
fn garbage_never_panics_and_never_hides_a_loss() {
    let (place, bytes, starts) = log();
    let mut rng = Rng(2);
    for round in 0..rounds(300) {
        let mut broken = bytes.clone();
        for _ in 0..=rng.below(3) {
            let at = rng.below(starts[60] + 200);
            let len = 1 + rng.below(2_000).min(broken.len() - at - 1);
            match rng.below(5) {
                0 => broken[at..at + len].fill(0),
                1 => broken[at..at + len].fill(b'\n'),
                2 => broken[at..at + len].iter_mut().for_each(|b| *b = u8::try_from(rng.below(256)).unwrap()),
                3 => broken.truncate(at),
                _ => {
                    // Events that stand twice.
                    let from = rng.below(starts[60]);
                    let part = bytes[from..(from + len).min(bytes.len())].to_vec();
                    let to = at.min(broken.len());
                    broken.splice(to..to, part);
                }
            }
            if broken.len() <= starts[60] + 3_000 {
                broken.resize(bytes.len(), b'\n');
            }
        }
        fs::write(place.segment(1), &broken).unwrap();
        let found = recover(&place.bus(), &origin(), &config(), EVENTS).unwrap();
        let named: u64 =
            found.damage.iter().map(|(first, last)| last.unwrap_or(EVENTS).saturating_sub(first - 1)).sum();
        let missing = EVENTS.saturating_sub(found.head);
        let whole = broken.starts_with(&bytes[..starts[60]]);
        // A log that ends too early without any bytes after it is told as lost by whoever holds the index.
        let told = whole || !found.damage.is_empty() || missing > 0;
        assert!(told, "round {round}: {found:?}");
        assert!(found.damage.is_empty() || named > 0, "round {round}: {found:?}");
    }
}
