//! Logs without damage, and the root of their tree.

use std::path::Path;

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::{FILL, Home, check, log_of, many, one};
use crate::merkle::{Frontier, hex, leaf};
use crate::testlog::{Draft, Log};
use crate::{Options, Redacted, Root, Severity, Tail, verify, verify_with};

/// RFC 6962 section 2.1, word for word.
fn mth(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let k = (leaves.len() as u64).next_power_of_two() as usize / 2;
            let (left, right) = (mth(&leaves[..k]), mth(&leaves[k..]));
            Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
        }
    }
}

#[test]
fn the_right_edge_gives_the_root_of_rfc_6962_at_every_size() {
    let leaves: Vec<[u8; 32]> = (0..300_u64).map(|n| Sha256::digest(n.to_be_bytes()).into()).collect();
    let mut tree = Frontier::default();
    for (size, leaf) in leaves.iter().enumerate() {
        assert_eq!(tree.root(), mth(&leaves[..size]), "size {size}");
        tree.push(*leaf);
    }
}

#[test]
fn the_roots_that_are_asked_for_are_reported_and_none_beyond_damage() {
    let log = log_of(9);
    let (good, home) = (log.bytes.clone(), Home::new(&log.origin));
    home.segment(1, &[&log.bytes, FILL].concat());
    let options = Options { ids: 4, marks: vec![9, 1, 5, 5, 12], ..Options::default() };
    let only = |options| verify_with(home.dir.path(), options, &mut |_| {}).unwrap().origins.remove(0);
    let report = only(&options);
    let root = |size: u64| {
        let header = |span: &crate::testlog::Span| {
            let line = &good[span.start..span.body - 1];
            leaf(&line[line.iter().position(|byte| *byte == b'{').unwrap()..])
        };
        let leaves: Vec<_> = log.spans[..size as usize].iter().map(header).collect();
        Root { size, root_hex: hex(&mth(&leaves)) }
    };
    assert_eq!(report.roots, [root(1), root(5), root(9)]);
    assert_eq!((report.ids_compared, report.events), (4, 9));

    let mut bad = good.clone();
    bad[log.spans[2].start + 20] ^= 1;
    home.segment(1, &[&bad, FILL].concat());
    assert_eq!(only(&options).roots, [root(1)]);
}

#[test]
fn a_good_log_is_clean() {
    for events in [0, 1, 2, 3, 7, 8, 33] {
        let log = log_of(events);
        let mut bytes = log.bytes.clone();
        for fill in [&[][..], FILL] {
            bytes.extend_from_slice(fill);
            let report = one(&bytes);
            check(&report, &[]);
            assert_eq!(report.severity(), Severity::Clean);
            assert_eq!((report.events, report.head_seq, report.tail), (events, events, Tail::Clean));
            assert_eq!((report.first_seq, report.ids_compared), (events.min(1), events));
            assert_eq!(report.head_leaf_hex, log.leaves.last().map(|leaf| hex(leaf)));
            assert_eq!(report.root_hex, Some(hex(&mth(&log.leaves))));
        }
    }
}

#[test]
fn segments_join() {
    let log = log_of(12);
    let (a, b, c) = (log.events(1, 5), log.events(6, 6), [&log.events(7, 12), FILL].concat());
    let report = many(&[(1, &a), (6, &b), (7, &c)]);
    check(&report, &[]);
    assert_eq!((report.events, report.segments), (12, 3));
    assert_eq!(report.root_hex, Some(hex(&mth(&log.leaves))));
    let report = many(&[(1, &a), (6, &b), (7, &log.events(7, 12)), (13, FILL)]);
    check(&report, &[]);
}

#[test]
fn a_line_may_straddle_every_chunk() {
    let mut log = Log::new();
    for n in 0..60_usize {
        let text = format!("\"{}\"", "x".repeat(65_534 - n * 7));
        log.write(&[Draft::new("a.b", "text", text), Draft::new("a.b", "json", "1")]);
    }
    assert!(log.bytes.len() > 3 << 20);
    let mut calls = Vec::new();
    let home = Home::new(&log.origin);
    home.segment(1, &[&log.bytes, FILL].concat());
    let report = verify(home.dir.path(), &mut |p| calls.push((p.bytes, p.total))).unwrap();
    assert!(report.is_intact());
    check(&report.origins[0], &[]);
    assert_eq!(report.origins[0].events, 120);
    assert!(calls.is_sorted() && calls.len() >= 3, "{calls:?}");
}

