//! Standard base64 of 32 and of 16 bytes into arrays, canonical only: each event has three of them.

use crate::merkle::Hash;

/// What each character stands for at each of the four places of a group, shifted there; `BAD` for what is none.
const VALUES: [[u32; 256]; 4] = values();

const BAD: u32 = 1 << 24;

const fn values() -> [[u32; 256]; 4] {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut table = [[BAD; 256]; 4];
    let mut i = 0_u8;
    while i < 64 {
        let mut place = 0;
        while place < 4 {
            table[place][letters[i as usize] as usize] = (i as u32) << (18 - 6 * place);
            place += 1;
        }
        i += 1;
    }
    table
}

/// Reads three bytes of four characters, in the lower 24 bits; more than these when a character is none.
#[inline]
fn four(text: [u8; 4]) -> u32 {
    let [a, b, c, d] = text.map(usize::from);
    VALUES[0][a] | VALUES[1][b] | VALUES[2][c] | VALUES[3][d]
}

/// Reads 32 bytes of 43 characters and the `=` that pads them.
#[inline]
pub(crate) fn hash(text: &[u8; 44]) -> Option<Hash> {
    let mut bytes = [0; 33];
    let mut bad = 0;
    for (from, to) in text[..40].chunks_exact(4).zip(bytes.chunks_exact_mut(3)) {
        let three = four([from[0], from[1], from[2], from[3]]);
        to.copy_from_slice(&three.to_be_bytes()[1..]);
        bad |= three;
    }
    // The padding stands for no bits, as "A" does.
    let three = four([text[40], text[41], text[42], b'A']);
    bytes[30..].copy_from_slice(&three.to_be_bytes()[1..]);
    if (bad | three) >= BAD || text[43] != b'=' || bytes[32] != 0 {
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
        let three = four([from[0], from[1], from[2], from[3]]);
        to.copy_from_slice(&three.to_be_bytes()[1..]);
        bad |= three;
    }
    let three = four([text[20], text[21], b'A', b'A']);
    bytes[15..].copy_from_slice(&three.to_be_bytes()[1..]);
    if (bad | three) >= BAD || bytes[16] != 0 || bytes[17] != 0 {
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
