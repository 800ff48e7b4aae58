//! What operators ask: how a key stands with each of its owners; and, in a file of its own, all that a node holds.

use bytes::{BufMut, Bytes, BytesMut};

use crate::causal::{Clock, Dot, SiblingHead, Value, Versions};
use crate::codec::skip_tags;
use crate::codec::{DecodeError, Reader, Wire, put_bool, put_bytes, put_string, put_varint};
use crate::gossip::MemberState;
use crate::hash::checksum;
use crate::ids::{Actor, NAME_BYTES_MAX, NodeId, RingVersion, WriteId};
use crate::limits::N_MAX;
use crate::limits::{KEY_BYTES_MAX, SIBLINGS_DECODED_MAX};

pub use crate::export::{
    EXPORT_BYTES_MAX, EXPORT_ITEMS_MAX, Export, Exported, ExportedItem, Import, Imported,
};

/// How much of a value a [`SiblingDigest`] shows, in bytes.
pub const PREVIEW_BYTES_MAX: usize = 64;

/// The longest reason why an owner has no answer, in bytes.
const REASON_BYTES_MAX: usize = 1024;

const OUTCOME_FAILED: u8 = 0;
const OUTCOME_ANSWERED: u8 = 1;

/// Ask all owners of a key what they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explain {
    /// How long the sender still waits, in milliseconds.
    pub timeout_ms: u32,
    /// 1 to 4,096 bytes.
    pub key: Bytes,
}

/// The answer to [`Explain`]: one entry for each owner, whether it answered or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// Who has asked the owners.
    pub node_id: NodeId,
    /// The ring it followed.
    pub ring_version: RingVersion,
    /// Its wall clock, in milliseconds since 1970: what is expired is so by this clock.
    pub now_unix_ms: u64,
    /// In the order of preference.
    pub owners: Vec<ExplainedOwner>,
}

/// How a key stands with one of its owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedOwner {
    /// Its name.
    pub id: NodeId,
    /// Where it is reached.
    pub address: String,
    /// What the asking node thinks of it.
    pub state: MemberState,
    /// What it has, or why it did not say.
    pub answer: Result<OwnerState, String>,
}

/// What one owner has of a key, values as digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerState {
    /// It has lost data of this segment, so it may lack what it once had.
    pub rebuilding: bool,
    /// Under which actor it mints at present, where it told.
    pub actor: Option<Actor>,
    /// Which writes it has seen; empty when the key was never written there.
    pub clock: Clock,
    /// The values it holds, tombstones among them, in the order of their dots.
    pub siblings: Vec<SiblingDigest>,
}

/// A sibling without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiblingDigest {
    /// The write that made it.
    pub dot: Dot,
    /// That write's random id.
    pub write_id: WriteId,
    /// Hybrid logical clock: 48 bits of milliseconds since 1970, 16 bits of counter.
    pub timestamp: u64,
    /// When it expires, in milliseconds since 1970.
    pub expires_at_ms: Option<u64>,
    /// What stands for the value.
    pub value: ValueDigest,
}

/// What stands for a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueDigest {
    /// The mark of a delete.
    Tombstone,
    /// Bytes that a client stored.
    Bytes {
        /// How many.
        length: u64,
        /// xxh3-64 of them.
        checksum: u64,
        /// The first of them, at most [`PREVIEW_BYTES_MAX`].
        preview: Bytes,
    },
}

impl OwnerState {
    /// The digest of what an owner answered.
    pub fn of(versions: &Versions, actor: Option<Actor>, rebuilding: bool) -> Self {
        let digest = |sibling: &crate::causal::Sibling| SiblingDigest {
            dot: sibling.dot,
            write_id: sibling.write_id,
            timestamp: sibling.timestamp,
            expires_at_ms: sibling.expires_at_ms,
            value: ValueDigest::of(&sibling.value),
        };
        Self {
            rebuilding,
            actor,
            clock: versions.clock().clone(),
            siblings: versions.siblings().iter().map(digest).collect(),
        }
    }
}

impl SiblingDigest {
    /// The wall-clock part of the timestamp, in milliseconds since 1970.
    pub fn timestamp_ms(&self) -> u64 {
        self.timestamp >> 16
    }
}

