//! Zstandard frames one after the other, as Codex leaves them of rollouts that were not used for a while.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// First bytes of a frame.
pub(crate) const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The content of frames. Damage is an error of kind `InvalidData`, and stays one.
pub(crate) struct Frames<R: BufRead> {
    place: Place<R>,
}

enum Place<R: BufRead> {
    Between(R),
    Inside(Box<StreamingDecoder<R, FrameDecoder>>),
    Ended,
    Damaged,
}

impl<R: BufRead> Frames<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { place: Place::Between(input) }
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a damaged zstd frame")
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.place, Place::Damaged) {
                Place::Between(mut input) => {
                    self.place = if input.fill_buf()?.is_empty() {
                        Place::Ended
                    } else {
                        Place::Inside(Box::new(StreamingDecoder::new(input).map_err(|_| damaged())?))
                    };
                }
                Place::Inside(mut frame) => match frame.read(buffer) {
                    Ok(0) => self.place = Place::Between(frame.into_inner()),
                    Ok(count) => {
                        self.place = Place::Inside(frame);
                        return Ok(count);
                    }
                    Err(_) => return Err(damaged()),
                },
                Place::Ended => {
                    self.place = Place::Ended;
                    return Ok(0);
                }
                Place::Damaged => return Err(damaged()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn pack(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    #[test]
    fn frames_follow_each_other() {
        let packed = [pack(b"one\n"), pack(b""), pack(&[b'x'; 300_000])].concat();
        assert!(packed.starts_with(&MAGIC));
        let mut text = Vec::new();
        Frames::new(&packed[..]).read_to_end(&mut text).unwrap();
        assert_eq!(text.len(), 300_004);
        assert!(text.starts_with(b"one\nxxx"));
    }

    #[test]
    fn damage_keeps_what_came_before_and_stays() {
        let mut packed = pack(b"one\n");
        packed.extend_from_slice(b"garbage");
        let mut frames = Frames::new(&packed[..]);
        let mut text = Vec::new();
        assert_eq!(frames.read_to_end(&mut text).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(text, b"one\n");
        assert_eq!(frames.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let cut = pack(&(0_u8..=255).cycle().take(100_000).collect::<Vec<u8>>());
        let mut text = Vec::new();
        assert!(Frames::new(&cut[..cut.len() / 2]).read_to_end(&mut text).is_err());
    }
}
