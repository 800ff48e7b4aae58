//! The numbered document that says who owns what.
//!
//! Versions are decided one after the other, each by a majority of the members of the one before, and
//! gossiped afterwards. Two nodes that hold the same version hold the same document.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use crate::codec::{DecodeError, Reader, Wire, put_string, put_tag_bytes, put_varint};
use crate::hash::VIRTUAL_NODES_PER_NODE;
use crate::ids::{ClusterId, DirectoryId, NAME_BYTES_MAX, NodeId, RingVersion};
use crate::limits::MEMBERS_MAX;
pub use crate::limits::N_MAX;

/// The largest weight of a node: the number of its virtual nodes is 150 times this.
pub const WEIGHT_MAX: u16 = 100;

/// Who is gone, of those that a change takes away.
const TAG_STOPPED: u8 = 1;

const STEP_OPEN: u8 = 0;
const STEP_FINAL: u8 = 1;
const STEP_WRITE_BOTH: u8 = 2;
const STEP_READ_NEW: u8 = 3;

/// Where the ring stands in its life.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// No data has been written: members may still join directly.
    Open,
    /// Data may be written; the members are these.
    Final,
    /// Data is written, and moves to where it belongs under other stakes.
    Changing(Change),
}

impl Step {
    /// As commands write it.
    pub fn name(&self) -> &'static str {
        let change = match self {
            Self::Open => return "open",
            Self::Final => return "final",
            Self::Changing(change) => change,
        };
        match change.phase {
            ChangePhase::WriteBoth => "write-both",
            ChangePhase::ReadNew => "read-new",
        }
    }
}

/// From the stakes of the members to other ones, while clients go on.
///
/// Both are written throughout. Old copies are read until the new ones are complete, and new ones after that, so
/// whoever reads meets whoever wrote. (The two phases are those of Apache Cassandra's CEP-21.)
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Change {
    /// How far it has come.
    pub phase: ChangePhase,
    /// The version of the ring that began it. What was fetched for this change is known by it.
    pub begun_at: RingVersion,
    /// The stake that each member is to have, in the order of the members.
    pub target: Vec<Stake>,
    /// Those that are to go and are gone already, as an operator says: nobody waits for them. In the order of their ids.
    pub stopped: Vec<NodeId>,
}

/// How far a change of the ring has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangePhase {
    /// Old and new owners are written, old ones are read. It can still be given up.
    WriteBoth,
    /// Old and new owners are written, new ones are read. It only goes forward.
    ReadNew,
}

/// What decides how much of the ring a member owns, and which copies lie beside its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stake {
    /// Multiplies its virtual nodes, up to [`WEIGHT_MAX`]; 0 for a member that owns nothing.
    pub weight: u16,
    /// Replicas of a key go to distinct zones first; empty for none.
    pub zone: String,
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
    /// Multiplies its virtual nodes, 1 to [`WEIGHT_MAX`]; 0 while it is being taken in, and owns nothing yet.
    pub weight: u16,
    /// Replicas of a key go to distinct zones first; empty for none.
    pub zone: String,
}

impl Member {
    /// How many virtual nodes it has.
    pub fn virtual_nodes(&self) -> u32 {
        u32::from(self.weight) * VIRTUAL_NODES_PER_NODE
    }

    /// The same member with another stake.
    #[must_use]
    pub fn with_stake(&self, stake: &Stake) -> Self {
        Self {
            weight: stake.weight,
            zone: stake.zone.clone(),
            ..self.clone()
        }
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
    /// The members, in the order of their ids, with the stakes that they have. During a change those that are being
    /// taken in are among them, and those that are to go still are.
    pub members: Vec<Member>,
}

impl RingDocument {
    /// The member of this name.
    pub fn member(&self, id: &NodeId) -> Option<&Member> {
        let at = self.members.binary_search_by(|member| member.id.cmp(id));
        at.ok().map(|at| &self.members[at])
    }

    /// The change that is under way.
    pub fn change(&self) -> Option<&Change> {
        match &self.step {
            Step::Changing(change) => Some(change),
            Step::Open | Step::Final => None,
        }
    }

    /// The members with the stakes that decide what is read.
    pub fn read_members(&self) -> Cow<'_, [Member]> {
        match self.change() {
            Some(change) if change.phase == ChangePhase::ReadNew => {
                Cow::Owned(self.under(&change.target))
            }
            Some(_) | None => Cow::Borrowed(&self.members),
        }
    }