impl ValueDigest {
    /// The digest of a value.
    pub fn of(value: &Value) -> Self {
        match value {
            Value::Tombstone => Self::Tombstone,
            Value::Bytes(bytes) => Self::Bytes {
                length: bytes.len() as u64,
                checksum: checksum(bytes),
                // A copy, so that a short preview does not keep a large value in memory.
                preview: Bytes::copy_from_slice(&bytes[..bytes.len().min(PREVIEW_BYTES_MAX)]),
            },
        }
    }
}

impl Wire for Explain {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u32(self.timeout_ms);
        put_bytes(out, &self.key);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let explain = Self {
            timeout_ms: reader.u32()?,
            key: reader.bytes("key", KEY_BYTES_MAX)?,
        };
        skip_tags(reader)?;
        Ok(explain)
    }
}

impl Wire for Explained {
    fn encode(&self, out: &mut BytesMut) {
        self.node_id.encode(out);
        self.ring_version.encode(out);
        out.put_u64(self.now_unix_ms);
        put_varint(out, self.owners.len() as u64);
        for owner in &self.owners {
            // Each is counted, so that a newer version may add to it.
            put_bytes(out, &owner.to_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut explained = Self {
            node_id: NodeId::decode(reader)?,
            ring_version: RingVersion::decode(reader)?,
            now_unix_ms: reader.u64()?,
            owners: Vec::new(),
        };
        for _ in 0..reader.count("owners", usize::from(N_MAX))? {
            let length = reader.count("owner", usize::MAX)?;
            let mut part = reader.part(length)?;
            explained.owners.push(ExplainedOwner::decode(&mut part)?);
        }
        skip_tags(reader)?;
        Ok(explained)
    }
}

impl Wire for ExplainedOwner {
    fn encode(&self, out: &mut BytesMut) {
        self.id.encode(out);
        put_string(out, &self.address);
        self.state.encode(out);
        match &self.answer {
            Err(reason) => {
                out.put_u8(OUTCOME_FAILED);
                let mut end = reason.len().min(REASON_BYTES_MAX);
                while !reason.is_char_boundary(end) {
                    end -= 1;
                }
                put_string(out, &reason[..end]);
            }
            Ok(state) => {
                out.put_u8(OUTCOME_ANSWERED);
                state.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            id: NodeId::decode(reader)?,
            address: reader.string("address", NAME_BYTES_MAX)?.to_owned(),
            state: MemberState::decode(reader)?,
            answer: match reader.u8()? {
                OUTCOME_FAILED => Err(reader.string("reason", REASON_BYTES_MAX)?.to_owned()),
                OUTCOME_ANSWERED => Ok(OwnerState::decode(reader)?),
                _ => return Err(DecodeError::Invalid { what: "outcome" }),
            },
        })
    }
}

impl Wire for OwnerState {
    fn encode(&self, out: &mut BytesMut) {
        put_bool(out, self.rebuilding);
        // No node mints under actor 0.
        self.actor.unwrap_or_default().encode(out);
        self.clock.encode(out);
        put_varint(out, self.siblings.len() as u64);
        for sibling in &self.siblings {
            sibling.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut state = Self {
            rebuilding: reader.bool("rebuilding")?,
            actor: Some(Actor::decode(reader)?).filter(|actor| actor.0 != 0),
            clock: Clock::decode(reader)?,
            siblings: Vec::new(),
        };
        for _ in 0..reader.count("siblings", SIBLINGS_DECODED_MAX)? {
            state.siblings.push(SiblingDigest::decode(reader)?);
        }
        Ok(state)
    }
}

impl Wire for SiblingDigest {
    fn encode(&self, out: &mut BytesMut) {
        let head = SiblingHead {
            dot: self.dot,
            write_id: self.write_id,
            timestamp: self.timestamp,
            expires_at_ms: self.expires_at_ms,
            is_tombstone: matches!(self.value, ValueDigest::Tombstone),
        };
        head.encode(out);
        if let ValueDigest::Bytes {
            length,
            checksum,
            preview,
        } = &self.value
        {
            put_varint(out, *length);
            out.put_u64(*checksum);
            put_bytes(out, preview);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let head = SiblingHead::decode(reader)?;
        let value = match head.is_tombstone {
            true => ValueDigest::Tombstone,
            false => ValueDigest::Bytes {
                length: reader.varint()?,
                checksum: reader.u64()?,
                preview: reader.bytes("preview", PREVIEW_BYTES_MAX)?,
            },
        };
        Ok(Self {
            dot: head.dot,
            write_id: head.write_id,
            timestamp: head.timestamp,
            expires_at_ms: head.expires_at_ms,
            value,
        })
    }
}
