//! Standard base64 of 32 and of 16 bytes into arrays, canonical only: each event has three of them.

use crate::merkle::Hash;

/// The value of each character, `BAD` for what is none.
const VALUES: [u8; 256] = values();

const BAD: u8 = 0xff;

const fn values() -> [u8; 256] {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut table = [BAD; 256];
    let mut i = 0_u8;
    while i < 64 {
        table[letters[i as usize] as usize] = i;
        i += 1;
    }
    table
}

/// Reads three bytes of four characters; returns them, and what is above 63 when a character is none.
#[inline]
fn four(text: [u8; 4]) -> ([u8; 3], u8) {
    let [a, b, c, d] = text.map(|byte| VALUES[usize::from(byte)]);
    let all = (u32::from(a) << 18) | (u32::from(b) << 12) | (u32::from(c) << 6) | u32::from(d);
    let [_, x, y, z] = all.to_be_bytes();
    ([x, y, z], a | b | c | d)
}

/// Reads 32 bytes of 43 characters and the `=` that pads them.
#[inline]
pub(crate) fn hash(text: &[u8; 44]) -> Option<Hash> {
    let mut bytes = [0; 33];
    let mut bad = 0;
    // The padding stands for no bits, as "A" does.
    let mut last = [text[40], text[41], text[42], b'A'];
    for (from, to) in text[..40].chunks_exact(4).zip(bytes.chunks_exact_mut(3)) {
        let (three, wrong) = four([from[0], from[1], from[2], from[3]]);
        to.copy_from_slice(&three);
        bad |= wrong;
    }
    let (three, wrong) = four(last);
    bytes[30..].copy_from_slice(&three);
    last[3] = text[43];
    if (bad | wrong) > 63 || last[3] != b'=' || bytes[32] != 0 {
        return None;
    }
    bytes.first_chunk::<32>().copied()
}

/// Reads 16 bytes of 22 characters without padding.
#[inline]
pub(crate) fn salt(text: &[u8; 22]) -> Option<[u8; 16]> {
    let mut bytes = [0; 18];
    let mut bad = 0;
    for (from, to) in text[..20].chunks_exact(4).zip(bytes.chunks_exact_mut(3)) {
        let (three, wrong) = four([from[0], from[1], from[2], from[3]]);
        to.copy_from_slice(&three);
        bad |= wrong;
    }
    let (three, wrong) = four([text[20], text[21], b'A', b'A']);
    bytes[15..].copy_from_slice(&three);
    if (bad | wrong) > 63 || bytes[16] != 0 || bytes[17] != 0 {
        return None;
    }
    bytes.first_chunk::<16>().copied()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    use proptest::prelude::{ProptestConfig, any, proptest};

    use super::*;

    fn plainly<const N: usize>(engine: &impl base64::Engine, text: &[u8]) -> Option<[u8; N]> {
        engine.decode(text).ok()?.try_into().ok()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn what_the_library_reads_is_read_and_nothing_else(bytes in any::<[u8; 32]>(), at in 0..44_usize) {
            let mut text = [0; 44];
            STANDARD.encode_slice(bytes, &mut text).unwrap();
            assert_eq!(hash(&text), Some(bytes));
            let mut short = [0; 22];
            STANDARD_NO_PAD.encode_slice(&bytes[..16], &mut short).unwrap();
            assert_eq!(salt(&short), bytes.first_chunk().copied());
            for byte in 0..=255 {
                text[at] = byte;
                assert_eq!(hash(&text), plainly(&STANDARD, &text), "{byte} at {at}");
                if let Some(place) = short.get_mut(at) {
                    *place = byte;
                    assert_eq!(salt(&short), plainly(&STANDARD_NO_PAD, &short), "{byte} at {at}");
                }
            }
        }
    }
}
