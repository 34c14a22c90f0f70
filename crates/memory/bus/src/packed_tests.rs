//! Compressed segments read as what went in, whatever their frames hold, and say so where they do not.

use std::io::Read as _;
use std::path::Path;

use super::*;
use crate::disk::{Disk as _, RealDisk};

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|i| b"0123456789abcdef,\n"[(i * i / 7 + i / 1000) % 18]).collect()
}

fn write(path: &Path, content: &[u8]) {
    let out = RealDisk.open(path).unwrap();
    let mut writer = Writer::new(out.as_ref()).unwrap();
    content.chunks(FRAME).for_each(|frame| writer.frame(frame).unwrap());
    let size = writer.end().unwrap();
    assert_eq!(size, std::fs::metadata(path).unwrap().len());
}

fn read(path: &Path) -> (Vec<u8>, Packed) {
    let mut packed = Packed::open(File::open(path).unwrap()).unwrap();
    let mut bytes = vec![0; usize::try_from(packed.content()).unwrap() + 10];
    let n = packed.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(n);
    (bytes, packed)
}

#[test]
fn what_is_packed_is_read_at_any_place_and_by_any_decoder() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("s");
    for len in [1, 255, 256, 65_791, 65_792, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME + 77] {
        let content = text(len);
        let _ = std::fs::remove_file(&path);
        write(&path, &content);
        let (back, mut packed) = read(&path);
        assert!(back == content, "{len} bytes");
        let mut plain = Vec::new();
        zstd::stream::Decoder::new(File::open(&path).unwrap()).unwrap().read_to_end(&mut plain).unwrap();
        assert!(plain == content, "{len} bytes, as a stream");
        let mut buf = [0; 100];
        for at in [0, len / 2, len.saturating_sub(30), FRAME - 50, len] {
            let n = packed.read_at(&mut buf, at as u64).unwrap();
            let end = (at + 100).min(len).max(at.min(len));
            assert_eq!(buf[..n], content[at.min(len)..end], "{len} bytes, from {at}");
        }
        let walked = Table::walk(&File::open(&path).unwrap()).unwrap();
        assert_eq!(walked, packed.table, "{len} bytes");
    }
}

/// Flips bits all over a file: each shows as a flaw, or leaves the content as it was; other frames stay as they are.
#[test]
fn every_flipped_bit_shows_or_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("s");
    let content = text(2 * FRAME + 5_000);
    write(&path, &content);
    let bytes = std::fs::read(&path).unwrap();
    let table = read(&path).1.table;
    let (mut shown, mut silent) = (0, 0);
    let step = bytes.len() / 700;
    let near: Vec<usize> = table.0.iter().flat_map(|f| f.at..f.at + 24).map(|n| n as usize).collect();
    let end = bytes.len() - 60..bytes.len();
    for at in (0..bytes.len()).step_by(step).chain(near).chain(end) {
        for bit in [1, 0x10, 0x80] {
            let mut bad = bytes.clone();
            bad[at] ^= bit;
            std::fs::write(&path, &bad).unwrap();
            let (back, packed) = read(&path);
            if packed.flaw(0, content.len() as u64).is_none() {
                assert!(back == content, "bit {bit} of byte {at}");
                silent += 1;
                continue;
            }
            shown += 1;
            let hit = table.0.iter().position(|f| (f.at..f.at + u64::from(f.packed)).contains(&(at as u64)));
            match hit {
                // The size of the last frame shows only where it is decompressed.
                None => {
                    assert!(back.is_empty() || back[..2 * FRAME] == content[..2 * FRAME], "byte {at}: table")
                }
                Some(hit) => {
                    for (i, frame) in content.chunks(FRAME).enumerate() {
                        let read = &back[i * FRAME..(i * FRAME + frame.len())];
                        assert_eq!(read == frame, i != hit, "byte {at}: frame {i}");
                    }
                }
            }
            let mut salvaged = Packed::open(File::open(&path).unwrap()).unwrap().salvage().unwrap();
            if hit.is_none() && back.is_empty() {
                let mut back = vec![0; content.len()];
                assert_eq!(salvaged.read_at(&mut back, 0).unwrap(), content.len(), "byte {at}");
                assert!(back == content, "byte {at}: the frames are found without the table");
            }
        }
    }
    println!("{shown} flips shown, {silent} changed no content");
    assert!(silent * 50 < shown, "{silent} of {shown} are not seen");
}

#[test]
fn a_table_that_lies_is_damage_and_nothing_is_allocated_for_it() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("s");
    write(&path, &text(FRAME + 10));
    let bytes = std::fs::read(&path).unwrap();
    let len = bytes.len();
    type Lie = fn(&mut Vec<u8>, usize);
    let cases: [(&str, Lie); 9] = [
        ("no file", |b, _| b.clear()),
        ("cut", |b, len| b.truncate(len - 1)),
        ("four billion frames", |b, len| b[len - 9..len - 5].fill(0xff)),
        ("no frames", |b, len| b[len - 9..len - 5].fill(0)),
        ("checksums that are not there", |b, len| b[len - 5] = 0x80),
        ("a frame of four gigabytes of content", |b, len| b[len - 13..len - 9].fill(0xff)),
        ("a frame of four gigabytes", |b, len| b[len - 17..len - 13].fill(0xff)),
        ("an empty frame", |b, len| b[len - 13..len - 9].fill(0)),
        ("a byte before the table", |b, len| b.insert(len - 33, 0)),
    ];
    for (case, lie) in cases {
        let mut bad = bytes.clone();
        lie(&mut bad, len);
        std::fs::write(&path, bad).unwrap();
        let (back, packed) = read(&path);
        assert!(
            packed.flaw(0, 1).is_some_and(|why| why.contains("table")),
            "{case}: {:?}",
            packed.flaw(0, 1)
        );
        assert_eq!(back.len(), 0, "{case}");
    }
}

#[test]
fn a_rewritten_file_differs_only_where_it_was_changed() {
    let temp = tempfile::tempdir().unwrap();
    let (path, other) = (temp.path().join("s"), temp.path().join("t"));
    let mut content = text(3 * FRAME);
    write(&path, &content);
    let mut packed = read(&path).1;
    let out = RealDisk.open(&other).unwrap();
    packed.rewrite(&[(FRAME as u64 + 9, b"changed")], out.as_ref()).unwrap();
    content[FRAME + 9..FRAME + 16].copy_from_slice(b"changed");
    assert!(read(&other).0 == content);
    let (a, b) = (read(&path).1.table, read(&other).1.table);
    let (old, new) = (std::fs::read(&path).unwrap(), std::fs::read(&other).unwrap());
    let frame = |bytes: &[u8], f: Frame| bytes[f.at as usize..][..f.packed as usize].to_vec();
    assert_eq!(frame(&old, a.0[0]), frame(&new, b.0[0]));
    assert_eq!(frame(&old, a.0[2]), frame(&new, b.0[2]));
}
