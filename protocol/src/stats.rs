//! What a node says of itself: its statistics, and whether it is ready.

use bytes::{BufMut, BytesMut};

use crate::codec::skip_tags;
use crate::codec::{DecodeError, Reader, Wire, put_bool, put_string};
use crate::ids::{NAME_BYTES_MAX, NodeId, RingVersion};

/// A node's statistics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsReply {
    /// Who answers.
    pub node_id: NodeId,
    /// Where it is reached.
    pub address: String,
    /// Keys with a live value in this node's store.
    pub total_keys: u64,
    /// Siblings in this node's store, tombstones not counted.
    pub total_versions: u64,
    /// Keys with more than one live sibling.
    pub conflict_keys: u64,
    /// Replicas of each key.
    pub n: u8,
    /// This node's default write quorum.
    pub w: u8,
    /// This node's default read quorum.
    pub r: u8,
    /// The ring it follows.
    pub ring_version: RingVersion,
    /// Members of that ring.
    pub total_nodes: u32,
    /// Their virtual nodes together.
    pub total_virtual_nodes: u32,
    /// Virtual nodes of a node of weight 1.
    pub virtual_nodes_per_node: u32,
    /// Nodes that gossip has told of, this one included.
    pub known_nodes: u32,
    /// Those of them that are alive.
    pub alive_nodes: u32,
}

/// Whether a node is up and ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReply {
    /// Who answers.
    pub node_id: NodeId,
    /// Whether it can coordinate requests.
    pub ready: bool,
    /// Why not, for people; empty when ready.
    pub reason: String,
}

impl Wire for StatsReply {
    fn encode(&self, out: &mut BytesMut) {
        self.node_id.encode(out);
        put_string(out, &self.address);
        out.put_u64(self.total_keys);
        out.put_u64(self.total_versions);
        out.put_u64(self.conflict_keys);
        out.put_u8(self.n);
        out.put_u8(self.w);
        out.put_u8(self.r);
        self.ring_version.encode(out);
        out.put_u32(self.total_nodes);
        out.put_u32(self.total_virtual_nodes);
        out.put_u32(self.virtual_nodes_per_node);
        out.put_u32(self.known_nodes);
        out.put_u32(self.alive_nodes);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let stats = Self {
            node_id: NodeId::decode(reader)?,
            address: reader.string("address", NAME_BYTES_MAX)?.to_owned(),
            total_keys: reader.u64()?,
            total_versions: reader.u64()?,
            conflict_keys: reader.u64()?,
            n: reader.u8()?,
            w: reader.u8()?,
            r: reader.u8()?,
            ring_version: RingVersion::decode(reader)?,
            total_nodes: reader.u32()?,
            total_virtual_nodes: reader.u32()?,
            virtual_nodes_per_node: reader.u32()?,
            known_nodes: reader.u32()?,
            alive_nodes: reader.u32()?,
        };
        skip_tags(reader)?;
        Ok(stats)
    }
}

impl Wire for HealthReply {
    fn encode(&self, out: &mut BytesMut) {
        self.node_id.encode(out);
        put_bool(out, self.ready);
        put_string(out, &self.reason);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let health = Self {
            node_id: NodeId::decode(reader)?,
            ready: reader.bool("ready")?,
            reason: reader.string("reason", 4096)?.to_owned(),
        };
        skip_tags(reader)?;
        Ok(health)
    }
}
