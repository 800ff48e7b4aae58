//! Mending a key whose versions are beyond a limit: asked for by an operator, carried out at all its owners.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::skip_tags;
use crate::codec::{DecodeError, Reader, Wire, put_bytes, put_varint};
use crate::ids::{NodeId, RingVersion};
use crate::limits::KEY_BYTES_MAX;
use crate::peer::Digest;

/// Mend this key, which is locked, and accept what is lost by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlock {
    /// How long the sender still waits, in milliseconds.
    pub timeout_ms: u32,
    /// 1 to 4,096 bytes.
    pub key: Bytes,
}

/// The key can be read and written again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlocked {
    /// Who has done it.
    pub node_id: NodeId,
    /// How many owners the key has; all have the new state.
    pub owners: u8,
    /// How many entries its clock had.
    pub clock_entries_before: u64,
    /// How many it has.
    pub clock_entries: u64,
    /// How many values and tombstones it has.
    pub siblings: u64,
    /// How many values and tombstones were given up.
    pub siblings_given_up: u64,
}

/// Put these versions in the place of what you have of a key, if that is what I think it is. It is no merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replace {
    /// The ring the sender follows.
    pub ring_version: RingVersion,
    /// How long the sender still waits, in milliseconds.
    pub timeout_ms: u32,
    /// The key.
    pub key: Bytes,
    /// Of the encoded versions that are to be there; `None` where nothing is.
    pub expected: Option<Digest>,
    /// Encoded [`Versions`](crate::causal::Versions); the receiver decodes and checks them.
    pub versions: Bytes,
}

impl Wire for Unlock {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u32(self.timeout_ms);
        put_bytes(out, &self.key);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let unlock = Self {
            timeout_ms: reader.u32()?,
            key: reader.bytes("key", KEY_BYTES_MAX)?,
        };
        skip_tags(reader)?;
        Ok(unlock)
    }
}

impl Wire for Unlocked {
    fn encode(&self, out: &mut BytesMut) {
        self.node_id.encode(out);
        out.put_u8(self.owners);
        put_varint(out, self.clock_entries_before);
        put_varint(out, self.clock_entries);
        put_varint(out, self.siblings);
        put_varint(out, self.siblings_given_up);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let unlocked = Self {
            node_id: NodeId::decode(reader)?,
            owners: reader.u8()?,
            clock_entries_before: reader.varint()?,
            clock_entries: reader.varint()?,
            siblings: reader.varint()?,
            siblings_given_up: reader.varint()?,
        };
        skip_tags(reader)?;
        Ok(unlocked)
    }
}

impl Wire for Replace {
    fn encode(&self, out: &mut BytesMut) {
        self.ring_version.encode(out);
        out.put_u32(self.timeout_ms);
        put_bytes(out, &self.key);
        // Versions have more than 0 bytes.
        let expected = self.expected.unwrap_or(Digest { hash: 0, bytes: 0 });
        out.put_u128(expected.hash);
        out.put_u32(expected.bytes);
        put_bytes(out, &self.versions);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (ring_version, timeout_ms) = (RingVersion::decode(reader)?, reader.u32()?);
        let key = reader.bytes("key", KEY_BYTES_MAX)?;
        let expected = Digest {
            hash: reader.u128()?,
            bytes: reader.u32()?,
        };
        let versions = reader.bytes("versions", usize::MAX)?;
        skip_tags(reader)?;
        let expected = match expected {
            Digest { hash: 0, bytes: 0 } => None,
            Digest { bytes: 0, .. } => return Err(DecodeError::Invalid { what: "digest" }),
            digest => Some(digest),
        };
        Ok(Self {
            ring_version,
            timeout_ms,
            key,
            expected,
            versions,
        })
    }
}