    /// The members with the stakes whose owners are written as well, though not read. `None` unless the ring changes.
    pub fn also_written_members(&self) -> Option<Cow<'_, [Member]>> {
        let change = self.change()?;
        Some(match change.phase {
            ChangePhase::WriteBoth => Cow::Owned(self.under(&change.target)),
            ChangePhase::ReadNew => Cow::Borrowed(&self.members),
        })
    }

    fn under(&self, target: &[Stake]) -> Vec<Member> {
        let members = self.members.iter().zip(target);
        members.map(|(it, stake)| it.with_stake(stake)).collect()
    }

    /// The weights and zones that a member of the document has, and during a change is to have; not those of no weight.
    pub fn stakes_of<'a>(&'a self, member: &'a Member) -> Vec<(u16, &'a str)> {
        let at = self.members.binary_search_by(|it| it.id.cmp(&member.id));
        let change = self.change().zip(at.ok());
        let target = change.and_then(|(change, at)| change.target.get(at));
        let now = [(member.weight, member.zone.as_str())].into_iter();
        let then = target.map(|stake| (stake.weight, stake.zone.as_str()));
        now.chain(then).filter(|(weight, _)| *weight > 0).collect()
    }

    /// How many copies of a key are read from: N, or the number of members that have a stake when there are fewer.
    pub fn effective_n(&self) -> usize {
        let members = self.read_members();
        let placed = members.iter().filter(|member| member.weight > 0).count();
        usize::from(self.n).min(placed)
    }

    /// Who decides about the next ring: the members of the last final one that are not gone. A member that is being taken
    /// in has no vote, or one that dies on its way in would end all changes of a small cluster.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        let members = self.members.iter();
        members.filter(|member| member.weight > 0 && !self.is_stopped(&member.id))
    }

    /// Whether this member decides about the next ring.
    pub fn is_voter(&self, id: &NodeId) -> bool {
        self.voters().any(|member| member.id == *id)
    }

    /// How many voters decide: more than half.
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// The stake that a member is to have; nothing unless the ring changes.
    pub fn target_of(&self, id: &NodeId) -> Option<&Stake> {
        let at = self.members.binary_search_by(|member| member.id.cmp(id));
        self.change()?.target.get(at.ok()?)
    }

    /// Whether the change takes this member away.
    pub fn is_leaving(&self, id: &NodeId) -> bool {
        self.target_of(id).is_some_and(|stake| stake.weight == 0)
    }

    /// Whether an operator has said that this member, which is to go, is gone.
    pub fn is_stopped(&self, id: &NodeId) -> bool {
        let change = self.change();
        change.is_some_and(|change| change.stopped.binary_search(id).is_ok())
    }

    /// Whether each member has a stake, or is to have one, and some have one on either side; and whether only those are
    /// gone that are to go, and somebody is left to decide.
    pub fn has_possible_stakes(&self) -> bool {
        let weights = || self.members.iter().map(|member| member.weight);
        let is_possible = |weight| weight <= WEIGHT_MAX;
        match self.change() {
            None => weights().all(|weight| (1..=WEIGHT_MAX).contains(&weight)),
            Some(Change {
                target, stopped, ..
            }) => {
                let target = || target.iter().map(|stake| stake.weight);
                let is_in_order = stopped.windows(2).all(|two| two[0] < two[1]);
                target().len() == self.members.len()
                    && weights().chain(target()).all(is_possible)
                    && weights()
                        .zip(target())
                        .all(|(now, then)| now > 0 || then > 0)
                    && weights().any(|weight| weight > 0)
                    && target().any(|weight| weight > 0)
                    && is_in_order
                    && stopped.iter().all(|id| self.is_leaving(id))
                    && self.voters().next().is_some()
            }
        }
    }

    /// All virtual nodes of all members.
    pub fn virtual_nodes(&self) -> u32 {
        self.members.iter().map(Member::virtual_nodes).sum()
    }
}

impl Wire for Step {
    fn encode(&self, out: &mut BytesMut) {
        let change = match self {
            Self::Open => return out.put_u8(STEP_OPEN),
            Self::Final => return out.put_u8(STEP_FINAL),
            Self::Changing(change) => change,
        };
        out.put_u8(match change.phase {
            ChangePhase::WriteBoth => STEP_WRITE_BOTH,
            ChangePhase::ReadNew => STEP_READ_NEW,
        });
        change.begun_at.encode(out);
        put_varint(out, change.target.len() as u64);
        for stake in &change.target {
            out.put_u16(stake.weight);
            put_string(out, &stake.zone);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let phase = match reader.u8()? {
            STEP_OPEN => return Ok(Self::Open),
            STEP_FINAL => return Ok(Self::Final),
            STEP_WRITE_BOTH => ChangePhase::WriteBoth,
            STEP_READ_NEW => ChangePhase::ReadNew,
            _ => return Err(DecodeError::Invalid { what: "ring step" }),
        };
        let begun_at = RingVersion::decode(reader)?;
        let count = reader.count("stakes", MEMBERS_MAX)?;
        let mut target = Vec::new();
        for _ in 0..count {
            target.push(Stake {
                weight: reader.u16()?,
                zone: reader.string("zone", NAME_BYTES_MAX)?.to_owned(),
            });
        }
        Ok(Self::Changing(Change {
            phase,
            begun_at,
            target,
            // They are told behind the members.
            stopped: Vec::new(),
        }))
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
        Ok(Self {
            id: NodeId::decode(reader)?,
            directory_id: DirectoryId::decode(reader)?,
            address: reader.string("address", NAME_BYTES_MAX)?.to_owned(),
            weight: reader.u16()?,
            zone: reader.string("zone", NAME_BYTES_MAX)?.to_owned(),
        })
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
        let stopped = self.change().map_or(&[][..], |change| &change.stopped);
        if !stopped.is_empty() {
            let mut field = BytesMut::new();
            put_varint(&mut field, stopped.len() as u64);
            for id in stopped {
                id.encode(&mut field);
            }
            put_tag_bytes(out, TAG_STOPPED, &field);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let cluster_id = ClusterId::decode(reader)?;
        let cluster_name = reader.string("cluster name", NAME_BYTES_MAX)?.to_owned();
        let version = RingVersion::decode(reader)?;
        let mut step = Step::decode(reader)?;
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
        while let Some((tag, mut field)) = reader.tag()? {
            if let (TAG_STOPPED, Step::Changing(change)) = (tag, &mut step) {
                change.stopped.clear();
                for _ in 0..field.count("stopped members", MEMBERS_MAX)? {
                    change.stopped.push(NodeId::decode(&mut field)?);
                }
            }
        }
        let document = Self {
            cluster_id,
            cluster_name,
            version,
            step,
            n,
            w,
            r,
            members,
        };
        match document.has_possible_stakes() {
            true => Ok(document),
            false => Err(DecodeError::Invalid { what: "weight" }),
        }
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
