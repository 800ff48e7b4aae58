//! What clients ask and what nodes answer.

use bytes::{BufMut, Bytes, BytesMut};

use crate::causal::Dot;
use crate::causal::context::CONTEXT_BYTES_MAX;
use crate::codec::skip_tags;
use crate::codec::{
    DecodeError, Reader, Wire, put_bool, put_bytes, put_tag_bytes, put_tag_u8, put_tag_u64,
    put_varint,
};
use crate::ids::WriteId;
use crate::limits::{KEY_BYTES_MAX, SIBLINGS_DECODED_MAX, VALUE_BYTES_MAX};

pub use crate::handed_on::HandedOn;
pub use crate::stats::{HealthReply, StatsReply};
pub use crate::status::{
    AwaitedFor, LOCKED_KEYS_NAMED_MAX, MemberStatus, OTHER_CLUSTER_TEXT_BYTES_MAX,
    OTHER_CLUSTERS_MAX, OtherCluster, RingReply, StatusReply, WAITING_MAX,
};

const TAG_QUORUM: u8 = 1;
const TAG_CONTEXT: u8 = 2;
const TAG_TTL_MS: u8 = 3;
const TAG_REPAIR_FIRST: u8 = 4;
const TAG_SLOPPY: u8 = 5;
const TAG_AGAIN: u8 = 6;
const TAG_IF_NO_CONFLICT: u8 = 7;
const TAG_HANDED_ON: u8 = 8;
/// Of a write's answer.
const TAG_REPLACED: u8 = 3;
/// Read a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    /// How long the sender still waits, in milliseconds.
    pub timeout_ms: u32,
    /// 1 to 4,096 bytes.
    pub key: Bytes,
    /// How many replicas must answer; the node's default when absent.
    pub r: Option<u8>,
    /// Whether stale replicas are to be mended before the answer.
    pub repair_first: bool,
}

/// Store a value, or delete a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// How long the sender still waits, in milliseconds.
    pub timeout_ms: u32,
    /// One per write and the same for its retries.
    pub write_id: WriteId,
    /// 1 to 4,096 bytes.
    pub key: Bytes,
    /// The value of a put; `None` makes it a delete.
    pub value: Option<Bytes>,
    /// From the read that this write answers; without one the write is blind.
    pub context: Option<Bytes>,
    /// How many replicas must have it on disk; the node's default when absent.
    pub w: Option<u8>,
    /// After how many milliseconds the value expires.
    pub ttl_ms: Option<u64>,
    /// Whether stand-ins may count while owners are down.
    pub sloppy: bool,
    /// Whether this is not the first attempt: nodes may have copies of it already.
    pub again: bool,
    /// Whether a blind write that would replace more than one value is to be refused.
    pub if_no_conflict: bool,
    /// Of what a node hands on.
    pub handed_on: Option<HandedOn>,
}

/// One value of a key, as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedSibling {
    /// The write that made it.
    pub dot: Dot,
    /// When, by its coordinator's clock, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// The client's bytes.
    pub value: Bytes,
}

/// The answer to [`Get`]: no sibling means absent or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The values that nobody has replaced; equal values stand here once.
    pub siblings: Vec<FetchedSibling>,
    /// To be sent with the write that answers this read; present also when the key is absent.
    pub context: Bytes,
    /// How many replicas the answer rests on (R, capped at the number of owners).
    pub effective_r: u8,
}

/// The answer to a put or delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The key's context after the write.
    pub context: Bytes,
    /// How many replicas were needed (W, capped at the number of owners).
    pub effective_w: u8,
    /// Whether stand-ins counted.
    pub sloppy: bool,
    /// How many concurrent values a write without a context replaced, as a read would have shown them. 0
    /// when the key was not in conflict.
    pub replaced: u64,
}

fn decode_key(reader: &mut Reader<'_>) -> Result<Bytes, DecodeError> {
    reader.bytes("key", KEY_BYTES_MAX)
}

impl Wire for Get {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u32(self.timeout_ms);
        put_bytes(out, &self.key);
        if let Some(r) = self.r {
            put_tag_u8(out, TAG_QUORUM, r);
        }
        if self.repair_first {
            put_tag_u8(out, TAG_REPAIR_FIRST, 1);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut get = Self {
            timeout_ms: reader.u32()?,
            key: decode_key(reader)?,
            r: None,
            repair_first: false,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_QUORUM => get.r = Some(field.u8()?),
                TAG_REPAIR_FIRST => get.repair_first = field.bool("repair first")?,
                _ => {}
            }
        }
        Ok(get)
    }
}

