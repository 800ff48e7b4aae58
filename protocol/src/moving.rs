//! How far a member is with what a change of the ring has it move.

use bytes::BytesMut;

use crate::codec::{DecodeError, Reader, Wire, put_varint};

/// What a member still has to fetch or to hand on, and how fast it does so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moving {
    /// How many segments are left.
    pub segments_left: u32,
    /// How many bytes it has moved meanwhile, for that and to mend what differs, since it was started.
    pub bytes: u64,
    /// How many bytes it moves a second at present.
    pub bytes_per_s: u64,
    /// How many seconds it will take, if it goes on like this; nothing while that cannot be told.
    pub seconds_left: Option<u32>,
}

impl Wire for Moving {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, u64::from(self.segments_left));
        put_varint(out, self.bytes);
        put_varint(out, self.bytes_per_s);
        // 0 stands for "cannot be told".
        let seconds = self.seconds_left.map_or(0, |it| u64::from(it) + 1);
        put_varint(out, seconds);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bounded = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Self {
            segments_left: bounded(reader.varint()?),
            bytes: reader.varint()?,
            bytes_per_s: reader.varint()?,
            seconds_left: reader.varint()?.checked_sub(1).map(bounded),
        })
    }
}