#[test]
fn an_erased_payload_is_not_a_missing_one() {
    let mut log = log_of(9);
    let redaction = log.redaction(&[4]);
    log.write(&[redaction]);
    let redaction = log.redaction(&[2]);
    log.write(&[redaction]);
    let before = one(&log.bytes);
    log.erase(4, 10);
    log.erase(2, 11);
    let report = one(&log.bytes);
    check(&report, &[]);
    assert_eq!(report.redacted, [Redacted { seq: 2, by: 11 }, Redacted { seq: 4, by: 10 }]);
    assert_eq!(report.redacted_count, 2);
    assert_eq!(report.root_hex, before.root_hex);
    assert!(report.payload_bytes < before.payload_bytes);
}

#[test]
fn the_golden_log_verifies_to_the_bit() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bus");
    let report = verify(&dir, &mut |_| {}).unwrap();
    assert_eq!(report.severity(), Severity::Clean, "{report:#?}");
    assert_eq!(report.node_origin.as_deref(), Some("630dcd2966c43366.1"));
    let log = &report.origins[0];
    assert_eq!((log.events, log.first_seq, log.head_seq, log.payload_bytes), (2, 1, 2, 37));
    let head = "c69ec273e73c08f166d9fe6bf369b59a8763ae9f7213e2458c2185d20fef0c36";
    let root = "e07a7df489e835f016bfdfcb1df1f1ad34069bf70ff3afb324ad12165f28986d";
    assert_eq!(log.head_leaf_hex.as_deref(), Some(head));
    assert_eq!(log.root_hex.as_deref(), Some(root));
    let json: serde_json::Value = serde_json::to_value(&report).unwrap();
    assert_eq!(json["origins"][0]["tail"]["state"], "clean");
    // The same log, named by its own folder.
    let direct = verify(&dir.join("log/630dcd2966c43366.1"), &mut |_| {}).unwrap();
    assert_eq!(direct.origins, report.origins);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_in_any_split_verifies(
        texts in proptest::collection::vec(any::<String>(), 1..12),
        split in any::<proptest::sample::Index>(),
    ) {
        let mut log = Log::new();
        for text in &texts {
            log.write(&[Draft::new("a.b", "text", serde_json::to_string(text).unwrap())]);
        }
        let cut = split.index(texts.len()) as u64 + 1;
        let (head, tail) = (log.events(1, cut), log.events(cut + 1, u64::MAX));
        let report = many(&[(1, &head), (cut + 1, &tail)]);
        prop_assert!(report.severity() == Severity::Clean, "{:?}", report);
        prop_assert_eq!(report.events, texts.len() as u64);
    }

    #[test]
    fn no_bytes_make_it_panic_or_look_clean(noise in proptest::collection::vec(any::<u8>(), 1..600), at in 0_u64..5) {
        prop_assume!(noise.iter().any(|byte| *byte != b'\n'));
        let log = log_of(4);
        let report = one(&[log.events(1, at), noise, log.events(at + 1, 4)].concat());
        prop_assert!(report.severity() > Severity::Clean);
    }

    #[test]
    fn any_replaced_range_is_noticed(
        from in any::<proptest::sample::Index>(),
        len in 0_usize..900,
        noise in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let log = log_of(12);
        let from = from.index(log.bytes.len());
        let to = (from + len).min(log.bytes.len());
        let edited = [&log.bytes[..from], &noise, &log.bytes[to..]].concat();
        let content = edited.iter().rposition(|byte| *byte != b'\n').map_or(0, |last| last + 1);
        // What is left may be the log as it was some events ago, which is a good log.
        let earlier = content == 0 || log.spans.iter().any(|span| {
            span.end == content + 1 && edited[..content] == log.bytes[..content]
        });
        prop_assert_eq!(one(&edited).severity() == Severity::Clean, earlier);
    }
}