impl Write {
    /// Reads the body of a put.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode_put(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::decode_body(reader, true)
    }

    /// Reads the body of a delete, which has no value.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode_delete(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::decode_body(reader, false)
    }

    fn decode_body(reader: &mut Reader<'_>, has_value: bool) -> Result<Self, DecodeError> {
        let timeout_ms = reader.u32()?;
        let write_id = WriteId::decode(reader)?;
        let key = decode_key(reader)?;
        let value = if has_value {
            Some(reader.bytes("value", VALUE_BYTES_MAX)?)
        } else {
            None
        };
        let mut write = Self {
            timeout_ms,
            write_id,
            key,
            value,
            context: None,
            w: None,
            ttl_ms: None,
            sloppy: false,
            again: false,
            if_no_conflict: false,
            handed_on: None,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_QUORUM => write.w = Some(field.u8()?),
                TAG_CONTEXT => {
                    let (length, max) = (field.left() as u64, CONTEXT_BYTES_MAX);
                    if length > max as u64 {
                        let what = "context";
                        return Err(DecodeError::TooLong { what, length, max });
                    }
                    write.context = Some(field.rest());
                }
                TAG_TTL_MS => write.ttl_ms = Some(field.u64()?),
                TAG_SLOPPY => write.sloppy = field.bool("sloppy")?,
                TAG_AGAIN => write.again = field.bool("again")?,
                TAG_IF_NO_CONFLICT => write.if_no_conflict = field.bool("if no conflict")?,
                TAG_HANDED_ON => write.handed_on = Some(HandedOn::decode(&mut field)?),
                _ => {}
            }
        }
        Ok(write)
    }

    /// Appends the body of a put or delete (the value is left out when there is none).
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u32(self.timeout_ms);
        self.write_id.encode(out);
        put_bytes(out, &self.key);
        if let Some(value) = &self.value {
            put_bytes(out, value);
        }
        if let Some(w) = self.w {
            put_tag_u8(out, TAG_QUORUM, w);
        }
        if let Some(context) = &self.context {
            put_tag_bytes(out, TAG_CONTEXT, context);
        }
        if let Some(ttl_ms) = self.ttl_ms {
            put_tag_u64(out, TAG_TTL_MS, ttl_ms);
        }
        if self.sloppy {
            put_tag_u8(out, TAG_SLOPPY, 1);
        }
        if self.again {
            put_tag_u8(out, TAG_AGAIN, 1);
        }
        if self.if_no_conflict {
            put_tag_u8(out, TAG_IF_NO_CONFLICT, 1);
        }
        if let Some(handed_on) = self.handed_on {
            Self::add_handed_on(handed_on, out);
        }
    }

    /// Adds to an encoded put or delete that this is not its first attempt.
    pub fn add_again(out: &mut BytesMut) {
        put_tag_u8(out, TAG_AGAIN, 1);
    }

    /// Adds to an encoded put or delete that it is handed on. What an earlier one said of that is by another clock, and
    /// counts no more.
    pub fn add_handed_on(handed_on: HandedOn, out: &mut BytesMut) {
        put_tag_bytes(out, TAG_HANDED_ON, &handed_on.to_bytes());
    }
}

impl Wire for Fetched {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.effective_r);
        put_bytes(out, &self.context);
        put_varint(out, self.siblings.len() as u64);
        for sibling in &self.siblings {
            sibling.dot.encode(out);
            out.put_u64(sibling.timestamp_ms);
            put_bytes(out, &sibling.value);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let effective_r = reader.u8()?;
        let context = reader.bytes("context", CONTEXT_BYTES_MAX)?;
        let count = reader.count("siblings", SIBLINGS_DECODED_MAX)?;
        let mut siblings = Vec::new();
        for _ in 0..count {
            siblings.push(FetchedSibling {
                dot: Dot::decode(reader)?,
                timestamp_ms: reader.u64()?,
                value: reader.bytes("value", VALUE_BYTES_MAX)?,
            });
        }
        skip_tags(reader)?;
        Ok(Self {
            siblings,
            context,
            effective_r,
        })
    }
}

impl Wire for Written {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.effective_w);
        put_bool(out, self.sloppy);
        put_bytes(out, &self.context);
        if self.replaced > 0 {
            put_tag_u64(out, TAG_REPLACED, self.replaced);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut written = Self {
            effective_w: reader.u8()?,
            sloppy: reader.bool("sloppy")?,
            context: reader.bytes("context", CONTEXT_BYTES_MAX)?,
            replaced: 0,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            if tag == TAG_REPLACED {
                written.replaced = field.u64()?;
            }
        }
        Ok(written)
    }
}
