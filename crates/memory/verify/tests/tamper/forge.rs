//! A forger who knows the format: changes events, and makes CRCs, digests and the chain fit again.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::Place;

/// An event as two texts without their frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forged {
    pub(crate) header: String,
    /// The D or X line with its newline.
    pub(crate) body: Vec<u8>,
}

/// A log taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Forgery {
    pub(crate) events: Vec<Forged>,
    firsts: Vec<u64>,
}

fn line(tag: char, body: &[u8]) -> Vec<u8> {
    let mut line = format!("{tag} {:08x} ", crc32c::crc32c(body)).into_bytes();
    line.extend_from_slice(body);
    line.push(b'\n');
    line
}

impl Forged {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let head = line('E', format!("{} {}", self.header.len(), self.header).as_bytes());
        [head, self.body.clone()].concat()
    }

    /// Replaces the value of a key, up to the next comma or quotation mark.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        let at = self.header.find(key).unwrap() + key.len();
        let end = at + self.header[at..].find([',', '"']).unwrap();
        self.header.replace_range(at..end, value);
    }

    /// Replaces the payload by one of equal length, with a line and a digest that fit.
    pub(crate) fn replace(&mut self, payload: &[u8], with_digest: bool) {
        let salt = [7; 16];
        let mut body = format!("{} {} ", payload.len(), STANDARD_NO_PAD.encode(salt)).into_bytes();
        body.extend_from_slice(payload);
        self.body = line('D', &body);
        if with_digest {
            let digest = Sha256::new().chain_update(salt).chain_update(payload).finalize();
            self.set("\"dl\":", &payload.len().to_string());
            self.set("\"dh\":\"", &STANDARD.encode(digest));
        }
    }

    /// Puts an X line in the place of the payload.
    pub(crate) fn erase(&mut self, by: u64) {
        let dots = ".".repeat(self.body.len() - 11 - 20 - 1);
        self.body = line('X', format!("{by:020}{dots}").as_bytes());
    }
}

impl Forgery {
    /// Takes the log of a place apart.
    pub(crate) fn of(place: &Place) -> Self {
        let firsts = place.firsts();
        let mut events = Vec::new();
        for first in &firsts {
            let bytes = fs::read(place.segment(*first)).unwrap();
            let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| *line != b"\n");
            while let Some(head) = lines.next() {
                let header = std::str::from_utf8(head).unwrap().trim_end().splitn(4, ' ').nth(3).unwrap();
                events.push(Forged { header: header.to_owned(), body: lines.next().unwrap().to_vec() });
            }
        }
        Self { events, firsts }
    }

    /// Numbers and chains all events anew from a place on, as an honest writer would.
    pub(crate) fn rehash(&mut self, from: usize) {
        for at in from..self.events.len() {
            let prev = match at.checked_sub(1) {
                Some(before) => {
                    let header = self.events[before].header.as_bytes();
                    Sha256::new().chain_update([0]).chain_update(header).finalize().into()
                }
                None => [0_u8; 32],
            };
            let event = &mut self.events[at];
            event.set("\"s\":", &(at + 1).to_string());
            event.set("\"b\":", &(at + 1).to_string());
            event.set("\"prev\":\"", &STANDARD.encode(prev));
        }
    }

    /// Writes the log over that of a place, in segments that begin with the same events.
    pub(crate) fn write(&self, place: &Place) {
        for first in place.firsts() {
            fs::remove_file(place.segment(first)).unwrap();
        }
        let mut bytes: Vec<(u64, Vec<u8>)> = Vec::new();
        for event in &self.events {
            let seq =
                event.header.split("\"s\":").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
            if self.firsts.contains(&seq) {
                bytes.push((seq, Vec::new()));
            }
            bytes.last_mut().unwrap().1.extend(event.bytes());
        }
        bytes.last_mut().unwrap().1.extend([b'\n'; 64]);
        for (first, bytes) in bytes {
            fs::write(place.segment(first), bytes).unwrap();
        }
    }
}
