//! What makes spoiled bytes pass their checksums again, so that what stands behind the checksum is reached.

use std::fmt::Write as _;

use crate::Rng;

/// Does nothing.
pub(super) fn none(_: &mut Vec<u8>, _: &mut Rng) {}

/// Puts a new line for each old one.
fn each_line(bytes: &mut Vec<u8>, mut run: impl FnMut(&[u8]) -> Option<Vec<u8>>) {
    let mut out = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        match line.strip_suffix(b"\n").and_then(&mut run) {
            Some(new) => {
                out.extend_from_slice(&new);
                out.push(b'\n');
            }
            None => out.extend_from_slice(line),
        }
    }
    *bytes = out;
}

/// Makes the lines of a log whole again: lengths sometimes, the digest and the chain sometimes, the CRC mostly.
pub(super) fn log(bytes: &mut Vec<u8>, rng: &mut Rng) {
    if rng.one_in(4) {
        return;
    }
    let (lengths, chain, digests) = (rng.one_in(2), rng.one_in(2), rng.one_in(2));
    if digests {
        digest(bytes);
    }
    let mut prev = mirror_seal::base64(&[0; 32]);
    let mut first = true;
    each_line(bytes, |line| {
        let kind = *line.first().filter(|k| matches!(k, b'E' | b'D' | b'X'))?;
        let rest = line.get(11..)?;
        let mut rest = rest.to_vec();
        if kind == b'E' && chain {
            if !first {
                replace(&mut rest, b"\"prev\":\"", &prev);
            }
            first = false;
        }
        if lengths && kind != b'X' {
            // Behind the length an E line has the header, a D line 22 characters of salt and a space.
            let at = rest.iter().position(|b| *b == b' ')? + 1;
            let len = (rest.len() - at).checked_sub(if kind == b'D' { 23 } else { 0 })?;
            let mut with = len.to_string().into_bytes();
            with.push(b' ');
            with.extend_from_slice(&rest[at..]);
            rest = with;
        }
        if kind == b'E' {
            let at = rest.iter().position(|b| *b == b' ')? + 1;
            prev = mirror_seal::base64(&mirror_seal::leaf(&rest[at..]));
        }
        let mut new = format!("{} {:08x} ", char::from(kind), crc32c::crc32c(&rest)).into_bytes();
        new.extend_from_slice(&rest);
        Some(new)
    });
}

/// Lets each header commit to the payload that follows it.
fn digest(bytes: &mut Vec<u8>) {
    let lines: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let mut out = Vec::with_capacity(bytes.len());
    for (i, line) in lines.iter().enumerate() {
        let mut line = line.clone();
        if let (true, Some(next)) = (line.starts_with(b"E "), lines.get(i + 1))
            && let Some((dl, dh)) = commitment(next)
        {
            replace(&mut line, b"\"dh\":\"", &dh);
            number(&mut line, b"\"dl\":", dl);
        }
        out.extend_from_slice(&line);
        out.push(b'\n');
    }
    out.pop();
    *bytes = out;
}

fn commitment(line: &[u8]) -> Option<(usize, String)> {
    let rest = line.strip_prefix(b"D ")?.get(9..)?;
    let at = rest.iter().position(|b| *b == b' ')? + 1;
    let (salt, payload) = (rest.get(at..at + 22)?, rest.get(at + 23..)?);
    let salt = mirror_seal::unbase64(&format!("{}==", std::str::from_utf8(salt).ok()?))?;
    Some((payload.len(), mirror_seal::base64(&mirror_seal::salted(&salt, payload))))
}

/// Replaces the text from a key's opening quote to the next quote.
fn replace(line: &mut Vec<u8>, key: &[u8], value: &str) {
    let Some(at) = line.windows(key.len()).position(|w| w == key).map(|at| at + key.len()) else { return };
    let Some(len) = line[at..].iter().position(|b| *b == b'"') else { return };
    line.splice(at..at + len, value.bytes());
}

fn number(line: &mut Vec<u8>, key: &[u8], value: usize) {
    let Some(at) = line.windows(key.len()).position(|w| w == key).map(|at| at + key.len()) else { return };
    let len = line[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    line.splice(at..at + len, value.to_string().bytes());
}

/// Gives each record of the keeper's log its hash, and sometimes the hash of the one before.
pub(super) fn keeper(bytes: &mut Vec<u8>, rng: &mut Rng) {
    const SEAM: &[u8] = b",\"hash\":\"";
    if rng.one_in(4) {
        return;
    }
    let chain = rng.one_in(2);
    let mut prev = "0".repeat(64);
    each_line(bytes, |line| {
        let at = line.windows(SEAM.len()).rposition(|w| w == SEAM)?;
        let mut content = line[..at].to_vec();
        if chain {
            replace(&mut content, b"\"prev\":\"", &prev);
        }
        prev = mirror_seal::hex(&mirror_seal::sha256(&content));
        let mut tail = String::new();
        // Writing to a string cannot fail.
        let _ = write!(tail, ",\"hash\":\"{prev}\"}}");
        content.extend_from_slice(tail.as_bytes());
        Some(content)
    });
}
