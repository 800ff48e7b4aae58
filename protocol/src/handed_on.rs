//! What a node says of a write that it hands on.

use bytes::{BufMut, BytesMut};

use crate::codec::{DecodeError, Reader, Wire};

/// When a write was handed on, and for how long it is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandedOn {
    /// In milliseconds since the sender was welcomed on this connection.
    pub sent_ms: u64,
    /// So many milliseconds later it may be given to another node. One without a context is not begun after that.
    pub within_ms: u32,
}

impl Wire for HandedOn {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.sent_ms);
        out.put_u32(self.within_ms);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            sent_ms: reader.u64()?,
            within_ms: reader.u32()?,
        })
    }
}
