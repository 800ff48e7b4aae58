//! What a node says of its cluster: its members as it sees them, and its ring.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::skip_tags;
use crate::codec::{
    DecodeError, Reader, Wire, put_bool, put_bytes, put_string, put_tag_bytes, put_tag_u8,
    put_tag_u64, put_varint,
};
use crate::gossip::MemberState;
use crate::ids::{ClusterId, Generation, NAME_BYTES_MAX, NodeId, RingVersion};
use crate::limits::{KEY_BYTES_MAX, MEMBERS_MAX};
use crate::moving::Moving;
use crate::ring_document::{Member, RingDocument};

/// Of a member's status.
const TAG_HINTS: u8 = 1;
const TAG_DISK_HANGS: u8 = 2;
const TAG_DISK_FULL: u8 = 3;
const TAG_UNREACHABLE: u8 = 4;
const TAG_MOVING: u8 = 5;
/// Of the whole status.
const TAG_LOCKED: u8 = 8;
const TAG_OTHER_CLUSTERS: u8 = 9;
const TAG_AWAITED: u8 = 10;
const TAG_WAITING: u8 = 11;
const TAG_AWAITED_FOR: u8 = 12;

/// The most locked keys that a status names.
pub const LOCKED_KEYS_NAMED_MAX: usize = 16;

/// The most nodes of other clusters that a status names.
pub const OTHER_CLUSTERS_MAX: usize = 16;

/// The most nodes that want in and wait that a status names.
pub const WAITING_MAX: usize = 256;

/// The longest address and the longest reason of one of them, in bytes.
pub const OTHER_CLUSTER_TEXT_BYTES_MAX: usize = 4096;

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
    /// What a change of the ring still has it move, as it gossiped last.
    pub moving: Option<Moving>,
}

/// What the members that a change of the ring waits for are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwaitedFor {
    /// To fetch what they gain.
    Fetching,
    /// To follow the ring in which the new owners are read.
    Following,
    /// To hand on what they have, as those that go.
    HandingOn,
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
    /// Whom the next step of a change of the ring waits for, as far as the answering node knows: who has not fetched
    /// all that it gains, or does not follow the ring yet.
    pub awaited: Vec<NodeId>,
    /// What for; nothing where nobody is awaited, and from earlier versions.
    pub awaited_for: Option<AwaitedFor>,
    /// Nodes that have asked the answering one to be let in and wait for an operator to say so, at most [`WAITING_MAX`].
    pub waiting: Vec<Member>,
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
        if let Some(moving) = self.moving {
            put_tag_bytes(out, TAG_MOVING, &moving.to_bytes());
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
            moving: None,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            match tag {
                TAG_HINTS => member.hints_waiting = field.u64()?,
                TAG_DISK_HANGS => member.disk_hangs = field.bool("disk hangs")?,
                TAG_DISK_FULL => member.disk_full = field.bool("disk full")?,
                TAG_UNREACHABLE => member.unreachable = field.bool("unreachable")?,
                TAG_MOVING => member.moving = Some(Moving::decode(&mut field)?),
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
        if !self.awaited.is_empty() {
            let mut field = BytesMut::new();
            put_varint(&mut field, self.awaited.len() as u64);
            for id in &self.awaited {
                id.encode(&mut field);
            }
            put_tag_bytes(out, TAG_AWAITED, &field);
        }
        if !self.waiting.is_empty() {
            let mut field = BytesMut::new();
            put_varint(&mut field, self.waiting.len() as u64);
            for member in &self.waiting {
                // Each is counted, so that a newer version may add to it.
                put_bytes(&mut field, &member.to_bytes());
            }
            put_tag_bytes(out, TAG_WAITING, &field);
        }
        if let Some(awaited_for) = self.awaited_for {
            let number = match awaited_for {
                AwaitedFor::Fetching => 1,
                AwaitedFor::Following => 2,
                AwaitedFor::HandingOn => 3,
            };
            put_tag_u8(out, TAG_AWAITED_FOR, number);
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
            awaited: Vec::new(),
            awaited_for: None,
            waiting: Vec::new(),
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
                    status
                        .locked_keys_named
                        .push(field.bytes("key", KEY_BYTES_MAX)?);
                }
            } else if tag == TAG_OTHER_CLUSTERS {
                status.other_clusters.clear();
                for _ in 0..field.count("other clusters", OTHER_CLUSTERS_MAX)? {
                    let length = field.count("other cluster", usize::MAX)?;
                    let mut part = field.part(length)?;
                    status.other_clusters.push(OtherCluster::decode(&mut part)?);
                }
            } else if tag == TAG_AWAITED {
                status.awaited.clear();
                for _ in 0..field.count("awaited", MEMBERS_MAX)? {
                    status.awaited.push(NodeId::decode(&mut field)?);
                }
            } else if tag == TAG_WAITING {
                status.waiting.clear();
                for _ in 0..field.count("waiting", WAITING_MAX)? {
                    let length = field.count("member", usize::MAX)?;
                    let mut part = field.part(length)?;
                    status.waiting.push(Member::decode(&mut part)?);
                }
            } else if tag == TAG_AWAITED_FOR {
                status.awaited_for = match field.u8()? {
                    1 => Some(AwaitedFor::Fetching),
                    2 => Some(AwaitedFor::Following),
                    3 => Some(AwaitedFor::HandingOn),
                    // Of a later version.
                    _ => None,
                };
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
