//! Compressed segments: any frames, one damaged frame, one flipped bit in each byte.

use std::io::Write as _;

use super::flips::{Flipped, masks};
use super::{FILL, Home, check, found, log_of};
use crate::FindingKind::{BadFrame, MissingSegment};
use crate::packed::Packed;
use crate::source::ReadAt as _;
use crate::testlog::Log;
use crate::{OriginReport, Severity, Tail};

/// Compresses content in frames of so many bytes, as the bus does, with the table of them at the end.
fn seekable(content: &[u8], frame: usize) -> Vec<u8> {
    let (mut file, mut table) = (Vec::new(), Vec::new());
    for part in content.chunks(frame) {
        let packed = plain_frame(part);
        table.extend_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
        table.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes());
        file.extend_from_slice(&packed);
    }
    let frames = u32::try_from(table.len() / 8).unwrap();
    file.extend_from_slice(&0x184D_2A5E_u32.to_le_bytes());
    file.extend_from_slice(&u32::try_from(table.len() + 9).unwrap().to_le_bytes());
    file.extend_from_slice(&table);
    file.extend_from_slice(&frames.to_le_bytes());
    file.push(0);
    file.extend_from_slice(&0x8F92_EAB1_u32.to_le_bytes());
    file
}

/// Returns one frame with a checksum of its content.
fn plain_frame(content: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// A home whose first segment, events 1 to 200, is compressed, and whose second is active.
fn home(log: &Log, packed: &[u8]) -> Home {
    let home = Home::new(&log.origin);
    std::fs::write(home.log.join("00000000000000000001.seg.zst"), packed).unwrap();
    home.segment(201, &[&log.events(201, 210), FILL].concat());
    home
}

fn read(log: &Log, packed: &[u8]) -> OriginReport {
    home(log, packed).only()
}

#[test]
fn any_frames_are_read() {
    let log = log_of(210);
    let content = log.events(1, 200);
    let (front, back) = content.split_at(content.len() / 3);
    let skippable = [&0x184D_2A53_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
    for (packed, what) in [
        (seekable(&content, 1 << 20), "one frame and a table"),
        (seekable(&content, 1000), "many frames and a table"),
        (plain_frame(&content), "one frame"),
        ([plain_frame(front), plain_frame(&[]), plain_frame(back)].concat(), "frames, one empty"),
        ([skippable.clone(), plain_frame(front), skippable, plain_frame(back)].concat(), "skippable frames"),
        (zstd::encode_all(&content[..], 19).unwrap(), "as the command line makes it"),
    ] {
        let report = read(&log, &packed);
        check(&report, &[]);
        assert_eq!((report.events, report.compressed, report.tail), (210, 1, Tail::Clean), "{what}");
    }
}

#[test]
fn the_plain_segment_counts_while_both_are_there() {
    let log = log_of(210);
    let home = home(&log, b"no zstd at all");
    home.segment(1, &log.events(1, 200));
    let report = home.only();
    check(&report, &[]);
    assert_eq!((report.compressed, report.segments), (0, 2));
}

#[test]
fn a_compressed_segment_is_sealed() {
    let log = log_of(210);
    let content = log.events(1, 200);
    let cut = read(&log, &seekable(&content[..content.len() - 9], 5000));
    assert_eq!(found(&cut).first().map(|found| found.1), Some(200), "{cut:#?}");
    assert_eq!((cut.severity(), cut.tail), (Severity::Damage, Tail::Clean));
    let less = log.events(1, 190);
    check(&read(&log, &seekable(&less, 5000)), &[(MissingSegment, 191, 200)]);
    // Even where it is the last.
    let home = Home::new(&log.origin);
    let packed = seekable(&content[..content.len() - 9], 5000);
    std::fs::write(home.log.join("00000000000000000001.seg.zst"), packed).unwrap();
    assert_eq!(home.only().severity(), Severity::Damage);
}

#[test]
fn a_damaged_frame_is_located_and_what_follows_is_read() {
    let log = log_of(210);
    let content = log.events(1, 200);
    let frame = 8000;
    let mut packed = seekable(&content, frame);
    let starts: Vec<usize> = content
        .chunks(frame)
        .map(plain_frame)
        .scan(0, |at, f| Some(std::mem::replace(at, *at + f.len())))
        .collect();
    // In the third frame; its first bytes are kept.
    packed[starts[2] + 40..starts[3] - 10].fill(0x55);
    let report = read(&log, &packed);
    let in_frame = |at: usize| log.spans.iter().find(|span| span.end > at).unwrap().seq;
    let (first, last) = (in_frame(2 * frame), in_frame(3 * frame - 1));
    let [(kind, from, to)] = found(&report)[..] else { panic!("{report:#?}") };
    assert_eq!((kind, to), (BadFrame, last), "{report:#?}");
    assert!((first..=first + 1).contains(&from), "{report:#?}");
    assert_eq!((report.findings[0].offset, report.head_seq), (starts[2] as u64, 210));
    assert_eq!(report.findings[0].segment, "00000000000000000001.seg.zst");
    // Without a table nothing tells where the next frame begins.
    let mut bare: Vec<u8> = content.chunks(frame).flat_map(plain_frame).collect();
    bare[starts[2] + 40..starts[3] - 10].fill(0x55);
    let report = read(&log, &bare);
    let [(kind, _, to)] = found(&report)[..] else { panic!("{report:#?}") };
    assert_eq!((kind, to, report.head_seq), (BadFrame, 200, 210), "{report:#?}");
}

#[test]
fn bytes_that_are_no_frames_are_named() {
    let log = log_of(210);
    let packed = seekable(&log.events(1, 200), 5000);
    for (bytes, what) in [
        (&b"E 00000000 "[..], "text"),
        (&[], "nothing"),
        (&packed[..packed.len() / 2], "half of a file"),
        (&packed[..20], "a header"),
    ] {
        let report = read(&log, bytes);
        assert_eq!((report.severity(), report.head_seq), (Severity::Damage, 210), "{what}: {report:#?}");
    }
}

/// Reads the content of a file, and what is wrong with how it is stored.
fn unpacked(file: Flipped<'_>) -> (Vec<u8>, usize) {
    let len = file.bytes.len() as u64;
    let packed = Packed::new(Box::new(file), len).unwrap();
    let (mut content, mut part) = (Vec::new(), vec![0; 1 << 17]);
    loop {
        match packed.read_at(&mut part, content.len() as u64).unwrap() {
            0 => return (content, packed.rifts().len()),
            n => content.extend_from_slice(&part[..n]),
        }
    }
}

#[test]
fn a_flipped_bit_in_a_compressed_segment_is_found_or_changes_nothing() {
    let log = log_of(210);
    let content = log.events(1, 200);
    let packed = seekable(&content, 16_000);
    let home = home(&log, &packed);
    let path = home.log.join("00000000000000000001.seg.zst");
    let (mut harmless, mut flips) = (0, 0);
    for (at, mask) in (0..packed.len()).flat_map(masks) {
        flips += 1;
        let (found, rifts) = unpacked(Flipped { bytes: &packed, at, mask });
        if rifts == 0 && found == content {
            // A bit that the decompressor does not need, such as a larger window than the frame uses.
            harmless += 1;
            continue;
        }
        // What is not whole any more is told by the frame, or else by the lines; whole folders show it for some.
        if rifts > 0 && flips % 97 != 0 {
            continue;
        }
        let mut flipped = packed.clone();
        flipped[at] ^= mask;
        std::fs::write(&path, &flipped).unwrap();
        let report = home.only();
        assert_eq!(
            (report.severity(), report.head_seq),
            (Severity::Damage, 210),
            "{mask} of {at}: {report:#?}"
        );
        assert!(report.findings[0].segment.ends_with(".seg.zst"), "{mask} of byte {at}: {report:#?}");
    }
    assert!(harmless * 50 < flips, "{harmless} of {flips} bits meant nothing");
}
