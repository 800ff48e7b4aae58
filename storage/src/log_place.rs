//! Places in the log of a store.

use bytes::BytesMut;
use dynakv_protocol::codec::{DecodeError, Reader, Wire, put_varint};

/// A place in the log of a store. It only ever grows, in one store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPlace {
    /// The number of a log file; 0 for none.
    pub file: u64,
    /// How many bytes of it.
    pub position: u64,
}

impl Wire for LogPlace {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.file);
        put_varint(out, self.position);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            file: reader.varint()?,
            position: reader.varint()?,
        })
    }
}
