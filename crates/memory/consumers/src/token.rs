//! Tokens: the name of one delivery.

use std::fmt;
use std::str::FromStr;

/// Names one delivery: consumer, position, attempt, and the process that made it.
///
/// Its text is what a caller gives back. A token is no secret: whoever owns the consumer may settle all that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// Position of the event that made the consumer.
    pub consumer: u64,
    /// Position of the delivered event.
    pub seq: u64,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// Differs in every process, so that deliveries of before a restart are known as such.
    pub nonce: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{:016x}", self.consumer, self.seq, self.attempt, self.nonce)
    }
}

/// The text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no token")]
pub struct NoToken;

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or(NoToken);
        let (consumer, seq, attempt, nonce) = (next()?, next()?, next()?, next()?);
        let number = |text: &str| text.parse::<u64>().map_err(|_| NoToken);
        let token = Self {
            consumer: number(consumer)?,
            seq: number(seq)?,
            attempt: attempt.parse().map_err(|_| NoToken)?,
            nonce: u64::from_str_radix(nonce, 16).map_err(|_| NoToken)?,
        };
        // There is one text for each token.
        if token.to_string() == text { Ok(token) } else { Err(NoToken) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_one_text() {
        let token = Token { consumer: 7, seq: u64::MAX, attempt: 3, nonce: 0xabc };
        assert_eq!(token.to_string(), "7.18446744073709551615.3.0000000000000abc");
        assert_eq!(token.to_string().parse(), Ok(token));
        for text in [
            "",
            "7",
            "7.1.1.abc",
            "07.1.1.0000000000000abc",
            "7.1.1.0000000000000abc.",
            "7.1.-1.0000000000000abc",
        ] {
            assert_eq!(text.parse::<Token>(), Err(NoToken), "{text:?}");
        }
    }
}
