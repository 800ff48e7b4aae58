//! All that a node holds, given part by part to an operator, and such a state taken in again.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::skip_tags;
use crate::codec::{
    DecodeError, Reader, Wire, put_bytes, put_string, put_tag_bytes, put_tag_u8, put_varint,
};
use crate::ids::{ClusterId, NAME_BYTES_MAX, NodeId, RingVersion};
use crate::limits::KEY_BYTES_MAX;

/// The most items of one [`Exported`] answer.
pub const EXPORT_ITEMS_MAX: usize = 4096;

/// The most bytes of keys and versions in one [`Exported`] answer, unless it holds a single key.
pub const EXPORT_BYTES_MAX: u32 = 4 * 1024 * 1024;

const TAG_W: u8 = 1;
const TAG_AFTER: u8 = 1;
const TAG_LOCKED: u8 = 2;

/// Give the next part of all that this node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// How many bytes of keys and versions are wanted; at most [`EXPORT_BYTES_MAX`] are given, but
    /// always at least one key.
    pub bytes_max: u32,
    /// Go on behind this key: [`Exported::next`] of the answer before. `None` begins.
    pub after_key: Option<Bytes>,
}

/// A part of what a node holds, in ring order: by position, then by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Who answers.
    pub node_id: NodeId,
    /// Its cluster's name.
    pub cluster_name: String,
    /// Its cluster's id.
    pub cluster_id: ClusterId,
    /// The ring it follows.
    pub ring_version: RingVersion,
    /// Keys and what is stored under them.
    pub items: Vec<ExportedItem>,
    /// Keys whose stored value is damaged, or locked: they are not among the items.
    pub damaged: Vec<Bytes>,
    /// Those of them that are locked: their versions are beyond a limit.
    pub locked: Vec<Bytes>,
    /// Where to go on; `None` when this was the last part.
    pub next: Option<Bytes>,
}

/// One key of an [`Exported`] answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedItem {
    /// The key.
    pub key: Bytes,
    /// Encoded [`Versions`](crate::causal::Versions).
    pub versions: Bytes,
}

/// Merge these versions into what the key's owners have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// How long the sender still waits, in milliseconds.
    pub timeout_ms: u32,
    /// 1 to 4,096 bytes.
    pub key: Bytes,
    /// Encoded [`Versions`](crate::causal::Versions); the receiver decodes and checks them.
    pub versions: Bytes,
    /// How many replicas must have them on disk; the node's default when absent.
    pub w: Option<u8>,
}

/// The versions are merged and durable at as many owners as were needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// How many that were (W, capped at the number of owners).
    pub effective_w: u8,
}

impl Wire for Export {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u32(self.bytes_max);
        if let Some(key) = &self.after_key {
            put_tag_bytes(out, TAG_AFTER, key);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut export = Self {
            bytes_max: reader.u32()?,
            after_key: None,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            if tag == TAG_AFTER {
                export.after_key = Some(key_of_tag(&mut field)?);
            }
        }
        Ok(export)
    }
}

impl Wire for Exported {
    fn encode(&self, out: &mut BytesMut) {
        self.node_id.encode(out);
        put_string(out, &self.cluster_name);
        self.cluster_id.encode(out);
        self.ring_version.encode(out);
        put_varint(out, self.items.len() as u64);
        for item in &self.items {
            put_bytes(out, &item.key);
            put_bytes(out, &item.versions);
        }
        put_varint(out, self.damaged.len() as u64);
        for key in &self.damaged {
            put_bytes(out, key);
        }
        if let Some(next) = &self.next {
            put_tag_bytes(out, TAG_AFTER, next);
        }
        if !self.locked.is_empty() {
            let mut field = BytesMut::new();
            put_varint(&mut field, self.locked.len() as u64);
            for key in &self.locked {
                put_bytes(&mut field, key);
            }
            put_tag_bytes(out, TAG_LOCKED, &field);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut exported = Self {
            node_id: NodeId::decode(reader)?,
            cluster_name: reader.string("cluster name", NAME_BYTES_MAX)?.to_owned(),
            cluster_id: ClusterId::decode(reader)?,
            ring_version: RingVersion::decode(reader)?,
            items: Vec::new(),
            damaged: Vec::new(),
            locked: Vec::new(),
            next: None,
        };
        for _ in 0..reader.count("items", EXPORT_ITEMS_MAX)? {
            exported.items.push(ExportedItem {
                key: reader.bytes("key", KEY_BYTES_MAX)?,
                versions: reader.bytes("versions", usize::MAX)?,
            });
        }
        for _ in 0..reader.count("damaged keys", EXPORT_ITEMS_MAX)? {
            exported
                .damaged
                .push(reader.bytes("damaged key", KEY_BYTES_MAX)?);
        }
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_AFTER => exported.next = Some(key_of_tag(&mut field)?),
                TAG_LOCKED => {
                    exported.locked.clear();
                    for _ in 0..field.count("locked keys", EXPORT_ITEMS_MAX)? {
                        exported
                            .locked
                            .push(field.bytes("locked key", KEY_BYTES_MAX)?);
                    }
                }
                _ => {}
            }
        }
        Ok(exported)
    }
}

impl Wire for Import {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u32(self.timeout_ms);
        put_bytes(out, &self.key);
        put_bytes(out, &self.versions);
        if let Some(w) = self.w {
            put_tag_u8(out, TAG_W, w);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut import = Self {
            timeout_ms: reader.u32()?,
            key: reader.bytes("key", KEY_BYTES_MAX)?,
            versions: reader.bytes("versions", usize::MAX)?,
            w: None,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            if tag == TAG_W {
                import.w = Some(field.u8()?);
            }
        }
        Ok(import)
    }
}

impl Wire for Imported {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.effective_w);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let effective_w = reader.u8()?;
        skip_tags(reader)?;
        Ok(Self { effective_w })
    }
}

/// The key that is the content of a tag.
pub(crate) fn key_of_tag(field: &mut Reader<'_>) -> Result<Bytes, DecodeError> {
    let (length, max) = (field.left() as u64, KEY_BYTES_MAX);
    if length > max as u64 {
        let what = "key";
        return Err(DecodeError::TooLong { what, length, max });
    }
    Ok(field.rest())
}
