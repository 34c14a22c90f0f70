//! Lines with a bound: however long a line is, no more than the bound is held.

use std::io::{self, BufRead};

/// Bytes that are kept of a line over the bound.
const KEPT: usize = 65_536;

/// What was read into the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    /// Number, from 1.
    pub(crate) number: u64,
    /// Bytes without the newline; more than the buffer holds, when the line was over the bound.
    pub(crate) bytes: u64,
    /// Whether a newline ended it.
    pub(crate) ended: bool,
}

#[derive(Debug)]
pub(crate) struct Lines<R> {
    input: R,
    limit: usize,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(input: R, limit: usize) -> Self {
        Self { input, limit, number: 0 }
    }

    /// Reads the next line into `line`; of one over the bound, only its beginning.
    pub(crate) fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Option<Line>> {
        line.clear();
        let mut bytes = 0_u64;
        loop {
            let known = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if known.is_empty() {
                if bytes == 0 {
                    return Ok(None);
                }
                self.number += 1;
                return Ok(Some(Line { number: self.number, bytes, ended: false }));
            }
            let end = known.iter().position(|byte| *byte == b'\n');
            let part = &known[..end.unwrap_or(known.len())];
            bytes += part.len() as u64;
            if bytes <= self.limit as u64 {
                line.extend_from_slice(part);
            } else {
                line.extend_from_slice(&part[..part.len().min(KEPT.saturating_sub(line.len()))]);
                line.truncate(KEPT);
                line.shrink_to(KEPT);
            }
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                self.number += 1;
                return Ok(Some(Line { number: self.number, bytes, ended: true }));
            }
        }
    }

    /// Returns the number of the last line.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[track_caller]
    fn check(text: &str, limit: usize, want: &[(&str, u64, bool)]) {
        for capacity in [1, 3, 1_000_000] {
            let mut lines = Lines::new(BufReader::with_capacity(capacity, text.as_bytes()), limit);
            let mut buffer = Vec::new();
            let mut found = Vec::new();
            while let Some(line) = lines.next(&mut buffer).unwrap() {
                found.push((String::from_utf8(buffer.clone()).unwrap(), line.bytes, line.ended));
            }
            let found: Vec<_> =
                found.iter().map(|(text, bytes, ended)| (text.as_str(), *bytes, *ended)).collect();
            assert_eq!(found, want, "{text:?} read {capacity} bytes at a time");
            assert_eq!(lines.number(), want.len() as u64);
        }
    }

    #[test]
    fn lines_end_at_newlines_and_the_last_may_lack_one() {
        check("", 9, &[]);
        check("a\n\nbc\n", 9, &[("a", 1, true), ("", 0, true), ("bc", 2, true)]);
        check("a\nbc", 9, &[("a", 1, true), ("bc", 2, false)]);
        check("123456789\n", 9, &[("123456789", 9, true)]);
    }

    #[test]
    fn a_line_over_the_bound_is_cut_and_counted_and_the_next_is_whole() {
        let long = "x".repeat(200_000);
        let text = format!("{long}\nok\n{long}");
        check(
            &text,
            100_000,
            &[(&long[..KEPT], 200_000, true), ("ok", 2, true), (&long[..KEPT], 200_000, false)],
        );
    }
}
