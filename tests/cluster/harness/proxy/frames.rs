//! Where frames begin in a stream of bytes, and the bit of one that is flipped.

use bytes::{Bytes, BytesMut};

/// A frame begins with its length, which does not count itself.
const LENGTH_BYTES: usize = 4;

/// Follows the frames of a stream that it sees from the first byte on.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The begin of a length, kept until all of it is there.
    held: BytesMut,
    /// How much of the frame at hand has passed, and how long it is.
    passed: usize,
    length: usize,
    /// Which of its bits is flipped.
    bit: Option<usize>,
}

impl Frames {
    /// Takes bytes as they come, and gives them on. `choose` is asked once for each frame, with its length
    /// in bytes, which of its bits to flip.
    pub(super) fn pass(
        &mut self,
        bytes: &[u8],
        mut choose: impl FnMut(usize) -> Option<usize>,
    ) -> Bytes {
        let mut stream = std::mem::take(&mut self.held);
        stream.extend_from_slice(bytes);
        let mut at = 0;
        while at < stream.len() {
            if self.passed == self.length {
                let Some(length) = stream[at..].first_chunk::<LENGTH_BYTES>() else {
                    self.held = stream.split_off(at);
                    break;
                };
                self.length = u32::from_be_bytes(*length) as usize + LENGTH_BYTES;
                self.passed = 0;
                self.bit = choose(self.length);
            }
            let part = (self.length - self.passed).min(stream.len() - at);
            if let Some(bit) = self.bit
                && (self.passed..self.passed + part).contains(&(bit / 8))
            {
                stream[at + bit / 8 - self.passed] ^= 1 << (bit % 8);
            }
            self.passed += part;
            at += part;
        }
        stream.freeze()
    }

    /// What is left when the stream has ended in the midst of a length.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.held).freeze()
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use dynakv_protocol::frame::{FrameDecoder, Header, put_frame};

    use super::*;

    fn stream() -> BytesMut {
        let mut stream = BytesMut::new();
        for id in 0..20 {
            put_frame(&mut stream, Header::new(0x10, id), |out| {
                out.put_bytes(b'x', id as usize * 7)
            });
        }
        stream
    }

    fn in_pieces(piece: usize, mut choose: impl FnMut(usize) -> Option<usize>) -> BytesMut {
        let mut frames = Frames::default();
        let mut passed = BytesMut::new();
        for bytes in stream().chunks(piece) {
            passed.extend(frames.pass(bytes, &mut choose));
        }
        passed.extend(frames.rest());
        passed
    }

    #[test]
    fn the_proxy_changes_nothing_unless_it_is_told_to() {
        for piece in [1, 2, 3, 5, 64, 10_000] {
            let mut seen = 0;
            let passed = in_pieces(piece, |_| {
                seen += 1;
                None
            });
            assert_eq!((passed, seen), (stream(), 20), "{piece}");
        }
    }

    #[test]
    fn one_bit_of_the_chosen_frame_is_flipped_and_the_receiver_notices() {
        for piece in [1, 7, 10_000] {
            for chosen in 0..20 {
                for bit in [0, 31, 32, 64, 100, 159] {
                    let mut frame = 0;
                    let passed = in_pieces(piece, |_| {
                        frame += 1;
                        (frame - 1 == chosen).then_some(bit)
                    });
                    let sent = stream();
                    let flipped = passed.iter().zip(&sent).map(|(a, b)| (a ^ b).count_ones());
                    assert_eq!(flipped.sum::<u32>(), 1, "{piece} {chosen} {bit}");
                    let decoder = FrameDecoder::new(1 << 20);
                    let mut received = passed;
                    let mut whole = 0;
                    while let Ok(Some(_)) = decoder.next(&mut received) {
                        whole += 1;
                    }
                    // Either an error, or it waits for the rest of a frame that is longer than it was.
                    assert_eq!(whole, chosen, "{piece} {bit}");
                }
            }
        }
    }
}
