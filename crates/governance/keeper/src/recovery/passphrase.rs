//! The recovery passphrase: 140 random bits in seven groups of five symbols that a person can write down.
//!
//! The alphabet is Crockford's base32, so case, spaces, hyphens and the usual mix-ups (O for 0, I or L for 1) do not
//! matter. The last symbol of each group checks it. Invariant: one wrong symbol, or two of a group that changed places, is
//! told before any key is derived, and so are two groups that changed places.

use std::fmt;

use zeroize::Zeroizing;

use super::RecoveryError;

/// Symbols, by value.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Groups.
const GROUPS: usize = 7;
/// Symbols of a group, the last of which checks the others.
const GROUP: usize = 5;

/// A recovery passphrase, well formed; wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Makes one from the system's random source.
    pub fn generate() -> Result<Self, RecoveryError> {
        let mut values = Zeroizing::new([0; GROUPS * GROUP]);
        getrandom::fill(&mut *values).map_err(|e| RecoveryError::Random(e.to_string()))?;
        for (number, group) in values.chunks_exact_mut(GROUP).enumerate() {
            group.iter_mut().for_each(|value| *value &= 31);
            // The check symbol has weight one, so it is whatever the group lacks without it.
            group[GROUP - 1] = 0;
            group[GROUP - 1] = sum(group) ^ constant(number);
        }
        Ok(Self(Zeroizing::new(values.iter().map(|v| char::from(ALPHABET[usize::from(*v)])).collect())))
    }

    /// Reads what a person typed.
    pub fn parse(text: &str) -> Result<Self, RecoveryError> {
        let mut symbols = Zeroizing::new(String::with_capacity(GROUPS * GROUP));
        let mut values = Zeroizing::new(Vec::with_capacity(GROUPS * GROUP));
        let mut found = 0;
        for c in text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '-' | '\u{2010}'..='\u{2015}')) {
            let symbol = match c.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let at = ALPHABET.iter().position(|known| char::from(*known) == symbol);
            let group = found / GROUP + 1;
            let value = at.and_then(|at| u8::try_from(at).ok()).ok_or(RecoveryError::Symbol { group })?;
            found += 1;
            if found <= GROUPS * GROUP {
                values.push(value);
                symbols.push(symbol);
            }
        }
        if found != GROUPS * GROUP {
            return Err(RecoveryError::Length { found });
        }
        match values.chunks_exact(GROUP).enumerate().position(|(n, group)| sum(group) != constant(n)) {
            Some(n) => Err(RecoveryError::Typo { group: n + 1 }),
            None => Ok(Self(symbols)),
        }
    }

    /// Returns the groups joined by hyphens, as the kit prints them.
    pub fn grouped(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(GROUPS * (GROUP + 1)));
        for (i, symbol) in self.0.chars().enumerate() {
            if i > 0 && i % GROUP == 0 {
                text.push('-');
            }
            text.push(symbol);
        }
        text
    }

    /// Returns what keys are derived from: the symbols without hyphens.
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

/// What a group sums up to; another one for each, so that groups cannot change places.
fn constant(group: usize) -> u8 {
    u8::try_from(group + 1).unwrap_or(u8::MAX) & 31
}

/// The weighted sum over GF(32); the weights differ and none is zero, so that no single change and no swap keeps it.
fn sum(group: &[u8]) -> u8 {
    group.iter().fold(0, |sum, value| double(sum) ^ value)
}

/// Multiplies by x modulo x^5 + x^2 + 1.
fn double(value: u8) -> u8 {
    let shifted = value << 1;
    if shifted & 32 == 0 { shifted } else { (shifted ^ 0b10_0101) & 31 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[track_caller]
    fn refused(symbols: &[char], what: &str) {
        let text: String = symbols.iter().collect();
        assert!(Passphrase::parse(&text).is_err(), "{what}: {text}");
    }

    #[test]
    fn what_was_printed_is_read_in_any_spelling() {
        let made = Passphrase::generate().unwrap();
        let text = made.grouped();
        assert_eq!(text.len(), 41);
        let typed = text.to_lowercase().replace('-', " \u{2013} ").replace('0', "o").replace('1', "l");
        for spelling in [text.as_str(), &text.replace('-', ""), &typed, &format!("\n{}\r\n", *text)] {
            assert_eq!(Passphrase::parse(spelling).unwrap(), made, "{spelling}");
        }
        assert!(!format!("{made:?}").contains(&text[..5]));
    }

    #[test]
    fn every_single_typing_error_and_every_swap_is_caught() {
        let made = Passphrase::generate().unwrap();
        let good: Vec<char> = made.0.chars().collect();
        for at in 0..good.len() {
            for other in ALPHABET.iter().map(|b| char::from(*b)).filter(|c| *c != good[at]) {
                let mut bad = good.clone();
                bad[at] = other;
                refused(&bad, "one symbol");
            }
            let mut short = good.clone();
            short.remove(at);
            refused(&short, "one too few");
            let mut long = good.clone();
            long.insert(at, '7');
            refused(&long, "one too many");
        }
        for group in good.chunks(GROUP).enumerate() {
            for (a, b) in (0..GROUP).flat_map(|a| (0..a).map(move |b| (a, b))) {
                let mut bad = good.clone();
                bad.swap(group.0 * GROUP + a, group.0 * GROUP + b);
                if bad != good {
                    refused(&bad, "a swap");
                }
            }
        }
        for (a, b) in (0..GROUPS).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let mut bad = good.clone();
            for i in 0..GROUP {
                bad.swap(a * GROUP + i, b * GROUP + i);
            }
            if bad != good {
                refused(&bad, "groups that changed places");
            }
        }
    }

    #[test]
    fn the_error_names_the_group_and_never_the_passphrase() {
        let made = Passphrase::generate().unwrap();
        let text = made.grouped().to_string();
        let mut groups: Vec<String> = text.split('-').map(str::to_owned).collect();
        let first = if groups[2].starts_with('7') { "8" } else { "7" };
        groups[2].replace_range(..1, first);
        let error = Passphrase::parse(&groups.join("-")).unwrap_err().to_string();
        assert!(error.contains("group 3"), "{error}");
        groups[2].replace_range(..1, "U");
        let error = Passphrase::parse(&groups.join("-")).unwrap_err().to_string();
        assert!(error.contains("group 3"), "{error}");
        assert!(groups.iter().all(|group| !error.contains(group.as_str())), "{error}");
        let error = Passphrase::parse("").unwrap_err().to_string();
        assert!(error.contains("35"), "{error}");
    }

    #[test]
    fn no_two_are_alike() {
        let made: HashSet<String> =
            (0..200).map(|_| Passphrase::generate().unwrap().grouped().to_string()).collect();
        assert_eq!(made.len(), 200);
    }
}
