//! The lines of the log: `E`, `D` and `X`. Bounds come before the CRC, the CRC before everything else.

use crate::b64;
use crate::header::HEX;
use crate::report::FindingKind;

/// Most bytes of a header.
pub(crate) const HEADER_LIMIT: usize = 16_384;
/// Most bytes of a payload.
pub(crate) const PAYLOAD_LIMIT: usize = 65_536;
/// Longest E line, without its newline.
pub(crate) const E_LIMIT: usize = BODY + 6 + HEADER_LIMIT;
/// Longest D line, without its newline.
pub(crate) const D_LIMIT: usize = BODY + 6 + SALT + 1 + PAYLOAD_LIMIT;

const BODY: usize = "E 00000000 ".len();
const SALT: usize = 22;
const SEQ: usize = 20;

/// What is wrong with a line.
#[derive(Debug, Clone)]
pub(crate) struct Flaw {
    pub(crate) kind: FindingKind,
    pub(crate) message: String,
    /// Whether a write that was cut short can leave this behind: a line with a right CRC was written on purpose.
    pub(crate) torn: bool,
}

impl Flaw {
    /// A flaw that an interrupted write explains.
    pub(crate) fn torn(kind: FindingKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), torn: true }
    }

    /// A flaw that only damage explains.
    pub(crate) fn damage(kind: FindingKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), torn: false }
    }
}

/// What a D line carries.
#[derive(Debug)]
pub(crate) struct Data<'a> {
    pub(crate) salt: [u8; 16],
    pub(crate) payload: &'a [u8],
    /// Whether the payload is ASCII.
    pub(crate) is_ascii: bool,
}

/// Reads an E line without its newline and returns the header's bytes.
#[inline]
pub(crate) fn event(line: &[u8]) -> Result<&[u8], Flaw> {
    let (crc, body) = frame(line, b'E')?;
    let (len, header) = length(body, HEADER_LIMIT)?;
    exact("header", header.len(), len)?;
    checksum(crc, body)?;
    Ok(header)
}

/// Reads a D line without its newline.
#[inline]
pub(crate) fn data(line: &[u8]) -> Result<Data<'_>, Flaw> {
    let (crc, body) = frame(line, b'D')?;
    let (len, rest) = length(body, PAYLOAD_LIMIT)?;
    let Some((salt, payload)) = rest.split_at_checked(SALT + 1) else {
        return Err(Flaw::torn(FindingKind::BadLength, "the D line ends within its salt"));
    };
    exact("payload", payload.len(), len)?;
    checksum(crc, body)?;
    if salt[SALT] != b' ' {
        return Err(Flaw::damage(FindingKind::BadLine, "no space follows the salt of the D line"));
    }
    let salt = salt.first_chunk::<SALT>().and_then(b64::salt);
    let Some(salt) = salt else {
        return Err(Flaw::damage(FindingKind::BadLine, "the salt is not 16 bytes of canonical base64"));
    };
    // Without an early way out, so that it is done many bytes at a time.
    let (mut control, mut all) = (false, 0);
    for byte in payload {
        control |= *byte < b' ';
        all |= *byte;
    }
    if control {
        return Err(Flaw::damage(FindingKind::BadLine, "the payload has a control byte"));
    }
    Ok(Data { salt, payload, is_ascii: all < 0x80 })
}

/// Reads an X line that stands for the D line of a payload of `payload_len` bytes; returns the redaction's sequence.
pub(crate) fn erased(line: &[u8], payload_len: usize) -> Result<u64, Flaw> {
    let (crc, body) = frame(line, b'X')?;
    exact("X line", line.len(), data_line_len(payload_len))?;
    checksum(crc, body)?;
    let bad = || {
        Flaw::damage(FindingKind::BadLine, "the X line is not 20 digits of a sequence followed by dots only")
    };
    let (digits, dots) = body.split_at_checked(SEQ).ok_or_else(bad)?;
    if dots.iter().any(|byte| *byte != b'.') {
        return Err(bad());
    }
    let mut seq = 0_u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(bad());
        }
        seq = seq.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit - b'0'))).ok_or_else(bad)?;
    }
    Ok(seq)
}

/// Returns the length of a D line for a payload of so many bytes, without its newline.
pub(crate) fn data_line_len(payload_len: usize) -> usize {
    let digits = payload_len.checked_ilog10().unwrap_or(0) as usize + 1;
    BODY + digits + 1 + SALT + 1 + payload_len
}

/// Reads a decimal number without leading zeros from the front; returns it and the rest.
#[inline]
pub(crate) fn decimal(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    let mut digits = 0;
    // Eight at once, as often as two times: sixteen digits fit, and most numbers end before.
    while digits < 16
        && let Some(eight) = bytes[digits..].first_chunk()
    {
        let (part, count) = eight_digits(*eight);
        value = value * POWERS[count] + part;
        digits += count;
        if count < 8 {
            break;
        }
    }
    while let Some(digit @ b'0'..=b'9') = bytes.get(digits) {
        // Nineteen digits always fit.
        if digits >= 19 {
            value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
        } else {
            value = value * 10 + u64::from(digit - b'0');
        }
        digits += 1;
    }
    if digits == 0 || (bytes[0] == b'0' && digits > 1) {
        return None;
    }
    Some((value, &bytes[digits..]))
}

