//! What clients ask and what nodes answer.

use bytes::{BufMut, Bytes, BytesMut};

use crate::causal::Dot;
use crate::causal::context::CONTEXT_BYTES_MAX;
use crate::codec::skip_tags;
use crate::codec::{
    DecodeError, Reader, Wire, put_bool, put_bytes, put_string, put_tag_bytes, put_tag_u8,
    put_tag_u64, put_varint,
};
use crate::gossip::MemberState;
use crate::ids::{ClusterId, Generation, NAME_BYTES_MAX, NodeId, RingVersion, WriteId};
use crate::limits::{KEY_BYTES_MAX, MEMBERS_MAX, SIBLINGS_DECODED_MAX, VALUE_BYTES_MAX};
use crate::ring_document::RingDocument;

pub use crate::handed_on::HandedOn;
pub use crate::stats::{HealthReply, StatsReply};

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
/// Of a member's status.
const TAG_HINTS: u8 = 1;
const TAG_DISK_HANGS: u8 = 2;
const TAG_DISK_FULL: u8 = 3;
const TAG_UNREACHABLE: u8 = 4;
/// Of the whole status.
const TAG_LOCKED: u8 = 8;
const TAG_OTHER_CLUSTERS: u8 = 9;

/// The most locked keys that a status names.
pub const LOCKED_KEYS_NAMED_MAX: usize = 16;

/// The most nodes of other clusters that a status names.
pub const OTHER_CLUSTERS_MAX: usize = 16;

/// The longest address and the longest reason of one of them, in bytes.
pub const OTHER_CLUSTER_TEXT_BYTES_MAX: usize = 4096;

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

/// One line of [`StatusReply`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its name.
    pub id: NodeId,
    /// Where it is reached.
    pub address: String,
    /// What the answering node thinks of it.
    pub state: MemberState,
    /// How long it has been so, in milliseconds.
    pub state_age_ms: u64,
    /// How often its directory has been started.
    pub generation: Generation,
    /// Its zone, empty for none.
    pub zone: String,
    /// Live keys in its store, as it gossiped last.
    pub keys: u64,
    /// Bytes on its disk, as it gossiped last.
    pub disk_bytes: u64,
    /// Its share of primary ownership, in hundredths of a percent.
    pub owns_basis_points: u16,
    /// The version of dynakv it runs; empty while unknown.
    pub software: String,
    /// In how many segments it lost data and has not got them back, as it gossiped last.
    pub rebuilding_segments: u32,
    /// How many keys it keeps for other nodes, as it gossiped last.
    pub hints_waiting: u64,
    /// Its disk does not answer, as it gossiped last: it refuses writes until it does.
    pub disk_hangs: bool,
    /// Its disk has no room beside its reserve, as it gossiped last: it refuses writes that add a value.
    pub disk_full: bool,
    /// The answering node has no link to it on which it answers, and could not dial it: so it is in fact, whatever is
    /// thought of it.
    pub unreachable: bool,
}

/// The cluster as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusReply {
    /// Who answers.
    pub node_id: NodeId,
    /// The cluster's name.
    pub cluster_name: String,
    /// The cluster's id; none while the node has not joined.
    pub cluster_id: ClusterId,
    /// The ring the node follows; 0 while it has none.
    pub ring_version: RingVersion,
    /// Replicas of each key.
    pub n: u8,
    /// The answering node's default write quorum.
    pub w: u8,
    /// Its default read quorum.
    pub r: u8,
    /// Every member.
    pub members: Vec<MemberStatus>,
    /// How many keys the answering node knows to be locked: their versions are beyond a limit.
    pub locked_keys: u64,
    /// Some of them, at most [`LOCKED_KEYS_NAMED_MAX`].
    pub locked_keys_named: Vec<Bytes>,
    /// Nodes that this one and its cluster were taken together with by mistake, at most [`OTHER_CLUSTERS_MAX`].
    pub other_clusters: Vec<OtherCluster>,
}

/// A node of another cluster that is among the seeds of the answering one, or has that among its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherCluster {
    /// Whether it is a seed of the answering node; otherwise it has asked that node.
    pub is_seed: bool,
    /// Where it is, as it was given or as it says.
    pub address: String,
    /// For people: which cluster that is, and what to do.
    pub reason: String,
}

/// The ring, and where its members are reached now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingReply {
    /// The numbered document.
    pub document: RingDocument,
    /// For each member, in the document's order, its present address.
    pub addresses: Vec<String>,
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

