//! The mutator: takes a valid input and spoils it as one who knows the formats would.
//!
//! It knows lines, decimal numbers and the varints and lengths of protobuf; what makes an input pass a checksum again is
//! each body's own [`Repair`](super::Repair).

use crate::Rng;

/// Longest input in bytes.
const LONGEST: usize = 16 << 10;

/// Numbers at which something begins or ends.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "2",
    "15",
    "16",
    "17",
    "63",
    "64",
    "127",
    "128",
    "255",
    "256",
    "16383",
    "16384",
    "16385",
    "65535",
    "65536",
    "65537",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999",
    "-1",
    "00",
    "01",
    "+1",
    "1e9",
    "0x10",
    "",
];

/// Bytes at which something begins or ends.
const BYTES: &[u8] =
    &[0, 1, 9, b'\n', b'\r', b' ', b'"', b'\\', b'{', b'}', b'.', b':', 0x7f, 0x80, 0xc0, 0xe2, 0xff];

/// Pieces of the formats.
const PIECES: &[&str] = &[
    "E ",
    "D ",
    "X ",
    "\n\n",
    "\u{2014} ",
    "\"s\":",
    "\"cause\":[",
    "\"labels\":[",
    "bus.redacted",
    "\u{1f980}",
    "\\u0000",
    "\\ud800",
    "[[[[[[[[[[[[[[[[",
    "{\"a\":",
    "]]",
    "}}",
    "null",
    "<dict>",
    "</key>",
    "<!--",
    "&amp;",
    "[bus]\n",
    "''' ",
    "\"\"\"",
    "../",
    "\0",
];

/// Puts a spoiled copy of one of the seeds into `out`.
pub(super) fn mutate(seeds: &[Vec<u8>], rng: &mut Rng, out: &mut Vec<u8>) {
    out.clear();
    if let Some(seed) = seeds.get(rng.below(seeds.len())) {
        out.extend_from_slice(seed);
    }
    // Some stay as they are: a valid input must not panic either, and one that only a repair touches is nearly valid.
    for _ in 0..*rng.pick(&[0, 1, 1, 1, 2, 2, 3, 4, 8]) {
        once(seeds, rng, out);
        out.truncate(LONGEST);
    }
}

fn once(seeds: &[Vec<u8>], rng: &mut Rng, out: &mut Vec<u8>) {
    let at = rng.below(out.len().max(1)).min(out.len());
    match rng.below(18) {
        0 | 1 => {
            if let Some(byte) = out.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        2 => {
            if let Some(byte) = out.get_mut(at) {
                *byte = if rng.one_in(2) { *rng.pick(BYTES) } else { rng.byte() };
            }
        }
        3 => out.truncate(at),
        4 => {
            let most = *rng.pick(&[4, 64, 4096]);
            let end = (at + 1 + rng.below(most)).min(out.len()).max(at);
            drop(out.drain(at..end));
        }
        5 => {
            let end = (at + 1 + rng.below(64)).min(out.len()).max(at);
            let copy = out[at..end].to_vec();
            insert(out, at, &copy);
        }
        6 => {
            let noise: Vec<u8> = (0..=rng.below(16)).map(|_| rng.byte()).collect();
            insert(out, at, &noise);
        }
        7 => {
            let (byte, most) = (*rng.pick(BYTES), *rng.pick(&[4, 300, 8_000]));
            insert(out, at, &vec![byte; 1 + rng.below(most)]);
        }
        8 => insert(out, at, rng.pick(PIECES).as_bytes()),
        9 | 10 => number(rng, out, at),
        11 => varint(rng, out, at),
        12..=14 => lines(rng, out),
        15 => splice(seeds, rng, out),
        16 => {
            // A length of protobuf that promises more, or less, than there is.
            if let Some(byte) = out.get_mut(at) {
                *byte = byte.wrapping_add(*rng.pick(&[1, 0xff, 0x40, 0x80]));
            }
        }
        _ => {
            // The same field of protobuf many times: cheap to send, dear to hold.
            let unit = [rng.byte() & 0x7f, 0];
            insert(out, at, &unit.repeat(1 + rng.below(2_000)));
        }
    }
}

fn insert(out: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let at = at.min(out.len());
    out.splice(at..at, bytes.iter().copied());
}

/// Replaces a decimal number near a place.
fn number(rng: &mut Rng, out: &mut Vec<u8>, at: usize) {
    let Some(start) = out[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) else { return };
    let len = out[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    let text = std::str::from_utf8(&out[start..start + len]).unwrap_or_default();
    let near = text.parse::<u64>().ok().map(|n| n.wrapping_add(rng.bits() % 5).wrapping_sub(2).to_string());
    let new = match near {
        Some(near) if rng.one_in(2) => near,
        _ => (*rng.pick(NUMBERS)).to_owned(),
    };
    out.splice(start..start + len, new.bytes());
}

/// Replaces a byte by a varint.
fn varint(rng: &mut Rng, out: &mut Vec<u8>, at: usize) {
    let mut value = match rng.below(4) {
        0 => rng.bits(),
        1 => u64::MAX,
        2 => 1 << rng.below(64),
        _ => u64::from(u32::MAX) + rng.bits() % 3 - 1,
    };
    let mut bytes = Vec::new();
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        bytes.push(if value == 0 { low } else { low | 0x80 });
        if value == 0 {
            break;
        }
    }
    let end = (at + 1).min(out.len());
    out.splice(at.min(out.len())..end, bytes);
}

/// Doubles, drops, swaps or moves a line.
fn lines(rng: &mut Rng, out: &mut Vec<u8>) {
    let mut lines: Vec<&[u8]> = out.split_inclusive(|b| *b == b'\n').collect();
    if lines.is_empty() {
        return;
    }
    let (a, b) = (rng.below(lines.len()), rng.below(lines.len()));
    match rng.below(4) {
        0 => lines.insert(b, lines[a]),
        1 => drop(lines.remove(a)),
        2 => lines.swap(a, b),
        _ => {
            let line = lines.remove(a);
            lines.insert(b.min(lines.len()), line);
        }
    }
    *out = lines.concat();
}

/// Goes on with the rest of another seed.
fn splice(seeds: &[Vec<u8>], rng: &mut Rng, out: &mut Vec<u8>) {
    let Some(other) = seeds.get(rng.below(seeds.len())) else { return };
    let (at, from) = (rng.below(out.len() + 1), rng.below(other.len() + 1));
    out.truncate(at);
    out.extend_from_slice(&other[from..]);
}
