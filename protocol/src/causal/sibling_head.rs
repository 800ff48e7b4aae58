//! What stands before the value of a sibling: on disk, between replicas, and where one is told of.

use bytes::{BufMut, BytesMut};

use super::Dot;
use crate::codec::{DecodeError, Reader, Wire};
use crate::ids::WriteId;

const FLAG_TOMBSTONE: u8 = 1;
const FLAG_EXPIRES: u8 = 2;

/// A sibling without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SiblingHead {
    pub(crate) dot: Dot,
    pub(crate) write_id: WriteId,
    pub(crate) timestamp: u64,
    pub(crate) expires_at_ms: Option<u64>,
    /// Whether no value follows.
    pub(crate) is_tombstone: bool,
}

impl Wire for SiblingHead {
    fn encode(&self, out: &mut BytesMut) {
        self.dot.encode(out);
        self.write_id.encode(out);
        out.put_u64(self.timestamp);
        let expires = self.expires_at_ms.is_some();
        out.put_u8(u8::from(self.is_tombstone) * FLAG_TOMBSTONE + u8::from(expires) * FLAG_EXPIRES);
        if let Some(at) = self.expires_at_ms {
            out.put_u64(at);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let dot = Dot::decode(reader)?;
        let write_id = WriteId::decode(reader)?;
        let timestamp = reader.u64()?;
        let flags = reader.u8()?;
        if flags & !(FLAG_TOMBSTONE | FLAG_EXPIRES) != 0 {
            let what = "sibling flags";
            return Err(DecodeError::Invalid { what });
        }
        let expires_at_ms = match flags & FLAG_EXPIRES != 0 {
            true => Some(reader.u64()?),
            false => None,
        };
        Ok(Self {
            dot,
            write_id,
            timestamp,
            expires_at_ms,
            is_tombstone: flags & FLAG_TOMBSTONE != 0,
        })
    }
}