impl Wire for MemberStatus {
    fn encode(&self, out: &mut BytesMut) {
        self.id.encode(out);
        put_string(out, &self.address);
        self.state.encode(out);
        out.put_u64(self.state_age_ms);
        self.generation.encode(out);
        put_string(out, &self.zone);
        out.put_u64(self.keys);
        out.put_u64(self.disk_bytes);
        out.put_u16(self.owns_basis_points);
        put_string(out, &self.software);
        out.put_u32(self.rebuilding_segments);
        if self.hints_waiting > 0 {
            put_tag_u64(out, TAG_HINTS, self.hints_waiting);
        }
        if self.disk_hangs {
            put_tag_u8(out, TAG_DISK_HANGS, 1);
        }
        if self.disk_full {
            put_tag_u8(out, TAG_DISK_FULL, 1);
        }
        if self.unreachable {
            put_tag_u8(out, TAG_UNREACHABLE, 1);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut member = Self {
            id: NodeId::decode(reader)?,
            address: reader.string("address", NAME_BYTES_MAX)?.to_owned(),
            state: MemberState::decode(reader)?,
            state_age_ms: reader.u64()?,
            generation: Generation::decode(reader)?,
            zone: reader.string("zone", NAME_BYTES_MAX)?.to_owned(),
            keys: reader.u64()?,
            disk_bytes: reader.u64()?,
            owns_basis_points: reader.u16()?,
            software: reader.string("software", NAME_BYTES_MAX)?.to_owned(),
            rebuilding_segments: reader.u32()?,
            hints_waiting: 0,
            disk_hangs: false,
            disk_full: false,
            unreachable: false,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_HINTS => member.hints_waiting = field.u64()?,
                TAG_DISK_HANGS => member.disk_hangs = field.bool("disk hangs")?,
                TAG_DISK_FULL => member.disk_full = field.bool("disk full")?,
                TAG_UNREACHABLE => member.unreachable = field.bool("unreachable")?,
                _ => {}
            }
        }
        Ok(member)
    }
}

impl Wire for StatusReply {
    fn encode(&self, out: &mut BytesMut) {
        self.node_id.encode(out);
        put_string(out, &self.cluster_name);
        self.cluster_id.encode(out);
        self.ring_version.encode(out);
        out.put_u8(self.n);
        out.put_u8(self.w);
        out.put_u8(self.r);
        put_varint(out, self.members.len() as u64);
        for member in &self.members {
            // Each is counted, so that a newer version may add to it.
            put_bytes(out, &member.to_bytes());
        }
        if self.locked_keys > 0 {
            let mut field = BytesMut::new();
            put_varint(&mut field, self.locked_keys);
            put_varint(&mut field, self.locked_keys_named.len() as u64);
            for key in &self.locked_keys_named {
                put_bytes(&mut field, key);
            }
            put_tag_bytes(out, TAG_LOCKED, &field);
        }
        if !self.other_clusters.is_empty() {
            let mut field = BytesMut::new();
            put_varint(&mut field, self.other_clusters.len() as u64);
            for other in &self.other_clusters {
                // Each is counted, so that a newer version may add to it.
                put_bytes(&mut field, &other.to_bytes());
            }
            put_tag_bytes(out, TAG_OTHER_CLUSTERS, &field);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut status = Self {
            node_id: NodeId::decode(reader)?,
            cluster_name: reader.string("cluster name", NAME_BYTES_MAX)?.to_owned(),
            cluster_id: ClusterId::decode(reader)?,
            ring_version: RingVersion::decode(reader)?,
            n: reader.u8()?,
            w: reader.u8()?,
            r: reader.u8()?,
            members: Vec::new(),
            locked_keys: 0,
            locked_keys_named: Vec::new(),
            other_clusters: Vec::new(),
        };
        for _ in 0..reader.count("members", MEMBERS_MAX)? {
            let length = reader.count("member", usize::MAX)?;
            let mut part = reader.part(length)?;
            status.members.push(MemberStatus::decode(&mut part)?);
        }
        while let Some((tag, mut field)) = reader.tag()? {
            if tag == TAG_LOCKED {
                status.locked_keys = field.varint()?;
                status.locked_keys_named.clear();
                for _ in 0..field.count("locked keys", LOCKED_KEYS_NAMED_MAX)? {
                    status.locked_keys_named.push(decode_key(&mut field)?);
                }
            } else if tag == TAG_OTHER_CLUSTERS {
                status.other_clusters.clear();
                for _ in 0..field.count("other clusters", OTHER_CLUSTERS_MAX)? {
                    let length = field.count("other cluster", usize::MAX)?;
                    let mut part = field.part(length)?;
                    status.other_clusters.push(OtherCluster::decode(&mut part)?);
                }
            }
        }
        Ok(status)
    }
}

impl Wire for OtherCluster {
    fn encode(&self, out: &mut BytesMut) {
        put_bool(out, self.is_seed);
        put_string(out, &self.address);
        put_string(out, &self.reason);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let other = Self {
            is_seed: reader.bool("is seed")?,
            address: reader
                .string("address", OTHER_CLUSTER_TEXT_BYTES_MAX)?
                .to_owned(),
            reason: reader
                .string("reason", OTHER_CLUSTER_TEXT_BYTES_MAX)?
                .to_owned(),
        };
        skip_tags(reader)?;
        Ok(other)
    }
}

impl Wire for RingReply {
    fn encode(&self, out: &mut BytesMut) {
        put_bytes(out, &self.document.to_bytes());
        put_varint(out, self.addresses.len() as u64);
        for address in &self.addresses {
            put_string(out, address);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = reader.count("ring document", usize::MAX)?;
        let document = RingDocument::decode(&mut reader.part(length)?)?;
        let count = reader.count("addresses", MEMBERS_MAX)?;
        if count != document.members.len() {
            return Err(DecodeError::Invalid { what: "addresses" });
        }
        let mut addresses = Vec::new();
        for _ in 0..count {
            addresses.push(reader.string("address", NAME_BYTES_MAX)?.to_owned());
        }
        skip_tags(reader)?;
        Ok(Self {
            document,
            addresses,
        })
    }
}
