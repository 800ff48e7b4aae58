//! The numbered document that says who owns what.
//!
//! Versions are decided one after the other, each by a majority of the members of the one before, and
//! gossiped afterwards. Two nodes that hold the same version hold the same document.

use bytes::{BufMut, BytesMut};

use crate::codec::skip_tags;
use crate::codec::{DecodeError, Reader, Wire, put_string, put_varint};
use crate::hash::VIRTUAL_NODES_PER_NODE;
use crate::ids::{ClusterId, DirectoryId, NAME_BYTES_MAX, NodeId, RingVersion};
use crate::limits::MEMBERS_MAX;
pub use crate::limits::N_MAX;

/// The largest weight of a node: the number of its virtual nodes is 150 times this.
pub const WEIGHT_MAX: u16 = 100;

/// Where the ring stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// No data has been written: members may still join directly.
    Open,
    /// Data may be written; the members are these.
    Final,
}

/// One member of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub id: NodeId,
    /// The directory that holds its data: a member that returns with another one has lost everything.
    pub directory_id: DirectoryId,
    /// Where it was reached when it joined; gossip carries a newer one.
    pub address: String,
    /// Multiplies its virtual nodes, 1 to [`WEIGHT_MAX`].
    pub weight: u16,
    /// Replicas of a key go to distinct zones first; empty for none.
    pub zone: String,
}

impl Member {
    /// How many virtual nodes it has.
    pub fn virtual_nodes(&self) -> u32 {
        u32::from(self.weight) * VIRTUAL_NODES_PER_NODE
    }
}

/// The ring: who its members are, and how many replicas must be written and read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingDocument {
    /// The cluster it belongs to.
    pub cluster_id: ClusterId,
    /// The cluster's name.
    pub cluster_name: String,
    /// Its number, from 1 on.
    pub version: RingVersion,
    /// Where the ring stands.
    pub step: Step,
    /// Replicas of each key.
    pub n: u8,
    /// The write quorum promised by default.
    pub w: u8,
    /// The read quorum promised by default.
    pub r: u8,
    /// The members, in the order of their ids.
    pub members: Vec<Member>,
}

impl RingDocument {
    /// The member of this name.
    pub fn member(&self, id: &NodeId) -> Option<&Member> {
        let at = self.members.binary_search_by(|member| member.id.cmp(id));
        at.ok().map(|at| &self.members[at])
    }

    /// How many copies a key has now: N, or the number of members when there are fewer.
    pub fn effective_n(&self) -> usize {
        usize::from(self.n).min(self.members.len())
    }

    /// How many members decide a change: more than half.
    pub fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// All virtual nodes of all members.
    pub fn virtual_nodes(&self) -> u32 {
        self.members.iter().map(Member::virtual_nodes).sum()
    }
}

impl Wire for Step {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(match self {
            Self::Open => 0,
            Self::Final => 1,
        });
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            0 => Ok(Self::Open),
            1 => Ok(Self::Final),
            _ => Err(DecodeError::Invalid { what: "ring step" }),
        }
    }
}

impl Wire for Member {
    fn encode(&self, out: &mut BytesMut) {
        self.id.encode(out);
        self.directory_id.encode(out);
        put_string(out, &self.address);
        out.put_u16(self.weight);
        put_string(out, &self.zone);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let member = Self {
            id: NodeId::decode(reader)?,
            directory_id: DirectoryId::decode(reader)?,
            address: reader.string("address", NAME_BYTES_MAX)?.to_owned(),
            weight: reader.u16()?,
            zone: reader.string("zone", NAME_BYTES_MAX)?.to_owned(),
        };
        if !(1..=WEIGHT_MAX).contains(&member.weight) {
            return Err(DecodeError::Invalid { what: "weight" });
        }
        Ok(member)
    }
}

impl Wire for RingDocument {
    fn encode(&self, out: &mut BytesMut) {
        self.cluster_id.encode(out);
        put_string(out, &self.cluster_name);
        self.version.encode(out);
        self.step.encode(out);
        out.put_u8(self.n);
        out.put_u8(self.w);
        out.put_u8(self.r);
        put_varint(out, self.members.len() as u64);
        for member in &self.members {
            member.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let cluster_id = ClusterId::decode(reader)?;
        let cluster_name = reader.string("cluster name", NAME_BYTES_MAX)?.to_owned();
        let version = RingVersion::decode(reader)?;
        let step = Step::decode(reader)?;
        let (n, w, r) = (reader.u8()?, reader.u8()?, reader.u8()?);
        if !(1..=N_MAX).contains(&n) || w == 0 || r == 0 {
            return Err(DecodeError::Invalid { what: "n, w, r" });
        }
        // Earlier versions founded clusters that wait for more copies than they keep: all are meant.
        let (w, r) = (w.min(n), r.min(n));
        let count = reader.count("members", MEMBERS_MAX)?;
        let mut members = Vec::new();
        for _ in 0..count {
            let member = Member::decode(reader)?;
            if members
                .last()
                .is_some_and(|last: &Member| last.id >= member.id)
            {
                return Err(DecodeError::Invalid {
                    what: "member order",
                });
            }
            members.push(member);
        }
        if cluster_id.is_none() || version.0 == 0 || members.is_empty() {
            return Err(DecodeError::Invalid {
                what: "ring document",
            });
        }
        skip_tags(reader)?;
        Ok(Self {
            cluster_id,
            cluster_name,
            version,
            step,
            n,
            w,
            r,
            members,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directories and accepted ballots of clusters that were founded so are still read.
    #[test]
    fn a_quorum_beyond_the_copies_is_read_as_all_of_them() {
        let member = Member {
            id: NodeId::new("a").unwrap(),
            directory_id: DirectoryId(1),
            address: "a:1".to_owned(),
            weight: 1,
            zone: String::new(),
        };
        let mut ring = RingDocument {
            cluster_id: ClusterId(1),
            cluster_name: "c".to_owned(),
            version: RingVersion(1),
            step: Step::Open,
            n: 3,
            w: 5,
            r: 255,
            members: vec![member],
        };
        let read = RingDocument::from_bytes(&ring.to_bytes()).unwrap();
        assert_eq!((read.n, read.w, read.r), (3, 3, 3));
        for (w, r) in [(0, 1), (1, 0)] {
            (ring.w, ring.r) = (w, r);
            assert!(RingDocument::from_bytes(&ring.to_bytes()).is_err());
        }
    }
}
