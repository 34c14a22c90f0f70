//! A few hundred inputs for each body, so that `cargo test` notices one that panics on anything; CI runs far more.

use mirror_faults::alloc::Counting;
use mirror_faults::fuzz::{Body, Plan, Run, bodies, input, run};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_body_panics_or_believes_a_length() {
    for body in bodies() {
        let outcome = run(&body, Plan { from: 0, inputs: 100, seed: 7 });
        let first = outcome.failures.first();
        assert!(
            first.is_none(),
            "{}: {:?}",
            body.name,
            first.map(|(n, bytes, why)| (n, bytes.escape_ascii().to_string(), why))
        );
    }
}

#[test]
fn every_body_has_seeds_and_an_input_of_its_own_for_each_number() {
    for body in bodies() {
        let seeds = (body.seeds)(body.name);
        assert!(
            seeds.iter().any(|s| s.len() > 1) || body.name.contains("mirror."),
            "{} has no seeds",
            body.name
        );
        let (mut one, mut again, mut other) = (Vec::new(), Vec::new(), Vec::new());
        input(&body, &seeds, 1, 5, &mut one);
        input(&body, &seeds, 1, 5, &mut again);
        assert_eq!(one, again, "{}", body.name);
        let differ = (6..60).any(|n| {
            input(&body, &seeds, 1, n, &mut other);
            other != one
        });
        assert!(differ, "{}", body.name);
    }
}

/// Something that does what no reader may.
fn careless(bytes: &[u8]) {
    assert!(bytes.first() != Some(&b'!'), "an exclamation mark");
    if bytes.first() == Some(&b'L') {
        std::hint::black_box(Vec::<u8>::with_capacity(1 << 20));
    }
}

#[test]
fn a_panic_and_a_length_that_is_believed_are_told() {
    let body =
        |seed: fn(&str) -> Vec<Vec<u8>>| Body { run: Run::Plain(careless), seeds: seed, ..bodies()[0] };
    for (seeds, part) in [
        ((|_| vec![b"!".to_vec()]) as fn(&str) -> Vec<Vec<u8>>, "panicked: an exclamation mark"),
        (|_| vec![b"L".to_vec()], "took 1048"),
    ] {
        let outcome = run(&body(seeds), Plan { from: 0, inputs: 50, seed: 1 });
        assert!(outcome.failures.iter().any(|(_, _, why)| why.contains(part)), "{part}: {outcome:?}");
    }
}

#[test]
fn a_flipped_bit_is_seen_and_placed() {
    let log = mirror_faults::flips::Log::new(3).unwrap();
    let flips = log.flip(0..log.len(), false, 1);
    assert_eq!((flips.flipped, flips.missed), (log.len() as u64, Vec::new()));
}