/// Powers of ten.
const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// Reads the digits at the front of eight characters; returns their value and how many they are.
///
/// Without a branch for each digit: pairs, fours and all eight are added up in the lanes of one word.
#[inline]
fn eight_digits(text: [u8; 8]) -> (u64, usize) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let word = u64::from_le_bytes(text);
    // The high nibble of each lane is 0 where a digit stands: neither it nor it and six more leaves the range.
    let values = word ^ (0x30 * ONES);
    let high = (values | ((values & (0x7f * ONES)) + 0x06 * ONES)) & (0xf0 * ONES);
    let count = (high.trailing_zeros() / 8) as usize;
    if count == 0 {
        return (0, 0);
    }
    let digits = values << (8 * (8 - count));
    let pairs = (digits * 10 + (digits >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    ((fours * 10_000 + (fours >> 32)) & 0xffff_ffff, count)
}

/// Reads `<tag> <crc> ` and returns the CRC and what it covers.
#[inline]
fn frame(line: &[u8], tag: u8) -> Result<(u32, &[u8]), Flaw> {
    let name = char::from(tag);
    let bad = |why: &str| Flaw::torn(FindingKind::BadLine, format!("the {name} line {why}"));
    let Some((front, body)) = line.split_at_checked(BODY) else {
        return Err(bad("is shorter than any"));
    };
    if front[0] != tag || front[1] != b' ' || front[BODY - 1] != b' ' {
        return Err(bad("does not begin with its letter, a space, eight hex digits and a space"));
    }
    let (mut crc, mut wrong) = (0_u32, 0);
    for digit in &front[2..BODY - 1] {
        let value = HEX[usize::from(*digit)];
        wrong |= value;
        crc = (crc << 4) | u32::from(value);
    }
    if wrong > 15 {
        return Err(bad("has a CRC that is not eight lower-case hex digits"));
    }
    Ok((crc, body))
}

/// Reads `<len> ` and returns the length, checked against its limit, and the rest.
#[inline]
fn length(body: &[u8], limit: usize) -> Result<(usize, &[u8]), Flaw> {
    let bad = |why: String| Flaw::torn(FindingKind::BadLength, why);
    let Some((len, rest)) = decimal(body) else {
        return Err(bad("the length is not a decimal number without leading zeros".to_owned()));
    };
    let Some(rest) = rest.strip_prefix(b" ") else {
        return Err(bad("no space follows the length".to_owned()));
    };
    match usize::try_from(len) {
        Ok(len) if len <= limit => Ok((len, rest)),
        _ => Err(bad(format!("the length {len} is over the limit of {limit} bytes"))),
    }
}

#[inline]
fn exact(what: &str, has: usize, wants: usize) -> Result<(), Flaw> {
    if has == wants {
        return Ok(());
    }
    Err(Flaw::torn(FindingKind::BadLength, format!("the {what} has {has} bytes where {wants} are due")))
}

#[inline]
fn checksum(crc: u32, body: &[u8]) -> Result<(), Flaw> {
    let found = crc32c::crc32c(body);
    if found == crc {
        return Ok(());
    }
    Err(Flaw::torn(FindingKind::BadCrc, format!("the line says CRC {crc:08x}, its bytes give {found:08x}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, proptest};

    use super::*;

    /// What `decimal` means, digit by digit.
    fn plainly(bytes: &[u8]) -> Option<(u64, &[u8])> {
        let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
        let (number, rest) = bytes.split_at(digits);
        if digits > 1 && number[0] == b'0' {
            return None;
        }
        Some((std::str::from_utf8(number).unwrap().parse().ok()?, rest))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn numbers_are_read_as_digit_by_digit(value in any::<u64>(), cut in 0..70_u32, tail in any::<[u8; 9]>()) {
            let value = value.checked_shr(cut).unwrap_or_default();
            for len in 0..=tail.len() {
                let text = [value.to_string().as_bytes(), &tail[..len]].concat();
                assert_eq!(decimal(&text), plainly(&text), "{text:?}");
                assert_eq!(decimal(&text[1..]), plainly(&text[1..]), "{:?}", &text[1..]);
            }
            assert_eq!(decimal(&tail), plainly(&tail), "{tail:?}");
        }
    }

    #[test]
    fn every_byte_ends_a_number_or_is_a_digit() {
        for byte in 0..=255_u8 {
            for at in 0..21 {
                let mut text = *b"184467440737095516150";
                text[at] = byte;
                assert_eq!(decimal(&text), plainly(&text), "{byte} at {at}");
            }
        }
    }
}
